"""Order, errors, and limits of the stream, for any batch size and number of threads."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_cli.errors import UnreadableImageError
from densenet_cli.images.decoding import Loaded
from densenet_cli.pipeline import MAX_BATCHES_AHEAD, stream
from tests.support.processes import wait_for


def load(source, index):
    """Load source n: n % 3 + 1 crops of the value n, and a preview; every fifth is broken."""
    assert source == index
    if source % 5 == 4:
        raise UnreadableImageError(f"{source} is broken")
    time.sleep((source * 7919 % 3) / 2000)
    return Loaded(np.full((source % 3 + 1, 1, 1, 3), source, dtype=np.uint8), f"preview {source}")


def run(pixels, alone=True):
    """Return two arrays: each crop's value, and its negative."""
    values = pixels[:, 0, 0, :1].astype(np.float32)
    return {"values": values, "negatives": -values}


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 40), batch_size=st.integers(1, 9), threads=st.integers(1, 4), concurrent=st.booleans())
def test_order_and_errors(count, batch_size, threads, concurrent):
    results = list(stream(range(count), load, run, batch_size=batch_size, threads=threads, concurrent=concurrent))
    assert [result.source for result in results] == list(range(count))
    for result in results:
        if result.source % 5 == 4:
            assert isinstance(result.error, UnreadableImageError)
            assert (result.outputs, result.preview) == ({}, None)
        else:
            values = np.full((result.source % 3 + 1, 1), result.source, dtype=np.float32)
            np.testing.assert_array_equal(result.outputs["values"], values)
            np.testing.assert_array_equal(result.outputs["negatives"], -values)
            assert (result.error, result.preview) == (None, f"preview {result.source}")


@pytest.mark.parametrize("concurrent", [True, False])
def test_few_sources_are_read_ahead(concurrent):
    consumed = []

    def sources():
        for number in range(10_000):
            consumed.append(number)
            yield number

    results = stream(sources(), load, run, batch_size=4, threads=2, concurrent=concurrent)
    for _ in range(10):
        next(results)
    assert len(consumed) < 60
    results.close()


def test_many_threads_load_few_batches_ahead():
    may_load = threading.Semaphore(0)
    consumed = []

    def sources():
        for number in range(10_000):
            consumed.append(number)
            yield number

    results = stream(
        sources(), lambda source, index: may_load.acquire() and load(source, index), run, batch_size=2, threads=1000
    )
    threading.Timer(0.3, may_load.release, [10_000]).start()
    first = next(results)
    assert len(consumed) <= (3 + MAX_BATCHES_AHEAD) * 2 + 4
    assert first.source == 0
    results.close()


@pytest.mark.parametrize("concurrent", [True, False])
def test_a_slow_source_does_not_hold_back_results(concurrent):
    release = threading.Event()

    def sources():
        yield 0
        release.wait(30)
        yield 1

    results = stream(sources(), load, run, batch_size=8, threads=1, concurrent=concurrent)
    assert next(results).source == 0
    release.set()
    assert next(results).source == 1


@pytest.mark.parametrize("concurrent", [True, False])
def test_unexpected_errors_reach_the_caller(concurrent):
    def broken_sources():
        yield 0
        raise OSError("source")

    def broken_load(source, index):
        raise ZeroDivisionError("load")

    def broken_run(pixels, alone=True):
        raise MemoryError("run")

    options = {"batch_size": 2, "threads": 2, "concurrent": concurrent}
    with pytest.raises(OSError, match="source"):
        list(stream(broken_sources(), load, run, **options))
    with pytest.raises(ZeroDivisionError, match="load"):
        list(stream(range(3), broken_load, run, **options))
    with pytest.raises(MemoryError, match="run"):
        list(stream(range(3), load, broken_run, **options))


@pytest.mark.parametrize("concurrent", [True, False])
def test_threads_end_when_the_caller_leaves_early(concurrent, new_threads):
    results = stream(range(1000), load, run, batch_size=2, threads=3, concurrent=concurrent)
    next(results)
    results.close()
    wait_for(lambda: not new_threads(), seconds=5)


def test_concurrent_runs_end_before_the_stream_closes():
    """An engine in C++ must not run while the interpreter exits."""
    running = set()
    release = threading.Event()

    def slow_run(pixels, alone=True):
        if pixels[0, 0, 0, 0] == 0:
            return run(pixels)
        running.add(threading.get_ident())
        release.wait(10)
        time.sleep(0.2)
        running.discard(threading.get_ident())
        return run(pixels)

    results = stream(range(100), load, slow_run, batch_size=1, threads=4, concurrent=True)
    next(results)
    while not running:
        time.sleep(0.01)
    release.set()
    results.close()
    assert not running


def test_a_single_image_in_flight_runs_alone():
    alone = []

    def note_and_run(pixels, alone_):
        alone.append(alone_)
        return run(pixels)

    def sources():
        for number in range(3):
            yield number
            while len(alone) <= number:
                time.sleep(0.001)

    options = {"batch_size": 1, "threads": 2, "concurrent": True}
    list(stream(sources(), load, lambda pixels, alone: note_and_run(pixels, alone), **options))
    assert alone == [True] * 3
    alone.clear()
    barrier = threading.Barrier(2)
    list(stream(range(2), load, lambda pixels, alone: (barrier.wait(10), note_and_run(pixels, alone))[1], **options))
    assert True not in alone
