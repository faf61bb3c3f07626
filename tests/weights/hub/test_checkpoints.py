"""Checkpoints on the Hugging Face Hub: which files are used and when, the cache, tokens, and errors."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from densenet_cli.errors import CheckpointError, UsageError, WeightsUnavailableError
from densenet_cli.weights import download
from densenet_cli.weights.hub import cache as hub_cache
from densenet_cli.weights.hub import checkpoints as hub
from densenet_cli.weights.hub import client as hub_client
from densenet_cli.weights.hub.url import HubUrl, parse_url
from tests.support import servers
from tests.support.hub import COMMIT, REPOSITORY, Hub, checksum

URL = f"hf://{REPOSITORY}"
WEIGHTS = random.Random(3).randbytes(400_000)
CONFIG = b'{"architecture": "densenet121"}'
TOKEN = "hf_secret"

pytestmark = pytest.mark.usefixtures("short_timeouts")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    return tmp_path / "huggingface"


@pytest.fixture
def serve(monkeypatch):
    """Return a function that starts a Hub with the given files, by default a checkpoint with its ``config.json``."""
    started = []

    def start(files: dict[str, bytes] | None = None, **settings) -> Hub:
        content = Hub({"model.safetensors": WEIGHTS, "config.json": CONFIG} if files is None else files, **settings)
        context = content.serve()
        started.append(context)
        context.__enter__()
        monkeypatch.setenv("HF_ENDPOINT", content.endpoint)
        return content

    yield start
    for context in started:
        context.__exit__(None, None, None)


def repository_folder(home: Path) -> Path:
    return home / "hub" / f"models--{REPOSITORY.replace('/', '--')}"


def error_message(url: str | HubUrl = URL, **options) -> str:
    with pytest.raises(WeightsUnavailableError) as caught:
        hub.get_files(url, **options)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def layout(folder: Path) -> dict[str, str]:
    """Return the contents of a folder: name -> target of a link, or contents of a small file."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()[:40].decode("latin-1")
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("hf://timm/densenet121.ra_in1k", HubUrl("timm/densenet121.ra_in1k")),
            ("HF://models/a/b/", HubUrl("a/b")),
            ("hf://a/b@v1.0", HubUrl("a/b", "v1.0")),
            ("hf://a/b@refs/pr/3/x.pth", HubUrl("a/b", "refs/pr/3", "x.pth")),
            ("hf://a/b@feature%2Fx/in/folder/x y.pth", HubUrl("a/b", "feature/x", "in/folder/x y.pth")),
        ],
    )
    def test_parts(self, url, expected):
        assert parse_url(url) == expected
        assert parse_url(str(expected)) == expected

    @pytest.mark.parametrize(
        "url",
        [
            *("hf://a", "hf://", "hf://a/", "hf://a/b@", "hf://../b", "hf://a/..", "hf://a/b/../../c", "hf://a/b/c//d"),
            *("hf://a/b@..", "hf://a/b@%2Fetc", "hf://a--b/c", "hf://a/b\\c", "hf://a/b/\x1b", "hf://datasets/a/b"),
        ],
    )
    def test_invalid(self, url):
        with pytest.raises(UsageError):
            parse_url(url)


