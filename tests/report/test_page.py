"""The style sheet that all pages share."""

from __future__ import annotations

import re
from importlib.resources import files

import numpy as np

from densenet_cli.report.page import environment

CONTRASTS = (
    *((text, below) for text in ("text", "text-muted") for below in ("background", "surface", "surface-inset")),
    ("accent", "surface"), ("on-accent", "accent"), ("warning", "warning-background"), ("error", "error-background"),
    ("text", "error-background"), ("text-muted", "error-background"),
)  # fmt: skip


def test_text_contrast():
    """At least 4.5 (WCAG 2.2, success criterion 1.4.3), also for a count on the strongest color of the matrix."""
    style = environment().globals["style"]
    themes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root[^{]*{[^}]*}", style)
    ]
    assert len(themes) == 3 and themes[1] == themes[2] != themes[0]
    for theme in themes[:2]:
        color = {name: np.array([int(value[at : at + 2], 16) for at in (1, 3, 5)]) for name, value in theme.items()}
        pairs = [(color[text], color[below]) for text, below in CONTRASTS]
        pairs += [(color["text"], (color[cell] + color["surface"]) / 2) for cell in ("accent", "error")]
        for first, second in pairs:
            dark, light = sorted((luminance(first), luminance(second)))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (first, second)


def luminance(color) -> float:
    """Return the relative luminance of an sRGB color (WCAG 2.2)."""
    levels = np.asarray(color) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_all_style_classes_are_used():
    style = re.sub(r"/\*.*?\*/", "", environment().globals["style"], flags=re.DOTALL)
    classes = set(re.findall(r"\.([a-z][a-z-]*)", " ".join(re.findall(r"[^{}]*(?={)", style))))
    templates = files("densenet_cli.report").joinpath("templates").iterdir()
    text = "".join(file.read_text("utf-8") for file in templates if not file.name.endswith(".css"))
    assert {name for name in classes if not re.search(rf"\b{name}\b", text)} == set()
