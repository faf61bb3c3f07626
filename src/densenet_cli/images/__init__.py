"""Image sources, decoding, and preprocessing."""

DECODE_MEMORY = 700
"""Default memory limit for concurrent decoding in megabytes."""

MAX_TIMEOUT = 86_400
"""Maximum time limit for decoding one image in seconds."""
