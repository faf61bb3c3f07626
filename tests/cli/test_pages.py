"""``--pages``, and names such as ``file.tif[2]``, end to end, with a tiny network."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from densenet_cli import Classifier
from tests.support.command import densenet
from tests.support.images import PHOTOGRAPHS, encode, photograph

SIZE = (90, 60)
ALL = ["scan.tif[0]", "scan.tif[1]", "scan.tif[2]", "still.png", "wave.gif[0]", "wave.gif[1]"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder ``in/`` with a TIFF of three pages, a still image, and an animation of two frames; pages beside it."""
    (tmp_path / "in").mkdir()
    first, *others = [photograph(name, SIZE) for name in PHOTOGRAPHS[:3]]
    first.save(tmp_path / "in" / "scan.tif", save_all=True, append_images=others)
    first.save(tmp_path / "in" / "still.png")
    first.save(tmp_path / "in" / "wave.gif", save_all=True, append_images=others[:1])
    for number, page in enumerate((first, *others)):
        page.save(tmp_path / f"page{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def predict(*arguments, status=0):
    result = densenet("predict", *arguments, "--format", "jsonl")
    assert result.status == status, result.err
    return records(result.out), result.err


def sources(found):
    return [record["source"] for record in found]


@pytest.mark.parametrize("isolate", [[], ["--isolate"]], ids=["", "isolated"])
def test_all_pages(weights, folder, isolate):
    options = ("--weights", weights, *isolate)
    found, messages = predict("in", "--pages", "all", *options)
    assert sources(found) == [f"in/{name}" for name in ALL]
    pages, _ = predict(*[f"page{number}.png" for number in range(3)], *options)
    assert [record["predictions"] for record in found[:3]] == [record["predictions"] for record in pages]
    assert found[3]["predictions"] == found[0]["predictions"] and "pages" not in messages
    assert not any("more_pages" in record for record in found)


@pytest.mark.parametrize("isolate", [[], ["--isolate"]], ids=["", "isolated"])
def test_the_first_page_is_noted(weights, folder, isolate):
    found, messages = predict("in", "--weights", weights, *isolate)
    assert sources(found) == ["in/scan.tif", "in/still.png", "in/wave.gif"]
    assert [record.get("more_pages") for record in found] == [True, None, True]
    assert messages.count("\n") == 1 and "2 files have more" in messages and "--pages all" in messages
    table = densenet("predict", "in/scan.tif", "--weights", weights, "--format", "csv")
    assert table.out.splitlines()[-1].endswith(",,more_pages,,") and "1 file has more" in table.err


def test_one_page_by_name(weights, folder):
    every, _ = predict("in/scan.tif", "--pages", "all", "--weights", weights)
    (folder / "list").write_text("in/scan.tif[2]\n./in/scan.tif[01]\n")
    for pages in ("first", "all"):
        options = ("--files-from", "list", "--weights", weights, "--pages", pages)
        found, messages = predict("in/scan.tif[0]", *options)
        assert sources(found) == ["in/scan.tif[0]", "in/scan.tif[2]", "./in/scan.tif[1]"]
        assert [r["predictions"] for r in found] == [every[page]["predictions"] for page in (0, 2, 1)]
        assert messages == ""


def test_a_page_that_does_not_exist(weights, folder):
    names = ("in/scan.tif[3]", "in/still.png[1]", "in/none.tif[0]", "in/scan.tif[1]")
    found, messages = predict(*names, "--weights", weights, status=1)
    assert [record.get("error", {}).get("type") for record in found] == ["SourceNotFound"] * 3 + [None]
    assert "no page 3" in found[0]["error"]["message"] and messages.count("\n") == 3


def test_standard_input(weights, folder):
    data = (folder / "in/scan.tif").read_bytes()
    result = densenet("predict", "-", "--pages", "all", "--weights", weights, "--format", "jsonl", stdin=data)
    assert sources(records(result.out)) == ["-[0]", "-[1]", "-[2]"]
    first = densenet("predict", "-", "--weights", weights, "--format", "jsonl", stdin=data)
    assert [record["more_pages"] for record in records(first.out)] == [True]


@pytest.mark.parametrize("spelling", ["in", "./in", "in//", "{}/in"])
def test_resume(weights, folder, spelling):
    options = ("-o", "out.jsonl", "--weights", weights, "--pages", "all")
    assert densenet("predict", "in", *options).status == 0
    complete = (folder / "out.jsonl").read_bytes()
    assert json.loads((folder / "out.jsonl.meta.json").read_text())["pages"] == "all"
    lines = complete.splitlines(keepends=True)
    for count in range(len(lines)):
        (folder / "out.jsonl").write_bytes(b"".join(lines[:count]))
        resumed = densenet("predict", "in", *options, "--resume")
        assert resumed.status == 0 and (folder / "out.jsonl").read_bytes() == complete
    for names in ([spelling.format(folder)], ["in/scan.tif[1]"], ["./in/still.png[0]"], ["in/../in/wave.gif"]):
        assert densenet("predict", *names, *options, "--resume").status == 0
        assert (folder / "out.jsonl").read_bytes() == complete  # each image has its record already


def test_resume_from_another_folder(weights, folder, monkeypatch):
    options = ("--weights", weights, "--pages", "all")
    assert densenet("predict", "in", "-o", "out.jsonl", *options).status == 0
    complete = (folder / "out.jsonl").read_bytes()
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    again = densenet("predict", "../in", "-", "-o", "../out.jsonl", "--resume", *options, stdin=b"no image")
    assert again.status == 1
    added = (folder / "out.jsonl").read_bytes().removeprefix(complete)
    assert sources(records(added.decode())) == ["-"]


def test_resume_with_other_pages_is_refused(weights, folder):
    assert densenet("predict", "in", "-o", "out.csv", "--weights", weights).status == 0
    refused = densenet("predict", "in", "-o", "out.csv", "--weights", weights, "--resume", "--pages", "all")
    assert refused.status == 2 and "pages" in refused.err


def test_a_damaged_page(weights, folder):
    """The others have their results."""
    first, *others = [photograph(name, SIZE) for name in PHOTOGRAPHS[:3]]
    data = bytearray(encode(first, "TIFF", save_all=True, append_images=others, compression="tiff_lzw"))
    middle = len(data) // 2
    data[middle : middle + 400] = b"\xff" * 400
    (folder / "in/scan.tif").write_bytes(data)
    found, _ = predict("in/scan.tif", "--pages", "all", "--weights", weights, status=1)
    assert [("error" in record) for record in found] == [False, True, False]


def test_html_embed_and_explain(weights, folder):
    options = ("--weights", weights, "--pages", "all")
    assert densenet("predict", "in", "--html", "page.html", *options).status == 0
    page = (folder / "page.html").read_text()
    assert all(name in page for name in ALL) and page.count("data:image/jpeg") == 6
    assert densenet("embed", "in", "-o", "x.npz", *options).status == 0
    with np.load("x.npz") as vectors:
        assert vectors["sources"].tolist() == [f"in/{name}" for name in ALL]
    assert densenet("embed", "in", "-o", "x.npz", "--resume", *options).status == 0
    assert densenet("explain", "in", "-o", "maps", *options).status == 0
    assert sorted(os.listdir("maps/in")) == sorted(f"{name}.png" for name in ALL)
    again = densenet("explain", "in", "-o", "maps", *options)
    assert again.status == 2 and "scan.tif[0].png exists" in again.err


def test_evaluate(weights, folder):
    """Each page is an image with the label of its folder."""
    for name in ("0", "1"):
        (folder / "val" / name).mkdir(parents=True)
    os.rename("in/scan.tif", "val/0/scan.tif")
    os.rename("in/wave.gif", "val/1/wave.gif")
    os.rename("in/still.png", "val/1/still.png")
    options = ("--weights", weights, "--format", "json")
    first, every = (densenet("evaluate", "val", "--pages", pages, *options) for pages in ("first", "all"))
    assert (first.status, every.status) == (0, 0)
    assert "2 files have more" in first.err and "pages" not in every.err
    assert (json.loads(first.out)["images"], json.loads(every.out)["images"]) == (3, 6)
    assert [row["images"] for row in json.loads(every.out)["per_class"]] == [3, 3]
    assert json.loads(every.out)["settings"]["pages"] == "all"
    (folder / "table.csv").write_text("path,label\nval/0/scan.tif[2],0\nval/1/still.png,1\nval/0/scan.tif[7],0\n")
    table = densenet("evaluate", "--csv", "table.csv", *options)
    assert table.status == 1
    assert [failure["source"] for failure in json.loads(table.out)["failures"]] == ["val/0/scan.tif[7]"]


def test_python_api(weights, folder):
    with Classifier(weights=weights, pages="all") as classifier:
        predictions = list(classifier.predict_many(["in/scan.tif", photograph(), "in/scan.tif[1]"]))
        assert [p.source for p in predictions][:3] == ALL_TIFF and predictions[4].source == "in/scan.tif[1]"
        assert predictions[4].scores == predictions[1].scores
        assert classifier.predict("in/scan.tif").scores == predictions[0].scores
        assert classifier.predict("in/scan.tif").notes == ("more_pages",)
        assert len(list(classifier.embed_many(["in"]))) == len(list(classifier.explain_many(["in"]))) == 6
    with pytest.raises(ValueError, match="pages"):
        Classifier(weights=weights, pages="some")


ALL_TIFF = [f"in/scan.tif[{page}]" for page in range(3)]


def test_other_commands(weights, folder):
    refused = densenet("benchmark", "--weights", weights, "--images", "in/scan.tif[1]")
    assert refused.status == 2 and "pages" in refused.err
    (folder / "table.csv").write_text("path,label\nin/scan.tif[1],a\nin/still.png,b\n")
    trained = densenet("train", "--csv", "table.csv", "-o", "out")
    assert trained.status == 2 and "scan.tif[1]" in trained.err
