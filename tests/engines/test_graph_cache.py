"""Cached graphs: found again, noticed when damaged or out of date, done without where nothing can be written."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil

import numpy as np
import pytest

from densenet_cli import engines
from densenet_cli.engines import graph_cache, onnx_graph
from tests.support.checkpoints import write_legacy_h5
from tests.support.networks import TINY, random_arrays

IMAGE = np.random.default_rng(3).normal(size=(2, 32, 32, 3)).astype(np.float32)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "tiny.h5"
    write_legacy_h5(path, random_arrays(TINY), TINY)
    return path


@pytest.fixture
def emitted(monkeypatch):
    """Counts how often a graph is made."""
    calls = []
    original = onnx_graph.emit

    def emit(arrays, config):
        calls.append(config)
        return original(arrays, config)

    monkeypatch.setattr(onnx_graph, "emit", emit)
    return calls


def run(weights):
    return engines.create("onnx", weights, TINY, threads=1).run(IMAGE)


def the_folder():
    (folder,) = graph_cache.graphs_dir().iterdir()
    return folder


def test_made_once_and_found_again(weights, emitted):
    first = run(weights)
    np.testing.assert_array_equal(run(weights), first)
    assert len(emitted) == 1
    assert sorted(path.name for path in the_folder().iterdir()) == [
        "entry.json",
        "head.npy",
        "model.data",
        "model.onnx",
    ]


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def scribble(path):
    """Other bytes, the same size, and the old modification time put back: the ctime tells."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (graph_cache.MODEL, cut),
        (graph_cache.MODEL, scribble),
        (graph_cache.MODEL, os.unlink),
        (graph_cache.DATA, cut),
        (graph_cache.DATA, scribble),
        (graph_cache.DATA, os.unlink),
        (graph_cache.HEAD, cut),
        (graph_cache.HEAD, scribble),
        (graph_cache.HEAD, os.unlink),
        (graph_cache.ENTRY, cut),
        (graph_cache.ENTRY, os.unlink),
    ],
)
def test_damage_is_noticed_and_mended(weights, emitted, name, damage):
    first = run(weights)
    damage(the_folder() / name)
    assert [entry.state for entry in graph_cache.entries()] == ["damaged"]
    np.testing.assert_array_equal(run(weights), first)
    assert len(emitted) == 2
    assert [entry.state for entry in graph_cache.entries(verify=True)] == ["current"]


@pytest.mark.parametrize("change", [{"config": {}}, {"stamps": {}}, {"metadata": None}, {"weights": 3}])
def test_a_record_that_says_nonsense_is_none(weights, emitted, change):
    run(weights)
    path = the_folder() / graph_cache.ENTRY
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert [entry.state for entry in graph_cache.entries()] == ["damaged"]


def test_verify_hashes(weights):
    """A changed byte under unchanged times (a failing disk) shows only when the files are read."""
    run(weights)
    folder = the_folder()
    scribble(folder / graph_cache.DATA)
    record = folder / graph_cache.ENTRY
    entry = json.loads(record.read_text())
    entry["stamps"][graph_cache.DATA] = graph_cache._stamp(folder / graph_cache.DATA)
    record.write_text(json.dumps(entry))
    assert [entry.state for entry in graph_cache.entries()] == ["current"]
    assert [entry.state for entry in graph_cache.entries(verify=True)] == ["damaged"]


def test_an_older_version_s_graph_is_stale_and_not_damaged(weights, monkeypatch):
    run(weights)
    folder = the_folder()
    record = folder / graph_cache.ENTRY
    entry = json.loads(record.read_text())
    for part in ("stamps", "sha256"):
        del entry[part][graph_cache.HEAD]
    (folder / graph_cache.HEAD).unlink()
    record.write_text(json.dumps(entry))
    monkeypatch.setattr(graph_cache, "LAYOUT", graph_cache.LAYOUT + 1)
    assert [entry.state for entry in graph_cache.entries(verify=True)] == ["stale"]


def test_other_weights_make_another_graph(weights, emitted):
    first = run(weights)
    write_legacy_h5(weights, random_arrays(TINY, seed=5), TINY)
    emitted.clear()
    assert np.abs(run(weights) - first).max() > 1e-3
    assert len(emitted) == 1
    assert sorted(entry.state for entry in graph_cache.entries()) == ["current", "stale"]


