"""Calibration: probabilities that match frequencies, label sets with a coverage, and labels with an error limit.

Everything is computed from logits and classes with numpy only. What holds for new images is stated in
``docs/guides/calibration.md``.
"""
