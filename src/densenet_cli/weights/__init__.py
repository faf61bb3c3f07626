"""Weights: downloading the published ones, and reading and validating checkpoints of every supported format."""
