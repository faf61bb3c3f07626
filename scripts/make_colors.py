"""Write matplotlib's color map inferno to ``src/densenet_cli/data/inferno.txt``: 256 lines of hexadecimal RGB."""

from __future__ import annotations

from pathlib import Path

import matplotlib

OUTPUT = Path(__file__).parent.parent / "src/densenet_cli/data/inferno.txt"

if __name__ == "__main__":
    colors = matplotlib.colormaps["inferno"](range(256), bytes=True)
    OUTPUT.write_text("".join(f"{red:02x}{green:02x}{blue:02x}\n" for red, green, blue, _ in colors))
