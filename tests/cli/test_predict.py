"""``densenet predict``, end to end, with a tiny network: the path is what is tested."""

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
from tests.support.networks import TINY, tiny_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def folder(tmp_path):
    """Images of one color each, a broken one, and a file that is none."""
    root = tmp_path / "images"
    (root / "below").mkdir(parents=True)
    for number, name in enumerate(["b.png", "a.jpg", "below/a.jpg", "z.bmp"]):
        Image.new("RGB", (50 + number, 40), (60 * number, 255 - 60 * number, 30)).save(root / name)
    (root / "broken.jpg").write_bytes(b"this is text")
    (root / "notes.txt").write_text("nothing to see")
    return root


@pytest.fixture
def item(folder):
    return folder / "a.jpg"


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def test_table(weights, item):
    result = densenet("predict", item, "--weights", weights, "-k", 3)
    assert result.status == 0
    assert "tiny0" in result.out
    assert result.out.count("class ") == 3
    assert result.out.count("%") == 3
    assert "█" in result.out
    assert result.err == ""


def test_json_lines_hold_the_contract(weights, folder):
    result = densenet("predict", folder, "--weights", weights, "--format", "jsonl", "-k", "2", "--verbose")
    assert result.status == 1
    found = records(result.out)
    names = ["a.jpg", "b.png", os.path.join("below", "a.jpg"), "broken.jpg", "z.bmp"]
    assert [record["source"] for record in found] == [str(folder / name) for name in names]
    assert {record["model"] for record in found} == {"tiny0"}
    broken = found.pop(3)
    assert broken["error"]["type"] == "UnreadableImage"
    assert broken["error"]["message"] in result.err
    assert "Skipped 1 file" in result.err
    for record in found:
        assert [score["rank"] for score in record["predictions"]] == [1, 2]
        assert set(record["predictions"][0]) == {"rank", "index", "id", "label", "probability"}
        first, second = (score["probability"] for score in record["predictions"])
        assert 1 > first >= second > 0
        assert first == float(str(np.float32(first)))


def test_json_is_one_array(weights, folder):
    result = densenet("predict", folder, "--weights", weights, "--format", "json")
    assert len(json.loads(result.out)) == 5


def test_csv(weights, folder):
    result = densenet("predict", folder, "--weights", weights, "--format", "csv", "-k", "2")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert list(rows[0]) == ["source", "model", "rank", "index", "id", "label", "probability", "error"]
    assert len(rows) == 4 * 2 + 1
    assert [row["error"][:16] for row in rows if row["error"]] == ["UnreadableImage:"]


def test_engines_and_threads_agree(weights, folder):
    one = densenet("predict", folder, "--weights", weights, "--format", "jsonl", "--threads", 1, "--batch-size", 1)
    two = densenet("predict", folder, "--weights", weights, "--format", "jsonl", "--threads", 4, "--batch-size", 32)
    assert one.out == two.out
    other = densenet("predict", folder, "--weights", weights, "--format", "jsonl", "--engine", "tensorflow")
    for mine, theirs in zip(records(one.out), records(other.out), strict=True):
        assert mine["source"] == theirs["source"]
        for a, b in zip(mine.get("predictions", []), theirs.get("predictions", []), strict=True):
            assert a["index"] == b["index"]
            assert a["probability"] == pytest.approx(b["probability"], abs=1e-5)


def test_sources_of_every_kind_in_any_mixture(weights, folder, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{folder / 'z.bmp'}\n{folder / 'gone.jpg'}\n")
    data = (folder / "b.png").read_bytes()
    result = densenet(
        "predict", folder / "*.jpg", "-", folder / "below", "--files-from", listed, "--weights", weights,
        "--format", "jsonl", stdin=data,
    )  # fmt: skip
    names = [record["source"].removeprefix(str(folder) + os.sep) for record in records(result.out)]
    assert names == ["a.jpg", "broken.jpg", "-", os.path.join("below", "a.jpg"), "z.bmp", "gone.jpg"]
    assert result.status == 1


def test_null_separated_list_on_standard_input(weights, folder):
    data = f"{folder / 'a.jpg'}\0{folder / 'b.png'}\0".encode()
    result = densenet("predict", "--files-from", "-", "--null", "--weights", weights, "--format", "jsonl", stdin=data)
    assert [os.path.basename(record["source"]) for record in records(result.out)] == ["a.jpg", "b.png"]


def test_min_prob_leaves_an_empty_row(weights, item):
    result = densenet("predict", item, "--weights", weights, "--format", "jsonl", "--min-prob", 1)
    assert records(result.out)[0]["predictions"] == []
    assert result.status == 0
    shown = densenet("predict", item, "--weights", weights, "--min-prob", 1)
    assert shown.status == 0 and "%" not in shown.out


def test_more_labels_than_classes_means_all(weights, item):
    result = densenet("predict", item, "--weights", weights, "--format", "jsonl", "-k", 10_000)
    assert len(records(result.out)[0]["predictions"]) == TINY.classes


def test_labels_file(weights, item, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"thing {n}" for n in range(10)))
    result = densenet("predict", item, "--weights", weights, "--labels", labels)
    assert "thing " in result.out
    labels.write_text("only\ntwo")
    result = densenet("predict", item, "--weights", weights, "--labels", labels)
    assert result.status == 2
    assert "10 classes" in result.err and "2" in result.err