class TestCache:
    def test_layout_is_that_of_huggingface_hub(self, serve, home):
        """The expected layout was recorded with huggingface_hub 2.4."""
        serve()
        path = hub.get_files(URL)
        folder = repository_folder(home)
        assert path == folder / "snapshots" / COMMIT / "model.safetensors"
        weights, config = checksum(WEIGHTS), checksum(CONFIG)
        assert layout(folder) == {
            "refs/main": COMMIT,
            f"snapshots/{COMMIT}/model.safetensors": f"../../blobs/{weights}",
            f"snapshots/{COMMIT}/config.json": f"../../blobs/{config}",
            f"blobs/{weights}": WEIGHTS[:40].decode("latin-1"),
            f"blobs/{config}": CONFIG.decode(),
        }
        assert path.read_bytes() == WEIGHTS and (path.parent / "config.json").read_bytes() == CONFIG
        assert len(weights) == 64 and len(config) == 40

    def test_missing_config_is_remembered_as_in_huggingface_hub(self, serve, home):
        server = serve({"model.safetensors": WEIGHTS})
        hub.get_files(URL)
        assert layout(repository_folder(home))[f".no_exist/{COMMIT}/config.json"] == ""
        server.hub.requests.clear()
        assert hub.get_files(URL).read_bytes() == WEIGHTS
        assert server.requests == []

    def test_cached_checkpoint_needs_no_request(self, serve):
        server = serve()
        path = hub.get_files(URL)
        server.hub.requests.clear()
        assert (
            hub.get_files(URL) == hub.get_files(f"{URL}@{COMMIT}") == hub.get_files(f"{URL}/model.safetensors") == path
        )
        assert server.requests == []

    def test_files_of_huggingface_hub_are_used_and_hashed_once(self, home, monkeypatch):
        folder = repository_folder(home)
        for name, data in (("model.safetensors", WEIGHTS), ("config.json", CONFIG)):
            blob, link = folder / "blobs" / checksum(data), folder / "snapshots" / COMMIT / name
            for path in (blob, link, folder / "refs" / "main"):
                path.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(data)
            link.symlink_to(os.path.relpath(blob, link.parent))
        (folder / "refs" / "main").write_text(COMMIT)
        assert hub.status(HubUrl(REPOSITORY), "x").state == "unchecked"
        assert hub.get_files(URL, offline=True).read_bytes() == WEIGHTS
        assert hub.status(HubUrl(REPOSITORY), "x").state == "ready"
        monkeypatch.setattr(hub_cache, "compute_checksum", None)
        assert hub.get_files(URL, offline=True).read_bytes() == WEIGHTS

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
    def test_damaged_cached_file_is_not_used(self, serve, name):
        server = serve()
        path = hub.get_files(URL).with_name(name)
        data = path.read_bytes()
        path.resolve().write_bytes(data[:-1] + b"?")
        assert hub.status(HubUrl(REPOSITORY), "x").state == "unchecked"
        assert str(path) in error_message()
        assert hub.status(HubUrl(REPOSITORY), "x", recompute=True).state == "wrong"
        hub.download(HubUrl(REPOSITORY))
        assert path.read_bytes() == data == server.files[name]

    def test_incomplete_snapshot_is_completed(self, serve, home):
        server = serve()
        path = hub.get_files(URL)
        path.with_name("config.json").unlink()
        server.hub.requests.clear()
        assert hub.get_files(URL) == path
        assert path.with_name("config.json").read_bytes() == CONFIG
        assert "GET model.safetensors" not in server.requests

    def test_newer_commit_is_downloaded_on_request_only(self, serve, home):
        server = serve()
        old = hub.get_files(URL)
        server.commit, server.files["config.json"] = "6" * 40, b'{"architecture": "densenet169"}'
        assert hub.get_files(URL) == old
        server.hub.requests.clear()
        new = hub.download(HubUrl(REPOSITORY))
        assert new.parent.name == server.commit and new.parent != old.parent
        assert "GET config.json" in server.requests and "GET model.safetensors" not in server.requests
        assert hub.get_files(URL) == new
        assert old.with_name("config.json").read_bytes() == CONFIG

    def test_copies_where_links_are_impossible(self, serve, monkeypatch):
        def fail(*_: object) -> None:
            raise OSError("links are not supported")

        monkeypatch.setattr(Path, "symlink_to", fail)
        server = serve()
        path = hub.get_files(URL)
        assert path.read_bytes() == WEIGHTS and not path.is_symlink()
        server.hub.requests.clear()
        assert hub.get_files(URL) == path
        assert server.requests == []
        hub.download(HubUrl(REPOSITORY))
        assert "GET model.safetensors" not in server.requests

    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({"HF_HUB_CACHE": "{}/a", "HF_HOME": "{}/b"}, "a"),
            ({"HUGGINGFACE_HUB_CACHE": "{}/a", "HF_HOME": "{}/b"}, "a"),
            ({"HF_HOME": "{}/b"}, "b/hub"),
            ({"HF_HOME": "$ROOT/b"}, "b/hub"),
            ({"XDG_CACHE_HOME": "{}/c"}, "c/huggingface/hub"),
            ({"HOME": "{}/d"}, "d/.cache/huggingface/hub"),
        ],
    )
    def test_location(self, tmp_path, monkeypatch, variables, expected):
        for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("ROOT", str(tmp_path))
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(tmp_path))
        assert hub_cache.cache_dir() == tmp_path / expected

    @pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
    def test_messages_name_the_variable_that_sets_the_location(self, serve, tmp_path, monkeypatch, variable):
        serve()
        (tmp_path / "file").touch()
        monkeypatch.setenv(variable, str(tmp_path / "file" / "folder"))
        assert f"Set {variable} to" in error_message()
        monkeypatch.setenv(variable, "~nobody-with-this-name/folder")
        with pytest.raises(UsageError, match=f"Set {variable} to"):
            hub.get_files(URL)

    def test_cached_checkpoint_is_found_without_heavy_imports(self, serve, home):
        serve()
        hub.get_files(URL)
        script = f"""
import sys
from densenet_cli.weights.hub import checkpoints as hub
hub.get_files({URL!r})
print(sorted({{"requests", "urllib3", "ssl", "socket", "hashlib", "numpy", "huggingface_hub"}} & set(sys.modules)))
"""
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "[]"


