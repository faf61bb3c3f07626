"""Benchmark reports: summary statistics, recommended settings, tables, and JSON."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densenet_cli.benchmarking.agreement import Agreement
from densenet_cli.benchmarking.report import Summary
from densenet_cli.cli import benchmark_tables
from tests.support.benchmark_reports import make_report

TWO_ENGINES = {"openvino": "bfloat16", "tensorflow": "float32"}
BFLOAT16 = {"openvino": "bfloat16"}
SLOW, USUAL, FAST = [10.0, 10.2, 10.4], [20.0, 20.2, 20.4], [30.0, 31.0, 32.0]
values = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40)


def _iqr(summary: Summary) -> float:
    return summary.upper_quartile - summary.lower_quartile


@given(values)
def test_quartiles_equal_numpy(sample):
    summary = Summary.of(sample)
    quartiles = [summary.lower_quartile, summary.median, summary.upper_quartile]
    assert quartiles == pytest.approx(np.percentile(sample, [25, 50, 75]))
    assert (summary.count, summary.minimum, summary.maximum) == (len(sample), min(sample), max(sample))


@given(values, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(sample, shuffler):
    shuffled = list(sample)
    shuffler.shuffle(shuffled)
    assert Summary.of(shuffled) == Summary.of(sample)


@given(values, st.floats(1e-3, 1e3))
def test_a_unit_is_a_factor(sample, factor):
    summary, scaled = Summary.of(sample), Summary.of(value * factor for value in sample)
    assert scaled.median == pytest.approx(summary.median * factor)
    assert _iqr(scaled) == pytest.approx(_iqr(summary) * factor, rel=1e-6, abs=1e-6)


@given(st.lists(st.floats(1, 100), min_size=5, max_size=40), st.floats(1e3, 1e9))
def test_one_outlier_does_not_dominate(sample, outlier):
    assert Summary.of([*sample, outlier]).upper_quartile <= max(sample)


@given(values, values)
def test_at_most_one_of_two_is_above(a, b):
    one, other = Summary.of(a), Summary.of(b)
    assert not (one.is_above(other) and other.is_above(one))
    assert not one.is_above(one)
    if one.is_above(other):
        assert one.median > other.median


def test_few_values_must_not_overlap_and_of_many_the_quartiles_must_not():
    assert Summary.of([10, 11, 12]).is_above(Summary.of([7, 8, 9]))
    assert not Summary.of([10, 11, 12]).is_above(Summary.of([7, 8, 10]))
    assert Summary.of([10, 11, 12] * 5).is_above(Summary.of([7, 8, 8, 9, 20] * 3))
    assert not Summary.of([9, 11, 12] * 5).is_above(Summary.of([7, 8, 10] * 5))


@pytest.mark.parametrize("rounds", [4, 6, 10, 15, 25])
def test_equal_settings_are_rarely_called_faster(rounds):
    rng = np.random.default_rng(rounds)
    false_positives = 0
    for _ in range(400):
        default, *others = (Summary.of(values) for values in rng.normal(100, 3, (8, rounds)))
        false_positives += max(others, key=lambda other: other.median).is_above(default)
    assert false_positives / 400 < 0.08


def test_no_values_are_an_error():
    with pytest.raises(ValueError, match="no values"):
        Summary.of([])


@pytest.fixture
def printed(monkeypatch, capsys):
    """Return a function that prints a report and returns the output."""

    def get(report, columns=80) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        benchmark_tables.print_report(report)
        return capsys.readouterr().out

    return get


def test_faster_settings_are_recommended(printed):
    report = make_report({(8, 1): SLOW, (8, 2): USUAL, (16, 2): FAST})
    assert (report.fastest.case.batch_size, report.fastest.case.threads) == (16, 2)
    assert report.fastest.is_recommended
    assert report.fastest.speedup == pytest.approx(31 / 20.2)
    text = " ".join(printed(report).split())
    for expected in ("Fastest: --batch-size 16 --threads 2", "31.0 images per second", "53%"):
        assert expected in text


@pytest.mark.parametrize(
    "other",
    [
        pytest.param([20.1, 21.0, 25.0], id="within the spread"),
        pytest.param([20.4, 20.5, 20.6], id="slightly faster"),
        pytest.param(SLOW, id="slower"),
    ],
)
def test_settings_that_are_not_measurably_faster_are_not_recommended(other, printed):
    report = make_report({(8, 2): [20.0, 20.2, 21.2], (16, 2): other})
    assert not report.fastest.is_recommended
    assert "Fastest" not in printed(report)


def test_a_speedup_below_the_minimum_is_not_recommended():
    report = make_report({(8, 2): [20.0, 20.0, 20.0], (16, 2): [20.2, 20.2, 20.2]})
    assert report.fastest.throughput.is_above(report.fastest.default_throughput)
    assert not report.fastest.is_recommended


def test_the_fastest_settings_are_printed_if_the_default_was_not_measured(printed):
    report = make_report({(2, 1): SLOW, (4, 1): USUAL})
    assert report.fastest.speedup is None and not report.fastest.is_recommended
    assert "Fastest: --batch-size 4 --threads 1" in printed(report)


def test_engines_without_batches_have_no_batch_size(printed):
    """Their throughput is that of one image per thread. One image alone is a latency."""
    report = make_report({(None, 1): USUAL, (None, 2): FAST}, default_settings=(8, 1), precisions=BFLOAT16)
    assert report.fastest.is_recommended and report.fastest.case.threads == 2
    text = " ".join(printed(report).split())
    assert "Fastest: --threads 2, 31.0 images per second" in text
    assert "atch" not in text and "OpenVINO, bfloat16 throughput" in text
    values = report.to_dict()
    assert values["fastest"]["batch_size"] is None
    assert [row["batch_size"] for row in values["throughput"] if row["stage"] == "inference"] == [None, None]
    assert [row["stage"] for row in values["latency"]] == ["predict", "inference"] * 2
    assert {row["precision"] for row in values["throughput"] + values["commands"]} == {"bfloat16"}


def test_agreement_is_beside_throughput(printed):
    agreement = Agreement(images=8, same_first=7, same_top5=6, max_difference=0.1, mean_difference=0.01)
    report = make_report({(None, 2): USUAL}, precisions=BFLOAT16, agreement=agreement)
    assert "same top-1 label for 7 of 8 images" in " ".join(printed(report).split())
    assert report.to_dict()["agreement"]["same_first_label"] == 7 / 8
    without = dataclasses.replace(report, agreement=None)
    assert "same top-1 label" not in printed(without) and without.to_dict()["agreement"] is None


def test_one_setting_is_not_the_fastest(printed):
    report = make_report({(8, 2): USUAL})
    assert report.fastest is None and report.to_dict()["fastest"] is None
    assert "astest" not in printed(report)


def test_only_settings_of_the_requested_engine_are_recommended():
    report = make_report({(8, 2): USUAL, (16, 2): SLOW}, precisions=TWO_ENGINES)
    other_engine = {case: times for case, times in report.times.items() if case.engine == "tensorflow"}
    report.times.update({case: tuple(time / 100 for time in times) for case, times in other_engine.items()})
    assert report.fastest.case.engine == "openvino"


@pytest.mark.parametrize("load", [None, 0.2, 1.5])
def test_a_busy_machine_is_reported(load, printed):
    report = make_report({(8, 2): USUAL})
    busy = dataclasses.replace(report, machine=dataclasses.replace(report.machine, load=load))
    assert ("machine was busy" in printed(busy)) == (load == 1.5)


def test_json_contains_every_summary():
    report = make_report({(8, 1): SLOW, (8, 2): USUAL, (16, 2): FAST}, precisions=TWO_ENGINES)
    values = json.loads(json.dumps(report.to_dict()))
    rates = {
        (row["engine"], row["threads"], row["batch_size"]): row["images_per_second"]
        for row in values["throughput"]
        if row["stage"] == "end_to_end"
    }
    assert rates["openvino", 2, 16]["median"] == pytest.approx(31)
    assert rates["openvino", 2, 16]["lower_quartile"] == pytest.approx(30.5)
    assert rates["tensorflow", 1, 8]["count"] == 3
    assert {row["stage"] for row in values["latency"]} == {"inference", "predict"}
    assert {row["batch_size"] for row in values["throughput"] if row["stage"] == "decode"} == {None}
    memory = [row["peak_bytes"] and row["peak_bytes"]["median"] for row in values["commands"]]
    assert memory == [1.5e8, 1.5e8, None, None]


@pytest.mark.parametrize("columns", [50, 80, 160])
def test_tables_fit_the_console(columns, printed):
    rates = {(batch_size, threads): [1234.0] * 3 for batch_size in (8, None) for threads in (1, 2)}
    report = make_report(rates, precisions=TWO_ENGINES)
    text = printed(report, columns)
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    assert ("0.26 (0.25-0.26)" in text) == (columns >= 80)
    for expected in ("A processor", "random weights", "1,234", "TensorFlow throughput", "unknown"):
        assert expected in text
