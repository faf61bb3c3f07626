"""Output files in a folder that takes the place of object storage, and runs that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from densenet_cli.errors import DensenetError
from densenet_cli.output.records import open_records
from densenet_cli.output.remote import RemoteOutput
from densenet_cli.results import Prediction

ROOT = Path(__file__).parents[2]


def storage_url(folder: Path, name: str = "labels.jsonl") -> str:
    """Return the URL of a file in storage."""
    return f"local://{folder}/storage/{name}"


def stored(folder: Path, name: str = "labels.jsonl") -> Path:
    """Return the file that such a URL names."""
    return folder / "storage" / name


def sources_in(path: Path) -> list[str]:
    """Return the sources of the records in a file, none if it is missing."""
    import json

    return [json.loads(line)["source"] for line in path.read_text().splitlines()] if path.exists() else []


def write_records(
    url: str, names: str, *, top_k: int = 1, fail: bool = False, resume: bool = False, overwrite: bool = False
) -> None:
    """Write a record for each character, as the commands do.

    A ``+`` uploads the finished records, as is done now and then. A ``!`` ends the process like SIGKILL. ``fail`` ends
    the block with an error.
    """
    options = {"resume": resume, "overwrite": overwrite}
    with (
        RemoteOutput(url, **options, warn=print) as remote,
        open_records(remote.path, remote.path.suffix[1:], {"top_k": top_k}, **options) as records,
    ):
        for name in names:
            if name == "+":
                remote._upload_appended()
            elif name == "!":
                os._exit(9)
            else:
                records.write(Prediction(name, "m"))
        if fail:
            raise DensenetError("failed")


def write_and_be_killed(url: str, names: str, *, resume: bool = False) -> None:
    """Call ``write_records`` in another process, which is killed at the end."""
    code = f"from tests.support.staging import write_records; write_records({url!r}, {names + '!'!r}, resume={resume})"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 9
