"""Object storage, end to end: the records of local files, output in storage, faults, and errors before any work."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from densenet_cli.output import remote
from densenet_cli.output.staging import list_staged
from densenet_cli.storage import file_systems
from tests.support.command import Result, densenet, restore_sigint, run_process
from tests.support.images import encode, photograph
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, Fault, environment, times

COUNT = 30


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Images of several formats, a damaged and a truncated one, one with several pages, and another file."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("remote") / "photos"
    for number in range(COUNT):
        path = folder / f"set-{number % 3}" / f"{number:03}.{('jpg', 'png', 'webp')[number % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photograph(size=(40 + number, 50)), ("JPEG", "PNG", "WEBP")[number % 3]))
    (folder / "set-1" / "broken.jpg").write_bytes(b"this is text")
    whole = (folder / "set-0" / "000.jpg").read_bytes()
    (folder / "set-2" / "truncated.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    frames = [Image.new("RGB", (30, 30), (60 * n, 9, 9)) for n in range(3)]
    frames[0].save(folder / "set-2" / "pages.tif", save_all=True, append_images=frames[1:])
    (folder / "notes.txt").write_text("nothing to see")
    return folder


@pytest.fixture
def bucket(s3, photos, monkeypatch):
    """A bucket with these images below ``photos``."""
    fill(s3, photos)
    monkeypatch.chdir(photos.parent)
    return s3


def fill(server, photos: Path) -> None:
    files = {f"photos/{path.relative_to(photos)}": path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    server.bucket("bucket", files)


def records(text: str) -> list[str]:
    """Return lines of JSON as if their sources were local."""
    return text.replace("s3://bucket/", "").splitlines()


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--threads", "1"],
        ["--processes", "2"],
        ["--isolate"],
        ["--processes", "2", "--isolate"],
        ["--pages", "all"],
        ["--pages", "all", "--processes", "2"],
        ["--truncated", "accept"],
        ["--engine", "openvino"],
        ["--ten-crop"],
    ],
    ids=" ".join,
)
def test_same_records_as_local_files(bucket, weights, options, monkeypatch):
    from densenet_cli import processes

    monkeypatch.setattr(processes, "START_AFTER", 4)
    command = ["predict", "--weights", weights, "--format", "jsonl", *options]
    if "accept" in options and "accept" not in densenet("predict", "--help").out:
        command[command.index("accept")] = "warn"
    local = densenet(*command, "photos")
    result = densenet(*command, "s3://bucket/photos")
    assert (result.status, records(result.out)) == (local.status, local.out.splitlines())
    assert records(result.err) == local.err.splitlines()
    assert len(local.out.splitlines()) >= COUNT + 3


def test_lists_and_globs(bucket, weights):
    command = ["predict", "--weights", weights, "--format", "jsonl"]
    local = densenet(*command, "photos/set-*/*.jpg", "photos/set-1/001.png", "photos/set-2/pages.tif[2]")
    result = densenet(
        *command,
        "--files-from",
        "-",
        stdin=b"s3://bucket/photos/set-*/*.jpg\ns3://bucket/photos/set-1/001.png\n"
        b"s3://bucket/photos/set-2/pages.tif[2]\n",
    )
    assert (result.status, records(result.out)) == (local.status, local.out.splitlines())


def test_memory_file_system(bucket, weights, photos):
    from densenet_cli import storage

    for path in photos.rglob("*.png"):
        storage.put(f"memory://fresh/photos/{path.relative_to(photos)}", path.read_bytes())
    command = ["predict", "--weights", weights, "--format", "jsonl"]
    local = densenet(*command, "photos/**/*.png")
    result = densenet(*command, "memory://fresh/photos")
    assert result.out.replace("memory://fresh/", "").splitlines() == local.out.splitlines()


def test_python_api(bucket, weights):
    from densenet_cli import Classifier
    from densenet_cli.errors import DownloadFailedError

    classifier = Classifier(weights=weights)
    prediction = classifier.predict("s3://bucket/photos/set-0/000.jpg")
    assert prediction.source == "s3://bucket/photos/set-0/000.jpg"
    assert prediction.scores == classifier.predict("photos/set-0/000.jpg").scores
    predictions = list(classifier.predict_many(["s3://bucket/photos/set-0", Path("photos/set-0")]))
    assert len(predictions) == 20
    assert [p.scores for p in predictions[:10]] == [p.scores for p in predictions[10:]]
    classifier = Classifier(weights=weights, offline=True)
    with pytest.raises(DownloadFailedError):
        classifier.predict("s3://bucket/photos/set-0/000.jpg")
    (prediction,) = classifier.predict_many(["s3://bucket/photos/set-0"])
    assert prediction.error and prediction.error.type == "DownloadFailed"


def test_evaluate(bucket, weights, photos, tmp_path):
    local = densenet("evaluate", "photos", "--weights", weights, "--format", "json")
    rows = [f"{path.relative_to(photos)},{number % 3}" for number, path in enumerate(sorted(photos.rglob("*.png")))]
    assert local.status == 2  # set-0 is not a class
    (tmp_path / "table.csv").write_text("path,label\n" + "\n".join(rows))
    bucket.put("bucket", "photos/table.csv", (tmp_path / "table.csv").read_bytes())
    local = densenet("evaluate", "photos", "--csv", tmp_path / "table.csv", "--weights", weights, "--format", "json")
    assert local.status == 0
    for arguments in (
        ["s3://bucket/photos", "--csv", tmp_path / "table.csv"],
        ["--csv", "s3://bucket/photos/table.csv"],
        ["s3://bucket/photos", "--csv", "s3://bucket/photos/table.csv"],
    ):
        output = f"s3://bucket/{hash(tuple(arguments))}.json"
        result = densenet("evaluate", *arguments, "--weights", weights, "--format", "json", "-o", output)
        assert result.status == 0, result.err
        expected, actual = json.loads(local.out), json.loads(result.out)
        expected.pop("settings"), actual.pop("settings")
        assert actual == expected
        assert json.loads(bucket.get("bucket", output.removeprefix("s3://bucket/")))["images"] == expected["images"]


def test_evaluate_class_folders(s3, weights, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {}
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        files[f"val/{number % 2}/{path.name}"] = path.read_bytes()
    files["val/1/notes.txt"] = b""
    files["val/.hidden/a.png"] = b""
    files["val/empty/notes.txt"] = b""
    files["val/outside.jpg"] = b""
    for name, data in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)
    s3.bucket("bucket", files)
    command = ["evaluate", "--weights", weights, "--format", "json"]
    local, result = densenet(*command, "val"), densenet(*command, "s3://bucket/val")
    assert (result.status, local.status) == (0, 0), result.err
    assert result.out.replace("s3://bucket/", "") == local.out
    assert result.err.replace("s3://bucket/", "") == local.err


def test_calibrate(s3, weights, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = sorted(photos.rglob("*.png"))
    records = json.loads(densenet("predict", *images, "--weights", weights, "--format", "json").out)
    classes = [record["predictions"][0]["index"] for record in records]
    files = {}
    for number in range(100):
        image = number % len(images)
        files[f"val/{classes[image]}/{number}.png"] = images[image].read_bytes()
    for name, data in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)
    s3.bucket("bucket", files)
    for folder, output in (("val", "local.safetensors"), ("s3://bucket/val", "remote.safetensors")):
        result = densenet("calibrate", folder, "--weights", weights, "-o", output)
        assert result.status == 0, result.err
    assert Path("remote.safetensors").read_bytes() == Path("local.safetensors").read_bytes()


def test_explain(bucket, weights):
    images = [f"photos/set-0/{number:03}.jpg" for number in (0, 3, 6)]
    command = ["explain", "--weights", weights, "--format", "jsonl"]
    local = densenet(*command, *images, "-o", "maps")
    result = densenet(*command, *(f"s3://bucket/{image}" for image in images), "-o", "s3://bucket/maps")
    assert (result.status, local.status) == (0, 0), result.err
    for image in images:
        assert bucket.get("bucket", f"maps/bucket/{image}.png") == Path(f"maps/{image}.png").read_bytes()
    assert json.loads(result.out.splitlines()[0])["drawing"] == f"s3://bucket/maps/bucket/{images[0]}.png"
    again = densenet(*command, f"s3://bucket/{images[0]}", "-o", "s3://bucket/maps")
    assert again.status == 2
    assert "exists" in again.err
    assert densenet(*command, f"s3://bucket/{images[0]}", "-o", "s3://bucket/maps", "--overwrite").status == 0


# Output


def stored(server, name: str) -> bytes:
    return server.get("bucket", name)


def staged() -> list[Path]:
    return [path for path in Path(os.environ["DENSENET_CACHE"]).glob("staging/**/*") if path.is_file()]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json"])
def test_predict_output(bucket, weights, suffix):
    local = densenet("predict", "photos", "--weights", weights, "-o", f"labels.{suffix}", "--overwrite")
    url = f"s3://bucket/out/labels.{suffix}"
    command = ["predict", "photos", "--weights", weights, "-o", url]
    result = densenet(*command)
    assert (result.status, result.err) == (local.status, local.err)
    expected = Path(f"labels.{suffix}").read_bytes()
    assert stored(bucket, f"out/labels.{suffix}") == expected
    assert stored(bucket, f"out/labels.{suffix}.meta.json") == Path(f"labels.{suffix}.meta.json").read_bytes()
    assert staged() == []
    again = densenet(*command)
    assert again.status == 2
    assert url in again.err
    assert "exists" in again.err
    assert densenet(*command, "--overwrite", "-k", "1").status == 1
    assert len(stored(bucket, f"out/labels.{suffix}")) < len(expected)


def test_vectors(bucket, weights):
    assert densenet("embed", "photos", "--weights", weights, "-o", "v.npz", "--overwrite").status == 1
    result = densenet("embed", "photos/set-0", "--weights", weights, "-o", "s3://bucket/v.npz")
    assert result.status == 0
    assert "s3://bucket/v.npz" in result.err
    result = densenet("embed", "photos", "--weights", weights, "-o", "s3://bucket/v.npz", "--resume")
    assert result.status == 1
    assert "Resuming: 10" in result.err
    assert "s3://bucket/v.npz.sources.jsonl" in result.err
    assert stored(bucket, "v.npz.sources.jsonl") == Path("v.npz.sources.jsonl").read_bytes()
    arrays = [np.load(file) for file in ("v.npz", io.BytesIO(stored(bucket, "v.npz")))]
    for name in arrays[0].files:
        assert np.array_equal(arrays[0][name], arrays[1][name])
    assert sorted(bucket.keys("bucket"))[-3:] == ["v.npz", "v.npz.meta.json", "v.npz.sources.jsonl"]
    assert staged() == []


def test_resume_on_another_machine(bucket, weights, monkeypatch, tmp_path):
    command = ["predict", "--weights", weights, "-o", "s3://bucket/labels.jsonl"]
    assert densenet(*command, "photos/set-0").status == 0
    monkeypatch.setenv("DENSENET_CACHE", str(tmp_path / "another machine"))
    result = densenet(*command, "photos", "--resume")
    assert result.status == 1
    assert "Resuming: 10" in result.err
    local = densenet("predict", "photos", "--weights", weights, "--format", "jsonl")
    assert stored(bucket, "labels.jsonl").decode() == local.out
    other = densenet(*command, "photos", "--resume", "-k", "1")
    assert other.status == 2
    assert "s3://bucket/labels.jsonl was written with other settings" in other.err


def interrupt(monkeypatch, after: int, error: type[BaseException] = KeyboardInterrupt) -> None:
    """Let the run end with an error after some records."""
    from densenet_cli.output.record_file import FileWriter

    write, count = FileWriter.write_encoded, 0

    def write_some(self, *arguments):
        nonlocal count
        if count == after:
            raise error
        count += 1
        write(self, *arguments)

    monkeypatch.setattr(FileWriter, "write_encoded", write_some)


def interrupted(*command: object) -> Result:
    from densenet_cli import cli

    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 12)
        patch.setattr(cli, "_exit_interrupted", lambda: sys.exit(130))
        result = densenet(*command)
        assert result.status == 130
        return result


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_interrupted_run_is_uploaded_and_resumed(bucket, weights, command, monkeypatch, tmp_path):
    name = {"predict": "labels.jsonl", "embed": "v.npy"}[command]
    arguments = [command, "photos", "--weights", weights, "-o"]
    densenet(*arguments, f"expected-{name}", "--overwrite")
    interrupted(*arguments, f"s3://bucket/{name}")
    partial = stored(bucket, name if command == "predict" else f"{name}.parts.jsonl")
    assert len(partial.splitlines()) == 12
    refused = densenet(*arguments, f"s3://bucket/{name}")
    assert refused.status == 2
    for folder in (os.environ["DENSENET_CACHE"], str(tmp_path / "another machine")):
        monkeypatch.setenv("DENSENET_CACHE", folder)
        interrupted(*arguments, f"s3://bucket/{name}", "--overwrite")
        monkeypatch.setenv("DENSENET_CACHE", str(tmp_path / "another machine"))
        result = densenet(*arguments, f"s3://bucket/{name}", "--resume")
        assert "Resuming: 12" in result.err
        assert stored(bucket, name) == Path(f"expected-{name}").read_bytes()
        assert not stored(bucket, f"{name}.parts.jsonl")
        bucket.delete("bucket", name)


def test_changed_by_another_machine(bucket, weights, monkeypatch, tmp_path):
    """What is staged here is older than what another machine has finished."""
    command = ["predict", "photos", "--weights", weights, "-o", "s3://bucket/labels.jsonl"]
    interrupted(*command)
    here = os.environ["DENSENET_CACHE"]
    monkeypatch.setenv("DENSENET_CACHE", str(tmp_path / "another machine"))
    assert densenet(*command, "--resume").status == 1
    complete = stored(bucket, "labels.jsonl")
    monkeypatch.setenv("DENSENET_CACHE", here)
    result = densenet(*command, "--resume")
    assert f"Resuming: {len(complete.splitlines())}" in result.err
    assert stored(bucket, "labels.jsonl") == complete


def test_periodic_uploads(bucket, weights, monkeypatch):
    """Complete records are uploaded while the run continues."""
    from densenet_cli.output.record_file import FileWriter

    monkeypatch.setattr(remote, "UPLOAD_INTERVAL", 0.05)
    write, seen = FileWriter.write_encoded, []

    def write_slowly(self, *arguments):
        write(self, *arguments)
        deadline = time.monotonic() + 10
        while not (data := stored(bucket, "labels.csv")) and time.monotonic() < deadline:
            time.sleep(0.02)
        seen.append(data)

    monkeypatch.setattr(FileWriter, "write_encoded", write_slowly)
    result = densenet("predict", "photos", "--weights", weights, "-o", "s3://bucket/labels.csv")
    assert result.status == 1
    assert all(seen)
    assert all(data.endswith(b"\n") for data in seen)
    assert len(seen[0]) < len(stored(bucket, "labels.csv"))


def test_upload_that_fails_is_kept_and_repeated(s3_server, s3_proxy, photos, weights, monkeypatch):
    monkeypatch.setattr(file_systems, "_ATTEMPTS", 1)
    fill(s3_server, photos)
    url = "s3://bucket/labels.jsonl"
    s3_proxy.fault = lambda request: Fault(status=403, code="AccessDenied") if request.method == "PUT" else None
    command = ["predict", photos / "set-0", "--weights", weights, "-o", url]
    result = densenet(*command)
    assert result.status == 4
    assert "permission denied" in result.err
    assert "--resume" in result.err
    assert SECRET_KEY not in result.err
    refused = densenet(*command)
    assert refused.status == 2
    assert "--overwrite" in refused.err
    s3_proxy.fault = lambda _: None
    result = densenet(*command, "--resume")
    assert (result.status, result.err) == (0, "Resuming: 10 sources already done.\n")
    assert len(stored(s3_server, "labels.jsonl").splitlines()) == 10
    assert staged() == []


def test_upload_that_fails_after_an_interrupt_names_the_option(s3_server, s3_proxy, photos, weights, monkeypatch):
    monkeypatch.setattr(file_systems, "_ATTEMPTS", 1)
    fill(s3_server, photos)
    s3_proxy.fault = lambda request: Fault(status=403, code="AccessDenied") if request.method == "PUT" else None
    result = interrupted("predict", photos, "--weights", weights, "-o", "s3://bucket/labels.jsonl")
    assert "Use --resume to upload them." in result.err


def test_one_writer(bucket, weights):
    with remote.RemoteOutput("s3://bucket/labels.jsonl"):
        result = densenet("predict", "photos", "--weights", weights, "-o", "s3://bucket/labels.jsonl")
    assert result.status == 4
    assert "s3://bucket/labels.jsonl" in result.err
    assert "another run" in result.err


def test_killed_run_is_resumed(s3_server, s3_proxy, photos, weights, tmp_path):
    """Whenever a run is killed, ``--resume`` completes the file of an uninterrupted one."""
    fill(s3_server, photos)
    s3_proxy.delay = 0.01
    settings = {"env": {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}}
    arguments = ["s3://bucket/photos", "--weights", weights, "--processes", "1", "-o"]
    assert run_process("predict", *arguments, tmp_path / "expected.jsonl", **settings).returncode == 1
    command = [
        sys.executable,
        "-m",
        "densenet_cli",
        "predict",
        *map(str, arguments),
        "s3://bucket/out.jsonl",
        "--resume",
    ]
    generator = random.Random(5)
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=restore_sigint, **settings)
        deadline = time.monotonic() + 60
        while not staged() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 1))
        process.send_signal(number)
        process.communicate(timeout=60)
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **settings)
    assert result.returncode == 1, result.stderr
    assert stored(s3_server, "out.jsonl") == (tmp_path / "expected.jsonl").read_bytes()


# Faults


def test_faults_of_single_images(s3_server, s3_proxy, photos, weights, monkeypatch):
    """Temporary faults change no record. A key that disappears after it was listed is one error record."""
    monkeypatch.setattr(file_systems, "READ_TIMEOUT", 2)
    fill(s3_server, photos)
    command = ["predict", "s3://bucket/photos", "--weights", weights, "--format", "jsonl"]
    expected = densenet(*command).out.splitlines()
    faults = (Fault(status=500, code="InternalError"), Fault(drop=True), Fault(truncate=20), Fault(stall=3))
    once = [times(1, fault, lambda request: "/set-" in request.path) for fault in faults]

    def fault(request):
        if request.key.endswith(("004.png", "broken.jpg")):
            return Fault(status=404, code="NoSuchKey")
        return once[int(request.key[-5]) % 4](request) if request.key[-5:-4].isdigit() else None

    s3_proxy.fault = fault
    actual = densenet(*command).out.splitlines()
    assert len(actual) == len(expected)
    for before, after in zip(expected, actual, strict=True):
        if "004.png" in before or "broken" in before:
            assert json.loads(after)["error"]["type"] == "SourceNotFound"
        else:
            assert after == before


def test_errors_before_any_work(bucket, monkeypatch):
    """No model is loaded, and no credentials are shown."""
    from densenet_cli.image_model import ImageModel

    def fail(*_, **__):
        raise AssertionError("work")

    monkeypatch.setattr(ImageModel, "__init__", fail)
    for name in ("predict", "embed", "evaluate", "explain"):
        output = {"embed": "new.npz", "predict": "new.csv", "evaluate": "new.json", "explain": "new"}[name]
        for arguments, status, text in (
            (["s3://missing/photos", "-o", output], 2, "s3://missing/photos: the bucket does not exist"),
            (["photos/set-0", "-o", f"s3://missing/{output}"], 4, "the bucket does not exist"),
            (["photos/set-0", "-o", f"s3://bucket/{output}", "--offline"], 2, "--offline"),
            (["s3://key:secret@bucket/photos", "-o", output], 2, "s3://bucket/photos"),
            (["photos/set-0", "-o", f"s3://key:secret@bucket/{output}"], 2, f"s3://bucket/{output}"),
            (["gs://bucket/photos", "-o", output], 2, "pip install gcsfs"),
        ):
            result = densenet(name, *arguments)
            assert result.status == status, (name, arguments, result)
            assert text in result.err, (name, arguments)
            assert len(result.err.splitlines()) == 1, result.err
            assert "secret" not in result.err
            assert not Path(output).exists()


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *[("predict", option) for option in ("--html", "--files-from", "--labels", "--weights")],
        *[("evaluate", option) for option in ("--html", "--mistakes", "--plots")],
    ],
)
def test_options_that_need_local_files(name, option):
    result = densenet(name, "photos", option, "s3://key:secret@bucket/file")
    assert result.status == 2
    assert option in result.err and "secret" not in result.err and "not exist" not in result.err


def test_a_cache_that_cannot_be_written_is_named(bucket, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DENSENET_CACHE", str(tmp_path / "file"))
    result = densenet("predict", "photos/set-0", "--variant", "tiny", "-o", "s3://bucket/x.csv")
    assert result.status == 4
    assert str(tmp_path / "file") in result.err


@pytest.mark.parametrize("output", ["s3://bucket/photos", "s3://missing/x.csv", "s3://bucket/x.html"])
def test_outputs_that_are_refused_leave_nothing(bucket, output):
    assert densenet("predict", "photos/set-0", "--variant", "tiny", "-o", output, "--format", "json").status != 1
    assert not list(Path(os.environ["DENSENET_CACHE"]).glob("staging/*"))


@pytest.mark.parametrize("output", ["s3://bucket", "s3://bucket/", "s3://bucket/folder/"])
def test_outputs_without_a_file_name(bucket, output):
    result = densenet("predict", "photos/set-0", "--variant", "tiny", "-o", output, "--format", "csv")
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "does not name a file" in result.err


def test_offline(bucket, weights, s3_proxy):
    s3_proxy.requests.clear()
    for pages in ("first", "all"):
        result = densenet(
            *("predict", "s3://bucket/photos", "s3://bucket/a.jpg", "photos/set-0/000.jpg", "--weights", weights),
            *("--offline", "--format", "jsonl", "--pages", pages),
        )
        assert result.status == 1
        first, second, third = map(json.loads, result.out.splitlines())
        assert first["error"]["type"] == second["error"]["type"] == "DownloadFailed"
        assert "error" not in third
    result = densenet("evaluate", "s3://bucket/photos", "--weights", weights, "--offline")
    assert result.status == 2
    assert "--offline" in result.err
    assert s3_proxy.requests == []


def test_no_credentials_in_anything_written(s3_server, s3_proxy, photos, weights, tmp_path, monkeypatch):
    """Neither the environment's credentials, nor those of an endpoint, nor the text of a server."""
    fill(s3_server, photos)
    monkeypatch.setattr(file_systems, "_ATTEMPTS", 1)
    s3_proxy.fault = lambda request: (
        Fault(status=403, code="AccessDenied") if request.key.endswith(("000.jpg", "meta.json")) else None
    )
    endpoint = s3_proxy.endpoint.replace("http://", "http://user:hunter2@")
    for settings in ({}, environment(endpoint)):
        env = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(sys.path)}
        result = run_process(
            *("predict", "s3://bucket/photos", "s3://k:topsecret@bucket/b.jpg", "--weights", weights, "--verbose"),
            *("-o", "s3://bucket/out.jsonl", "--format", "jsonl"),
            env=env,
        )
        written = result.stdout + result.stderr + "".join(path.read_text() for path in staged())
        written += stored(s3_server, "out.jsonl").decode()
        for secret in (ACCESS_KEY, SECRET_KEY, "hunter2", "topsecret", "secret "):
            assert secret not in written
        assert result.returncode in (2, 4)


