"""Checkpoints on the Hugging Face Hub, and its cache."""