class TestChoice:
    def test_preferred_file(self, serve):
        server = serve(
            {"pytorch_model.bin": b"x" * 9000, "model.safetensors": WEIGHTS, "other.safetensors": b"y" * 9000}
        )
        assert hub.get_files(URL).name == "model.safetensors"
        assert hub.get_files(f"{URL}/pytorch_model.bin").name == "pytorch_model.bin"
        assert server.requests.count("HEAD model.safetensors") == 1

    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            (["pytorch_model.bin", "README.md", "a.safetensors"], "pytorch_model.bin"),
            (["README.md", "chest.pth", "optimizer.pt"], "chest.pth"),
            (["best.keras", "last.pth", "in/folder.keras"], "best.keras"),
            (["model.weights.h5", "config.json", "metadata.json"], "model.weights.h5"),
        ],
    )
    def test_other_names(self, serve, files, expected):
        server = serve({name: name.encode() * 1000 for name in files})
        path = hub.get_files(URL)
        assert path.name == expected
        assert {"config.json", "metadata.json"} & {file.name for file in path.parent.iterdir()} == {
            "config.json",
            "metadata.json",
        } & set(files)
        server.hub.requests.clear()
        assert hub.get_files(URL) == path
        assert server.requests == []
        assert hub.status(HubUrl(REPOSITORY), "x").state == "ready"

    def test_a_file_that_was_named_does_not_replace_the_chosen_one(self, serve):
        """Also if the first download of the chosen one fails."""
        server = serve({"best.keras": b"k" * 9000, "last.pth": b"p" * 9000})
        server.cdn_handlers += [servers.serving(b"damaged")] * 9
        error_message()
        server.cdn_handlers.clear()
        assert hub.get_files(f"{URL}/last.pth").name == "last.pth"
        server.hub.requests.clear()
        for _ in range(2):
            assert hub.get_files(URL).name == "best.keras"
        assert server.requests.count("GET best.keras") == 1

    def test_several_checkpoints(self, serve):
        serve({"a.pth": b"a", "b.pth": b"b"})
        with pytest.raises(CheckpointError, match=r"a\.pth and b\.pth"):
            hub.get_files(URL)
        assert hub.get_files(f"{URL}/b.pth").read_bytes() == b"b"

    def test_no_checkpoint(self, serve):
        serve({"README.md": b"x"})
        with pytest.raises(CheckpointError, match=REPOSITORY):
            hub.get_files(URL)

    def test_shards(self, serve):
        shards = {f"model-0000{n}-of-00002.safetensors": bytes([n]) * 9000 for n in (1, 2)}
        index = json.dumps({"weight_map": {f"array{n}": name for n, name in enumerate(shards)}}).encode()
        server = serve({"model.safetensors.index.json": index, "config.json": CONFIG, **shards})
        path = hub.get_files(URL)
        assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == server.files
        server.hub.requests.clear()
        assert hub.get_files(URL) == path
        assert server.requests == []
        next(path.parent.glob("*-of-*")).resolve().write_bytes(b"damaged")
        assert "damaged" in error_message()

    def test_missing_shard(self, serve):
        serve({"model.safetensors.index.json": b'{"weight_map": {"a": "gone.safetensors"}}'})
        assert "gone.safetensors" in error_message()

    @pytest.mark.parametrize("name", ["../../../../../evil.safetensors", "/tmp/evil.safetensors", "a\\b.safetensors"])
    def test_shards_outside_of_the_repository(self, serve, home, name):
        server = serve({"model.safetensors.index.json": json.dumps({"weight_map": {"a": name}}).encode()})
        with pytest.raises(CheckpointError):
            hub.get_files(URL)
        assert not any("evil" in request.path for request in server.hub.requests)

    def test_file_in_a_subfolder_has_the_config_of_its_folder(self, serve):
        serve({"config.json": b"other", "fold1/config.json": CONFIG, "fold1/model.safetensors": WEIGHTS})
        path = hub.get_files(f"{URL}/fold1/model.safetensors")
        assert path.read_bytes() == WEIGHTS and path.with_name("config.json").read_bytes() == CONFIG
        assert str(path.readlink()).startswith("../../../blobs/")

    def test_revision_is_a_tag(self, serve, home):
        serve(revisions=("main", "v1.0", "refs/pr/3"))
        assert hub.get_files(f"{URL}@v1.0") == hub.get_files(f"{URL}@refs/pr/3")
        assert (repository_folder(home) / "refs/refs/pr/3").read_text() == COMMIT
        assert not (repository_folder(home) / "refs/main").exists()


