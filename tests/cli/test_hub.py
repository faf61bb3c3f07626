"""Commands with models from the Hugging Face Hub, and with folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from densenet_cli import Classifier, variants
from densenet_cli.weights import download, safetensors
from densenet_cli.weights.hub import checkpoints as hub
from tests.support import servers
from tests.support.command import densenet, run_process
from tests.support.hub import COMMIT, REPOSITORY, Hub, checksum
from tests.support.images import photograph
from tests.support.networks import TINY, random_arrays, tiny_variant

URL = f"hf://{REPOSITORY}"
TOKEN = "hf_secret"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    safetensors.write(path, random_arrays(TINY), TINY)
    return path.read_bytes()


@pytest.fixture
def server(model, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(download, "RETRY_DELAYS", (0.0, 0.0))
    with Hub({"model.safetensors": model}, token=TOKEN).serve() as content:
        monkeypatch.setenv("HF_ENDPOINT", content.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield content


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.png"
    photograph().save(path)
    return path


def test_predict(server, image, tmp_path):
    result = densenet("predict", image, "--weights", URL, "--format", "json")
    assert result.status == 0, result.err
    assert json.loads(result.out)[0]["model"] == "densenet121.ra_in1k"
    assert "Downloading densenet121.ra_in1k/model.safetensors" in result.err
    server.hub.requests.clear()
    again = densenet("predict", image, "--weights", URL, "--format", "json")
    assert (again.status, again.out, again.err, server.requests) == (0, result.out, "", [])
    folder = tmp_path / "densenet121.ra_in1k"
    shutil.copytree(hub.get_files(URL).parent, folder)
    assert densenet("predict", image, "--weights", folder, "--format", "json").out == result.out


@pytest.mark.parametrize("command", ["embed", "explain", "export"])
def test_other_commands(server, image, tmp_path, command):
    arguments = {
        "embed": [image, "-o", tmp_path / "x.npz"],
        "explain": [image, "-o", tmp_path / "out"],
        "export": ["-o", tmp_path / "x.onnx"],
    }
    result = densenet(command, *arguments[command], "--weights", URL)
    assert result.status == 0, result.err


def test_offline(server, image):
    result = densenet("predict", image, "--weights", URL, "--offline")
    assert result.status == 3
    assert "--offline" in result.err and f"densenet download-weights {URL}" in result.err
    assert server.requests == []


def test_token_is_not_printed(server, image):
    server.hub_handlers += [servers.status(500)] * 3
    process = run_process("predict", image, "--weights", URL, "--verbose")
    assert process.returncode == 3
    assert "Traceback" in process.stderr and "500" in process.stderr
    assert TOKEN not in process.stderr + process.stdout


def test_download_weights(server):
    result = densenet("download-weights", "--list", URL)
    assert result.status == 0 and "absent" in result.out
    result = densenet("download-weights", URL)
    assert result.status == 0 and "ready" in result.out and URL in result.out
    assert densenet("download-weights", "--verify", URL).status == 0
    blob = hub.get_files(URL).resolve()
    blob.write_bytes(b"damaged")
    result = densenet("download-weights", "--verify", URL)
    assert result.status == 3 and "wrong" in result.out and f"densenet download-weights {URL} --force" in result.err
    assert densenet("download-weights", URL, "--force").status == 0
    assert hub.get_files(URL).read_bytes() == server.files["model.safetensors"]
    assert server.violations == []


def test_download_of_a_missing_repository(server):
    result = densenet("download-weights", "hf://nobody/nothing")
    assert result.status == 3
    assert "nobody/nothing" in result.err and "absent" in result.out
    assert densenet("download-weights", "--verify", "hf://nobody/nothing").status == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["download-weights", "hf://nothing"], "hf://ORGANIZATION/NAME"),
        (["download-weights", URL, "--base-url", "http://x/"], "HF_ENDPOINT"),
        (["download-weights", "161", "--base-url", "http://x/"], "HF_ENDPOINT"),
        (["predict", "x.jpg", "--weights", "hf://nothing"], "hf://ORGANIZATION/NAME"),
        (["cache", "--remove", REPOSITORY], "hf://"),
        (["cache", "--remove", f"{URL}@main/x.bin"], URL),
        (["cache", "--remove", f"{URL}@{COMMIT}"], URL),
    ],
)
def test_usage_errors(arguments, message):
    result = densenet(*arguments)
    assert result.status == 2
    assert message in result.err


def test_cache_lists_and_removes_repositories(server, tmp_path):
    hub.get_files(URL)
    folder = tmp_path / "huggingface" / "hub"
    for name in ("models--a--bert", "models--b--my-DenseNet", "datasets--c--densenet"):
        (folder / name / "blobs").mkdir(parents=True)
    listed = json.loads(densenet("cache", "--format", "json").out)
    assert listed["hub_folder"] == str(folder)
    assert [entry["repository"] for entry in listed["hub"]] == ["b/my-DenseNet", REPOSITORY]
    assert listed["hub"][1]["size"] == len(server.files["model.safetensors"]) + 40
    before = sorted(folder.rglob("*"))
    assert densenet("cache", "--prune").status == 0
    assert sorted(folder.rglob("*")) == before
    result = densenet("cache", "--remove", URL)
    assert result.status == 0 and f"Removed {REPOSITORY}" in result.err
    assert sorted(path.name for path in folder.iterdir() if path.name != ".locks") == [
        "datasets--c--densenet",
        "models--a--bert",
        "models--b--my-DenseNet",
    ]
    result = densenet("cache", "--remove", URL)
    assert result.status == 4 and "is not in" in result.err


def test_cache_lists_used_repositories_with_other_names(server):
    server.repository = "me/cats"
    hub.get_files("hf://me/cats")
    assert "me/cats" in densenet("cache").out


def test_cache_verifies_repositories(server):
    blob = hub.get_files(URL).resolve()
    assert densenet("cache", "--verify").status == 0
    blob.write_bytes(b"damaged")
    result = densenet("cache", "--verify")
    assert result.status == 3 and str(blob) in result.err
    assert blob.name == checksum(server.files["model.safetensors"])


def test_variant_on_the_hub(server, image, model):
    variant = tiny_variant("on-the-hub", repository=REPOSITORY)
    with variants.register(variant), Classifier("on-the-hub") as classifier:
        assert classifier.model == "densenet" + variant.name
        assert classifier.weights.read_bytes() == model


def test_plain_checkpoint_does_not_import_the_hub(image, model, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(model)
    script = f"""
import sys
from densenet_cli import Classifier
Classifier(weights={str(path)!r}).predict({str(image)!r})
package = ("http", "weights.store", "weights.download", "weights.hub", "weights.hub_cache", "weights.folders")
print(sorted({{"requests", *(f"densenet_cli.{{name}}" for name in package)}} & set(sys.modules)))
"""
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "[]"
