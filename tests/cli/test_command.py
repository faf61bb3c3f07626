"""The command classes: option groups, translated errors, verbosity, and progress."""

from __future__ import annotations

import io
import logging
import sys

import click
import pytest
from click.testing import CliRunner

from densenet_cli.cli import COMMANDS, densenet
from densenet_cli.cli import progress as progress_module
from densenet_cli.cli.command import EXIT_STATUSES, GLOBAL_GROUP, FloatRange, command, option, replace_parameters
from densenet_cli.cli.console import echo_info
from densenet_cli.cli.progress import ProgressBar
from densenet_cli.errors import OutputError


@command(exit_statuses={0: "success", 4: "failure"})
@click.argument("source", nargs=-1)
@option("-o", "--output", group="Output", help="A file.")
@option("--format", "format_", group="Output", help="A format.")
@option("--from", "start", help="A start.")
@option("--share", type=FloatRange(0, 1), help="A share.")
@option("--overwrite", is_flag=True, group="Output", help="Replace the file.")
def example(source, output, format_, start, share, overwrite):
    """An example."""
    logging.getLogger("densenet_cli.example").info("logged\nin two lines")
    echo_info("informed")
    if output:
        raise OutputError(f"{output} exists. Use `overwrite` to replace it.")


def run(*arguments):
    return CliRunner().invoke(example, arguments)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Use `overwrite` to replace it.", "Use --overwrite to replace it."),
        ("`output` exists.", "--output exists."),
        ("`format` and `format_`", "--format and `format_`"),
        ("`start` and `from`", "--from and --from"),
        ("`source` is empty.", "[SOURCE]... is empty."),
        ("`base_url` and `pip install pyarrow`", "`base_url` and `pip install pyarrow`"),
    ],
)
def test_parameters_become_options(message, expected):
    assert replace_parameters(message, example) == expected


def test_library_errors_are_printed_with_options():
    result = run("-o", "x.csv")
    assert result.exit_code == 4
    assert result.stderr.splitlines()[-1] == "Error: x.csv exists. Use --overwrite to replace it."
    assert "Traceback" not in result.stderr
    assert "Traceback" in run("-o", "x.csv", "--verbose").stderr
    assert run("-o", "x\ny.csv").stderr.splitlines()[-1].startswith(r"Error: x\ny.csv exists.")


def test_help_lists_groups_in_order_and_exit_statuses():
    lines = run("--help").stdout.splitlines()
    headings = [line for line in lines if line.endswith(":") and line[0] != " "]
    assert headings == ["Output:", "Options:", f"{GLOBAL_GROUP}:", "Exit status:"]
    options = [line.split()[0] for line in lines if line.lstrip().startswith("-")]
    assert options[-3:] == ["-q,", "--verbose", "-h,"]
    assert "0<=x<=1" not in "".join(lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_short_options_of_all_commands(name):
    result = CliRunner().invoke(densenet, [name, "-h"])
    assert result.exit_code == 0
    assert all(text in result.stdout for text in ("Examples:", f"{GLOBAL_GROUP}:", "Exit status:", "-h, --help"))
    _, statuses = result.stdout.split("Exit status:\n")
    assert [int(line.split()[0]) for line in statuses.splitlines() if line[2] != " "] == list(EXIT_STATUSES)


def test_verbosity_belongs_to_one_run():
    assert run().stderr == "informed\n"
    assert run("--quiet").stderr == ""
    assert run("--verbose").stderr.splitlines() == ["logged", "in two lines", "informed"]
    assert run().stderr == "informed\n"
    assert logging.getLogger("densenet_cli").handlers == []


@pytest.mark.parametrize("value", ["nan", "-0.1", "1.1", "x"])
def test_numbers_outside_of_a_range(value):
    assert run("--share", value).exit_code == 2


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    """A function that replaces standard error by a pipe or a terminal and returns it."""

    def replace(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    monkeypatch.setenv("TERM", "xterm")
    return replace


def test_downloads_print_one_line_per_file_in_a_pipe(stderr):
    stream = stderr(io.StringIO())
    with ProgressBar("download") as progress:
        for name in ("a_weights.h5", "b_weights.h5"):
            for done in range(3):
                progress.update_download(name, done, 33_000_000)
    assert stream.getvalue().splitlines() == ["Downloading a_weights.h5 (33 MB)", "Downloading b_weights.h5 (33 MB)"]


def test_steps_print_lines_at_an_interval_in_a_pipe(stderr, monkeypatch):
    stream = stderr(io.StringIO())
    with ProgressBar("steps") as progress:
        progress.update("Epoch 1/2", 1, 9, "loss 1.0")
        monkeypatch.setattr(progress_module, "LINE_INTERVAL", 0)
        progress.update("Epoch 1/2", 2, 9, "loss 0.9")
    assert stream.getvalue() == "Epoch 1/2: 2 of 9, loss 0.9\n"


@pytest.mark.parametrize("kind", ["count", "share"])
def test_other_kinds_print_nothing_in_a_pipe(stderr, kind):
    stream = stderr(io.StringIO())
    with ProgressBar(kind) as progress:
        progress.update("images", 1, 2)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("kind", "expected"), [("count", "3 images"), ("download", "33.0"), ("share", "50%"), ("steps", "3/6")]
)
def test_a_terminal_shows_a_bar(stderr, kind, expected):
    stream = stderr(Terminal())
    with ProgressBar(kind) as progress:
        completed, total = (16_500_000, 33_000_000) if kind == "download" else (3, 6)
        progress.update("images", completed, total, "loss 1.0")
    assert expected in stream.getvalue()
    stream = stderr(Terminal())
    with ProgressBar(kind, hidden=True) as progress:
        progress.update("images", 3, 6)
    assert stream.getvalue() == ""


def test_counts_of_short_runs_are_not_shown(stderr):
    stream = stderr(Terminal())
    with ProgressBar("count") as progress:
        progress.advance("images")
    assert stream.getvalue() == ""
