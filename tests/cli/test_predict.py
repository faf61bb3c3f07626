"""``densenet predict``, end to end, with a tiny network."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from densenet_cli import Classifier
from tests.support.command import densenet, restore_sigint, run_process
from tests.support.images import encode, photograph
from tests.support.networks import TINY


@pytest.fixture
def folder(tmp_path):
    """A folder with images of one color, a damaged image, and a file that is not an image."""
    root = tmp_path / "images"
    (root / "below").mkdir(parents=True)
    for number, name in enumerate(["b.png", "a.jpg", "below/a.jpg", "z.bmp"]):
        Image.new("RGB", (50 + number, 40), (60 * number, 255 - 60 * number, 30)).save(root / name)
    (root / "broken.jpg").write_bytes(b"this is text")
    (root / "notes.txt").write_text("nothing to see")
    return root


@pytest.fixture
def image(folder):
    return folder / "a.jpg"


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def test_table(weights, image):
    result = densenet("predict", image, "--weights", weights, "-k", 3)
    assert result.status == 0
    assert "tiny0" in result.out
    assert result.out.count("class ") == 3
    assert result.out.count("%") == 3
    assert "█" in result.out
    assert result.err == ""


def test_json_lines(weights, folder):
    result = densenet("predict", folder, "--weights", weights, "--format", "jsonl", "-k", "2", "--verbose")
    assert result.status == 1
    actual = records(result.out)
    names = ["a.jpg", "b.png", os.path.join("below", "a.jpg"), "broken.jpg", "z.bmp"]
    assert [record["source"] for record in actual] == [str(folder / name) for name in names]
    assert {record["model"] for record in actual} == {"tiny0"}
    broken = actual.pop(3)
    assert broken["error"]["type"] == "UnreadableImage"
    assert broken["error"]["message"] in result.err
    assert "Skipped 1 file" in result.err
    for record in actual:
        assert [score["rank"] for score in record["predictions"]] == [1, 2]
        assert set(record["predictions"][0]) == {"rank", "index", "id", "label", "probability"}
        first, second = (score["probability"] for score in record["predictions"])
        assert 1 > first >= second > 0
        assert first == float(str(np.float32(first)))


def test_json_is_an_array(weights, folder):
    result = densenet("predict", folder, "--weights", weights, "--format", "json")
    assert len(json.loads(result.out)) == 5


def test_csv(weights, folder):
    result = densenet("predict", folder, "--weights", weights, "--format", "csv", "-k", "2")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert list(rows[0]) == [
        "source",
        "model",
        "rank",
        "index",
        "id",
        "label",
        "probability",
        "error",
        "notes",
        "set",
        "unsure",
    ]
    assert len(rows) == 4 * 2 + 1
    assert [row["error"][:16] for row in rows if row["error"]] == ["UnreadableImage:"]


def test_engines_and_threads_agree(weights, folder):
    one = densenet("predict", folder, "--weights", weights, "--format", "jsonl", "--threads", 1, "--batch-size", 1)
    two = densenet("predict", folder, "--weights", weights, "--format", "jsonl", "--threads", 4, "--batch-size", 32)
    assert one.out == two.out
    other = densenet("predict", folder, "--weights", weights, "--format", "jsonl", "--engine", "tensorflow")
    for first, second in zip(records(one.out), records(other.out), strict=True):
        assert first["source"] == second["source"]
        for a, b in zip(first.get("predictions", []), second.get("predictions", []), strict=True):
            assert a["index"] == b["index"]
            assert a["probability"] == pytest.approx(b["probability"], abs=1e-5)


def test_all_kinds_of_sources_together(weights, folder, tmp_path):
    source_list = tmp_path / "list.txt"
    source_list.write_text(f"{folder / 'z.bmp'}\n{folder / 'missing.jpg'}\n")
    data = (folder / "b.png").read_bytes()
    result = densenet(
        "predict", folder / "*.jpg", "-", folder / "below", "--files-from", source_list, "--weights", weights,
        "--format", "jsonl", stdin=data,
    )  # fmt: skip
    names = [record["source"].removeprefix(str(folder) + os.sep) for record in records(result.out)]
    assert names == ["a.jpg", "broken.jpg", "-", os.path.join("below", "a.jpg"), "z.bmp", "missing.jpg"]
    assert result.status == 1


def test_nul_separated_list_on_standard_input(weights, folder):
    data = f"{folder / 'a.jpg'}\0{folder / 'b.png'}\0".encode()
    result = densenet("predict", "--files-from", "-", "--null", "--weights", weights, "--format", "jsonl", stdin=data)
    assert [os.path.basename(record["source"]) for record in records(result.out)] == ["a.jpg", "b.png"]


def test_min_prob_above_all_probabilities(weights, image):
    result = densenet("predict", image, "--weights", weights, "--format", "jsonl", "--min-prob", 1)
    assert records(result.out)[0]["predictions"] == []
    assert result.status == 0
    table = densenet("predict", image, "--weights", weights, "--min-prob", 1)
    assert table.status == 0 and "%" not in table.out


def test_top_k_above_the_number_of_classes(weights, image):
    result = densenet("predict", image, "--weights", weights, "--format", "jsonl", "-k", 10_000)
    assert len(records(result.out)[0]["predictions"]) == TINY.classes


def test_labels_file(weights, image, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"thing {n}" for n in range(10)))
    result = densenet("predict", image, "--weights", weights, "--labels", labels)
    assert "thing " in result.out
    labels.write_text(json.dumps({"id2label": {n: f"class {n} of ten" for n in range(10)}}))
    result = densenet("predict", image, "--weights", weights, "--labels", labels)
    assert " of ten" in result.out
    labels.write_text("only\ntwo")
    result = densenet("predict", image, "--weights", weights, "--labels", labels)
    assert result.status == 2
    assert "10 classes" in result.err and "2" in result.err


def test_output_file_and_resume(weights, folder, tmp_path):
    complete, partial = tmp_path / "complete.jsonl", tmp_path / "partial.jsonl"
    assert densenet("predict", folder, "--weights", weights, "-o", complete).status == 1
    assert densenet("predict", folder, "--weights", weights, "-o", partial).status == 1
    data = complete.read_bytes()
    assert json.loads((tmp_path / "complete.jsonl.meta.json").read_text())
    partial.write_bytes(data[: len(data) // 2])
    refused = densenet("predict", folder, "--weights", weights, "-o", partial)
    assert refused.status in (2, 4) and "--resume" in refused.err and "--overwrite" in refused.err
    result = densenet("predict", folder, "--weights", weights, "-o", partial, "--resume")
    assert result.status == 1
    assert partial.read_bytes() == data
    other = densenet("predict", folder, "--weights", weights, "-o", partial, "--resume", "-k", 1)
    assert other.status == 2 and "--top-k (now 1, before 5)" in other.err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "--files-from"),
        (["x.jpg", "--variant", "122"], 2, "'121'"),
        (["x.jpg", "--format", "xml"], 2, "jsonl"),
        (["x.jpg", "--preprocess", "none"], 2, "squash"),
        (["x.jpg", "--engine", "none"], 2, "tensorflow"),
        (["x.jpg", "-o", "x.txt"], 2, "jsonl"),
        (["x.jpg", "-o", "x.json", "--resume"], 2, "jsonl"),
        (["x.jpg", "--resume"], 2, "--output"),
        (["x.jpg", "--retry-errors"], 2, "--resume"),
        (["x.jpg", "--null"], 2, "--files-from"),
        (["-", "--files-from", "-"], 2, "--files-from"),
        (["x.jpg", "--variant", "161", "--offline"], 3, "hf://timm/densenet161.tv_in1k"),
        (["x.jpg", "--variant", "264"], 3, "--weights"),
        (["x.jpg", "--offline"], 3, "densenet download-weights 121 --base-url URL"),
    ],
)
def test_errors_name_the_alternatives(arguments, status, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = densenet("predict", *arguments)
    assert result.status == status
    assert message in result.err
    assert list(tmp_path.iterdir()) == []


def test_ten_crop(weights, image):
    ten = densenet("predict", image, "--weights", weights, "--ten-crop", "--format", "jsonl")
    assert len(records(ten.out)[0]["predictions"]) == 5
    refused = densenet("predict", image, "--weights", weights, "--ten-crop", "--preprocess", "pad")
    assert refused.status == 2 and "crop" in refused.err


def test_weights_of_another_variant(weights, image):
    result = densenet("predict", image, "--weights", weights, "--variant", "121")
    assert result.status == 3
    assert "--variant" in result.err


def test_weights_that_are_not_a_checkpoint(image, tmp_path):
    path = tmp_path / "wrong.h5"
    path.write_bytes(b"no weights")
    result = densenet("predict", image, "--weights", path)
    assert result.status == 3
    assert "wrong.h5" in result.err


def test_narrow_terminal_without_color(weights, image):
    environment = {**os.environ, "COLUMNS": "40"}
    result = run_process("predict", image, "--weights", weights, env=environment)
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= max(40, len(str(image)))


def test_a_closed_pipe_ends_the_run_quietly(weights, folder):
    many = " ".join([str(folder / "a.jpg")] * 300)
    script = f"'{sys.executable}' -m densenet_cli predict {many} --weights {weights} --format csv | head -n 1"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.stderr == ""
    assert result.stdout == "source,model,rank,index,id,label,probability,error,notes,set,unsure\n"


HEAVY = {"numpy", "PIL", "rich", "onnxruntime", "tensorflow", "keras", "h5py", "onnx", "requests"}
UNNEEDED_FOR_PREDICT = {
    "tensorflow",
    "keras",
    "h5py",
    "onnx",
    "requests",
    "safetensors",
    "asyncio",
    "concurrent",
}


def imported(arguments, modules):
    """Return which of ``modules`` are imported at the end of a run."""
    code = (
        "import sys, densenet_cli.cli as cli\n"
        f"try: cli.main({list(map(str, arguments))!r})\n"
        "except SystemExit as error: assert error.code == 0\n"
        f"print(' '.join({modules!r} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"]])
def test_help_imports_no_heavy_packages(arguments):
    assert imported(arguments, HEAVY) == []


def test_summary_imports_only_rich():
    assert set(imported(["summary"], HEAVY)) <= {"rich"}


def test_predict_imports_no_unneeded_packages(weights, image):
    """With a cached graph, prediction needs no TensorFlow, checkpoint reader, or downloader."""
    Classifier(weights=weights).predict(image)
    assert imported(["predict", image, "--weights", weights], UNNEEDED_FOR_PREDICT) == []


def test_isolate_imports_no_decoder(weights, image):
    assert imported(["predict", image, "--weights", weights, "--isolate"], {"PIL"}) == []


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_writes_finished_records(weights, folder, tmp_path, signal_number):
    output = tmp_path / "out.jsonl"
    many = tmp_path / "many.txt"
    many.write_text(f"{folder / 'a.jpg'}\n" * 200_000)
    command = [
        sys.executable,
        "-m",
        "densenet_cli",
        "predict",
        "--files-from",
        many,
        "--weights",
        weights,
        "-o",
        output,
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=restore_sigint) as running:
        deadline = time.monotonic() + 60
        while (not output.exists() or output.stat().st_size < 5000) and time.monotonic() < deadline:
            time.sleep(0.02)
        running.send_signal(signal_number)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "Interrupted."
    assert len(records(output.read_text())) >= 10


def test_offline_does_not_download_urls(weights, image):
    result = densenet(
        "predict", "http://127.0.0.1:9/a.jpg", image, "--weights", weights, "--offline", "--format", "jsonl"
    )
    first, second = records(result.out)
    assert first["error"]["type"] == "DownloadFailed" and "offline" in first["error"]["message"]
    assert "predictions" in second


def test_the_home_folder_is_not_written(weights, image, tmp_path):
    """The telemetry of ONNX Runtime would store a device ID and events there, and send them."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    environment |= {"HOME": str(home), "DENSENET_CACHE": str(tmp_path / "elsewhere")}
    assert run_process("predict", image, "--weights", weights, env=environment).returncode == 0
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize("isolate", [[], ["--isolate"]], ids=["", "isolated"])
def test_truncated_images_are_accepted_on_request_and_marked(weights, tmp_path, isolate):
    data = encode(photograph(), "JPEG")
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "whole.jpg").write_bytes(data[:-2])
    options = (tmp_path, "--weights", weights, "-k", 1, *isolate)
    refused = json.loads(densenet("predict", *options, "--format", "json").out)
    assert [record.get("error") is None for record in refused] == [False, True]
    accepted = json.loads(densenet("predict", *options, "--truncated", "accept", "--format", "json").out)
    assert [record.get("truncated") for record in accepted] == [True, None]
    output = tmp_path / "x.csv"
    result = densenet("predict", *options, "--truncated", "accept", "-o", output)
    assert [line.split(",")[-3] for line in output.read_text().splitlines()] == ["notes", "truncated", ""]
    assert "1 image file ends early" in result.err
    assert json.loads((tmp_path / "x.csv.meta.json").read_text())["truncated"] == "accept"
    assert "truncated" in densenet("predict", *options, "-o", output, "--resume").err


def test_bit_depth(weights, tmp_path):
    gray = np.asarray(photograph().convert("L")).astype(np.uint16)
    Image.fromarray(gray).save(tmp_path / "a.tif")
    options = (tmp_path, "--weights", weights, "--format", "json")
    dark = densenet("predict", *options, "--bit-depth", "full")
    assert [record.get("narrow_range") for record in json.loads(dark.out)] == [True]
    assert "1 image" in dark.err and "--bit-depth" in dark.err
    automatic = densenet("predict", *options)
    assert automatic.err == "" and automatic.out == densenet("predict", *options, "--bit-depth", "0:255").out
    invalid = densenet("predict", *options, "--bit-depth", "lots")
    assert invalid.status == 2 and "--bit-depth" in invalid.err
