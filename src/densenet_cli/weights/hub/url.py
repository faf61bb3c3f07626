"""URLs of checkpoints on the Hugging Face Hub."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from densenet_cli.errors import UsageError
from densenet_cli.paths import HUB_PREFIX

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = rf"(?:models/(?={_PART}/))?(?P<repository>{_PART}/{_PART})"
_REVISION = r"(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+)"
_URL = re.compile(rf"{_REPOSITORY}(?:@{_REVISION})?(?:/(?P<file>.*))?")


class HubUrl(NamedTuple):
    """What an ``hf://`` URL names.

    Attributes:
        repository: The repository, such as ``timm/densenet121.ra_in1k``.
        revision: A branch, a tag, or a commit.
        file: The path of a checkpoint in the repository, or None to choose it.
    """

    repository: str
    revision: str = "main"
    file: str | None = None

    @property
    def name(self) -> str:
        """The name of the repository without its organization."""
        return self.repository.rpartition("/")[2]

    def __str__(self) -> str:
        name = self.revision if self.revision.startswith("refs/") else quote(self.revision, safe="")
        revision = "" if self.revision == "main" else f"@{name}"
        return f"{HUB_PREFIX}{self.repository}{revision}{f'/{self.file}' if self.file else ''}"


def parse_url(text: str) -> HubUrl:
    """Parse ``hf://ORGANIZATION/NAME[@REVISION][/FILE]``.

    Raises:
        UsageError: The text is not such a URL.
    """
    match = _URL.fullmatch(text[len(HUB_PREFIX) :])
    repository = match["repository"] if match else ""
    if not match or "--" in repository or repository.startswith(("datasets/", "spaces/", "buckets/", "kernels/")):
        raise UsageError(
            f"Invalid URL {text!r}. Use hf://ORGANIZATION/NAME[@REVISION][/FILE], such as"
            " hf://timm/densenet121.ra_in1k."
        )
    revision, file = unquote(match["revision"] or "main"), (match["file"] or "").rstrip("/") or None
    for path in (revision, file or "a"):
        if not path.isprintable() or "\\" in path or {"", ".", ".."} & set(path.split("/")):
            raise UsageError(f"Invalid URL {text!r}. {path!r} is not a valid {'file' if path is file else 'revision'}.")
    return HubUrl(repository, revision, file)
