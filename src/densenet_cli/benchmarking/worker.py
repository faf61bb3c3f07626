"""Worker processes that hold a classifier and measure it on request.

TensorFlow's number of threads cannot change after its start, and memory that one measurement leaves behind must not
slow down another, so each combination of engine and threads has its own process. Requests and responses are JSON
objects, one per line. ``BenchmarkWorker`` is the client, and ``main`` runs in the worker process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from densenet_cli import errors
from densenet_cli.benchmarking.agreement import Agreement
from densenet_cli.benchmarking.processes import CommandFailedError, merge_environment

if TYPE_CHECKING:
    from densenet_cli._types import UInt8Array
    from densenet_cli.benchmarking.report import Stage
    from densenet_cli.images.sources import Source

Sample = tuple[int, float]
"""(images, seconds) of one measurement."""


class BenchmarkWorker:
    """A worker process. Used as a context manager, it ends the process even during a measurement.

    Args:
        options: Arguments of ``Classifier``.
        images: Paths of the images to measure with.
        environment: Changes to the environment of this process; None removes a variable.

    Raises:
        DensenetError: The errors of ``Classifier``.

    Attributes:
        info: ``model``, ``has_batches``, ``input_size``, ``preprocess``, and ``crops`` of the classifier,
            ``mean_pixels`` of the images, and ``failed``, a dict from the name of an image that cannot be decoded to
            the reason.
    """

    def __init__(
        self, options: Mapping[str, Any], images: Sequence[Path], environment: Mapping[str, str | None] | None = None
    ) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=merge_environment(environment),
        )
        try:
            self.info = self._request({"options": dict(options), "images": [os.fsdecode(path) for path in images]})
        except BaseException:
            self.stop()
            raise

    def agreement(self) -> Agreement:
        """Compare the classifier with the same one in float32. Raises the errors of ``measure``."""
        return Agreement(**self._request({"agreement": True}))

    def measure(self, stage: Stage, batch_size: int | None, seconds: float) -> list[Sample]:
        """Measure a stage for about ``seconds``, but at least once.

        Raises:
            CommandFailedError: The worker process ended.
            DensenetError: The errors of ``Classifier``.
        """
        response = self._request({"stage": stage, "batch_size": batch_size, "seconds": seconds})
        return [(images, elapsed) for images, elapsed in response["samples"]]

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            status = self._process.wait()
            self._stderr.seek(0)
            message = self._stderr.read().decode("utf-8", "replace").strip()
            raise CommandFailedError(f"A benchmark worker failed with status {status}: {message or 'no message'}")
        response: dict[str, Any] = json.loads(line)
        if "error" in response:
            raise getattr(errors, response["type"], errors.DensenetError)(response["error"])
        return response

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Stages:
    """The stages of one classifier, timed on the images that can be decoded. Lives in the worker process."""

    def __init__(self, options: dict[str, Any], images: Sequence[str]) -> None:
        from densenet_cli.classifier import Classifier
        from densenet_cli.images import decoding
        from densenet_cli.images.sources import expand

        self._options = {**options, "processes": 1}
        self._classifier = Classifier(**self._options)
        self._threads = self._classifier.threads
        self._sources: list[Source] = []
        self._inputs: list[UInt8Array] = []
        self._image_pixels: list[int] = []
        self._failed: dict[str, str] = {}
        self._seconds_per_image: dict[tuple[Stage, int | None], float] = {}
        for source in expand(images):
            try:
                width, height = decoding.decode(source, min_side=1).size
                self._inputs.append(self._classifier.load_pixels(source))
            except errors.ImageError as error:
                self._failed[source.name] = str(error)
            else:
                self._image_pixels.append(width * height)
                self._sources.append(source)

    def info(self) -> dict[str, Any]:
        """See ``BenchmarkWorker.info``."""
        preprocessing = self._classifier.preprocessing
        return {
            "model": self._classifier.model,
            "has_batches": not self._classifier.is_concurrent,
            "input_size": preprocessing.input_size,
            "preprocess": preprocessing.mode,
            "crops": preprocessing.crops,
            "mean_pixels": sum(self._image_pixels) // max(1, len(self._image_pixels)),
            "failed": self._failed,
        }

    def agreement(self) -> dict[str, Any]:
        """See ``BenchmarkWorker.agreement``."""
        from densenet_cli.benchmarking.agreement import measure_agreement, with_precision
        from densenet_cli.classifier import Classifier

        with Classifier(**with_precision(self._options, None, "float32")) as reference:
            return asdict(measure_agreement(self._classifier, reference, self._sources))

    def measure(self, stage: Stage, batch_size: int | None, seconds: float) -> list[Sample]:
        """See ``BenchmarkWorker.measure``."""
        match stage:
            case "decode":
                return [self._decode(seconds)]
            case "inference":
                return list(self._inference(batch_size, seconds))
            case "end_to_end":
                return [self._end_to_end(batch_size, seconds)]
            case "predict":
                return list(self._predict(seconds))

    def _decode(self, seconds: float) -> Sample:
        with ThreadPoolExecutor(self._threads) as pool:

            def decode(count: int) -> None:
                deque(pool.map(self._classifier.load_pixels, islice(cycle(self._sources), count)), maxlen=0)

            return self._time_images("decode", 1, decode, seconds)

    def _inference(self, batch_size: int | None, seconds: float) -> Iterator[Sample]:
        """As many crops as a batch has, or one image per thread."""
        import numpy as np

        classifier = self._classifier
        if batch_size is not None:
            images = -(-batch_size // classifier.preprocessing.crops)
            batch = np.concatenate(list(islice(cycle(self._inputs), images)))
            yield from _repeat(lambda: classifier.run(batch), images, seconds)
            return
        with ThreadPoolExecutor(self._threads) as pool:
            run = partial(classifier.run, alone=self._threads == 1)

            def compute(count: int) -> None:
                deque(pool.map(run, islice(cycle(self._inputs), count)), maxlen=0)

            yield self._time_images("inference", None, compute, seconds)

    def _end_to_end(self, batch_size: int | None, seconds: float) -> Sample:
        """A whole run, from the first image to the last."""

        def classify(count: int) -> None:
            results = self._classifier.stream(islice(cycle(self._sources), count), batch_size=batch_size)
            deque(map(self._classifier.predictor(), results), maxlen=0)

        return self._time_images("end_to_end", batch_size, classify, seconds)

    def _predict(self, seconds: float) -> Iterator[Sample]:
        sources = cycle(self._sources)
        return _repeat(lambda: self._classifier.predict(next(sources).origin), 1, seconds)

    def _time_images(self, stage: Stage, batch_size: int | None, work: Callable[[int], None], seconds: float) -> Sample:
        """Time ``work`` on as many images as take about ``seconds`` according to the previous measurement.

        At least two batches, so that one is decoded while the other is computed, and two images per thread.
        """
        previous = self._seconds_per_image.get((stage, batch_size))
        unit = max(batch_size or 1, self._threads)
        images = max(2, round(seconds / previous / unit) if previous else 0) * unit
        elapsed = _time(lambda: work(images))
        self._seconds_per_image[stage, batch_size] = elapsed / images
        return images, elapsed


def _repeat(work: Callable[[], object], images: int, seconds: float) -> Iterator[Sample]:
    """Time ``work``, which processes ``images`` images, repeatedly until ``seconds`` have passed."""
    end = time.perf_counter() + seconds
    while True:
        yield images, _time(work)
        if time.perf_counter() >= end:
            return


def _time(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Respond to the requests on standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the client receives Ctrl-C too, and ends this process
    # Libraries may print to standard output, so responses go to a duplicate of it.
    responses = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    stages: _Stages | None = None
    for line in sys.stdin:
        request = json.loads(line)
        response: dict[str, Any]
        try:
            if stages is None:
                stages = _Stages(**request)
                response = stages.info()
            else:
                response = stages.agreement() if "agreement" in request else {"samples": stages.measure(**request)}
        except errors.DensenetError as error:
            response = {"error": str(error), "type": type(error).__name__}
        print(json.dumps(response), file=responses, flush=True)


if __name__ == "__main__":
    main()
