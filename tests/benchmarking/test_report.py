"""What is suggested, and how a measurement looks."""

from __future__ import annotations

import dataclasses
import json

import pytest

from densenet_cli.cli import benchmark_tables
from tests.support.benchmarked import report

SLOW, USUAL, QUICK = [10.0, 10.2, 10.4], [20.0, 20.2, 20.4], [30.0, 31.0, 32.0]


def printed(shown, monkeypatch, capsys, columns=80) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    benchmark_tables.show(shown)
    return capsys.readouterr().out


def test_the_fastest_is_suggested(monkeypatch, capsys):
    found = report({(8, 1): SLOW, (8, 2): USUAL, (16, 2): QUICK})
    assert (found.fastest.cell.batch_size, found.fastest.cell.threads) == (16, 2)
    assert found.fastest.is_worth_setting
    assert found.fastest.gain == pytest.approx(31 / 20.2)
    text = " ".join(printed(found, monkeypatch, capsys).split())
    said = "--batch-size 16 --threads 2, 31.0 images per second, 53% more than by default (--batch-size 8 --threads 2)"
    assert said in text


@pytest.mark.parametrize(
    "other",
    [
        pytest.param([20.1, 21.0, 25.0], id="within the spread"),
        pytest.param([20.4, 20.5, 20.6], id="a little faster"),
        pytest.param(SLOW, id="slower"),
    ],
)
def test_nothing_is_suggested_that_is_no_faster(other, monkeypatch, capsys):
    found = report({(8, 2): [20.0, 20.2, 21.2], (16, 2): other})
    assert not found.fastest.is_worth_setting
    assert "Nothing was faster than the default" in printed(found, monkeypatch, capsys)


def test_what_is_faster_by_a_hair_is_not_suggested():
    found = report({(8, 2): [20.0, 20.0, 20.0], (16, 2): [20.2, 20.2, 20.2]})
    assert found.fastest.rate.is_above(found.fastest.default)
    assert not found.fastest.is_worth_setting


def test_without_the_default_the_fastest_is_named_all_the_same(monkeypatch, capsys):
    found = report({(2, 1): SLOW, (4, 1): USUAL})
    assert found.fastest.gain is None and not found.fastest.is_worth_setting
    assert "Fastest of these: --batch-size 4 --threads 1" in printed(found, monkeypatch, capsys)


def test_without_a_choice_nothing_is_the_fastest(monkeypatch, capsys):
    found = report({(8, 2): USUAL})
    assert found.fastest is None and found.to_dict()["fastest"] is None
    assert "astest" not in printed(found, monkeypatch, capsys)


def test_another_engine_is_never_suggested():
    found = report({(8, 2): USUAL, (16, 2): SLOW}, engines=("onnx", "tensorflow"))
    quick = {cell: times for cell, times in found.times.items() if cell.engine == "tensorflow"}
    found.times.update({cell: tuple(time / 100 for time in times) for cell, times in quick.items()})
    assert found.fastest.cell.engine == "onnx"


@pytest.mark.parametrize("load", [None, 0.2, 1.5])
def test_a_busy_machine_is_said(load, monkeypatch, capsys):
    found = report({(8, 2): USUAL})
    busy = dataclasses.replace(found, machine=dataclasses.replace(found.machine, load=load))
    assert ("The cores were busy" in printed(busy, monkeypatch, capsys)) == (load == 1.5)


def test_json_has_every_summary():
    found = report({(8, 1): SLOW, (8, 2): USUAL, (16, 2): QUICK}, engines=("onnx", "tensorflow"))
    written = json.loads(json.dumps(found.to_dict()))
    rates = {
        (row["engine"], row["threads"], row["batch_size"]): row["images_per_second"]
        for row in written["throughput"]
        if row["part"] == "together"
    }
    assert rates["onnx", 2, 16]["median"] == pytest.approx(31)
    assert rates["onnx", 2, 16]["lower_quartile"] == pytest.approx(30.5)
    assert rates["tensorflow", 1, 8]["count"] == 3
    assert {row["part"] for row in written["latency"]} == {"engine", "answer"}
    assert {row["batch_size"] for row in written["throughput"] if row["part"] == "decoding"} == {None}
    assert [row["peak_bytes"] and row["peak_bytes"]["median"] for row in written["commands"]] == [
        1.5e8,
        1.5e8,
        None,
        None,
    ]


@pytest.mark.parametrize("columns", [50, 80, 160])
def test_it_fits_the_terminal(columns, monkeypatch, capsys):
    found = report({(8, 1): SLOW, (8, 2): USUAL, (16, 2): [1234.0] * 3}, engines=("onnx", "tensorflow"))
    text = printed(found, monkeypatch, capsys, columns)
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    assert ("0.26 (0.25-0.26)" in text) == (columns >= 80)
    for said in ("A processor", "random weights", "1,234", "TensorFlow: images per second", "unknown"):
        assert said in text
