"""What the results in a file depend on, kept beside it: a run with other settings must not go on with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densenet_cli.errors import UsageError
from densenet_cli.output.atomic import replace_file
from densenet_cli.text import to_unicode


def settings_file(path: Path) -> Path:
    """Where the settings of ``path`` are: ``FILE.meta.json`` beside it."""
    return path.with_name(f"{path.name}.meta.json")


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Keep the settings (JSON's types) of ``path``. Raises OSError."""
    data = json.dumps(dict(settings), indent=2).encode() + b"\n"
    replace_file(settings_file(path), data).close()


def compare_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise UsageError where ``path`` was made with other settings than these, or it isn't known with which."""
    name, meta = to_unicode(str(path)), to_unicode(str(settings_file(path)))
    try:
        with open(settings_file(path), encoding="utf-8") as file:
            before = json.load(file)
    except FileNotFoundError:
        raise UsageError(
            f"{meta} is missing, so the settings of {name} are not known; start anew with --overwrite."
        ) from None
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise UsageError(f"{meta} is damaged; start anew with --overwrite.")
    now = json.loads(json.dumps(dict(settings)))
    absent = object()
    differing = [
        key + _comparison(now.get(key), before.get(key))
        for key in now | before
        if now.get(key, absent) != before.get(key, absent)
    ]
    if differing:
        raise UsageError(
            f"{name} was made with other settings: {', '.join(differing)}; "
            "use those for --resume, or start anew with --overwrite."
        )


def _comparison(now: object, before: object) -> str:
    text = f" (now {json.dumps(now)}, before {json.dumps(before)})"
    return text if len(text) < 200 else ""
