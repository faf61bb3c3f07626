"""Several processes behind the Python API, and the memory that they share."""

from __future__ import annotations

import gc
import io
import itertools
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from densenet_cli import Classifier, processes
from densenet_cli.errors import ImageTooLargeError, ProcessError, UsageError
from densenet_cli.images.previews import Thumbnail
from densenet_cli.images.sources import expand, expand_objects
from densenet_cli.processes import distribution
from densenet_cli.processes.budget import SharedBudget
from tests.support.eager_processes import use_at_once
from tests.support.processes import wait_for

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX processes")


@pytest.fixture
def at_once(monkeypatch):
    use_at_once(monkeypatch.setattr)


@pytest.fixture(autouse=True)
def no_remaining_processes(children):
    yield
    gc.collect()
    assert children() == []


@pytest.fixture
def paths(tmp_path):
    """Images of different colors."""
    for number in range(60):
        color = (4 * number, 255 - 4 * number, 7 * number % 255)
        Image.new("RGB", (50, 40), color).save(tmp_path / f"{number:02}.png")
    return sorted(map(str, tmp_path.glob("*.png")))


def objects(paths):
    """Every kind of image, and something that is none."""
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            image.load()
        data = io.BytesIO()
        image.save(data, "PNG")
        yield [path, data.getvalue(), io.BytesIO(data.getvalue()), image, np.asarray(image), 5, "none.png"][number % 7]


def records(predictions):
    return [prediction.to_json() for prediction in predictions]


@pytest.mark.parametrize("isolate", [False, True])
def test_python_objects(weights, paths, at_once, isolate):
    expected = records(Classifier(weights=weights, processes=1).predict_many(objects(paths)))
    assert len(set(expected)) > 40
    with Classifier(weights=weights, processes=2, isolate=isolate) as classifier:
        assert classifier.processes == 2
        assert records(classifier.predict_many(objects(paths))) == expected


def test_processes_serve_several_streams(weights, paths, at_once, children):
    single = Classifier(weights=weights, processes=1)
    expected = records(single.predict_many(paths))
    vectors = [embedding.vector.tobytes() for embedding in single.embed_many(paths)]
    with Classifier(weights=weights, processes=2) as classifier:
        assert records(classifier.predict_many(paths)) == expected
        first = children()
        assert len(first) == 2
        assert [embedding.vector.tobytes() for embedding in classifier.embed_many(paths)] == vectors
        assert children() == first
        # Two streams at the same time need their own processes.
        both = list(zip(classifier.predict_many(paths), classifier.embed_many(paths), strict=True))
        assert records(prediction for prediction, _ in both) == expected
        assert [embedding.vector.tobytes() for _, embedding in both] == vectors
        assert len(children()) == 4
        # Leaving a stream early ends its processes.
        results = classifier.predict_many(paths)
        for _ in range(5):
            next(results)
        results.close()
        assert len(children()) == 2
        assert records(classifier.predict_many(paths)) == expected


def test_processes_end_with_the_classifier(weights, paths, at_once, children):
    classifier = Classifier(weights=weights, processes=2)
    deque = list(classifier.predict_many(paths))
    assert len(deque) == len(paths) and len(children()) == 2
    del classifier
    gc.collect()
    assert children() == []


def test_a_closed_classifier(weights, paths, at_once):
    classifier = Classifier(weights=weights, processes=2)
    results = classifier.predict_many(itertools.cycle(paths))
    for _ in range(3):
        next(results)
    classifier.close()
    with pytest.raises(ProcessError):
        list(results)
    with pytest.raises(ProcessError, match="closed"):
        list(classifier.predict_many(paths))


