"""A model that workers on all nodes of a cluster use: its files travel through Ray's object store, once per node.

A node writes the files to its cache, under a hash of their contents, so that the graph of the network is cached beside
them and later runs start faster. Nothing on a worker depends on paths of the machine that runs the command.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.errors import CheckpointError
from densenet_cli.paths import checkpoints_dir

if TYPE_CHECKING:
    from densenet_cli._types import PathLike
    from densenet_cli.classifier import Classifier

MODEL_OPTIONS = ("variant", "activation", "uncalibrated")
"""Options of a classifier that are the same on all nodes. All others are resolved: workers get their results."""


@dataclass(frozen=True)
class SharedCheckpoint:
    """A checkpoint in Ray's object store, for ``weights`` of a ``Predictor`` or ``Embedder``. See ``share_weights``.

    Attributes:
        name: The name of the model in records.
        main: The name of the file that is loaded.
        digest: A hash of all files.
        files: Reference to a mapping of file names to their bytes.
    """

    name: str
    main: str
    digest: str
    files: Any

    def write(self) -> Path:
        """Write the files to the cache of this machine, unless they are there. Return the path of the main file.

        If the cache cannot be written, they are written to a temporary folder that other processes do not use.
        """
        folder = checkpoints_dir() / self.digest
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            return self._write_once(folder)
        except OSError:
            temporary = Path(tempfile.mkdtemp(prefix="densenet-checkpoint-"))
            return self._write_files(temporary)

    def _write_once(self, folder: Path) -> Path:
        """Write the files in a temporary folder, which is then renamed, so that ``folder`` is complete or absent."""
        from densenet_cli.output.atomic import locked

        with locked(folder.with_name(f".{folder.name}.lock"), on_wait=lambda: None):
            if not (folder / self.main).is_file():
                shutil.rmtree(folder, ignore_errors=True)  # what is left if the cache was pruned
                with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as temporary:
                    complete = Path(temporary) / "files"
                    complete.mkdir()
                    self._write_files(complete)
                    complete.rename(folder)
        return folder / self.main

    def _write_files(self, folder: Path) -> Path:
        import ray

        for name, data in ray.get(self.files).items():
            (folder / name).write_bytes(data)
        return folder / self.main


def share_weights(weights: PathLike) -> SharedCheckpoint:
    """Put a checkpoint of this machine into Ray's object store, for workers on other machines.

    Args:
        weights: A file, a folder that contains one, or an ``hf://`` URL.

    Raises:
        WeightsError: There is no such checkpoint.
    """
    from densenet_cli.weights import locations

    return _share(locations.find_checkpoint(weights), locations.model_name(weights))


def _share(path: Path, name: str) -> SharedCheckpoint:
    from hashlib import blake2b

    import ray

    from densenet_cli.weights.folders import companions
    from densenet_cli.weights.shards import checkpoint_files

    hashed = blake2b(digest_size=16)
    files: dict[str, bytes] = {}
    try:
        paths = checkpoint_files(path)
        paths += [file for name in companions(path.name) if (file := path.with_name(name)).is_file()]
        for file in paths:
            files[file.name] = data = file.read_bytes()
            hashed.update(b"%s\0%d\0" % (os.fsencode(file.name), len(data)))
            hashed.update(data)
    except OSError as error:
        raise CheckpointError(f"Cannot read {error.filename or path}: {error.strerror or error}.") from error
    return SharedCheckpoint(name, path.name, hashed.hexdigest(), ray.put(files))


@dataclass(frozen=True)
class SharedModel:
    """A model with its preprocessing, as the machine that runs the command has resolved it.

    Attributes:
        checkpoint: Its files.
        arguments: Arguments of ``Classifier`` that describe the model.
        labels: Its labels.
        preprocessing: The fields of ``Preprocessing``.
        quantization: The quantization for int8, or None.
    """

    checkpoint: SharedCheckpoint
    arguments: dict[str, Any]
    labels: tuple[Any, ...]
    preprocessing: dict[str, Any]
    quantization: Any

    @classmethod
    def of(cls, classifier: Classifier, options: Mapping[str, Any]) -> SharedModel:
        """Share the model of a classifier, which was created with ``options``."""
        from densenet_cli import variants

        arguments = {name: options[name] for name in MODEL_OPTIONS if name in options}
        if options.get("weights") is None:
            arguments["variant"] = options.get("variant") or variants.DEFAULT
        arguments |= {"engine": classifier.engine, "precision": classifier.precision}
        return cls(
            _share(classifier.weights, classifier.model),
            arguments,
            classifier.labels,
            asdict(classifier.preprocessing),
            classifier.quantization,
        )

    def create(self, **options: Any) -> Classifier:
        """Create the same classifier on this machine.

        Args:
            **options: Arguments of ``Classifier`` on performance: threads, isolation, and so on.
        """
        from densenet_cli.classifier import Classifier
        from densenet_cli.images.preprocessing import Preprocessing

        classifier = Classifier(
            **self.arguments,
            weights=self.checkpoint.write(),
            int8_images=self.quantization,
            allow_low_agreement=self.quantization is not None,
            processes=1,
            **options,
        )
        classifier.model, classifier.labels = self.checkpoint.name, self.labels
        classifier.use_preprocessing(Preprocessing(**self.preprocessing))
        return classifier
