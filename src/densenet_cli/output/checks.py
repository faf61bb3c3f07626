"""Preflight checks of output: find out before any work whether it can be written.

Each check raises what writing would raise, as far as that can be known in advance.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output.atomic import output_errors
from densenet_cli.text import to_unicode


def check_output_file(
    path: str | os.PathLike[str],
    overwrite: bool = False,
    *,
    can_resume: bool = False,
    create_folder: bool = False,
    in_place: bool = False,
) -> None:
    """Check that a file can be written. An empty file counts as missing.

    Args:
        path: The file.
        overwrite: Whether an existing file may be replaced or continued.
        can_resume: Whether the message about an existing file suggests ``resume``.
        create_folder: Whether missing folders will be created.
        in_place: Whether an existing file is changed in place, so that its folder may be read-only.

    Raises:
        UsageError: The file exists.
        OutputError: ``path`` is not a regular file, or its folder is missing or read-only.
    """
    path = Path(path)
    with output_errors(path):
        is_file = path.is_file()
        if is_file and path.stat().st_size and not overwrite:
            raise file_exists_error(path, can_resume)
        if not is_file and path.exists():
            raise OutputError(f"Cannot write {_name(path)}: it is not a regular file.")
        if not (is_file and in_place):
            _check_folder(path, _parent(path), create_folder)


def check_output_folder(folder: str | os.PathLike[str]) -> None:
    """Check that files can be written to a folder, which is created if it is missing.

    Raises:
        OutputError: The folder cannot be created or is read-only.
    """
    with output_errors(folder):
        _check_folder(Path(folder), Path(folder), create=True)


def check_parent_folder(path: str | os.PathLike[str]) -> None:
    """Check that a file or folder can be created in the folder that is to contain it.

    Raises:
        OutputError: That folder is missing or read-only.
    """
    with output_errors(path):
        _check_folder(Path(path), _parent(Path(path)), create=False)


def check_package(module: str, package: str, purpose: str) -> None:
    """Check that an optional package is installed.

    Args:
        module: A module of the package.
        package: What to install.
        purpose: What needs it, such as a file name.

    Raises:
        UsageError: The module is missing.
    """
    if find_spec(module) is None:
        raise UsageError(f"{purpose} needs another package. Run: pip install {package}")


def format_from_suffix(
    path: str | os.PathLike[str],
    suffixes: Mapping[str, str],
    given: str | None = None,
    *,
    can_be_given: bool = False,
) -> str:
    """Return the format of an output file.

    Args:
        path: The file. The case of its suffix does not matter.
        suffixes: Format name -> suffix with its dot, "" for a format whose paths have none.
        given: The format that the user chose, None to derive it from the suffix.
        can_be_given: Whether the message about an unknown suffix suggests ``format``.

    Raises:
        UsageError: ``given`` is unknown or contradicts the suffix, or the suffix is unknown and ``given`` is None.
    """
    path = Path(path)
    name = _name(path)
    if given is not None and given not in suffixes:
        raise UsageError(f"Cannot write {name} as {given}. `format` must be {_or(list(suffixes))}.")
    by_suffix = next((key for key, suffix in suffixes.items() if suffix and path.name.lower().endswith(suffix)), None)
    if given and by_suffix and given != by_suffix:
        raise UsageError(f"The extension of {name} means {by_suffix}, but `format` is {given}. Change one of them.")
    without_suffix = None if path.suffix else next((key for key, suffix in suffixes.items() if not suffix), None)
    if format_name := given or by_suffix or without_suffix:
        return format_name
    allowed = _or([suffix for suffix in suffixes.values() if suffix])
    hint = ", or set `format`" if can_be_given else ""
    raise UsageError(f"Cannot determine the format of {name} from its extension. Use {allowed}{hint}.")


def file_exists_error(path: str | os.PathLike[str], can_resume: bool = False) -> UsageError:
    """Return the error for a file or folder that exists and must not be replaced."""
    resume = "`resume` to continue it, " if can_resume else ""
    return UsageError(f"{_name(path)} exists. Use {resume}`overwrite` to replace it, or choose another name.")


def _check_folder(output: Path, folder: Path, create: bool) -> None:
    if not folder.is_absolute():
        try:
            Path.cwd()
        except OSError:
            raise OutputError(f"Cannot write {_name(output)}: the working directory was deleted.") from None
    while create and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.exists():
        raise OutputError(f"Cannot write {_name(output)}: the folder {_name(folder)} does not exist.")
    if not folder.is_dir():
        raise OutputError(f"Cannot write {_name(output)}: {_name(folder)} is not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"Cannot write {_name(output)}: the folder {_name(folder)} is read-only.")


def _parent(path: Path) -> Path:
    """Return the folder of a file, or of what a symbolic link leads to."""
    return Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent


def _name(path: str | os.PathLike[str]) -> str:
    return to_unicode(os.fspath(path))


def _or(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)}{',' * (len(others) > 1)} or {last}" if others else last