def test_command_imports_no_packages_for_storage(photos, weights):
    """Local files need none of them."""
    code = (
        "import sys; from densenet_cli import cli\n"
        f"try: cli.main(['predict', {str(photos / 'set-0/000.jpg')!r}, '--weights', {str(weights)!r}])\n"
        "except SystemExit: pass\n"
        "print(sorted({'fsspec', 's3fs', 'asyncio', 'aiohttp', 'densenet_cli.storage'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_cache_shows_and_prunes_staged_results(s3_server, s3_proxy, photos, weights, monkeypatch):
    monkeypatch.setattr(file_systems, "_ATTEMPTS", 1)
    fill(s3_server, photos)
    s3_proxy.fault = lambda request: (
        Fault(status=403, code="AccessDenied") if request.method == "PUT" and "not-uploaded" in request.path else None
    )
    interrupted("predict", photos, "--weights", weights, "-o", "s3://bucket/uploaded.jsonl")
    interrupted("predict", photos, "--weights", weights, "-o", "s3://bucket/not-uploaded.jsonl")
    result = densenet("cache")
    assert "s3://bucket/uploaded.jsonl" in result.out
    assert "not uploaded" in result.out
    states = {run["url"]: run["uploaded"] for run in json.loads(densenet("cache", "--format", "json").out)["staged"]}
    assert states == {"s3://bucket/uploaded.jsonl": True, "s3://bucket/not-uploaded.jsonl": False}
    result = densenet("cache", "--prune")
    assert "s3://bucket/uploaded.jsonl" in result.err
    assert {path.parents[1].name for path in staged()} != set()
    assert [run.url for run in list_staged()] == ["s3://bucket/not-uploaded.jsonl"]
