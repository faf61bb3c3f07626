"""A cache of optimized ONNX graphs.

The folder ``cache_dir()/graphs/KEY`` contains ``model.onnx``, its weights ``model.data`` (which are memory-mapped), the
arrays of the head as ``head.npy`` (because ONNX Runtime does not return weights), and ``entry.json``: the identity of
the checkpoint, and the size, mtime, ctime, and SHA-256 of the other files.

KEY is a hash of everything that the graph depends on, including the version of ONNX Runtime and the instruction set,
because the weights are blocked for the vector width. A folder is written under a temporary name, synced, and renamed.
If its files do not match the entry, it is created again. If the cache cannot be written, the graph is kept in memory.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from densenet_cli import engines
from densenet_cli.errors import CheckpointError
from densenet_cli.output import atomic
from densenet_cli.paths import cache_dir
from densenet_cli.topology import DenseNetConfig
from densenet_cli.weights.contents import ModelMetadata
from densenet_cli.weights.file_identity import FileIdentity, digest

if TYPE_CHECKING:
    from densenet_cli.weights.contents import Arrays

MODEL_FILE, DATA_FILE, HEAD_FILE, ENTRY_FILE = "model.onnx", "model.data", "head.npy", "entry.json"
TEMP_PREFIX = ".new-"
"""Prefix of the names of folders that are being written."""
TEMP_LIFETIME = 3600.0
"""Seconds without a change after which such a folder is considered abandoned."""
LAYOUT_VERSION = 9
"""Must be increased if the files in a folder change, or what is read from a checkpoint besides its arrays."""


class CachedGraph(NamedTuple):
    """A graph, ready for a session.

    Attributes:
        model: The path of the model, or its bytes if it is not cached.
        head: The arrays of the head's layers, or the path of the file with their values.
        head_shapes: (layer name, array name, shape) of each array in that file, in order.
        optimized: Whether ONNX Runtime has optimized the graph.
        config: The configuration of the network.
        metadata: What the checkpoint states besides it.
    """

    model: str | bytes
    head: Path | Arrays
    optimized: bool
    config: DenseNetConfig
    metadata: ModelMetadata
    head_shapes: Sequence[tuple[str, str, Sequence[int]]] = ()

    def load_head(self) -> Arrays:
        """Return the arrays of ``head``. Raises ``OSError`` or ``ValueError`` if its file is missing or damaged."""
        if not isinstance(self.head, Path):
            return self.head
        import numpy as np

        # One file, because opening an archive of arrays takes longer than everything else here.
        values = np.load(self.head, allow_pickle=False)
        arrays: Arrays = {}
        start = 0
        for layer, name, shape in self.head_shapes:
            end = start + math.prod(shape)
            arrays.setdefault(layer, {})[name] = values[start:end].reshape(shape)
            start = end
        return arrays


def graphs_dir() -> Path:
    """Return the folder of the cached graphs. It may not exist."""
    return cache_dir() / "graphs"


def get_graph(weights: Path, config: DenseNetConfig | None, activation: str | None = None) -> CachedGraph:
    """Return the graph of a checkpoint, from the cache if possible. Otherwise create and cache it.

    Args:
        weights: The path of the checkpoint.
        config: The network that it must contain, or None to infer it.
        activation: See ``weights.checkpoint.read``.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        UsageError: ``activation`` contradicts it.
    """
    try:
        request = _Request(weights.name, [FileIdentity.of(file) for file in _files(weights)], repr(config), activation)
    except OSError as error:
        raise CheckpointError(f"Cannot read {error.filename or weights}: {error.strerror or error}.") from error
    folder = graphs_dir() / request.key()
    if cached := _load(folder):
        return cached
    graph = create_graph(weights, config, activation)
    with suppress(OSError):
        _store(folder, graph, request)
        return _load(folder) or graph
    return graph


def create_graph(weights: Path, config: DenseNetConfig | None, activation: str | None = None) -> CachedGraph:
    """Create the graph of a checkpoint in memory. See ``get_graph``."""
    from densenet_cli.engines import onnx_graph
    from densenet_cli.weights import checkpoint

    loaded = checkpoint.read(weights, config, activation, allow_unsupported_head=True)
    model = onnx_graph.emit(loaded.arrays, loaded.config)
    head = {name: loaded.arrays[name] for name in loaded.config.head_layers if name in loaded.arrays}
    return CachedGraph(model, head, False, loaded.config, loaded.metadata)


def _files(weights: Path) -> Iterator[Path]:
    """Yield the files that a checkpoint consists of: its own, its shards, and the configuration beside it."""
    if weights.name.endswith(".index.json"):
        from densenet_cli.weights import shards

        yield from shards.checkpoint_files(weights)
    else:
        yield weights
    configuration = weights.with_name("config.json")
    if configuration.exists():
        yield configuration


class _Request(NamedTuple):
    """What a graph was made from.

    Attributes:
        name: The name of the checkpoint or a link to it, on which the use of a ``config.json`` beside it depends.
        files: The checkpoint first, then the other files that it consists of.
        config: The representation of the configuration that it must contain, or "None".
        activation: The requested activation, or None.
    """

    name: str
    files: list[FileIdentity]
    config: str
    activation: str | None

    def key(self) -> str:
        """Return the name of the graph's folder."""
        import onnxruntime

        parts = [
            json.dumps(self.name),
            *(file.key() for file in self.files),
            self.config,
            str(self.activation),
            str(engines.EMITTER_VERSION),
            str(LAYOUT_VERSION),
            onnxruntime.__version__,
            _instruction_set(),
        ]
        return digest("\n".join(parts).encode())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values for JSON."""
        return {**self._asdict(), "files": [file.to_dict() for file in self.files]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> _Request:
        """Restore the result of ``to_dict``. Raises ``KeyError``, ``TypeError``, or ``ValueError`` for other values."""
        files = [FileIdentity.from_dict(file) for file in values["files"]]
        return cls(str(values["name"]), files, str(values["config"]), values["activation"])


def _instruction_set() -> str:
    """Describe the processor's vector instructions. A graph that was optimized for others may be slow or not run."""
    import importlib

    features = importlib.import_module("numpy._core._multiarray_umath").__cpu_features__
    return sys.platform + " " + " ".join(name for name, available in features.items() if available)


