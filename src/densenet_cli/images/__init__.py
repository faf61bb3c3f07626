"""Images: where they come from, how they are decoded, what of them a network sees."""
