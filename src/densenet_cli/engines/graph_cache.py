"""A cache of graphs: the ONNX graphs of checkpoints, and what engines make of them.

The folder ``cache_dir()/graphs/KEY`` contains the files of an engine's ``GraphMaker`` (for ONNX Runtime ``model.onnx``
and its weights ``model.data``, which are memory-mapped), the arrays of the head as ``head.npy`` (because engines do not
return weights), and ``entry.json``: the identity of the checkpoint, and the size, mtime, ctime, and SHA-256 of the
other files.

KEY is a hash of everything that the files depend on, including the version of the engine and the instruction set,
because the weights are blocked for the vector width. A folder is written under a temporary name, synced, and renamed.
If its files do not match the entry, it is created again. If the cache cannot be written, the graph is kept in memory.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from densenet_cli import engines
from densenet_cli.errors import CheckpointError
from densenet_cli.output import atomic
from densenet_cli.paths import cache_dir
from densenet_cli.topology import DenseNetConfig
from densenet_cli.weights.contents import ModelMetadata, config_path
from densenet_cli.weights.file_identity import FileIdentity, digest

if TYPE_CHECKING:
    from densenet_cli.weights.contents import Arrays

HEAD_FILE, ENTRY_FILE = "head.npy", "entry.json"
TEMP_PREFIX = ".new-"
"""Prefix of the names of folders that are being written."""
LAYOUT_VERSION = 11
"""Must be increased if the files in a folder change, or what is read from a checkpoint besides its arrays."""


class GraphMaker(Protocol):
    """What an engine makes of the ONNX graph of a checkpoint.

    Attributes:
        name: The package and its version, and every setting that the files depend on, separated by spaces.
        dense_as_conv: See ``onnx_graph.emit``.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def dense_as_conv(self) -> bool: ...  # noqa: D102

    def write(self, model: str | bytes, folder: Path) -> Sequence[str]:
        """Make files of a model, given as its path or content, and return their names, the main one first.

        Raises:
            OSError: They cannot be written.
        """
        ...


class CachedGraph(NamedTuple):
    """A graph, ready for an engine.

    Attributes:
        model: The path of the main file, or the bytes of the ONNX model if it is not cached.
        head: The arrays of the head's layers, or the path of the file with their values.
        head_shapes: (layer name, array name, shape) of each array in that file, in order.
        optimized: Whether it is what the engine made of the ONNX model.
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


def get_graph(weights: Path, config: DenseNetConfig | None, activation: str | None, maker: GraphMaker) -> CachedGraph:
    """Return the graph of a checkpoint, from the cache if possible. Otherwise create and cache it.

    Args:
        weights: The path of the checkpoint.
        config: The network that it must contain, or None to infer it.
        activation: See ``weights.checkpoint.read``.
        maker: What the engine makes of it.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        UsageError: ``activation`` contradicts it.
    """
    try:
        files = [FileIdentity.of(file) for file in _files(weights)]
    except OSError as error:
        raise CheckpointError(f"Cannot read {error.filename or weights}: {error.strerror or error}.") from error
    request = Request(weights.name, files, repr(config), activation, maker.name)
    folder = graphs_dir() / request.key()
    if cached := load(folder):
        return cached
    graph = create_graph(weights, config, activation, maker)
    with suppress(OSError):
        _store(folder, graph, request, maker)
        return load(folder) or graph
    return graph


def convert_graph(graph: CachedGraph, maker: GraphMaker) -> CachedGraph:
    """Return what another maker makes of a cached graph, from the cache if possible.

    Raises:
        OSError: The graph is not cached any more, or the cache cannot be written.
    """
    request = _request_of(graph)._replace(maker=maker.name)
    folder = graphs_dir() / request.key()
    if cached := load(folder):
        return cached
    _store(folder, graph, request, maker)
    if cached := load(folder):
        return cached
    raise FileNotFoundError(folder)


def find_converted(graph: CachedGraph, name: str) -> CachedGraph | None:
    """Return the last of what makers have made of a cached graph whose names start with ``name``, or None.

    It becomes the last one of all names that it starts with.
    """
    converted = []
    with suppress(OSError):
        expected = _request_of(graph)
        for folder in graphs_dir().iterdir():
            with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
                request = Request.from_dict(json.loads((folder / ENTRY_FILE).read_bytes())["request"])
                is_same = request._replace(maker=expected.maker) == expected and request.key() == folder.name
                if is_same and request.maker.startswith(name) and (cached := load(folder)):
                    converted.append((folder.stat().st_mtime_ns, folder, cached))
    if not converted:
        return None
    _, folder, cached = max(converted, key=lambda item: item[0])
    with suppress(OSError):
        folder.touch()
    return cached


def _request_of(graph: CachedGraph) -> Request:
    """Return what a cached graph was made from. Raises ``OSError`` if it is not in the cache."""
    if not isinstance(graph.model, str):
        raise OSError("The graph is not in the cache.")
    return Request.from_dict(json.loads((Path(graph.model).parent / ENTRY_FILE).read_bytes())["request"])


def read_head(
    graph: CachedGraph, weights: Path, config: DenseNetConfig | None, activation: str | None, maker: GraphMaker
) -> Arrays:
    """Return the arrays of the head of a graph, or of a new one. See ``get_graph`` for the other arguments."""
    try:
        return graph.load_head()
    except (OSError, ValueError):  # another process has just removed the cached graph
        return create_graph(weights, config, activation, maker).load_head()


def create_graph(
    weights: Path, config: DenseNetConfig | None, activation: str | None, maker: GraphMaker
) -> CachedGraph:
    """Create the graph of a checkpoint in memory. See ``get_graph``."""
    from densenet_cli.engines import onnx_graph
    from densenet_cli.weights import checkpoint

    loaded = checkpoint.read(weights, config, activation, allow_unsupported_head=True)
    model = onnx_graph.emit(loaded.arrays, loaded.config, dense_as_conv=maker.dense_as_conv)
    head = {name: loaded.arrays[name] for name in loaded.config.head_layers if name in loaded.arrays}
    return CachedGraph(model, head, False, loaded.config, loaded.metadata)


def _files(weights: Path) -> Iterator[Path]:
    """Yield the files that a checkpoint consists of: its own, its shards, and the configuration beside it."""
    if weights.name.endswith(".index.json"):  # otherwise the module is not imported, for a fast start
        from densenet_cli.weights import shards

        yield from shards.checkpoint_files(weights)
    else:
        yield weights
    configuration = config_path(weights)
    if configuration.exists():
        yield configuration


class Request(NamedTuple):
    """What a graph was made from.

    Attributes:
        name: The name of the checkpoint or a link to it, on which the use of a ``config.json`` beside it depends.
        files: The checkpoint first, then the other files that it consists of.
        config: The representation of the configuration that it must contain, or "None".
        activation: The requested activation, or None.
        maker: The name of the maker.
    """

    name: str
    files: list[FileIdentity]
    config: str
    activation: str | None
    maker: str

    def key(self) -> str:
        """Return the name of the graph's folder."""
        parts = [
            json.dumps(self.name),
            *(file.key() for file in self.files),
            self.config,
            str(self.activation),
            str(engines.EMITTER_VERSION),
            str(LAYOUT_VERSION),
            self.maker,
            _instruction_set(),
        ]
        return digest("\n".join(parts).encode())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values for JSON."""
        return {**self._asdict(), "files": [file.to_dict() for file in self.files]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Request:
        """Restore the result of ``to_dict``. Raises ``KeyError``, ``TypeError``, or ``ValueError`` for other values."""
        files = [FileIdentity.from_dict(file) for file in values["files"]]
        return cls(str(values["name"]), files, str(values["config"]), values["activation"], str(values["maker"]))


def _instruction_set() -> str:
    """Describe the processor's vector instructions. A graph that was optimized for others may be slow or not run."""
    import importlib

    features = importlib.import_module("numpy._core._multiarray_umath").__cpu_features__
    return sys.platform + " " + " ".join(name for name, available in features.items() if available)


