"""Runs that read from and write to object storage."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from tests.conftest import SAMPLES
from tests.ray.conftest import Densenet
from tests.support import s3
from tests.support.ray_cluster import run_cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]


@pytest.fixture
def server(monkeypatch):
    """An S3 server, which the command and the nodes use."""
    with s3.run_server() as running:
        for name, value in s3.environment(running.endpoint).items():
            monkeypatch.setenv(name, value)
        yield running


def test_a_run_reads_and_writes_object_storage(server, densenet: Densenet, weights, tmp_path):
    photographs = {f"photos/{path.name}": path.read_bytes() for path in SAMPLES.glob("*.jpg")}
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for path in sorted(SAMPLES.glob("*.jpg"))[:3]:
            tar.add(path, path.name)
    objects = {**photographs, "photos/bad.jpg": b"text", "shards/0.tar": shard.getvalue()}
    bucket = server.bucket("images", objects)
    server.bucket("results")
    command = ("predict", f"{bucket}/photos/", f"{bucket}/shards/*.tar", "--weights", weights)
    out = ("-o", "s3://results/labels", "--format", "jsonl", "--part-size", 4)
    with run_cluster(1) as cluster:
        ray = ("--ray", cluster.address)
        run = densenet(*command, *ray, *out)
        assert run.status == 1, run.err
        plain = tmp_path / "plain.jsonl"
        assert densenet(*command, "-o", plain).status == 1
        parts = [key for key in server.keys("results") if key.startswith("labels/part-")]
        assert len(parts) == 4
        assert b"".join(server.get("results", key) for key in parts) == plain.read_bytes()
        assert json.loads(server.get("results", "labels/_SUCCESS"))["records"] == 12
        refused = densenet(*command, *ray, *out)
        assert refused.status == 2
        assert "--resume" in refused.err
        server.delete("results", parts[1])
        resumed = densenet(*command, *ray, *out, "--resume")
        assert resumed.status == 1, resumed.err
        assert "3 of 4 parts" in resumed.err
        assert b"".join(server.get("results", key) for key in parts) == plain.read_bytes()
        missing = densenet(*command, *ray, "-o", "s3://nowhere/labels")
        assert missing.status == 4
        assert "the bucket does not exist" in missing.err
        offline = densenet(*command, *ray, *out, "--overwrite", "--offline")
        assert offline.status == 2
        assert "disabled" in offline.err
        assert len([key for key in server.keys("results") if key.startswith("labels/part-")]) == 4
