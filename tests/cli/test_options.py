"""Options of datasets that do not apply are rejected instead of ignored."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from densenet_cli.cli.evaluate import evaluate
from densenet_cli.cli.train import train
from tests.support.command import densenet


@pytest.mark.parametrize(
    ("command", "arguments"), [(evaluate, []), (train, ["-o", "run"]), (train, ["-o", "run", "--val", "t.csv"])]
)
def test_suffix_without_class_folders(tmp_path, monkeypatch, command, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("path,label\na.png,cat\n")
    result = CliRunner().invoke(command, ["--csv", "t.csv", "--suffix", ".img", *arguments])
    assert result.exit_code == 2
    assert "--suffix" in result.output


@pytest.mark.parametrize("command", ["train", "export", "calibrate"])
def test_outputs_on_this_machine(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = densenet(command, *([] if command == "export" else ["."]), "-o", "s3://bucket/x.safetensors")
    assert result.status == 2
    assert "URLs are not supported" in result.err
    assert list(tmp_path.iterdir()) == []
