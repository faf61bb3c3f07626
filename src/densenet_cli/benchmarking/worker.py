"""A process that holds one classifier and measures its parts when it is told to.

TensorFlow's threads can't be changed once it runs, and what one measurement leaves behind in memory is not to slow the
next: so each engine with each number of threads has a process of its own, and they are asked in turn. One JSON object a
line goes in, one comes out. ``Worker`` is the asking side.
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
from itertools import cycle, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from densenet_cli import errors
from densenet_cli.benchmarking.processes import CommandFailedError, combined

if TYPE_CHECKING:
    import numpy as np

    from densenet_cli.images.sources import Source

    FloatArray = np.ndarray[Any, np.dtype[np.float32]]

Samples = list[tuple[int, float]]
"""(images, seconds) of each piece of work that was timed."""

PARTS = ("decoding", "engine", "together", "answer")
"""What can be measured: images to the network's input; that to probabilities; files to labels, as ``predict_many``
does it; and one file to its labels, as ``predict`` does."""


class Worker:
    """The asking side. A ``with`` block ends the process, whatever it is doing.

    Args:
        options: what ``Classifier`` takes.
        images: paths of the images to measure with.
        environment: added to ours.

    Raises:
        DensenetError: what the classifier raises.

    Attributes:
        about: model, input_size, preprocess, crops of the classifier; ``pixels``, the mean of the images' sizes; and
            ``unusable``: those that it could not decode, each with the reason.
    """

    def __init__(
        self, options: Mapping[str, Any], images: Sequence[Path], environment: Mapping[str, str | None] | None = None
    ) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (as long-lived as the worker)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=combined(environment),
        )
        try:
            self.about = self._ask({"options": dict(options), "images": [os.fsdecode(path) for path in images]})
        except BaseException:
            self.stop()
            raise

    def measure(self, part: str, batch_size: int, seconds: float) -> Samples:
        """Time one of ``PARTS`` for about ``seconds``, at least one batch."""
        answer = self._ask({"part": part, "batch_size": batch_size, "seconds": seconds})
        return [(images, taken) for images, taken in answer["samples"]]

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            status = self._process.wait()
            self._complaints.seek(0)
            said = self._complaints.read().decode("utf-8", "replace").strip()
            raise CommandFailedError(f"A measuring process ended with {status}: {said or 'it said nothing'}")
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            kind = getattr(errors, found["kind"], errors.DensenetError)
            raise kind(found["error"])
        return found

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._complaints):
            if stream:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Bench:
    """The answering side: one classifier and the images that it can decode."""

    def __init__(self, options: dict[str, Any], images: Sequence[str]) -> None:
        from densenet_cli.classifier import Classifier
        from densenet_cli.images import decoding
        from densenet_cli.images.sources import expand

        self._classifier = Classifier(**options)
        self._threads = self._classifier.threads
        self._pixels: list[FloatArray] = []
        self._sources: list[Source] = []
        self._areas: list[int] = []
        self._pace: dict[tuple[str, int], float] = {}
        self.unusable: dict[str, str] = {}
        for source in expand(images):
            try:
                width, height = decoding.decode(source, min_side=1).size
                self._pixels.append(self._classifier.load(source))
            except errors.ImageError as error:
                self.unusable[source.name] = str(error)
            else:
                self._areas.append(width * height)
                self._sources.append(source)

    def about(self) -> dict[str, Any]:
        """See ``Worker.about``."""
        preprocessing = self._classifier.preprocessing
        return {
            "model": self._classifier.model,
            "input_size": preprocessing.input_size,
            "preprocess": preprocessing.mode,
            "crops": preprocessing.crops,
            "pixels": sum(self._areas) // max(1, len(self._areas)),
            "unusable": self.unusable,
        }

    def measure(self, part: str, batch_size: int, seconds: float) -> Samples:
        """See ``Worker.measure``."""
        work = getattr(self, f"_{part}")
        return list(work(batch_size, seconds))

    def _engine(self, batch_size: int, seconds: float) -> Iterator[tuple[int, float]]:
        """Batches of as many crops as the classifier would put together."""
        import numpy as np

        crops = self._classifier.preprocessing.crops
        images = -(-batch_size // crops)
        batch = np.concatenate(list(islice(cycle(self._pixels), images)))
        return _repeated(lambda: self._classifier.run(batch), images, seconds)

    def _answer(self, batch_size: int, seconds: float) -> Iterator[tuple[int, float]]:
        sources = cycle(self._sources)
        return _repeated(lambda: self._classifier.predict(next(sources).origin), 1, seconds)

    def _decoding(self, batch_size: int, seconds: float) -> Iterator[tuple[int, float]]:
        with ThreadPoolExecutor(self._threads) as pool:

            def decode(count: int) -> None:
                deque(pool.map(self._classifier.load, islice(cycle(self._sources), count)), maxlen=0)

            yield self._paced("decoding", self._threads, decode, seconds)

    def _together(self, batch_size: int, seconds: float) -> Iterator[tuple[int, float]]:
        """A run from its first image to its last.

        All threads decode while the first batch is made up, and all compute the last one, so that beginning and end are
        no slower than what lies between.
        """

        def run(count: int) -> None:
            results = self._classifier.stream(islice(cycle(self._sources), count), batch_size=batch_size)
            deque(map(self._classifier.prediction, results), maxlen=0)

        yield self._paced("together", batch_size, run, seconds)

    def _paced(self, part: str, batch_size: int, work: Callable[[int], None], seconds: float) -> tuple[int, float]:
        """Time ``work`` on as many images as take about ``seconds``, by what the last time showed; two batches at
        least, so that there is one to decode while another is computed."""
        key = (part, batch_size)
        batches = max(2, round(seconds / self._pace[key] / batch_size) if key in self._pace else 0)
        taken = _time(lambda: work(batches * batch_size))
        self._pace[key] = taken / (batches * batch_size)
        return batches * batch_size, taken


def _repeated(work: Callable[[], object], images: int, seconds: float) -> Iterator[tuple[int, float]]:
    """Time ``work``, which does so many ``images``, again and again until ``seconds`` have passed."""
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
    """Answer what standard input asks until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the asking side hears it too, and ends this one
    # What a library prints is no answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    bench: _Bench | None = None
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any]
        try:
            if bench is None:
                bench = _Bench(**question)
                answer = bench.about()
            else:
                answer = {"samples": bench.measure(**question)}
        except errors.DensenetError as error:
            answer = {"error": str(error), "kind": type(error).__name__}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
