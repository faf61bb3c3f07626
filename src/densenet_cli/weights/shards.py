"""Checkpoints that are split into several files, the shards, with an index: ``model.safetensors.index.json``.

The index is JSON. Its ``weight_map`` gives the file of each array. All files are in the same folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from densenet_cli.errors import CheckpointError
from densenet_cli.weights.contents import CheckpointContents, damaged_file_error

INDEX_SUFFIX = ".index.json"
MAX_INDEX_SIZE = 16 << 20
"""Bytes of an index."""
MAX_SHARDS = 1000
SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,250}\.(?:safetensors|bin)", re.ASCII)
"""The plain name of a file, so that an index cannot name files in other folders."""
NUMBERED_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.(?:safetensors|bin))", re.ASCII)


def is_index(path: Path) -> bool:
    """Return whether a file is an index, given its name."""
    return path.name.endswith(INDEX_SUFFIX)


def read_index(index: Path) -> dict[str, str]:
    """Return the name of the file that contains each array.

    Raises:
        CheckpointError: The index is invalid.
        OSError: It cannot be read.
    """
    if index.stat().st_size > MAX_INDEX_SIZE:
        raise CheckpointError(f"The index has more than {MAX_INDEX_SIZE:,} bytes.")
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        shards = set(weight_map.values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise damaged_file_error(f"it is not an index of shards: {error}"[:200]) from error
    if not shards or len(shards) > MAX_SHARDS or not all(isinstance(shard, str) for shard in shards):
        raise damaged_file_error(f"an index names 1 to {MAX_SHARDS:,} shards")
    for shard in sorted(shards):
        if not SHARD_NAME.fullmatch(shard):
            raise CheckpointError(
                f"The index names the file {shard!r:.100}. Shards are .safetensors or .bin files in the same folder."
            )
    return dict(weight_map)


def checkpoint_files(path: Path) -> list[Path]:
    """Return the files that a checkpoint consists of: the file itself, and the shards if it is an index.

    Raises:
        CheckpointError: The index is invalid. The message contains the path.
        OSError: The index cannot be read.
    """
    if not is_index(path):
        return [path]
    try:
        return [path, *(path.with_name(shard) for shard in sorted(set(read_index(path).values())))]
    except CheckpointError as error:
        raise CheckpointError(f"Cannot load {path}. {error}") from error


def checkpoint_md5(path: Path) -> str:
    """Return the MD5 of a checkpoint, of the MD5s of all files for shards. The checksums of files are cached.

    Raises:
        CheckpointError: The index is invalid.
        OSError: A file cannot be read.
    """
    from hashlib import md5

    from densenet_cli.weights import file_identity

    checksums = [file_identity.file_md5(file) for file in checkpoint_files(path)]
    return checksums[0] if len(checksums) == 1 else md5("".join(checksums).encode(), usedforsecurity=False).hexdigest()


def check_complete(path: Path) -> None:
    """Raise ``CheckpointError`` if the file is a single shard, given its name."""
    match = NUMBERED_SHARD.fullmatch(path.name)
    if match and int(match[2]) > 1:
        raise CheckpointError(
            f"It is one of {int(match[2])} shards. Use the index of all shards, {match[1]}{match[3]}{INDEX_SUFFIX}."
        )


@contextmanager
def open_contents(index: Path, max_size: int) -> Iterator[CheckpointContents]:
    """Open a checkpoint in shards.

    Args:
        index: The index.
        max_size: The maximum size of all files together in bytes.

    Raises:
        CheckpointError: A file is missing or invalid, or the files are too large.
    """
    from densenet_cli.weights import safetensors
    from densenet_cli.weights.pytorch import files as torch_files
    from densenet_cli.weights.pytorch import names as torch_names
    from densenet_cli.weights.pytorch.other_arrays import Tensors

    names: dict[str, list[str]] = {}
    for name, shard in read_index(index).items():
        names.setdefault(shard, []).append(name)
    paths = {shard: index.with_name(shard) for shard in sorted(names)}
    for shard, path in paths.items():
        if not path.is_file():
            raise CheckpointError(f"The shard {shard} is missing or not a regular file.")
    size = sum(path.stat().st_size for path in paths.values())
    if size > max_size:
        raise CheckpointError(f"The shards have {size:,} bytes; the limit is {max_size:,}.")
    tensors: Tensors = {}
    notes: list[str] = []
    with ExitStack() as stack:
        for shard, path in paths.items():
            try:
                if shard.endswith(".safetensors"):
                    stored, _ = stack.enter_context(safetensors.open_tensors(path))
                else:
                    stored, state = stack.enter_context(torch_files.open_tensors(path, is_shard=True))
                    notes += state.notes
            except CheckpointError as error:
                raise CheckpointError(f"Shard {shard}: {error}") from error
            for name in names[shard]:
                if name not in stored:
                    raise CheckpointError(f"The shard {shard} does not contain the array {name!r:.100}.")
                tensors[name] = stored[name]
        yield torch_names.contents(tensors, size, notes)