def test_output_file_and_resume(weights, folder, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert densenet("predict", folder, "--weights", weights, "-o", whole).status == 1
    assert densenet("predict", folder, "--weights", weights, "-o", cut).status == 1
    data = whole.read_bytes()
    assert json.loads((tmp_path / "whole.jsonl.meta.json").read_text())
    cut.write_bytes(data[: len(data) // 2])
    refused = densenet("predict", folder, "--weights", weights, "-o", cut)
    assert refused.status in (2, 4) and "--resume" in refused.err and "--overwrite" in refused.err
    result = densenet("predict", folder, "--weights", weights, "-o", cut, "--resume")
    assert result.status == 1
    assert cut.read_bytes() == data
    other = densenet("predict", folder, "--weights", weights, "-o", cut, "--resume", "-k", 1)
    assert other.status == 2 and "top_k" in other.err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
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
        (["-", "--files-from", "-"], 2, "not both"),
        (["x.jpg", "--variant", "161", "--offline"], 3, "--weights"),
        (["x.jpg", "--offline"], 3, "download-weights"),
    ],
)
def test_wrong_usage_names_what_is_allowed(arguments, status, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = densenet("predict", *arguments)
    assert result.status == status
    assert words in result.err
    assert list(tmp_path.iterdir()) == []


def test_ten_crop(weights, item):
    ten = densenet("predict", item, "--weights", weights, "--ten-crop", "--format", "jsonl")
    assert len(records(ten.out)[0]["predictions"]) == 5
    refused = densenet("predict", item, "--weights", weights, "--ten-crop", "--preprocess", "pad")
    assert refused.status == 2 and "crop" in refused.err


def test_a_variant_that_the_weights_contradict(weights, item):
    result = densenet("predict", item, "--weights", weights, "--variant", "121")
    assert result.status == 3
    assert "121" in result.err


def test_weights_that_are_none(item, tmp_path):
    wrong = tmp_path / "wrong.h5"
    wrong.write_bytes(b"no weights")
    result = densenet("predict", item, "--weights", wrong)
    assert result.status == 3
    assert "wrong.h5" in result.err


def test_no_color_in_a_pipe_and_narrow_terminals(weights, item):
    environment = {**os.environ, "COLUMNS": "40"}
    result = run_process("predict", item, "--weights", weights, env=environment)
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= max(40, len(str(item)))


def test_a_reader_that_leaves_early_ends_it_quietly(weights, folder):
    many = " ".join([str(folder / "a.jpg")] * 300)
    script = f"'{sys.executable}' -m densenet_cli predict {many} --weights {weights} --format csv | head -n 1"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.stderr == ""
    assert result.stdout == "source,model,rank,index,id,label,probability,error\n"


HEAVY = {"numpy", "PIL", "rich", "onnxruntime", "tensorflow", "keras", "h5py", "onnx", "requests"}
NOT_FOR_A_IMAGE = {
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
    """Which of ``modules`` a run of the command has imported at its end."""
    code = (
        "import sys, densenet_cli.cli as cli\n"
        f"try: cli.main({list(map(str, arguments))!r})\n"
        "except SystemExit as leaving: assert leaving.code == 0\n"
        f"print(' '.join({modules!r} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"]])
def test_nothing_heavy_is_imported_for_help(arguments):
    assert imported(arguments, HEAVY) == []


def test_summary_needs_no_array():
    assert set(imported(["summary"], HEAVY)) <= {"rich"}


def test_only_what_is_needed_is_imported_for_a_image(weights, item):
    """With the graph cached: no TensorFlow, no checkpoint reader, no download."""
    Classifier(weights=weights).predict(item)
    assert imported(["predict", item, "--weights", weights], NOT_FOR_A_IMAGE) == []


def test_with_isolate_no_decoder_is_imported(weights, item):
    assert imported(["predict", item, "--weights", weights, "--isolate"], {"PIL"}) == []


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_with_what_is_finished_written(weights, folder, tmp_path, asked):
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
        running.send_signal(asked)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "Interrupted."
    assert len(records(output.read_text())) >= 10


def test_offline_leaves_urls_alone(weights, item):
    result = densenet(
        "predict", "http://127.0.0.1:9/a.jpg", item, "--weights", weights, "--offline", "--format", "jsonl"
    )
    first, second = records(result.out)
    assert first["error"]["type"] == "DownloadFailed" and "offline" in first["error"]["message"]
    assert "predictions" in second


def test_nothing_is_kept_in_the_home_but_the_cache(weights, item, tmp_path):
    """ONNX Runtime's telemetry would keep a device id and its events there, and send them."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    environment |= {"HOME": str(home), "DENSENET_CACHE": str(tmp_path / "elsewhere")}
    assert run_process("predict", item, "--weights", weights, env=environment).returncode == 0
    assert list(home.rglob("*")) == []
