"""Every source exactly once, whatever fails: workers, nodes, the driver, decoders, and the network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile

import psutil
import pytest

from tests.ray.conftest import count_done, join_parts, read_records
from tests.support.processes import wait_for
from tests.support.ray_cluster import run_cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]


@pytest.mark.usefixtures("decoders")
def test_a_worker_and_a_node_die_and_a_node_is_added(densenet, images, weights, tmp_path):
    folder, out = images(["decode slowly"] * 400), tmp_path / "out"
    with run_cluster(1, 1, 1) as cluster:
        run = densenet.start(
            *("predict", folder, tmp_path / "none.jpg", "--weights", weights, "--ray", cluster.address),
            *("-o", out, "--format", "jsonl", "--part-size", 20),
        )
        wait_for(lambda: count_done(out) >= 2, 120)
        cluster.workers()[0].kill()
        wait_for(lambda: count_done(out) >= 5, 60)
        cluster.remove_node()
        wait_for(lambda: count_done(out) >= 9, 60)
        cluster.add_node()
        result = densenet.finish(run)
    assert result.status == 1, result.err
    assert "none.jpg: SourceNotFound" in result.err
    plain = tmp_path / "plain.jsonl"
    densenet("predict", folder, tmp_path / "none.jpg", "--weights", weights, "-o", plain)
    assert len(list(out.glob("part-*"))) == 21
    assert join_parts(out) == plain.read_bytes()
    assert json.loads((out / "_SUCCESS").read_text()) == {"parts": 21, "records": 401, "failed": 1}
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


@pytest.mark.usefixtures("decoders")
def test_the_driver_dies_and_resume_completes_the_run(densenet, images, weights, tmp_path):
    folder, out = images(["decode slowly"] * 200), tmp_path / "out"
    with run_cluster(1) as cluster:
        command = (
            *("predict", folder, "--weights", weights, "--ray", cluster.address, "-o", out),
            *("--format", "jsonl", "--part-size", 20),
        )
        run = densenet.start(*command)
        wait_for(lambda: count_done(out) >= 2, 120)
        run.kill()
        run.communicate()
        before = {path: path.stat().st_mtime_ns for path in out.glob("_done/*")}
        assert 2 <= len(before) < 10
        again = densenet(*command)
        assert again.status == 2
        assert "--resume" in again.err
        resumed = densenet.start(*command, "--resume")
        wait_for(lambda: count_done(out) >= len(before) + 2, 120)
        resumed.send_signal(signal.SIGINT)
        interrupted = densenet.finish(resumed)
        assert interrupted.status == 130
        assert "kept" in interrupted.err
        result = densenet(*command, "--resume")
    assert result.status == 0, result.err
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    plain = tmp_path / "plain.jsonl"
    densenet("predict", folder, "--weights", weights, "-o", plain)
    assert join_parts(out) == plain.read_bytes()


@pytest.mark.usefixtures("decoders")
def test_a_run_ends_with_its_cluster(densenet, images, weights, tmp_path):
    out = tmp_path / "out"
    command = ("predict", images(["decode slowly"] * 400), "--weights", weights, "-o", out, "--part-size", 10)
    with run_cluster(1) as cluster:
        run = densenet.start(*command, "--ray", cluster.address)
        wait_for(lambda: count_done(out) >= 2, 120)
        cluster.kill()
        result = densenet.finish(run)
    assert result.status == 1
    assert "The Ray cluster stopped" in result.err


@pytest.mark.usefixtures("decoders")
def test_decoders_that_crash_their_worker_fail_one_image(densenet, images, weights, tmp_path):
    behaviors = ["decode"] * 40
    behaviors[7] = behaviors[23] = "abort"
    out = tmp_path / "out"
    result = densenet(
        *("predict", images(behaviors), "--weights", weights, "--ray", "local", "-o", out),
        *("--format", "jsonl", "--part-size", 10),
    )
    assert result.status == 1, result.err
    records = read_records(out)
    failed = [number for number, record in enumerate(records) if "error" in record]
    assert len(records) == 40
    assert failed == [7, 23]
    assert {records[number]["error"]["type"] for number in failed} == {"DecoderCrashed"}


def test_a_node_with_other_versions_is_found_before_the_run(densenet, photographs, tmp_path):
    fake = tmp_path / "fake" / "pillow-1.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 1.0\n")
    with run_cluster(1) as cluster:
        cluster.add_node(PYTHONPATH=str(fake.parent))
        result = densenet(
            "predict", photographs[0], "--variant", "tiny", "--ray", cluster.address, "-o", tmp_path / "out"
        )
    assert result.status == 2
    assert "pillow 1.0 instead of" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("decoders")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_local_ray_ends_with_its_run(number, status, densenet, images, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    out = tmp_path / "out"
    run = densenet.start(
        *("predict", images(["decode slowly"] * 400), "--weights", weights, "--ray", "local", "-o", out),
        *("--part-size", 10),
    )
    wait_for(lambda: count_done(out) >= 1, 120)
    processes = psutil.Process(run.pid).children(recursive=True)
    os.kill(run.pid, number)
    assert densenet.finish(run).status == status
    # If it is killed, two of Ray's processes notice it only after a minute.
    _, alive = psutil.wait_procs(processes, timeout=10 if number == signal.SIGINT else 120)
    assert alive == []
    assert count_done(out) in (parts := len(list(out.glob("part-*.parquet"))), parts - 1)
    shutil.rmtree(os.environ["TMPDIR"])
