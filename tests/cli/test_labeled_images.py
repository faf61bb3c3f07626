"""Labeled images that do not fit the model, for all commands that read them."""

from __future__ import annotations

import pytest

from tests.support.checkpoints import write_torchvision
from tests.support.command import densenet
from tests.support.images import photograph
from tests.support.networks import TINY, random_arrays


@pytest.mark.parametrize("command", [["evaluate"], ["calibrate", "-o", "calibrated.safetensors"]], ids=lambda c: c[0])
@pytest.mark.parametrize("table", ["path,label\na.png,class 1|class 2\n", "path,class 1,class 2\na.png,1,1\n"])
def test_sigmoid_is_suggested_if_the_activation_is_assumed(tmp_path, monkeypatch, command, table):
    monkeypatch.chdir(tmp_path)
    photograph().save("a.png")
    write_torchvision(tmp_path / "bare.safetensors", random_arrays(TINY), TINY)
    (tmp_path / "t.csv").write_text(table)
    arguments = (*command, "--csv", "t.csv", "--weights", "bare.safetensors", "-q")
    result = densenet(*arguments)
    assert result.status == 2 and "--activation sigmoid" in result.err
    result = densenet(*arguments, "--activation", "softmax")
    assert result.status == 2 and "--activation" not in result.err
    assert "--activation" not in densenet(*arguments, "--activation", "sigmoid").err
