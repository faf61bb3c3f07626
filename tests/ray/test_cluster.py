"""Sizing workers, comparing versions, and addresses without Ray; and options that ``--ray`` refuses."""

from __future__ import annotations

import socket
import time
import tomllib
from pathlib import Path

import pytest

from densenet_cli.errors import UsageError
from densenet_cli.ray.cluster import CPU_SHARE, REQUIREMENT, plan_workers, resolve
from densenet_cli.ray.versions import check_versions, required_versions
from tests.support.command import densenet


@pytest.mark.parametrize(
    ("cpus", "threads", "workers"),
    [
        ([1], 1, 1),
        ([2], 2, 1),
        ([8], 8, 1),
        ([16], 8, 2),
        ([96, 96], 8, 26),
        ([1, 1, 1], 1, 3),
        ([4, 16], 4, 5),
        ([0, 4], 4, 1),
        ([0.5, 2], 2, 1),
    ],
)
def test_workers_use_the_processors(cpus, threads, workers):
    plan = plan_workers(cpus)
    assert (plan.threads, plan.workers) == (threads, workers)
    # Some of each node is left for other tasks, so that none waits for ever.
    assert all(int(count / plan.cpus) * plan.cpus <= count for count in cpus)
    assert plan.cpus == threads * CPU_SHARE < threads


@pytest.mark.parametrize(("cpus", "threads"), [([], None), ([0], None), ([0.5], None), ([2, 4], 8)])
def test_a_cluster_that_is_too_small_is_refused(cpus, threads):
    with pytest.raises(UsageError, match="too small"):
        plan_workers(cpus, threads)


def test_versions_must_be_the_same():
    required = required_versions("onnx")
    assert {"Python", "densenet-cli", "numpy", "pillow", "onnxruntime"} <= required.keys()
    check_versions(required, "10.0.0.1")
    with pytest.raises(UsageError, match=r"10\.0\.0\.1.*numpy none instead of"):
        check_versions(required, "10.0.0.1", {**required, "numpy": "none"})
    with pytest.raises(UsageError, match=r"Python 3\.9"):
        check_versions(required, "10.0.0.1", {**required, "Python": "3.9"})


@pytest.mark.parametrize("address", ["host", "ray://host:10001", "host:port", "", "1.2.3.4:"])
def test_addresses_that_are_none(address):
    with pytest.raises(UsageError, match="HOST:PORT"):
        resolve(address)


def test_the_message_names_what_the_extra_installs():
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())["project"]
    assert REQUIREMENT in project["optional-dependencies"]["ray"]


@pytest.mark.ray
def test_auto_without_a_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda _: None)
    with pytest.raises(UsageError, match="No Ray cluster"):
        resolve("auto")


def test_an_address_where_nothing_listens():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        start = time.monotonic()
        with pytest.raises(UsageError, match="Cannot connect to Ray"):
            resolve(f"127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - start < 5


def test_an_address_where_something_else_listens(monkeypatch):
    monkeypatch.setattr("densenet_cli.ray.cluster.HANDSHAKE_TIMEOUT", 2.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        start = time.monotonic()
        with pytest.raises(UsageError, match="no Ray cluster answers"):
            resolve(f"127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--ray", "local"], "--output"),
        (["--ray", "local", "-o", "-"], "--output"),
        (["--ray", "local", "-o", "out", "--html", "page.html"], "--html"),
        (["--ray", "local", "-o", "out", "--processes", "2"], "--processes"),
        (["--ray", "local", "-o", "out", "--resume", "--retry-errors"], "--retry-errors"),
        (["--ray", "local", "-o", "out", "--format", "json"], "--format"),
        (["--ray", "local", "-o", "out", "--resume", "--overwrite"], "--overwrite"),
        (["--ray", "local", "-o", "out.jsonl"], "--format jsonl"),
        (["--ray", "local", "-o", "out.parquet", "--format", "csv"], "--format parquet"),
        (["--ray", "local", "-o", "out.json"], "folder"),
        (["--ray", "local", "-o", "out", "-"], "Standard input"),
        (["--part-size", "10"], "--part-size"),
        (["--format", "parquet"], "--format"),
    ],
)
def test_options_that_contradict_ray(options, named, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = densenet("predict", photographs[0], "--variant", "tiny", *options)
    assert result.status == 2
    assert named in result.err
    assert list(tmp_path.glob("out*")) == []


@pytest.mark.ray
def test_a_folder_of_another_run_is_not_touched(photographs, tmp_path):
    (tmp_path / "_settings.json").write_text('{"model": "x"}')
    command = ("predict", photographs[0], "--variant", "tiny", "--ray", "local", "-o", tmp_path)
    result = densenet(*command)
    assert result.status == 2
    assert "--resume" in result.err and "--overwrite" in result.err
    result = densenet(*command, "--resume")
    assert result.status == 2
    assert "another run" in result.err