@pytest.mark.parametrize("part", ["engine version", "instruction set", "emitter"])
def test_another_version_or_machine_makes_its_own(weights, emitted, monkeypatch, part):
    first = run(weights)
    if part == "engine version":
        monkeypatch.setattr("onnxruntime.__version__", "0.0.0")
    elif part == "instruction set":
        monkeypatch.setattr(graph_cache, "_instruction_set", lambda: "abacus")
    else:
        monkeypatch.setattr(engines, "EMITTER_VERSION", -1)
    np.testing.assert_array_equal(run(weights), first)
    assert len(emitted) == 2


def test_a_moved_checkpoint_does_not_use_a_stale_graph(weights, emitted, tmp_path):
    run(weights)
    other = tmp_path / "other.h5"
    shutil.copy(weights, other)
    run(other)
    assert len(emitted) == 2
    weights.unlink()
    assert sorted(entry.state for entry in graph_cache.entries()) == ["current", "stale"]


def test_without_a_place_to_write_it_works_from_memory(weights, emitted, tmp_path, monkeypatch):
    first = run(weights)
    monkeypatch.setenv("DENSENET_CACHE", str(tmp_path / "tiny.h5" / "below"))
    # The optimized graph and the plain one sum in another order.
    np.testing.assert_allclose(run(weights), first, atol=1e-6)
    assert len(emitted) == 2


def test_a_graph_that_goes_between_finding_and_loading(weights, emitted):
    expected = run(weights)
    engine = engines.create("onnx", weights, TINY, threads=1)
    shutil.rmtree(graph_cache.graphs_dir())
    np.testing.assert_allclose(engine.run(IMAGE), expected, atol=1e-6)


@pytest.mark.parametrize("place", ["cache", "memory", "gone"])
def test_the_head_is_the_checkpoint_s(weights, tmp_path, monkeypatch, place):
    """Found beside the cached graph, in memory, and from the checkpoint where the folder is gone meanwhile."""
    if place == "memory":
        monkeypatch.setenv("DENSENET_CACHE", str(weights / "below"))
    engine = engines.create("onnx", weights, TINY, threads=1)
    if place == "cache":
        weights.unlink()
    elif place == "gone":
        shutil.rmtree(graph_cache.graphs_dir())
    for found, expected in zip(engine.head(), random_arrays(TINY)["predictions"].values(), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.float32


def _store_until(step, weights, cache):
    """Make a graph and lose the power behind the ``step``-th call to the system that lasts; status 7 if it came so far.

    What was not synced by then is what a disk may make of it: as long as it was, and zeros.
    """
    os.environ["DENSENET_CACHE"] = str(cache)
    synced, done = set(), 0

    def counted(real, note):
        def call(*arguments):
            nonlocal done
            result = real(*arguments)
            note(*arguments)
            done += 1
            if done == step:
                lose_power()
            return result

        return call

    def lose_power():
        for path in (path for path in cache.rglob("*") if path.is_file()):
            if path.stat().st_ino not in synced:
                path.write_bytes(bytes(path.stat().st_size))
        os._exit(7)

    os.fsync = counted(os.fsync, lambda file: synced.add(os.fstat(file).st_ino))
    os.replace = counted(os.replace, lambda *_: None)
    engines.create("onnx", weights, TINY, threads=1)
    os._exit(0)


def test_a_power_cut_leaves_no_wrong_graph(weights, tmp_path, monkeypatch):
    """Whenever it comes, the next start answers as without it, though nothing but the bytes would tell the damage."""
    monkeypatch.setattr(graph_cache, "_stamp", lambda path: [path.stat().st_size])
    expected = run(weights)
    cuts = 0
    while True:
        cuts += 1
        cache = tmp_path / f"cut{cuts}"
        child = os.fork()
        if child == 0:
            try:
                _store_until(cuts, weights, cache)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        monkeypatch.setenv("DENSENET_CACHE", str(cache))
        np.testing.assert_array_equal(run(weights), expected, err_msg=f"cut {cuts}")
        assert [entry.state for entry in graph_cache.entries(verify=True)] == ["current"]
        if status == 0:
            break
        assert status == 7
    assert cuts > 5  # each file, their folder, its name


def _start(weights, cache, barrier, queue):
    os.environ["DENSENET_CACHE"] = str(cache)
    barrier.wait()
    queue.put(run(weights).tobytes())


def test_eight_processes_at_once_on_an_empty_cache(weights, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(8), context.Queue()
    cache = tmp_path / "shared"
    workers = [context.Process(target=_start, args=(weights, cache, barrier, queue)) for _ in range(8)]
    for worker in workers:
        worker.start()
    results = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 8
    assert len(results) == 1
    assert [folder.name[0] != "." for folder in (cache / "graphs").iterdir()] == [True]