class TestOffline:
    @pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", None])
    def test_no_request(self, serve, monkeypatch, variable):
        server = serve()
        if variable:
            monkeypatch.setenv(variable, "1")
        message = error_message(offline=not variable)
        assert server.requests == []
        assert message.endswith(f"by {variable or '`offline`'}.")
        if variable:
            with pytest.raises(WeightsUnavailableError, match=variable):
                hub.download(HubUrl(REPOSITORY))

    def test_snapshot_without_its_config_is_not_used(self, serve):
        """timm downloads only the weights of models that it knows. Other preprocessing would be used without a word."""
        serve()
        path = hub.get_files(URL)
        path.with_name("config.json").unlink()
        assert "config.json" in error_message(offline=True)
        assert "the checkpoint" in error_message(f"{URL}@v1", offline=True)

    def test_only_one_of_several_files_is_cached(self, serve):
        serve({"a.pth": b"a", "b.pth": b"b"})
        path = hub.get_files(f"{URL}/a.pth")
        assert hub.get_files(URL, offline=True) == path
        assert "b.pth" in error_message(f"{URL}/b.pth", offline=True)


class TestTokens:
    def test_token_is_sent_to_the_hub_only(self, serve, monkeypatch):
        server = serve(token=TOKEN)
        monkeypatch.setenv("HF_TOKEN", f" {TOKEN}\n")
        assert hub.get_files(URL).read_bytes() == WEIGHTS
        assert len(server.cdn.requests) == 1 and server.violations == []
        assert all(request.headers["authorization"] == f"Bearer {TOKEN}" for request in server.hub.requests)

    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("method", ["HEAD", "GET"])
    def test_token_is_not_sent_to_another_host(self, serve, monkeypatch, method, code):
        server = serve(token=TOKEN)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        stranger = Hub({"model.safetensors": WEIGHTS, "config.json": CONFIG})
        with stranger.serve():
            redirect = servers.redirecting(f"{stranger.endpoint}/{REPOSITORY}/resolve/{COMMIT}/model.safetensors", code)
            first = [redirect] if method == "HEAD" else [server.answer, redirect]
            server.hub_handlers += first
            hub.get_files(URL)
            assert stranger.requests[0] == f"{method} model.safetensors"
            assert all("authorization" not in request.headers for request in stranger.hub.requests)

    def test_token_is_not_sent_to_the_hub_again_after_a_redirect_to_another_host(self, serve, monkeypatch):
        server = serve()
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        target = f"/{REPOSITORY}/resolve/main/model.safetensors"
        with servers.FaultyServer(servers.redirecting(f"{server.endpoint}{target}")) as stranger:
            server.hub_handlers.append(servers.redirecting(f"{stranger.url}x"))
            hub_client.HubClient(HubUrl(REPOSITORY), False, None)._request("model.safetensors", "main")
        assert ["authorization" in request.headers for request in server.hub.requests] == [True, False]

    @pytest.mark.parametrize(
        "location", ["https://127.0.0.1:{port}/x", "http://127.0.0.1.:{port}/x", "//localhost:{port}/x"]
    )
    def test_origins_differ_in_scheme_host_or_port(self, location):
        from densenet_cli.http import _origin

        assert _origin(location.format(port=80)) != _origin("http://127.0.0.1:80/x")
        assert _origin("HTTP://Host/x") == _origin("http://host:80/y")

    def test_relative_redirect_of_a_renamed_repository(self, serve, monkeypatch):
        server = serve(token=TOKEN)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        server.hub_handlers.append(servers.redirecting(f"/{REPOSITORY}/resolve/main/model.safetensors", 307))
        assert hub.get_files(URL).read_bytes() == WEIGHTS

    def test_netrc_does_not_replace_the_token(self, serve, monkeypatch, tmp_path):
        server = serve(token=TOKEN)
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password else\n")
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert hub.get_files(URL).read_bytes() == WEIGHTS
        assert all(request.headers["authorization"] == f"Bearer {TOKEN}" for request in server.hub.requests)

    def test_stored_token(self, monkeypatch, home, tmp_path):
        assert hub_client.read_token() is None
        home.mkdir()
        (home / "token").write_text("from-home\n")
        assert hub_client.read_token() == "from-home"
        (tmp_path / "elsewhere").write_text("from-path")
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "elsewhere"))
        assert hub_client.read_token() == "from-path"
        monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
        assert hub_client.read_token() is None
        monkeypatch.setenv("HF_TOKEN", "from-variable")
        assert hub_client.read_token() == "from-variable"

    @pytest.mark.parametrize(
        "token", [f"{TOKEN}\r\nX-Injected: 1", f"{TOKEN} x", f"{TOKEN}\u2028x", f"{TOKEN}\x00"[:-1] + "é"]
    )
    def test_invalid_token_is_not_printed(self, serve, monkeypatch, token):
        server = serve()
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UsageError) as caught:
            hub.get_files(URL)
        assert TOKEN not in "".join(traceback.format_exception(caught.value))
        assert server.requests == []

    @pytest.mark.parametrize(
        "handler", [servers.status(500), servers.raw(b"junk\r\n"), servers.redirecting("file:///x")]
    )
    def test_errors_do_not_contain_the_token(self, serve, monkeypatch, handler):
        server = serve()
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        server.hub_handlers += [handler] * 3
        assert "signed-secret" not in error_message()


