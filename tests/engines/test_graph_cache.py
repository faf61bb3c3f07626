"""The graph cache: reuse, detection of damaged and stale entries, and work without a cache."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil

import numpy as np
import pytest

from densenet_cli import engines
from densenet_cli.engines import cached_graphs, graph_cache, onnx, onnx_graph
from tests.support.checkpoints import write_legacy_h5
from tests.support.networks import TINY, random_arrays
from tests.support.processes import exit_status

IMAGES = np.random.default_rng(3).normal(size=(2, 32, 32, 3)).astype(np.float32)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "tiny.h5"
    write_legacy_h5(path, random_arrays(TINY), TINY)
    return path


@pytest.fixture
def emitted(monkeypatch):
    """Record the configuration of each graph that is created."""
    configs = []
    original = onnx_graph.emit

    def emit(arrays, config, **options):
        configs.append(config)
        return original(arrays, config, **options)

    monkeypatch.setattr(onnx_graph, "emit", emit)
    return configs


def run(weights):
    return engines.create("onnx", weights, TINY, threads=1).run(IMAGES)["probabilities"]


def graph_folder():
    (folder,) = graph_cache.graphs_dir().iterdir()
    return folder


def test_graph_is_created_once_and_reused(weights, emitted):
    first = run(weights)
    np.testing.assert_array_equal(run(weights), first)
    assert len(emitted) == 1
    assert sorted(path.name for path in graph_folder().iterdir()) == [
        "entry.json",
        "head.npy",
        "model.data",
        "model.onnx",
    ]


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def change_byte(path):
    """Change a byte without changing the size and mtime, so that only the ctime differs."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (onnx.MODEL_FILE, truncate),
        (onnx.MODEL_FILE, change_byte),
        (onnx.MODEL_FILE, os.unlink),
        (onnx.DATA_FILE, truncate),
        (onnx.DATA_FILE, change_byte),
        (onnx.DATA_FILE, os.unlink),
        (graph_cache.HEAD_FILE, truncate),
        (graph_cache.HEAD_FILE, change_byte),
        (graph_cache.HEAD_FILE, os.unlink),
        (graph_cache.ENTRY_FILE, truncate),
        (graph_cache.ENTRY_FILE, os.unlink),
    ],
)
def test_damaged_graph_is_replaced(weights, emitted, name, damage):
    first = run(weights)
    damage(graph_folder() / name)
    assert [entry.state for entry in cached_graphs.list_entries()] == ["damaged"]
    np.testing.assert_array_equal(run(weights), first)
    assert len(emitted) == 2
    assert [entry.state for entry in cached_graphs.list_entries(verify=True)] == ["current"]


@pytest.mark.parametrize("change", [{"config": {}}, {"stamps": {}}, {"metadata": None}, {"request": 3}, {"head": 3}])
def test_invalid_entry_is_damaged(weights, emitted, change):
    run(weights)
    path = graph_folder() / graph_cache.ENTRY_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert [entry.state for entry in cached_graphs.list_entries()] == ["damaged"]


def test_verify_detects_a_changed_byte(weights):
    """Only reading the files detects a change that leaves size and times unchanged, as on a failing disk."""
    run(weights)
    folder = graph_folder()
    change_byte(folder / onnx.DATA_FILE)
    record = folder / graph_cache.ENTRY_FILE
    entry = json.loads(record.read_text())
    entry["stamps"][onnx.DATA_FILE] = graph_cache.stamp(folder / onnx.DATA_FILE)
    record.write_text(json.dumps(entry))
    assert [entry.state for entry in cached_graphs.list_entries()] == ["current"]
    assert [entry.state for entry in cached_graphs.list_entries(verify=True)] == ["damaged"]


@pytest.mark.parametrize(
    "change",
    [
        {"layout": graph_cache.LAYOUT_VERSION - 1},
        {"layout": graph_cache.LAYOUT_VERSION + 1, "request": {}, "stamps": None},
        {"layout": None, "request": {"weights": {"path": "x"}}, "head": None},
    ],
    ids=str,
)
def test_graph_of_another_layout_is_stale_and_not_damaged(weights, change):
    run(weights)
    record = graph_folder() / graph_cache.ENTRY_FILE
    record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
    (graph_folder() / graph_cache.HEAD_FILE).unlink()
    (entry,) = cached_graphs.list_entries(verify=True)
    assert entry.state == "stale"
    assert entry.weights == (None if "request" in change else str(weights))


def test_a_link_with_another_name_gets_its_own_graph(weights, emitted, tmp_path):
    """The name of a file decides whether the ``config.json`` beside it is its configuration."""
    run(weights)
    (tmp_path / "model.weights.h5").symlink_to(weights)
    run(tmp_path / "model.weights.h5")
    assert len(emitted) == 2
    assert [entry.state for entry in cached_graphs.list_entries()] == ["current", "current"]
    assert {entry.weights for entry in cached_graphs.list_entries()} == {str(weights)}


def test_changed_weights_get_a_new_graph(weights, emitted):
    first = run(weights)
    write_legacy_h5(weights, random_arrays(TINY, seed=5), TINY)
    emitted.clear()
    assert np.abs(run(weights) - first).max() > 1e-3
    assert len(emitted) == 1
    assert sorted(entry.state for entry in cached_graphs.list_entries()) == ["current", "stale"]


