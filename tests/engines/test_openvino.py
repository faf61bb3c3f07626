"""The OpenVINO engine: the outputs of the other engines, the same bits in every way, its cache, and its import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from densenet_cli import engines
from densenet_cli.engines import cached_graphs, graph_cache, int8_graph, onnx_graph, precision
from densenet_cli.errors import UsageError
from tests.engines.test_heads import NETWORKS, random_batch
from tests.support.networks import TINY, onnx_outputs, random_arrays, tiny_weights

pytest.importorskip("openvino", reason="OpenVINO is not installed")

has_bfloat16 = "bfloat16" in precision.supported()
needs_int8 = pytest.mark.skipif("int8" not in precision.supported(), reason="this processor has no VNNI")
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16, reason="this processor does not compute in bfloat16")
PRECISIONS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name not in precision.supported(), reason=f"this processor does not compute in {name}"
        ),
    )
    for name in engines.PRECISIONS
]
IMAGES = np.random.default_rng(3).normal(size=(6, 32, 32, 3)).astype(np.float32)


@pytest.fixture
def weights(tmp_path):
    return tiny_weights(tmp_path)


def create(weights, threads=2, precision="float32"):
    engine = engines.create("openvino", weights, TINY, threads, precision=precision)
    if precision == "int8":
        observer = int8_graph.Observer(engine.get_model(), engine.normalization)
        ranges = int8_graph.to_ranges(observer.names, observer.extremes(IMAGES))
        engine.quantization = int8_graph.Quantization(ranges)
    return engine


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_equal_those_of_onnx_runtime(name, tmp_path):
    from densenet_cli.weights import safetensors

    config = NETWORKS[name]
    batch = random_batch(config)
    arrays = random_arrays(config, image=batch[:1])
    path = tmp_path / "model.safetensors"
    safetensors.write(path, arrays, config)
    actual = engines.create("openvino", path, None, threads=2).run(batch, engines.OUTPUTS)
    for output in engines.OUTPUTS:
        expected = onnx_outputs(arrays, config, batch, output)
        expected = np.moveaxis(expected, 1, -1) if output == "features" else expected
        np.testing.assert_allclose(actual[output], expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


def test_bytes_are_normalized(weights):
    engine, other = create(weights), engines.create("onnx", weights, TINY, 1)
    engine.normalization = other.normalization = ((0.4, 0.5, 0.6), (0.3, 0.2, 0.1))
    pixels = np.random.default_rng(5).integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_allclose(engine.run(pixels)["probabilities"], other.run(pixels)["probabilities"], atol=1e-5)


def test_pixels_that_cannot_be_written_to(weights):
    """Those that a worker process has decoded."""
    engine = create(weights)
    pixels = np.random.default_rng(5).integers(0, 256, (1, 32, 32, 3), np.uint8)
    expected = engine.run(pixels)["probabilities"]
    pixels.flags.writeable = False
    np.testing.assert_array_equal(engine.run(pixels)["probabilities"], expected)


@needs_bfloat16
def test_bfloat16_is_used(weights):
    exact = create(weights).run(IMAGES)["probabilities"]
    difference = np.abs(create(weights, precision="bfloat16").run(IMAGES)["probabilities"] - exact).max()
    assert 1e-5 < difference < 0.02


@needs_int8
def test_int8_is_used_and_every_quantization_has_its_own_network(weights):
    exact = create(weights).run(IMAGES)["probabilities"]
    engine = create(weights, precision="int8")
    difference = np.abs(engine.run(IMAGES)["probabilities"] - exact).max()
    assert 1e-4 < difference < 0.02
    other = create(weights, precision="int8")
    other.quantization = int8_graph.Quantization(dict.fromkeys(engine.quantization.ranges, (0.0, 0.5)))
    assert np.abs(other.run(IMAGES)["probabilities"] - exact).max() > 2 * difference


@pytest.mark.parametrize("name", PRECISIONS)
def test_same_bits_in_any_batch_thread_and_process(weights, name, monkeypatch, tmp_path):
    """Also from a network that was compiled for more threads, from the cache or in memory."""
    expected = create(weights, threads=2, precision=name).run(IMAGES, engines.OUTPUTS)
    single_threaded = create(weights, threads=1, precision=name)
    for output in engines.OUTPUTS:
        rows = [single_threaded.run(image[None], (output,))[output] for image in IMAGES]
        np.testing.assert_array_equal(np.concatenate(rows), expected[output])
    monkeypatch.setenv("DENSENET_CACHE", str(weights / "below"))
    np.testing.assert_array_equal(create(weights, 1, name).run(IMAGES)["probabilities"], expected["probabilities"])


def test_network_is_compiled_once_and_damage_is_repaired(weights, monkeypatch):
    expected = create(weights).run(IMAGES)["probabilities"]
    monkeypatch.setattr(onnx_graph, "emit", None)  # from now on, the graph is in the cache
    np.testing.assert_array_equal(create(weights).run(IMAGES)["probabilities"], expected)
    (blob,) = graph_cache.graphs_dir().rglob("*.blob")
    states = [entry.state for entry in cached_graphs.list_entries(verify=True)]
    assert states == ["current", "current"]
    blob.write_bytes(blob.read_bytes()[:-100])
    assert sorted(entry.state for entry in cached_graphs.list_entries()) == ["current", "damaged"]
    np.testing.assert_array_equal(create(weights).run(IMAGES)["probabilities"], expected)
    assert [entry.state for entry in cached_graphs.list_entries(verify=True)] == ["current", "current"]


def test_every_setting_has_its_own_network(weights):
    """The size, the type of the input, and the normalization are part of the compiled network."""
    engine = create(weights)
    engine.run(IMAGES)
    engine.run(np.zeros((1, 48, 48, 3), np.float32))
    engine.run(np.zeros((1, 32, 32, 3), np.uint8))
    other = create(weights)
    other.normalization = ((0.5,) * 3, (0.5,) * 3)
    other.run(np.zeros((1, 32, 32, 3), np.uint8))
    assert len(list(graph_cache.graphs_dir().rglob("*.blob"))) == 4


def test_choice_of_engine_and_precision(monkeypatch):
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"avx2", "amx_bf16"}))
    monkeypatch.setattr(precision, "supported", lambda: engines.PRECISIONS)
    assert precision.choose("float32", None) == ("onnx", "float32")
    assert precision.choose("float32", "openvino") == ("openvino", "float32")
    assert precision.choose("bfloat16", None) == precision.choose("auto", None) == ("openvino", "bfloat16")
    assert precision.choose("auto", "tensorflow") == ("tensorflow", "float32")
    with pytest.raises(UsageError, match="onnx"):
        precision.choose("bfloat16", "onnx")
    with pytest.raises(UsageError, match="float32, bfloat16, int8, auto"):
        precision.choose("float16", None)
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"avx2", "avx512_bf16"}))
    assert precision.choose("auto", None) == ("onnx", "float32")
    assert precision.choose("bfloat16", None) == ("openvino", "bfloat16")
    assert precision.choose("int8", None) == ("openvino", "int8")
    monkeypatch.setattr(precision, "supported", lambda: ("float32",))
    with pytest.raises(UsageError, match=r"Supported precisions: float32\."):
        precision.choose("bfloat16", None)
    monkeypatch.setattr(precision, "find_spec", lambda name: None)
    assert precision.choose("auto", None) == ("onnx", "float32")
    with pytest.raises(UsageError, match="pip install openvino"):
        precision.choose("bfloat16", None)


def run_script(script: str, *arguments: object, **settings) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **settings)
    assert result.returncode == 0, result.stderr
    return result.stdout


FIRST_CALLS = """
import sys, threading, numpy
from densenet_cli import engines
from tests.support.networks import TINY
pixels = numpy.zeros((1, 32, 32, 3), numpy.float32)
for _ in range(20):
    engine = engines.create("openvino", sys.argv[1], TINY, 8)
    barrier = threading.Barrier(16)
    threads = [threading.Thread(target=lambda: (barrier.wait(), engine.run(pixels, alone=False))) for _ in range(16)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print("finished")
"""


def test_first_calls_from_many_threads_do_not_deadlock(weights):
    script = f"import pathlib\n{FIRST_CALLS}".replace("sys.argv[1]", "pathlib.Path(sys.argv[1])")
    assert run_script(script, weights, cwd=Path(__file__).parents[2]) == "finished\n"


SIGNAL = """
import pathlib, signal, sys, numpy
from densenet_cli import engines
from tests.support.networks import TINY
pixels = numpy.zeros((1, 32, 32, 3), numpy.float32)
first, second = (engines.create("openvino", pathlib.Path(sys.argv[1]), TINY, 1) for _ in range(2))
first.run(pixels)
second.run(pixels)
del first
del second
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""


def test_signals_are_handled_after_engines_were_deleted(weights):
    """OpenVINO's CPU plugin would leave a signal stack that does not exist: the signal would end the process."""
    assert run_script(SIGNAL, weights, cwd=Path(__file__).parents[2]) == "handled\n"


IMPORT = """
import json, os, socket, sys
writes, connections = [], []
def audit(event, arguments):
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        writes.append(str(arguments[0]))
    elif event in ("os.mkdir", "os.rename"):
        writes.append(str(arguments[0]))
    elif event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.fork", "os.posix_spawn"):
        connections.append(event)
sys.addaudithook(audit)
from densenet_cli.engines.openvino import import_openvino
openvino = import_openvino()
openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
print(json.dumps([writes, connections, sorted(name for name in sys.modules if "telemetry" in name)]))
"""


def test_import_writes_and_sends_nothing(tmp_path):
    """OpenVINO's converter would write to the home folder and queue a message to a third party."""
    import os

    environment = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    (tmp_path / "home").mkdir()
    assert json.loads(run_script(IMPORT, env=environment)) == [[], [], []]
    assert list((tmp_path / "home").iterdir()) == []
