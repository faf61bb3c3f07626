"""Optimized ONNX graphs on disk, each in a folder whose name is a hash of all that it depends on.

``<cache>/graphs/<key>/`` holds ``model.onnx``, its weights ``model.data`` (mapped into memory, not read), the dense
layer once more as ``head.npy`` (ONNX Runtime gives no weights back) and ``entry.json``: what it was made from, and
size, mtime and ctime of the other files. A graph fits one ONNX Runtime
and one instruction set (its weights are blocked for the vector width), so both are part of the key. A folder is
written aside, synced and renamed; one whose files aren't as recorded is made anew. Without a place to write,
the graph is used from memory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.output import atomic
from densenet_cli.paths import cache_dir
from densenet_cli.topology import DenseNetConfig
from densenet_cli.weights.contents import ModelMetadata
from densenet_cli.weights.file_identity import FileIdentity, digest

if TYPE_CHECKING:
    from densenet_cli.engines import FloatArray
    from densenet_cli.weights.contents import Checkpoint

MODEL, DATA, HEAD, ENTRY = "model.onnx", "model.data", "head.npy", "entry.json"
ASIDE = ".new-"
"""How the name of a folder begins that is still being written."""
ABANDONED = 3600.0
"""Seconds after which nobody is writing it any more."""
LAYOUT = 2
"""Version of what a folder holds."""


@dataclass(frozen=True)
class CachedGraph:
    """A graph ready for a session.

    Attributes:
        model: its path, or its bytes where it could not be kept.
        head: the dense layer's kernel and, as one more row, its bias: float32 (channels + 1, classes), or the path.
        optimized: whether ONNX Runtime has made it as fast as it can.
        config: the network.
        metadata: what the checkpoint says of itself.
    """

    model: str | bytes
    head: Path | FloatArray
    optimized: bool
    config: DenseNetConfig
    metadata: ModelMetadata

    def load_head(self) -> FloatArray:
        """The array of ``head``. Raises ``OSError`` or ``ValueError`` where its file is gone or damaged."""
        import numpy as np

        if not isinstance(self.head, Path):
            return self.head
        array: FloatArray = np.load(self.head, allow_pickle=False)
        return array


def graphs_dir() -> Path:
    """Where the graphs lie. May not exist."""
    return cache_dir() / "graphs"


def _instruction_set() -> str:
    """The processor's vector instructions: a graph that another one optimized would be slow, or not run."""
    import importlib

    features = importlib.import_module("numpy._core._multiarray_umath").__cpu_features__
    return sys.platform + " " + " ".join(name for name, there in features.items() if there)


def _key(identity: FileIdentity, config: DenseNetConfig | None) -> str:
    import onnxruntime

    from densenet_cli.engines import EMITTER_VERSION

    parts = [
        identity.key(),
        repr(config),
        str(EMITTER_VERSION),
        str(LAYOUT),
        onnxruntime.__version__,
        _instruction_set(),
    ]
    return digest("\n".join(parts).encode())


