"""``densenet summary``: totals, formats, and terminal widths."""

from __future__ import annotations

import json
import os

import pytest

from densenet_cli import variants
from tests.support.command import densenet, run_process


@pytest.mark.parametrize(
    ("variant", "totals"),
    [
        ("121", ["8,062,504", "7,978,856", "2.834 G"]),
        ("161", ["28,900,936", "28,681,000", "7.728 G"]),
    ],
)
def test_totals(variant, totals):
    result = densenet("summary", "--variant", variant)
    assert result.status == 0
    assert all(total in result.out for total in totals)
    assert result.err == ""


def test_every_layer():
    result = densenet("summary", "--layers")
    assert "conv5_block16_2_conv" in result.out


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_json_totals_are_sums(variant):
    summary = json.loads(densenet("summary", "--variant", variant, "--format", "json").out)
    assert summary["model"] == variants.get(variant).model
    for total in ("parameters", "trainable", "multiply_adds"):
        assert summary[total] == sum(stage[total] for stage in summary["stages"])
        assert summary[total] == sum(layer[total] for stage in summary["stages"] for layer in stage["layers"])
    assert summary["stages"][-1]["output_shape"] == [variants.get(variant).config.classes]


def test_input_size():
    result = densenet("summary", "--input-size", "448")
    assert "14x14x1024" in result.out
    refused = densenet("summary", "--input-size", "16")
    assert refused.status == 2 and "too small" in refused.err


def test_an_unknown_variant_lists_all_variants():
    result = densenet("summary", "--variant", "12")
    assert result.status == 2 and "bc-190-40" in result.err


@pytest.mark.parametrize("columns", ["80", "160"])
def test_table_fits_the_terminal(columns):
    result = run_process("summary", env={**os.environ, "COLUMNS": columns})
    lines = result.stdout.splitlines()
    assert all("Dense block" not in line or "conv)" in line for line in lines)
    assert max(map(len, lines)) <= max(int(columns), 84)
