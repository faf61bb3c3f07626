"""``densenet explain``, end to end."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from tests.conftest import SAMPLES
from tests.support.command import densenet, restore_sigint, run_process
from tests.support.images import encode, photograph


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder ``photos/`` with two images of the same name in subfolders, and a damaged image."""
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        photograph("chelsea", (90, 60)).save(tmp_path / "photos" / name / "1.jpg")
    (tmp_path / "photos" / "b" / "2.jpg").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_drawings_mirror_the_source_folders(weights, folder):
    result = densenet("explain", "photos", "-o", "maps", "--weights", weights)
    assert result.status == 1
    assert sorted(path.relative_to(folder).as_posix() for path in folder.glob("maps/**/*.png")) == [
        "maps/photos/a/1.jpg.png",
        "maps/photos/b/1.jpg.png",
    ]
    assert "photos/b/2.jpg: UnreadableImage" in result.err
    assert "maps/photos/a/1.jpg.png" in result.out
    again = densenet("explain", "photos", "-o", "maps", "--weights", "nowhere.safetensors")
    assert again.status == 2
    assert "maps/photos/a/1.jpg.png exists" in again.err and again.err.count("\n") == 1
    assert densenet("explain", "photos", "-o", "maps", "--weights", weights, "--overwrite").status == 1


def test_grad_cam_is_said_once(weights, folder):
    model = SAMPLES.parent / "tests" / "data" / "torch" / "module-with-head.pth"
    result = densenet("explain", "photos", "--weights", model, "-o", "maps")
    assert (result.out + result.err).count("Grad-CAM") == 1
    assert "Grad-CAM" not in densenet("explain", "photos", "--weights", weights, "-o", "others").err
    assert "Grad-CAM" not in densenet("explain", "photos", "--weights", model, "--format", "json").err


def test_json_records(weights, folder):
    arguments = ("explain", "photos", "--weights", weights, "-k", 2)
    result = densenet(*arguments, "--format", "json")
    first, second, broken = json.loads(result.out)
    assert result.status == 1
    assert list(first) == ["source", "model", "width", "height", "method", "maps"]
    assert (first["source"], first["width"], first["height"]) == ("photos/a/1.jpg", 90, 60)
    assert first["maps"] == second["maps"]
    assert [class_map["rank"] for class_map in first["maps"]] == [1, 2]
    for class_map in first["maps"]:
        assert list(class_map) == ["rank", "index", "id", "label", "probability", "peak", "box"]
        box, peak = class_map["box"], class_map["peak"]
        assert 0 <= box["left"] <= peak["x"] < box["right"] <= 90
        assert 0 <= box["top"] <= peak["y"] < box["bottom"] <= 60
    assert broken["error"]["type"] == "UnreadableImage"
    lines = densenet(*arguments, "--format", "jsonl", "-o", "maps")
    records = [json.loads(line) for line in lines.out.splitlines()]
    assert records[0].pop("drawing") == "maps/photos/a/1.jpg.png"
    assert records[0] == first and records[2] == broken
    predicted = densenet("predict", "photos/a/1.jpg", "--weights", weights, "-k", 2, "--format", "jsonl")
    expected = json.loads(predicted.out)["predictions"]
    assert [{key: class_map[key] for key in expected[0]} for class_map in first["maps"]] == expected


def test_classes_by_name_and_suggestions_for_unknown_ones():
    image = SAMPLES / "koala.jpg"
    arguments = ("explain", image, "--variant", "tiny", "--format", "jsonl")
    result = densenet(*arguments, "--class", "goldfish", "--class", "n02106662", "--class", "german_shepherd")
    assert [class_map["label"] for class_map in json.loads(result.out)["maps"]] == ["goldfish", "German shepherd"]
    unknown = densenet(*arguments, "--class", "germn shepard")
    assert unknown.status == 2
    assert "'germn shepard'" in unknown.err and "'German shepherd'" in unknown.err
    partial = densenet(*arguments, "--class", "bear")
    assert "'brown bear'" in partial.err
    dissimilar = densenet(*arguments, "--class", "qqqqq")
    assert dissimilar.status == 2
    assert "WordNet ID" in dissimilar.err


