"""Runs on Ray without failures: one processor, all formats, building blocks, and object storage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SAMPLES
from tests.ray.conftest import join_parts
from tests.support.ray_cluster import environment, run_cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def cluster():
    """A cluster of one processor, which workers and the listing share."""
    with run_cluster(1) as running:
        yield running


def test_predictions_are_those_of_the_plain_command(cluster, densenet, weights, tmp_path):
    sources = (SAMPLES, tmp_path / "none.jpg", SAMPLES / "cat.jpg")
    model = ("--weights", weights, "--labels", tmp_path / "labels.txt", "-k", 3)
    (tmp_path / "labels.txt").write_text("".join(f"name {number}\n" for number in range(10)))
    for format_name in ("jsonl", "csv"):
        out, plain = tmp_path / f"out-{format_name}", tmp_path / f"plain.{format_name}"
        run = densenet(
            *("predict", *sources, *model, "--ray", cluster.address, "-o", out),
            *("--format", format_name, "--part-size", 1000 if format_name == "csv" else 4),
        )
        assert run.status == 1, run.err
        assert "1 worker with 1 thread" in run.err
        assert "none.jpg: SourceNotFound" in run.err
        assert densenet("predict", *sources, *model, "-o", plain).status == 1
        assert join_parts(out, f".{format_name}") == plain.read_bytes()
    settings = json.loads((tmp_path / "out-csv" / "_settings.json").read_text())
    plain_settings = json.loads((tmp_path / "plain.csv.meta.json").read_text())
    del plain_settings["working_directory"]
    assert settings.items() >= plain_settings.items()


def test_embeddings_in_parquet(cluster, densenet, weights, tmp_path, monkeypatch):
    from pyarrow import parquet

    out, plain = tmp_path / "out", tmp_path / "plain.npz"
    (tmp_path / "bad.jpg").write_text("text")
    sources = (SAMPLES, tmp_path / "bad.jpg")
    command = ("embed", *sources, "--weights", weights, "--ray", "auto", "-o", out, "--part-size", 3)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    run = densenet(*command)
    assert run.status == 1, run.err
    densenet("embed", *sources, "--weights", weights, "-o", plain)
    tables = [parquet.read_table(path) for path in sorted(out.glob("part-*"))]
    assert len(tables) == 3
    assert all(table.schema.equals(tables[0].schema) for table in tables)
    rows = [row for table in tables for row in table.to_pylist()]
    expected = np.load(plain)
    assert [row["source"] for row in rows] == [*expected["sources"], str(tmp_path / "bad.jpg")]
    assert np.array_equal(np.array([row["vector"] for row in rows[:-1]], np.float32), expected["features"])
    assert rows[-1]["error"]["type"] == "UnreadableImage"
    # A run that is complete needs no Ray.
    again = densenet(*command, "--resume")
    assert again.status == 1
    assert "3 of 3 parts already done" in again.err


def test_a_part_that_is_missing_is_computed_again(cluster, densenet, weights, tmp_path):
    out = tmp_path / "out"
    command = ("predict", SAMPLES, "--weights", weights, "--ray", cluster.address, "-o", out, "--part-size", 4)
    assert densenet(*command, "--format", "jsonl").status == 0
    before = join_parts(out)
    (out / "part-00001.jsonl").unlink()
    assert densenet(*command, "--format", "jsonl").status == 2
    assert densenet(*command, "--format", "csv", "--resume").status == 2
    assert densenet(*command, "--format", "jsonl", "--resume").status == 0
    assert join_parts(out) == before
    assert densenet(*command, "--format", "csv", "--overwrite").status == 0
    assert {path.suffix for path in out.glob("part-*")} == {".csv"}


def test_map_batches(cluster, weights, tmp_path):
    script = tmp_path / "pipeline.py"
    script.write_text(
        "import json, sys\n"
        "import pyarrow.dataset\n"
        "import ray\n"
        "from densenet_cli.ray import Embedder, Predictor, share_weights\n"
        f"ray.init({cluster.address!r}, log_to_driver=False)\n"
        f"weights = share_weights({str(weights)!r})\n"
        f"images = ray.data.read_binary_files({str(SAMPLES)!r}, include_paths=True, file_extensions=['jpg'],\n"
        "    num_cpus=0.25)\n"  # the cluster has one processor
        "rows = {}\n"
        "for stage in (Predictor, Embedder):\n"
        "    results = images.map_batches(\n"
        "        stage, fn_constructor_kwargs={'weights': weights}, batch_size=3, num_cpus=0.5,\n"
        "        compute=ray.data.ActorPoolStrategy(size=1),\n"
        "    )\n"
        f"    output = {str(tmp_path)!r} + '/' + stage.__name__\n"
        "    results.write_parquet(output, ray_remote_args={'num_cpus': 0.25})\n"
        "    table = pyarrow.dataset.dataset(output).to_table()\n"
        "    rows[stage.__name__] = sorted(table.to_pylist(), key=lambda row: row['source'])\n"
        "print(json.dumps([[rows['Predictor'][0]['model'], len(rows['Embedder'][0]['vector'])],\n"
        "                  [[score['label'] for score in row['predictions']] for row in rows['Predictor']]]))\n"
    )
    result = subprocess.run(
        [sys.executable, script], env=environment(), capture_output=True, text=True, check=False, timeout=150
    )
    assert result.returncode == 0, result.stderr
    (model, width), labels = json.loads(result.stdout.splitlines()[-1])
    from densenet_cli import Classifier

    with Classifier(weights=weights) as classifier:
        predictions = list(classifier.predict_many(sorted(SAMPLES.glob("*.jpg"))))
        assert (model, width) == (classifier.model, len(classifier.embed(SAMPLES / "cat.jpg").vector))
    assert labels == [[score.label for score in prediction.scores] for prediction in predictions]


def test_a_local_ray_leaves_nothing_behind(densenet, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    temporary = Path("/tmp")
    before = set(temporary.glob("ray-*")) | set(temporary.glob("densenet-*"))
    run = densenet("predict", SAMPLES, "--weights", weights, "--ray", "local", "-o", tmp_path / "out")
    assert run.status == 0, run.err
    lines = run.err.splitlines()
    assert [line.startswith(("Ray: ", "8 images in ", str(tmp_path / "out"))) for line in lines] == [True] * 3, run.err
    assert set(temporary.glob("ray-*")) | set(temporary.glob("densenet-*")) == before
    assert not (tmp_path / "home" / ".ray").exists()
    assert os.listdir(tmp_path / "out") != []