def load(folder: Path) -> CachedGraph | None:
    """Return the graph in ``folder``, or None if it does not exist or does not match its entry."""
    try:
        entry = json.loads((folder / ENTRY_FILE).read_bytes())
        if entry["layout"] != LAYOUT_VERSION:
            return None
        model, stamps = str(entry["model"]), entry["stamps"]
        if not {model, HEAD_FILE} <= stamps.keys():
            return None
        if any(stamp(folder / name) != value for name, value in stamps.items()):
            return None
        config, metadata = DenseNetConfig.from_dict(entry["config"]), ModelMetadata.from_dict(entry["metadata"])
        shapes = [(str(layer), str(name), tuple(map(int, shape))) for layer, name, shape in entry["head"]]
        return CachedGraph(str(folder / model), folder / HEAD_FILE, True, config, metadata, shapes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def stamp(path: Path) -> list[int]:
    """Return what changes when a file is written: its size, and mtime and ctime in nanoseconds."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _store(folder: Path, graph: CachedGraph, request: Request, maker: GraphMaker) -> None:
    """Write what a maker makes of a graph to ``folder``. Raises ``OSError``."""
    import shutil
    import tempfile

    import numpy as np

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=folder.parent))
    try:
        names = [*maker.write(graph.model, temporary), HEAD_FILE]
        head = [(layer, name, array) for layer, named in graph.load_head().items() for name, array in named.items()]
        values = np.concatenate([np.zeros(0, np.float32), *(array.ravel() for _, _, array in head)])
        np.save(temporary / HEAD_FILE, values, allow_pickle=False)
        for name in names:
            atomic.sync_path(temporary / name)
        entry = {
            "layout": LAYOUT_VERSION,
            "model": names[0],
            "request": request.to_dict(),
            "config": graph.config.to_dict(),
            "metadata": graph.metadata.to_dict(),
            "head": [(layer, name, array.shape) for layer, name, array in head],
            "stamps": {name: stamp(temporary / name) for name in names},
            "sha256": {name: sha256(temporary / name) for name in names},
        }
        (temporary / ENTRY_FILE).write_text(json.dumps(entry))
        atomic.sync_path(temporary / ENTRY_FILE)
        if not load(folder):  # otherwise another process was faster, and a third may be loading its graph
            shutil.rmtree(folder, ignore_errors=True)
            temporary.replace(folder)
        atomic.sync_path(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