def test_classes_of_a_model_without_labels(weights, folder):
    result = densenet("explain", "photos/a", "--weights", weights, "--format", "json", "--class", "tabby")
    assert result.status == 2
    assert "'class 0', 'class 1'" in result.err
    result = densenet("explain", "photos/a", "--weights", weights, "--format", "jsonl", "--class", "3")
    assert json.loads(result.out)["maps"][0]["index"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output"),
        (["--show", "--format", "json"], "--show"),
        (["-o", "maps", "--ten-crop"], "--ten-crop"),
        (["-k", "2", "--class", "3", "--show"], "--top-k"),
        (["--overwrite", "--show"], "--output"),
        (["-k", "0", "--show"], "0 is not in the range"),
        (["--input-size", "0", "--show"], "0 is not in the range"),
        (["-o", "photos/a/1.jpg"], "is a file"),
    ],
)
def test_usage_errors_precede_downloads(folder, arguments, message):
    result = densenet("explain", "photos", "--variant", "169", *arguments)
    assert result.status == 2
    assert message in " ".join(result.err.split())
    assert not (folder / "maps").exists()


def test_an_unwritable_output_folder_is_found_before_downloads(folder):
    (folder / "file").touch()
    result = densenet("explain", "photos", "--variant", "169", "-o", "file/maps")
    assert result.status == 4
    assert "file/maps" in result.err and result.err.count("\n") == 1


def test_an_input_size_that_is_too_small(folder):
    result = densenet("explain", "photos", "--variant", "tiny", "--input-size", 5, "--show")
    assert result.status == 2
    assert "input" in result.err and "5" in result.err


def test_show_draws_in_shades_or_colors(weights, folder, monkeypatch):
    image = folder / "wide.png"
    photograph("chelsea", (300, 100)).save(image)
    monkeypatch.setenv("COLUMNS", "60")
    plain = densenet("explain", image, "--weights", weights, "--show").out
    map_lines = [line for line in plain.splitlines() if line and set(line) <= set(" ░▒▓█")]
    assert 8 <= len(map_lines) <= 20
    assert max(map(len, plain.splitlines())) <= 60
    assert "█" in plain and "\x1b" not in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    colored = densenet("explain", image, "--weights", weights, "--show").out
    rows = [line for line in colored.splitlines() if "▀" in line]
    assert all(40 <= row.count("▀") <= 58 for row in rows)
    assert "\x1b[38;2;" in colored


def test_standard_input_and_input_size(weights, folder):
    data = encode(photograph(size=(80, 80)), "PNG")
    result = densenet("explain", "-", "-o", "maps", "--weights", weights, "--input-size", 64, stdin=data)
    assert result.status == 0
    with Image.open(folder / "maps" / "stdin.png") as image:
        assert image.format == "PNG"


def test_json_imports_neither_fonts_nor_rich(weights, folder):
    shutil.rmtree(folder / "photos" / "b")
    code = (
        "import sys; from densenet_cli.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(sorted(sys.modules.keys() & {'rich', 'matplotlib', 'PIL.ImageFont',"
        " 'tensorflow', 'onnx', 'h5py', 'difflib'}), file=sys.stderr)"
    )
    densenet("explain", "photos", "--weights", weights, "--format", "jsonl")  # caches the graph
    arguments = [sys.executable, "-c", code, "explain", "photos", "--weights", weights, "--format", "jsonl"]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
    assert result.stderr == "[]\n"


def test_help_is_quick():
    assert run_process("explain", "--help").returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupted_run_leaves_complete_drawings(weights, folder):
    many = folder / "many.txt"
    many.write_text("photos/a/1.jpg\n" * 20_000)
    command = [
        sys.executable,
        "-m",
        "densenet_cli",
        "explain",
        "--files-from",
        many,
        "-o",
        "maps",
        "--weights",
        weights,
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=restore_sigint
    ) as running:
        deadline = time.monotonic() + 60
        while len(list(folder.glob("maps/photos/a/*.png"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "Interrupted."
    assert list(folder.glob("maps/**/*.part")) == []
    for path in folder.glob("maps/**/*.png"):
        with Image.open(path) as image:
            image.load()


def test_full_disk_exits_with_status_4(weights, folder, monkeypatch):
    def raise_no_space(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("densenet_cli.output.atomic.write_all", raise_no_space)
    result = densenet("explain", "photos", "-o", "maps", "--weights", weights)
    assert result.status == 4
    assert "maps/photos/a/1.jpg.png: No space left on device" in result.err
    assert [path for path in folder.glob("maps/**/*") if path.is_file()] == []
