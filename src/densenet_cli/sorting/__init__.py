"""Sorting: places images in folders by their labels, and can undo that. No file is ever overwritten or lost."""
