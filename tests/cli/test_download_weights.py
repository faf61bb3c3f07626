"""``densenet download-weights``: table, messages, and exit status."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from densenet_cli import cli, variants
from densenet_cli.paths import models_dir
from densenet_cli.weights import download
from tests.support import servers
from tests.support.published import DATA, MD5, NAME, TINY
from tests.support.servers import FaultyServer


@pytest.fixture(autouse=True)
def only_tiny_is_published(monkeypatch):
    """The only published variant has a file of a few bytes."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(download, "RETRY_DELAYS", (0.0, 0.0))
    monkeypatch.setattr(variants, "VARIANTS", {"264": variants.get("264"), TINY.name: TINY})


@pytest.fixture
def path():
    models_dir().mkdir(parents=True)
    return models_dir() / NAME


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Return exit status, standard output, and standard error."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["download-weights", *arguments])
    out, err = capsys.readouterr()
    return int(exit_info.value.code or 0), out, err


def row(out: str) -> list[str]:
    (line,) = [line for line in out.splitlines() if NAME in line]
    return line.split()


def test_all_weights_are_downloaded_by_default(capsys):
    with FaultyServer(servers.serving(DATA)) as server:
        status, out, err = run("--base-url", server.url, capsys=capsys)
        assert (status, row(out)) == (0, [TINY.name, "ready", "0.4", "MB", NAME])
        assert f"Downloading {NAME}" in err
        assert str(models_dir()) in err
        status, out, err = run(TINY.name, TINY.name, "--base-url", server.url, capsys=capsys)
        assert (status, len(server.requests)) == (0, 1)
        assert "Downloading" not in err
    assert (models_dir() / NAME).read_bytes() == DATA


def test_quiet_prints_only_the_table(capsys):
    with FaultyServer(servers.serving(DATA)) as server:
        status, out, err = run("--quiet", "--base-url", server.url, capsys=capsys)
    assert (status, err) == (0, "")
    assert row(out)[1] == "ready"


def test_failed_download_exits_with_3_and_lists_alternatives(capsys):
    with FaultyServer(servers.status(404)) as server:
        status, out, err = run("--base-url", server.url, capsys=capsys)
    assert (status, row(out)) == (3, [TINY.name, "absent", NAME])
    assert "404 Not Found" in err and "--base-url URL" in err and "--weights FILE" in err
    assert "Traceback" not in err


def test_list_downloads_nothing(capsys, path):
    with FaultyServer(servers.serving(DATA)):
        assert row(run("--list", capsys=capsys)[1])[1] == "absent"
        path.with_name(f"{NAME}.part").write_bytes(bytes(250_000))
        status, out, _ = run("--list", capsys=capsys)
        assert (status, row(out)) == (0, [TINY.name, "partial", "0.2", "MB", NAME])
        path.write_bytes(DATA)
        assert row(run("--list", capsys=capsys)[1])[1] == "unchecked"


def test_verify_exits_with_status_3_for_a_wrong_file(capsys, path):
    assert run("--verify", capsys=capsys)[0] == 0
    status, _, err = run("--verify", TINY.name, capsys=capsys)
    assert status == 3 and "not on this machine" in err
    path.write_bytes(DATA)
    status, out, _ = run("--verify", capsys=capsys)
    assert (status, row(out)[1]) == (0, "ready")
    path.write_bytes(b"mine")
    status, out, err = run("--verify", capsys=capsys)
    assert (status, row(out)[1]) == (3, "wrong")
    assert MD5 in err and "--force" in err
    assert path.read_bytes() == b"mine"


def test_force_replaces_a_wrong_file_and_keeps_a_copy(capsys, path):
    path.write_bytes(b"mine")
    with FaultyServer(servers.serving(DATA)) as server:
        assert run("--base-url", server.url, capsys=capsys)[0] == 3
        assert run("--force", "--base-url", server.url, capsys=capsys)[0] == 0
    assert path.read_bytes() == DATA
    assert [kept.read_bytes() for kept in path.parent.glob("*.old")] == [b"mine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["264"], f"'264' has no published weights. Variants with published weights: {TINY.name}"),
        (["nonsense"], f"'nonsense' has no published weights. Variants with published weights: {TINY.name}"),
        (["--list", "--verify"], "--list"),
        (["--verify", "--force"], "--force"),
        (["--list", "--base-url", "http://x/"], "--base-url"),
        (["--base-url", "/media/usb"], "file:///media/usb"),
        (["--base-url", "ftp://x/"], "http://, https://, or file:///"),
    ],
)
def test_usage_errors(capsys, arguments, message):
    status, out, err = run(*arguments, capsys=capsys)
    assert (status, out) == (2, "")
    assert message in " ".join(err.split())
    assert not models_dir().exists()


def test_rows_are_not_wrapped_in_a_pipe(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert row(run("--list", capsys=capsys)[1]) == [TINY.name, "absent", NAME]


def test_help_explains_states_and_examples():
    result: Result = CliRunner().invoke(cli.densenet, ["download-weights", "--help"])
    assert result.exit_code == 0
    for text in ("Examples:", "densenet download-weights --verify", "unchecked", "DENSENET_BASE_URL", "Exit status"):
        assert text in result.output


def test_shell_completion_of_variants():
    from densenet_cli.cli.download_weights import download_weights

    (variants,) = [parameter for parameter in download_weights.params if parameter.name == "weights"]
    context = download_weights.make_context("download-weights", [], resilient_parsing=True)
    assert [item.value for item in variants.type.shell_complete(context, variants, "ti")] == [TINY.name]
