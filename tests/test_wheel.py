"""The wheel: its contents, and that it works outside the checkout in its own environment."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from PIL import Image

from densenet_cli import variants
from densenet_cli.layers import list_layers
from tests.support.networks import tiny_weights

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "densenet_cli"
MAX_BYTES = 16_000_000


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--quiet", "--disable-pip-version-check"]
    subprocess.run(command, check=True, timeout=300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    pip("wheel", ROOT, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """The scripts folder of a new environment with the wheel, which uses the dependencies of this environment.

    A ``.pth`` file adds the packages of this environment. ``.pth`` files in there are not read, so an editable
    installation of the checkout is not visible.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=300)
    scripts = folder / ("Scripts" if sys.platform == "win32" else "bin")
    pip("--python", scripts / "python", "install", "--no-deps", "--no-index", wheel)
    result = subprocess.run(
        [scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    packages = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (Path(result.stdout.strip()) / "dependencies.pth").write_text("".join(f"{path}\n" for path in packages))
    return scripts


def run(environment: Path, cwd: Path, program: str, *arguments: object) -> str:
    result = subprocess.run(
        [environment / program, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_wheel_contains_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packaged = {name.removeprefix("densenet_cli/") for name in names if name.startswith("densenet_cli/")}
    expected = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    assert packaged == {path for path in expected if "__pycache__" not in path}
    assert {"py.typed", "data/imagenet.tsv", "data/README.md", "cli/__init__.py"} <= packaged
    metadata = {name.split("/", 1)[1] for name in names if not name.startswith("densenet_cli/")}
    assert metadata == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert not [name for name in names if name.endswith((".png", ".pyc")) or "test" in name.lower()]
    images = [name for name in names if name.endswith(".jpg")]
    assert len(images) == 4 and {name.rpartition("/")[0] for name in images} == {"densenet_cli/data/images"}
    assert wheel.stat().st_size < MAX_BYTES


def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Name"] == "densenet-cli"
    assert metadata["License-Expression"] == "MIT"
    assert {"test", "dev", "bench", "heic", "tflite"} <= set(metadata.get_all("Provides-Extra", []))
    requirements = {line.split(">")[0] for line in metadata.get_all("Requires-Dist", []) if "extra" not in line}
    assert {"tensorflow", "numpy", "pillow", "click", "rich", "jinja2"} <= requirements
    assert {"onnx", "onnxruntime", "h5py", "safetensors"} <= requirements
    assert metadata.get_payload().startswith("# densenet\n")


def test_commands_work_outside_the_checkout(environment, tmp_path):
    code = "import densenet_cli; print(densenet_cli.__file__)"
    assert Path(run(environment, tmp_path, "python", "-c", code).strip()).is_relative_to(environment.parent)
    assert run(environment, tmp_path, "densenet", "--version").startswith("densenet 0.")
    assert "predict" in run(environment, tmp_path, "python", "-m", "densenet_cli", "--help")
    summary = json.loads(run(environment, tmp_path, "densenet", "summary", "--format", "json"))
    assert summary["parameters"] == sum(layer.parameters for layer in list_layers(variants.get("121").config, 224))


def test_predictions(environment, tmp_path):
    Image.new("RGB", (60, 50), (200, 120, 40)).save(tmp_path / "cat.jpg")
    weights = tiny_weights(tmp_path)
    predict = ("predict", "cat.jpg", "--weights", weights, "--format", "jsonl", "--html", "page.html")
    first = run(environment, tmp_path, "densenet", *predict)
    assert "cat.jpg" in (tmp_path / "page.html").read_text()
    record = json.loads(first)
    assert record["source"] == "cat.jpg"
    assert [score["rank"] for score in record["predictions"]] == [1, 2, 3, 4, 5]
    # The same from Python, with the cached graph and the packaged labels.
    code = (
        "import sys; from densenet_cli import Classifier, labels; "
        "print(labels.imagenet()[285].name); print(Classifier(weights=sys.argv[1]).predict('cat.jpg').to_json())"
    )
    name, second = run(environment, tmp_path, "python", "-c", code, weights).splitlines()
    assert name == "Egyptian cat"
    assert json.loads(second) == record