def _load(folder: Path) -> CachedGraph | None:
    """Return the graph in ``folder``, or None if it does not exist or does not match its entry."""
    try:
        entry = json.loads((folder / ENTRY_FILE).read_bytes())
        stamps = entry["stamps"]
        # The files that must exist depend on LAYOUT_VERSION; an older version had no head.
        if not {MODEL_FILE, DATA_FILE} <= stamps.keys():
            return None
        if any(_stamp(folder / name) != stamp for name, stamp in stamps.items()):
            return None
        config, metadata = DenseNetConfig.from_dict(entry["config"]), ModelMetadata.from_dict(entry["metadata"])
        shapes = [(str(layer), str(name), tuple(map(int, shape))) for layer, name, shape in entry["head"]]
        return CachedGraph(str(folder / MODEL_FILE), folder / HEAD_FILE, True, config, metadata, shapes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _stamp(path: Path) -> list[int]:
    """Return what changes when a file is written: its size, and mtime and ctime in nanoseconds."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _store(folder: Path, graph: CachedGraph, request: _Request) -> None:
    """Optimize a graph and write it to ``folder``. Raises ``OSError``."""
    import shutil
    import tempfile

    import numpy as np

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=folder.parent))
    try:
        _optimize(graph.model, temporary)
        head = [(layer, name, array) for layer, named in graph.load_head().items() for name, array in named.items()]
        values = np.concatenate([np.zeros(0, np.float32), *(array.ravel() for _, _, array in head)])
        np.save(temporary / HEAD_FILE, values, allow_pickle=False)
        names = (MODEL_FILE, DATA_FILE, HEAD_FILE)
        for name in names:
            atomic.sync_path(temporary / name)
        entry = {
            "layout": LAYOUT_VERSION,
            "request": request.to_dict(),
            "config": graph.config.to_dict(),
            "metadata": graph.metadata.to_dict(),
            "head": [(layer, name, array.shape) for layer, name, array in head],
            "stamps": {name: _stamp(temporary / name) for name in names},
            "sha256": {name: _sha256(temporary / name) for name in names},
        }
        (temporary / ENTRY_FILE).write_text(json.dumps(entry))
        atomic.sync_path(temporary / ENTRY_FILE)
        if not _load(folder):  # otherwise another process was faster, and a third may be loading its graph
            shutil.rmtree(folder, ignore_errors=True)
            temporary.replace(folder)
        atomic.sync_path(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _optimize(model: str | bytes, folder: Path) -> None:
    """Let ONNX Runtime optimize a model completely and write the result."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / MODEL_FILE)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", DATA_FILE)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    try:
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no specific class for a full disk
        raise OSError(str(error)) from error


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class CacheEntry(NamedTuple):
    """A cached graph, as ``densenet cache`` shows it.

    Attributes:
        folder: The folder of the graph.
        weights: The path of the checkpoint, or None if the entry does not state it.
        size: The size on disk in bytes.
        state: ``current``, ``stale`` (the checkpoint or a version changed), or ``damaged``.
    """

    folder: Path
    weights: str | None
    size: int
    state: str