def test_images_are_computed_here_until_processes_are_ready(weights, paths, monkeypatch):
    monkeypatch.setattr(processes, "START_AFTER", 5)
    first_indices = []
    stream = processes._Group.stream

    def note_and_stream(group, sources, first_index, *arguments):
        first_indices.append(first_index)
        return stream(group, sources, first_index, *arguments)

    monkeypatch.setattr(processes._Group, "stream", note_and_stream)
    expected = records(Classifier(weights=weights, processes=1).predict_many(paths))
    with Classifier(weights=weights, processes=2) as classifier:
        actual = []
        for prediction in classifier.predict_many(itertools.cycle(paths)):
            actual.append(prediction.to_json())
            if first_indices and len(actual) % len(paths) == 0 and len(actual) > first_indices[0] + 100:
                break
    assert actual == expected * (len(actual) // len(paths))
    assert 5 < first_indices[0] < len(actual)


def test_previews_up_to_a_limit(weights, paths, at_once):
    with Classifier(weights=weights, processes=2) as classifier:
        results = list(classifier.stream(expand_objects(objects(paths)), preview=Thumbnail, preview_limit=20))
    single = Classifier(weights=weights, processes=1)
    expected = list(single.stream(expand_objects(objects(paths)), preview=Thumbnail, preview_limit=20))
    assert [result.preview for result in results] == [result.preview for result in expected]
    assert 10 < sum(result.preview is not None for result in results) <= 20


def test_outputs_are_writable_and_sources_are_the_same_objects(weights, paths, at_once):
    sources = list(expand(paths))
    with Classifier(weights=weights, processes=2) as classifier:
        for source, result in zip(sources, classifier.stream(sources, ("logits", "features")), strict=True):
            assert result.source is source
            assert result.outputs["features"].ndim == 3
            result.outputs["logits"] += 1


def test_few_sources_are_read_ahead(weights, paths, at_once):
    count = 0

    def endless():
        nonlocal count
        for path in itertools.cycle(paths):
            count += 1
            yield path

    with Classifier(weights=weights, processes=2, threads=2) as classifier:
        results = classifier.predict_many(endless())
        for _ in range(10):
            next(results)
        time.sleep(1)
        assert count < 200
        results.close()


def test_threads_end_with_the_stream(weights, paths, at_once, new_threads):
    with Classifier(weights=weights, processes=2) as classifier:
        results = classifier.predict_many(itertools.cycle(objects(paths[:5])))
        for _ in range(20):
            next(results)
        results.close()
        wait_for(lambda: not new_threads(), seconds=10)


def test_errors_of_the_sources_come_after_all_results(weights, paths, at_once):
    def broken():
        yield from paths[:30]
        raise ZeroDivisionError("source")

    with Classifier(weights=weights, processes=2) as classifier:
        results = classifier.predict_many(broken())
        assert [next(results).source for _ in range(30)] == paths[:30]
        with pytest.raises(ZeroDivisionError, match="source"):
            next(results)


def test_a_slow_source_does_not_hold_back_results(weights, paths, at_once):
    release = threading.Event()

    def slow():
        yield from paths[:3]
        release.wait(60)
        yield paths[3]

    with Classifier(weights=weights, processes=2) as classifier:
        results = classifier.predict_many(slow())
        assert [next(results).source for _ in range(3)] == paths[:3]
        release.set()
        assert next(results).source == paths[3]


def test_relative_paths_after_a_change_of_folder(weights, paths, tmp_path, at_once, monkeypatch):
    other = tmp_path / os.fsdecode(b"caf\xe9")
    other.mkdir()
    for path in paths[:10]:
        os.link(path, other / os.path.basename(path))
    names = [os.path.basename(path) for path in paths[:10]]
    monkeypatch.chdir(tmp_path)
    with Classifier(weights=weights, processes=2) as classifier:
        expected = records(classifier.predict_many(names))
        for path in paths:
            os.unlink(path)
        monkeypatch.chdir(other)
        assert records(classifier.predict_many(names)) == expected
    assert "error" not in "".join(expected)


def test_hostile_results(weights, paths, at_once, monkeypatch):
    """Whatever a process sends, the parent raises an error."""
    code = (
        "import densenet_cli.processes.child as child\n"
        "encode = child._Sender._encode\n"
        "def broken(self, result, header):\n"
        "    entry, pieces = encode(self, result, header)\n"
        "    {change}\n"
        "    return entry, pieces\n"
        "child._Sender._encode = broken\n"
    )
    changes = [
        "header['shapes'] = [[10**12]]",
        "entry['preview'] = -1",
        "header['results'] = [5]",
        "header['results'] = 5",
        "pieces = []",
    ]
    for change in changes:
        patched = processes_code(code.format(change=change))
        monkeypatch.setattr("densenet_cli.processes.worker.CHILD_CODE", patched)
        with Classifier(weights=weights, processes=2) as classifier, pytest.raises((ProcessError, RuntimeError)):
            list(classifier.stream(expand(paths), preview=Thumbnail))


def processes_code(code):
    """Return the code of a process that runs ``code`` first."""
    from densenet_cli.processes.worker import CHILD_CODE

    original = CHILD_CODE.rpartition("exec(")[0] or CHILD_CODE.rpartition("main(**settings)")[0]
    return f"{original}exec({code!r}); main(**settings)"


@pytest.mark.parametrize("value", [0, -3])
def test_invalid_numbers(weights, value):
    with pytest.raises(UsageError, match="processes"):
        Classifier(weights=weights, processes=value)


def test_the_window_is_limited_by_pixels(monkeypatch):
    """A group of large inputs ends early."""
    assert distribution.MAX_GROUP_BYTES // (2048 * 2048 * 3) < 1  # so one image fills a group


SHARER = """
import sys, threading
from densenet_cli.processes.budget import SharedBudget
budget = SharedBudget(10, [int(number) for number in sys.argv[1:]])
def use():
    for _ in range(300):
        with budget.reserve(4_000_000):
            sys.stdout.write("+"); sys.stdout.flush(); sys.stdout.write("-"); sys.stdout.flush()
threads = [threading.Thread(target=use) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_a_budget_is_shared_by_processes():
    budget = SharedBudget(10)
    reader, writer = os.pipe()
    command = [sys.executable, "-c", SHARER, *map(str, budget.descriptors)]
    started = [subprocess.Popen(command, pass_fds=budget.descriptors, stdout=writer) for _ in range(2)]
    os.close(writer)
    with open(reader, "rb") as file:
        marks = file.read().decode()
    for process in started:
        assert process.wait(60) == 0
    assert len(marks) == 2 * 2 * 3 * 300
    in_use = list(itertools.accumulate(1 if mark == "+" else -1 for mark in marks))
    assert max(in_use) == 2  # of 4 MB each
    with budget.reserve(10_000_000):
        pass


def test_a_budget_for_a_large_image():
    budget = SharedBudget(10)
    with pytest.raises(ImageTooLargeError), budget.reserve(10_000_001):
        pass
    taken = threading.Event()

    def take_all():
        with budget.reserve(10_000_000):
            taken.set()

    with budget.reserve(1):
        thread = threading.Thread(target=take_all)
        thread.start()
        assert not taken.wait(0.2)
    assert taken.wait(10)
    thread.join()


def test_a_budget_of_many_gigabytes():
    budget = SharedBudget(1_000_000)
    with budget.reserve(999_999_999_999), pytest.raises(ImageTooLargeError), budget.reserve(1_000_000_000_001):
        pass
    with budget.reserve(1_000_000_000_000):
        pass