@pytest.mark.parametrize("part", ["engine version", "instruction set", "emitter"])
def test_other_version_or_processor_gets_its_own_graph(weights, emitted, monkeypatch, part):
    first = run(weights)
    if part == "engine version":
        monkeypatch.setattr("onnxruntime.__version__", "0.0.0")
    elif part == "instruction set":
        monkeypatch.setattr(graph_cache, "_instruction_set", lambda: "abacus")
    else:
        monkeypatch.setattr(engines, "EMITTER_VERSION", -1)
    np.testing.assert_array_equal(run(weights), first)
    assert len(emitted) == 2


def test_copied_checkpoint_gets_its_own_graph(weights, emitted, tmp_path):
    run(weights)
    other = tmp_path / "other.h5"
    shutil.copy(weights, other)
    run(other)
    assert len(emitted) == 2
    weights.unlink()
    assert sorted(entry.state for entry in cached_graphs.list_entries()) == ["current", "stale"]


def test_graph_is_kept_in_memory_if_the_cache_is_not_writable(weights, emitted, tmp_path, monkeypatch):
    first = run(weights)
    monkeypatch.setenv("DENSENET_CACHE", str(tmp_path / "tiny.h5" / "below"))
    # The optimized and the original graph add in a different order.
    np.testing.assert_allclose(run(weights), first, atol=1e-6)
    assert len(emitted) == 2


def test_graph_that_is_deleted_before_it_is_loaded(weights, emitted):
    expected = run(weights)
    engine = engines.create("onnx", weights, TINY, threads=1)
    shutil.rmtree(graph_cache.graphs_dir())
    np.testing.assert_allclose(engine.run(IMAGES)["probabilities"], expected, atol=1e-6)


def test_graph_that_is_deleted_between_the_sessions(weights, emitted):
    """The session for single images is created first, the one for several calls at the same time when it is needed."""
    engine = engines.create("onnx", weights, TINY, threads=2)
    expected = engine.run(IMAGES)["probabilities"]
    shutil.rmtree(graph_cache.graphs_dir())
    np.testing.assert_allclose(engine.run(IMAGES, alone=False)["probabilities"], expected, atol=1e-6)


@pytest.mark.parametrize("source", ["cache", "memory", "checkpoint"])
def test_head_equals_that_of_the_checkpoint(weights, monkeypatch, source):
    """It comes from the cached graph, from memory, or, if the cached graph was deleted, from the checkpoint."""
    if source == "memory":
        monkeypatch.setenv("DENSENET_CACHE", str(weights / "below"))
    engine = engines.create("onnx", weights, TINY, threads=1)
    if source == "cache":
        weights.unlink()
    elif source == "checkpoint":
        shutil.rmtree(graph_cache.graphs_dir())
    head = engine.head()
    assert head.keys() == {"predictions"}
    for name, expected in random_arrays(TINY)["predictions"].items():
        np.testing.assert_array_equal(head["predictions"][name], expected)
        assert head["predictions"][name].dtype == np.float32


def _store_until(step, weights, cache):
    """Create a graph and simulate a power failure after the ``step``-th fsync or rename: exit with status 7.

    Files that were not synced by then keep their size but contain zeros. Return if there are fewer calls.
    """
    os.environ["DENSENET_CACHE"] = str(cache)
    synced, calls = set(), 0

    def counted(function, on_call):
        def call(*arguments):
            nonlocal calls
            result = function(*arguments)
            on_call(*arguments)
            calls += 1
            if calls == step:
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


def test_power_failure_leaves_no_wrong_graph(weights, tmp_path, monkeypatch):
    """After a failure at any step, the next start gives the same result, even if the file times do not reveal it."""
    monkeypatch.setattr(graph_cache, "stamp", lambda path: [path.stat().st_size])
    expected = run(weights)
    step = 0
    while True:
        step += 1
        cache = tmp_path / f"step{step}"
        status = exit_status(functools.partial(_store_until, step, weights, cache))
        monkeypatch.setenv("DENSENET_CACHE", str(cache))
        np.testing.assert_array_equal(run(weights), expected, err_msg=f"step {step}")
        assert [entry.state for entry in cached_graphs.list_entries(verify=True)] == ["current"]
        if status == 0:
            break
        assert status == 7
    assert step > 5  # fsync of 4 files and the folder, and a rename


def _run_in_process(weights, cache, barrier, queue):
    os.environ["DENSENET_CACHE"] = str(cache)
    barrier.wait()
    queue.put(run(weights).tobytes())


def test_eight_processes_with_an_empty_cache(weights, tmp_path):
    context = multiprocessing.get_context("forkserver")
    barrier, queue = context.Barrier(8), context.Queue()
    cache = tmp_path / "shared"
    workers = [context.Process(target=_run_in_process, args=(weights, cache, barrier, queue)) for _ in range(8)]
    for worker in workers:
        worker.start()
    results = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 8
    assert len(results) == 1
    assert [folder.name[0] != "." for folder in (cache / "graphs").iterdir()] == [True]
