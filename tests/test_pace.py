"""How many threads work, and how many images each takes at a time."""

from __future__ import annotations

from densenet_cli.pace import MAX_CHUNK, SAMPLE, Pace


def add(pace, count, elapsed, processor_time, thread=0):
    for _ in range(count):
        pace.add(thread, 1, elapsed, processor_time)


def test_cheap_images_run_on_one_thread():
    pace = Pace(threads=8)
    add(pace, SAMPLE, 1e-3, 0.5e-3)
    assert not pace.is_parallel
    assert pace.chunk == 1
    add(pace, SAMPLE, 0.5e-3, 0.4e-3)
    assert not pace.is_parallel
    assert pace.chunk == MAX_CHUNK


def test_images_that_wait_for_a_file_server_run_on_all_threads():
    pace = Pace(threads=8)
    add(pace, 100 * SAMPLE, 50e-3, 0.5e-3)
    assert pace.is_parallel


def test_a_trial_ends_with_the_first_image_that_takes_long():
    pace = Pace(threads=8)
    add(pace, SAMPLE, 1e-3, 0.5e-3)
    add(pace, 1, 100e-3, 0.5e-3)
    assert pace.is_parallel
    add(pace, SAMPLE, 1e-3, 0.5e-3)
    assert pace.is_parallel  # the next trial is not at once


def test_images_that_other_threads_began_before_a_trial_do_not_end_it():
    pace = Pace(threads=8)
    add(pace, SAMPLE, 1e-3, 0.5e-3)
    add(pace, 7, 100e-3, 50e-3, thread=3)
    assert not pace.is_parallel


def test_chunks_take_a_limited_time():
    for elapsed, chunk in ((200e-3, 1), (90e-3, 1), (39e-3, 4), (10e-3, MAX_CHUNK)):
        pace = Pace(threads=2)
        add(pace, SAMPLE, elapsed, elapsed)
        assert pace.chunk == chunk
