"""Make ``src/densenet_cli/data/inferno.txt`` from matplotlib's color map of that name: 256 colors, one a line."""

from __future__ import annotations

from pathlib import Path

import matplotlib

TARGET = Path(__file__).parent.parent / "src/densenet_cli/data/inferno.txt"

if __name__ == "__main__":
    colors = matplotlib.colormaps["inferno"](range(256), bytes=True)
    TARGET.write_text("".join(f"{red:02x}{green:02x}{blue:02x}\n" for red, green, blue, _ in colors))