class TestErrors:
    def test_unknown_repository(self, serve):
        server = serve()
        message = error_message("hf://nobody/nothing")
        assert "nobody/nothing" in message and server.endpoint in message and "HF_TOKEN" in message

    def test_unknown_repository_with_a_token(self, serve, monkeypatch):
        serve(token=TOKEN)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert "your token" in error_message("hf://nobody/nothing")

    def test_private_repository(self, serve):
        serve(token=TOKEN)
        assert "HF_TOKEN" in error_message()

    def test_wrong_token(self, serve, monkeypatch):
        serve(token="hf_right")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert "token" in error_message()

    def test_gated_repository(self, serve, monkeypatch):
        server = serve(token=TOKEN, gated=True)
        assert "HF_TOKEN" in error_message()
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert f"{server.endpoint}/{REPOSITORY}" in error_message()

    def test_unknown_revision(self, serve):
        serve()
        assert "'v9'" in error_message(f"{URL}@v9")

    def test_unknown_file(self, serve):
        serve()
        assert "missing.pth" in error_message(f"{URL}/missing.pth")

    def test_repository_without_a_listing(self, serve):
        serve({"other.pth": b"x"}, has_listing=False)
        assert REPOSITORY in error_message()

    def test_no_server(self, monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", "http://user:password@127.0.0.1:9")
        message = error_message()
        assert "HF_ENDPOINT" in message and "password" not in message

    @pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://huggingface.co"])
    def test_invalid_endpoint(self, monkeypatch, endpoint):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(UsageError, match="HF_ENDPOINT"):
            hub.get_files(URL)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"X_Repo_Commit": COMMIT},
            {"X_Repo_Commit": COMMIT, "ETag": '"67bf-5e8a"'},
            {"X_Repo_Commit": "../../x", "ETag": f'"{checksum(CONFIG)}"'},
            {"X_Repo_Commit": COMMIT, "ETag": '"../../../x"'},
        ],
    )
    def test_server_that_is_no_hub(self, serve, headers, home):
        server = serve()
        server.hub_handlers.append(lambda request: request.head(200, Content_Length=0, **headers))
        assert "commit" in error_message()
        assert not home.exists() or layout(home) == {}

    def test_weak_etag(self, serve):
        server = serve({"model.safetensors": b"small", "config.json": CONFIG})
        server.hub_handlers.append(
            lambda request: request.head(200, X_Repo_Commit=COMMIT, ETag=f'W/"{checksum(b"small")}"', Content_Length=5)
        )
        assert hub.get_files(URL).read_bytes() == b"small"

    def test_transient_errors_are_repeated(self, serve):
        server = serve()
        server.hub_handlers += [servers.status(503)] * len(download.RETRY_DELAYS)
        assert hub.get_files(URL).read_bytes() == WEIGHTS

    @pytest.mark.parametrize("listing", [b"not json", b"[]", b'{"siblings": 1}', b'{"siblings": [], "sha": "main"}'])
    def test_invalid_listing(self, serve, listing):
        server = serve({"a.pth": b"x"})
        server.hub_handlers += [server.answer, servers.serving(listing)]
        assert "list of files" in error_message()
