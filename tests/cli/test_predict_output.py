"""``densenet predict --output``: files, standard output, and resuming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from densenet_cli.paths import staging_dir
from densenet_cli.weights import file_identity
from tests.support.command import densenet, run_process
from tests.support.staging import storage_url


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in ("cat", "coffee", "dog")]
    for number, path in enumerate(paths):
        Image.new("RGB", (40, 50), (100 * number, 10, 200)).save(path)
    return paths


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
@pytest.mark.parametrize("options", [["-k", 1], ["--min-prob", 0.05], ["-k", 1000], ["--min-prob", 1]])
def test_resuming_with_fewer_sources_keeps_all_records(weights, images, tmp_path, name, options):
    output = tmp_path / name
    arguments = ["--weights", weights, "-o", output, *options]
    assert densenet("predict", *images[:2], *arguments).status == 0
    complete = output.read_bytes()
    assert densenet("predict", images[0], *arguments, "--resume").status == 0
    assert output.read_bytes() == complete
    assert densenet("predict", images[2], *arguments, "--resume").status == 0
    text = output.read_text()
    assert all(str(image) in text for image in images)


@pytest.mark.parametrize("name", ["predict.csv", "predict.jsonl", "embed.npz"])
def test_one_image_is_one_record_however_it_is_spelled(weights, images, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for image in images:
        image.rename(tmp_path / "photos" / image.name)
    Path("photos/bad.png").touch()
    Path("list").write_text("./photos\n")
    arguments = [name.partition(".")[0], "--weights", weights, "-o", name]
    assert densenet(*arguments, "photos").status == 1
    files = {path.name: path.read_bytes() for path in tmp_path.glob(f"{name}*")}
    assert b'"photos/cat.png"' in files.get(f"{name}.sources.jsonl", b'"photos/cat.png"')
    for spelling in (["./photos"], [tmp_path / "photos"], ["photos/"], ["photos/../photos/*.png"]):
        result = densenet(*arguments, *spelling, "--resume")
        assert result.status == 1 and "4 sources already done" in result.err
    assert densenet(*arguments, "--files-from", "list", "--resume").status == 1
    monkeypatch.chdir(tmp_path / "photos")
    assert densenet(*arguments[:-1], tmp_path / name, "../photos", "--resume").status == 1
    assert {path.name: path.read_bytes() for path in tmp_path.glob(f"{name}*")} == files


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_resuming_reports_the_number_of_finished_sources(weights, images, tmp_path, name):
    arguments = ["--weights", weights, "-o", tmp_path / name, "-k", 1]
    densenet("predict", images[0], *arguments)
    one = densenet("predict", *images[:2], *arguments, "--resume")
    assert "1 source already done" in one.err
    two = densenet("predict", *images, *arguments, "--resume")
    assert "2 sources already done" in two.err


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_retrying_keeps_the_errors_of_sources_that_are_not_given_again(weights, images, tmp_path, name):
    (tmp_path / "bad.png").touch()
    output = tmp_path / name
    arguments = ["predict", "--weights", weights, "-o", output, "-k", 1]
    assert densenet(*arguments, tmp_path / "bad.png", images[0]).status == 1
    before = output.read_bytes()
    assert densenet(*arguments, images[1], "--resume", "--retry-errors").status == 1
    assert output.read_bytes().startswith(before)
    images[0].rename(tmp_path / "bad.png")
    assert densenet(*arguments, tmp_path / "bad.png", "--resume", "--retry-errors").status == 0
    assert b'error":' not in output.read_bytes() and b"Unreadable" not in output.read_bytes()


@pytest.mark.parametrize(("name", "options"), [("r.json", []), ("r.jsonl", ["-k", 2])])
def test_a_refused_resume_changes_nothing_in_object_storage(weights, images, tmp_path, name, options):
    output = tmp_path / "storage" / name
    arguments = ["predict", images[0], "--weights", weights, "-o", storage_url(tmp_path, name)]
    assert densenet(*arguments, "-k", 1).status == 0
    before = {path: path.stat().st_mtime_ns for path in output.parent.iterdir()}
    assert densenet(*arguments, *(options or ["-k", 1]), "--resume").status == 2
    assert {path: path.stat().st_mtime_ns for path in output.parent.iterdir()} == before
    assert not list(staging_dir().iterdir())


def test_a_missing_output_folder_precedes_missing_weights(images, tmp_path):
    result = densenet("predict", images[0], "--offline", "-o", tmp_path / "missing" / "x.csv")
    assert result.status == 4
    assert "missing" in result.err


def test_dash_is_standard_output(weights, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    plain = densenet("predict", images[0], "--weights", weights, "--format", "jsonl")
    dashed = densenet("predict", images[0], "--weights", weights, "--format", "jsonl", "-o", "-")
    assert (dashed.status, dashed.out) == (0, plain.out)
    assert json.loads(dashed.out)["source"] == str(images[0])
    table = densenet("predict", images[0], "--weights", weights, "-o", "-")
    assert table.status == 0 and "tiny0" in table.out
    refused = densenet("predict", images[0], "--weights", weights, "-o", "-", "--format", "csv", "--resume")
    assert refused.status == 2 and "--resume needs a file" in refused.err
    assert sorted({*tmp_path.iterdir()} - {tmp_path / "cache"}) == before


@pytest.mark.parametrize("options", [[], ["--format", "csv"], ["--overwrite"]])
@pytest.mark.parametrize(("output", "message"), [("", "is empty"), ("/dev/stdout", "--output to -")])
def test_invalid_output_names(weights, images, output, message, options):
    result = run_process("predict", images[0], "--weights", weights, "-o", output, *options)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr


def test_weights_are_hashed_only_for_output_files(weights, images, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(file_identity, "file_md5", lambda path: calls.append(path) or "0" * 32)
    arguments = ["predict", images[0], "--weights", weights]
    assert densenet(*arguments, "--format", "jsonl").status == 0
    assert densenet(*arguments, "--format", "csv", "-o", "-").status == 0
    assert calls == []
    assert densenet(*arguments, "-o", tmp_path / "r.csv").status == 0
    assert calls == [weights]
