"""Threads that decode and compute: errors, and what happens while the engine is being loaded."""

from __future__ import annotations

import threading
import time

from densenet_cli.errors import UnreadableImageError
from densenet_cli.images.decoding import Loaded
from densenet_cli.pace import MAX_CHUNK
from densenet_cli.workers import Workers
from tests.support.processes import wait_for


def test_an_error_in_a_chunk_fails_one_image():
    def load(source, index):
        if source % 3 == 0:
            raise UnreadableImageError("damaged")
        return Loaded(source)

    workers = Workers(range(200), load, lambda pixels, alone: {"x": pixels}, window=50, threads=2)
    workers._pace.chunk = MAX_CHUNK
    workers.prepared.set()
    slots = []
    while taken := workers.take():
        slots += taken
    assert [slot.source for slot in slots] == list(range(200))
    for slot in slots:
        assert isinstance(slot.loaded, UnreadableImageError) == (slot.source % 3 == 0)
        assert slot.outputs == ({} if slot.source % 3 == 0 else {"x": slot.source})


def test_images_are_decoded_while_the_engine_is_loaded():
    """They are decoded before the first run, while it takes long, and computed without waiting for each other."""
    decoded = []
    first_run = threading.Lock()
    may_run = threading.Event()

    def load(source, index):
        decoded.append(source)
        return Loaded(source)

    def run(pixels, alone):
        if first_run.acquire(blocking=False):
            may_run.wait(10)
        return {"x": pixels}

    workers = Workers(range(100), load, run, window=20, threads=2)
    wait_for(lambda: len(decoded) == 20)
    workers.prepared.set()
    time.sleep(0.05)
    assert all(slot.ready.locked() for slot in workers._in_flight)
    may_run.set()
    outputs = []
    while slots := workers.take():
        outputs += [slot.outputs["x"] for slot in slots]
    assert outputs == list(range(100))


def test_the_first_results_appear_before_other_images_are_computed():
    slow = threading.Event()

    def run(pixels, alone):
        if pixels:
            slow.wait(10)
        return {"x": pixels}

    workers = Workers(range(10), lambda source, index: Loaded(source), run, window=10, threads=1)
    wait_for(lambda: workers._walked.qsize() == 1)  # only the end: all are decoded
    workers.prepared.set()
    assert [slot.outputs["x"] for slot in workers.take()] == [0]
    slow.set()
    outputs = []
    while slots := workers.take():
        outputs += [slot.outputs["x"] for slot in slots]
    assert outputs == list(range(1, 10))


def test_threads_share_what_one_has_decoded():
    """A thread that starts late finds no sources, but images that another thread has decoded."""
    for _ in range(100):
        barrier = threading.Barrier(2, timeout=10)

        def run(pixels, alone, barrier=barrier):
            barrier.wait()
            return {"x": pixels}

        workers = Workers(range(2), lambda source, index: Loaded(source), run, window=10, threads=2)
        time.sleep(0.002)
        workers.prepared.set()
        outputs = []
        while slots := workers.take():
            outputs += [slot.outputs["x"] for slot in slots]
        assert outputs == [0, 1]


def test_an_image_that_fails_first_does_not_block_the_others():
    def load(source, index):
        if source == 0:
            raise UnreadableImageError("damaged")
        return Loaded(source)

    workers = Workers(range(50), load, lambda pixels, alone: {"x": pixels}, window=10, threads=4)
    workers.prepared.set()
    outputs = []
    while slots := workers.take():
        outputs += [slot.outputs.get("x") for slot in slots]
    assert outputs == [None, *range(1, 50)]