def _stamp(path: Path) -> list[int]:
    """What changes when a file does: size, mtime and ctime in nanoseconds."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def obtain(weights: Path, config: DenseNetConfig | None) -> CachedGraph:
    """The graph of a checkpoint: from the cache, else emitted, optimized and kept there.

    Raises ``CheckpointError`` where the checkpoint can't be used. A cache that can't be read or written is none.
    """
    identity = _identity(weights)
    folder = graphs_dir() / _key(identity, config)
    found = _open(folder)
    if found:
        return found
    read, model = _emit(weights, config)
    try:
        _store(folder, model, read, identity)
    except OSError:
        found = None
    else:
        found = _open(folder)
    return found or _in_memory(model, read)


def without_cache(weights: Path, config: DenseNetConfig | None) -> CachedGraph:
    """The graph of a checkpoint, made now and kept in memory alone. Raises as ``obtain``."""
    read, model = _emit(weights, config)
    return _in_memory(model, read)


def _in_memory(model: bytes, read: Checkpoint) -> CachedGraph:
    return CachedGraph(model, _head(read), False, read.config, read.metadata)


def _head(read: Checkpoint) -> FloatArray:
    import numpy as np

    layer = read.arrays["predictions"]
    return np.vstack([layer["kernel"], layer["bias"]]).astype(np.float32)


def _identity(weights: Path) -> FileIdentity:
    from densenet_cli.errors import CheckpointError

    try:
        return FileIdentity.of(weights)
    except OSError as error:
        raise CheckpointError(f"{weights} can't be read: {error.strerror or error}.") from error


def _emit(weights: Path, config: DenseNetConfig | None) -> tuple[Checkpoint, bytes]:
    from densenet_cli.engines import onnx_graph
    from densenet_cli.weights import checkpoint

    read = checkpoint.read(weights, config)
    return read, onnx_graph.emit(read.arrays, read.config)


def _open(folder: Path) -> CachedGraph | None:
    """The graph in ``folder``, if it is whole and as it was written."""
    try:
        entry = json.loads((folder / ENTRY).read_bytes())
        if not _is_whole(folder, entry["stamps"]):
            return None
        config, metadata = DenseNetConfig.from_dict(entry["config"]), ModelMetadata.from_dict(entry["metadata"])
        return CachedGraph(str(folder / MODEL), folder / HEAD, True, config, metadata)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_whole(folder: Path, stamps: dict[str, list[int]]) -> bool:
    """Whether the files are as recorded; which they are is a matter of ``LAYOUT``. Raises ``OSError`` for one gone."""
    return {MODEL, DATA} <= stamps.keys() and all(_stamp(folder / name) == stamp for name, stamp in stamps.items())


def _store(folder: Path, model: bytes, read: Checkpoint, identity: FileIdentity) -> None:
    """Optimize ``model`` into ``folder``. Raises ``OSError`` where that can't be written."""
    import shutil
    import tempfile

    import numpy as np

    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=folder.parent))
    try:
        _optimize(model, aside)
        np.save(aside / HEAD, _head(read), allow_pickle=False)
        names = (MODEL, DATA, HEAD)
        for name in names:
            atomic.sync_path(aside / name)
        entry = {
            "weights": identity.to_dict(),
            "config": read.config.to_dict(),
            "metadata": read.metadata.to_dict(),
            "stamps": {name: _stamp(aside / name) for name in names},
            "sha256": {name: _sha256(aside / name) for name in names},
        }
        (aside / ENTRY).write_text(json.dumps(entry))
        atomic.sync_path(aside / ENTRY)
        if not _open(folder):  # else another process was quicker, and somebody may be loading its graph
            shutil.rmtree(folder, ignore_errors=True)
            aside.replace(folder)
        atomic.sync_path(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _optimize(model: bytes, folder: Path) -> None:
    """Let ONNX Runtime optimize as far as it can, and write what it would run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / MODEL)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", DATA)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    try:
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no error class of its own for a full disk
        raise OSError(str(error)) from error


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Entry:
    """What ``densenet cache`` shows of one cached graph.

    Attributes:
        folder: where it lies.
        weights: path of the checkpoint that it was made from, None where the record can't be read.
        size: bytes on disk.
        state: ``current``, ``stale`` (other weights or versions), or ``damaged``.
    """

    folder: Path
    weights: str | None
    size: int
    state: str


def entries(verify: bool = False) -> Iterator[Entry]:
    """Every cached graph. With ``verify`` the files are hashed, else only their recorded stamps are compared."""
    try:
        folders = sorted(graphs_dir().iterdir())
    except OSError:
        return
    for folder in folders:
        if folder.name.startswith(ASIDE) and _age(folder) < ABANDONED:
            continue  # another process is writing it
        yield _entry(folder, _size(folder), verify)


def _size(folder: Path) -> int:
    total = 0
    for file in (folder, *folder.rglob("*")):
        with suppress(OSError):  # gone meanwhile
            total += file.stat().st_size if file.is_file() else 0
    return total


def _age(folder: Path) -> float:
    """Seconds since it was made, or last written to."""
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


def _entry(folder: Path, size: int, verify: bool) -> Entry:
    try:
        record = json.loads((folder / ENTRY).read_bytes())
        identity = FileIdentity.from_dict(record["weights"])
        sums = {name: record["sha256"][name] for name in record["stamps"]}
        whole = _open(folder) and not (verify and any(_sha256(folder / name) != sums[name] for name in sums))
        state = "damaged" if not whole else "current" if _is_current(folder, identity, record) else "stale"
        return Entry(folder, identity.path, size, state)
    except (OSError, ValueError, KeyError, TypeError):
        return Entry(folder, None, size, "damaged")


def _is_current(folder: Path, identity: FileIdentity, record: dict[str, Any]) -> bool:
    try:
        if FileIdentity.of(Path(identity.path)) != identity:
            return False
    except OSError:
        return False
    config = DenseNetConfig.from_dict(record["config"])
    return folder.name in (_key(identity, config), _key(identity, None))


def remove(entry: Entry) -> None:
    """Delete a cached graph. Raises ``OSError`` where that is not allowed."""
    import shutil

    if entry.folder.is_dir():
        shutil.rmtree(entry.folder)
    else:
        entry.folder.unlink(missing_ok=True)
