from __future__ import annotations

import threading
import time

import pytest

from densenet_cli.errors import ImageTooLargeError
from densenet_cli.images.memory import MEGABYTE, DecodeBudget


def test_what_alone_needs_more_is_refused_at_once():
    budget = DecodeBudget(10)
    with budget.reserve(10 * MEGABYTE), pytest.raises(ImageTooLargeError, match=r"11 MB.*10 MB"):
        budget.reserve(10 * MEGABYTE + 1).__enter__()


def test_threads_never_hold_more_together():
    budget = DecodeBudget(10)
    lock, held, most = threading.Lock(), 0, 0

    def hold(megabytes: int) -> None:
        nonlocal held, most
        for _ in range(20):
            with budget.reserve(megabytes * MEGABYTE):
                with lock:
                    held += megabytes
                    most = max(most, held)
                time.sleep(0.0005)
                with lock:
                    held -= megabytes

    threads = [threading.Thread(target=hold, args=(megabytes,)) for megabytes in (1, 2, 3, 4, 5, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert 5 < most <= 10
    with budget.reserve(10 * MEGABYTE):
        pass


def test_a_large_one_gets_its_turn_before_later_small_ones():
    budget = DecodeBudget(10)
    order = []

    def take(name: str, megabytes: int) -> None:
        with budget.reserve(megabytes * MEGABYTE):
            order.append(name)

    with budget.reserve(5 * MEGABYTE):
        large = threading.Thread(target=take, args=("large", 10))
        large.start()
        wait_until(lambda: budget._queue)
        small = threading.Thread(target=take, args=("small", 1))
        small.start()
        wait_until(lambda: len(budget._queue) == 2)
        assert order == []
    large.join(10)
    small.join(10)
    assert order == ["large", "small"]


def wait_until(happened) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_an_error_gives_back_what_was_held():
    budget = DecodeBudget(1)
    for _ in range(3):
        with pytest.raises(RuntimeError), budget.reserve(MEGABYTE):
            raise RuntimeError