def list_entries(verify: bool = False) -> Iterator[CacheEntry]:
    """Yield every cached graph.

    Args:
        verify: Compare the SHA-256 of the files instead of their size and times.
    """
    try:
        folders = sorted(graphs_dir().iterdir())
    except OSError:
        return
    for folder in folders:
        if folder.name.startswith(TEMP_PREFIX) and _age(folder) < TEMP_LIFETIME:
            continue  # another process is writing it
        yield _cache_entry(folder, verify)


def _cache_entry(folder: Path, verify: bool) -> CacheEntry:
    size = _size(folder)
    try:
        entry = json.loads((folder / ENTRY_FILE).read_bytes())
        if entry.get("layout") != LAYOUT_VERSION:
            return CacheEntry(folder, _weights_path(entry), size, "stale")
        request = _Request.from_dict(entry["request"])
        checksums = {name: entry["sha256"][name] for name in entry["stamps"]}
        intact = _load(folder) and not (verify and any(_sha256(folder / name) != checksums[name] for name in checksums))
        state = "damaged" if not intact else "current" if _is_current(folder, request) else "stale"
        return CacheEntry(folder, request.files[0].path, size, state)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return CacheEntry(folder, None, size, "damaged")


def _weights_path(entry: dict[str, Any]) -> str | None:
    """Return the path of the checkpoint in an entry of any layout, or None."""
    with suppress(LookupError, TypeError):
        return str(entry["request"]["files"][0]["path"])
    return None


def _size(folder: Path) -> int:
    total = 0
    for file in (folder, *folder.rglob("*")):
        with suppress(OSError):  # deleted in the meantime
            total += file.stat().st_size if file.is_file() else 0
    return total


def _age(folder: Path) -> float:
    """Return the seconds since the last change."""
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


def _is_current(folder: Path, request: _Request) -> bool:
    try:
        unchanged = all(FileIdentity.of(file.path) == file for file in request.files)
    except OSError:
        return False
    return unchanged and folder.name == request.key()


def remove(entry: CacheEntry) -> None:
    """Delete a cached graph. Raises ``OSError``."""
    import shutil

    if entry.folder.is_dir():
        shutil.rmtree(entry.folder)
    else:
        entry.folder.unlink(missing_ok=True)
