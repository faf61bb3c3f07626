"""Options that describe a model: ``--mean``, ``--activation``, and so on, in all commands, and what is assumed."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pytest

from densenet_cli import Classifier
from tests.data.make_timm_folders import FOLDER
from tests.support.command import densenet
from tests.support.images import photograph
from tests.support.keras_files import edit_archive, extract

GRAY = ("--mean", "0.449", "--std", "0.226")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "coffee.png"
    photograph("coffee").save(path)
    return path


@pytest.fixture
def bare(tmp_path):
    """A file that states nothing."""
    return shutil.copy(FOLDER / "plain" / "model.safetensors", tmp_path / "bare.safetensors")


@pytest.fixture
def gray(tmp_path):
    """A file with a network for grayscale images that states nothing."""
    return shutil.copy(FOLDER / "gray-max" / "model.safetensors", tmp_path / "gray.safetensors")


def probabilities(result):
    assert result.status == 0, result.err
    (record,) = json.loads(result.out)
    return [score["probability"] for score in record["predictions"]]


def test_predict_passes_all_options_to_the_classifier(image, bare):
    options = ["--activation", "sigmoid", "--input-size", "96", "--mean", "0.5,0.4,0.3", "--std", "0.2, 0.25 ,0.3"]
    options += ["--interpolation", "bicubic", "--crop-ratio", "0.9", "--format", "json", "-k", "5"]
    actual = probabilities(densenet("predict", image, "--weights", bare, *options))
    classifier = Classifier(
        weights=bare,
        activation="sigmoid",
        input_size=96,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
        interpolation="bicubic",
        crop_ratio=0.9,
    )
    assert actual == pytest.approx([score.probability for score in classifier.predict(image, 5).scores], abs=1e-6)
    assert sum(actual) != pytest.approx(1, abs=0.01)
    assert actual != pytest.approx(probabilities(densenet("predict", image, "--weights", bare, "--format", "json")))


def test_a_silent_file_gives_one_warning_line_that_can_be_pasted(image, bare):
    result = densenet("predict", image, image, "--weights", bare, "--format", "json")
    (line,) = result.err.splitlines()
    assert line.startswith("Warning: ") and "bare.safetensors" in line
    options = line.partition("Assuming ")[2].rstrip(".").split()
    assert "--activation" in options and "--mean" in options
    silent = densenet("predict", image, image, "--weights", bare, "--format", "json", *options)
    assert (silent.status, silent.err, silent.out) == (0, "", result.out)
    quiet = densenet("predict", image, image, "--weights", bare, "--format", "json", "--quiet")
    assert (quiet.err, quiet.out) == ("", result.out)


def test_a_file_that_states_its_mean_gives_no_warning_but_verbose_lists_assumptions(image):
    arguments = ("predict", image, "--weights", FOLDER / "plain", "--format", "json")
    assert densenet(*arguments).err == ""
    assert "--activation softmax" in densenet(*arguments, "--verbose").err


@pytest.mark.parametrize("loss", [None, "my_loss"])
def test_a_keras_model_whose_loss_does_not_tell_the_activation_gives_a_warning(image, tmp_path, loss):
    """The file states the mean, like those of timm, but a Keras model normally states the activation, too."""
    recorded = extract("nested.keras", tmp_path)
    assert densenet("predict", image, "--weights", recorded, "--format", "json").err == ""

    def edit(model):
        model["compile_config"] = loss and {"loss": loss}

    path = edit_archive(recorded, tmp_path / "linear.keras", edit)
    for _ in range(2):  # the second time from the cache
        result = densenet("predict", image, "--weights", path, "--format", "json")
        assert result.status == 0
        (line,) = result.err.splitlines()
        assert line.startswith("Warning: ") and "--activation softmax" in line and "--mean" not in line
    for option in (["--activation", "softmax"], ["--activation", "sigmoid"], ["--quiet"]):
        assert densenet("predict", image, "--weights", path, "--format", "json", *option).err == ""
    embedded = densenet("embed", image, "--weights", path, "-o", tmp_path / "x.npz")  # needs no activation
    assert embedded.status == 0 and "Warning" not in embedded.err


def test_verbose_prints_notes(image, bare, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    arguments = ("predict", image, "--weights", bare, "--format", "json")
    assert "config.json" in densenet(*arguments, "--verbose").err
    assert "config.json" not in densenet(*arguments).err


@pytest.mark.parametrize("variant", ["tiny"])
def test_published_weights_give_no_warning(image, variant):
    result = densenet("predict", image, "--variant", variant, "--format", "json", "--verbose")
    assert result.status == 0 and "Assuming" not in result.err


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (["--mean", "0.5"], ["0.5", "0.485,0.456,0.406"]),
        (["--interpolation", "nearest"], ["nearest", "bicubic"]),
        (["--crop-ratio", "0.5"], ["0.5", "0.875"]),
    ],
)
def test_contradictions(image, options, values):
    result = densenet("predict", image, "--weights", FOLDER / "plain", *options)
    assert result.status == 2 and result.out == ""
    assert all(text in result.err for text in [options[0], "plain", *values])


def test_contradictions_name_a_config_file_only_if_it_was_used(image, tmp_path):
    keras_file, unpacked = extract("nested.keras", tmp_path), tmp_path / "unpacked"
    with zipfile.ZipFile(keras_file) as archive:
        archive.extractall(unpacked)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    densenet("export", "--variant", "tiny", "-o", tmp_path / "x.safetensors")
    used = {FOLDER / "plain": True, unpacked: True, keras_file: False, tmp_path / "x.safetensors": False}
    for weights, expected in used.items():
        for _ in range(2):  # the second time from the cache
            result = densenet("predict", image, "--weights", weights, "--mean", "0.1")
            assert result.status == 2 and weights.name in result.err
            assert ("config.json" in result.err) == expected


@pytest.mark.parametrize(
    "options",
    [
        ["--mean", "123.7,116.3,103.5"],
        ["--mean", "0.1,0.2"],
        ["--mean", "a"],
        ["--mean", ""],
        ["--std", "nan"],
        ["--std", "0"],
        ["--interpolation", "lanczos"],
        ["--crop-ratio", "0"],
        ["--crop-ratio", "nan"],
        ["--input-size", "0"],
        ["--activation", "relu"],
        ["--preprocess", "pad", "--crop-ratio", "1"],
        ["--preprocess", "keras", "--interpolation", "bilinear"],
    ],
    ids=" ".join,
)
def test_invalid_values(image, options):
    """They are found before weights are looked for."""
    result = densenet("predict", image, "--variant", "121", "--offline", *options)
    assert result.status == 2 and options[-2] in result.err


class TestGrayscale:
    def test_needs_a_mean_and_std(self, image, gray):
        result = densenet("predict", image, "--weights", gray)
        assert result.status == 2 and "--mean" in result.err and "--std" in result.err

    @pytest.mark.parametrize("option", ["--isolate", "--exact", "--ten-crop"])
    def test_options_of_decoding(self, image, gray, option):
        arguments = ("predict", image, "--weights", gray, *GRAY, "--format", "json")
        assert probabilities(densenet(*arguments, option))
        if option != "--ten-crop":
            assert densenet(*arguments, option).out == densenet(*arguments).out

    @pytest.mark.parametrize("mode", ["crop", "squash", "pad", "keras"])
    def test_modes(self, image, gray, mode):
        assert probabilities(
            densenet("predict", image, "--weights", gray, *GRAY, "--format=json", "--preprocess", mode)
        )

    def test_embed_explain_and_evaluate(self, image, gray, tmp_path):
        result = densenet("embed", image, "--weights", gray, *GRAY, "-o", tmp_path / "e.npz")
        assert result.status == 0 and np.load(tmp_path / "e.npz")["features"].shape == (1, 11)
        explain = densenet("explain", image, "--weights", gray, *GRAY, "-o", tmp_path / "maps", "--format", "json")
        assert explain.status == 0, explain.err
        (tmp_path / "val" / "class 0").mkdir(parents=True)
        shutil.copy(image, tmp_path / "val" / "class 0")
        assert densenet("evaluate", tmp_path / "val", "--weights", gray, *GRAY).status == 0

    @pytest.mark.parametrize("name", ["g.onnx", "g.safetensors"])
    def test_export(self, image, gray, tmp_path, name):
        options = ["--with-preprocessing"] if name == "g.onnx" else []
        result = densenet("export", "--weights", gray, *GRAY, "--input-size", "96", "-o", tmp_path / name, *options)
        assert result.status == 0, result.err
        if not options:  # the file states everything
            again = densenet("predict", image, "--weights", tmp_path / name, "--format", "json")
            assert again.err == ""
            direct = densenet("predict", image, "--weights", gray, *GRAY, "--input-size", "96", "--format", "json")
            assert probabilities(again) == pytest.approx(probabilities(direct), abs=1e-6)


class TestSettingsOfOutputFiles:
    def test_contain_the_preprocessing_and_the_assumptions(self, image, bare, tmp_path):
        for arguments in (["predict", "-o", tmp_path / "r.jsonl"], ["embed", "-o", tmp_path / "e.npz"]):
            assert densenet(*arguments, image, "--weights", bare, "--std", "0.2").status == 0
            settings = json.loads((tmp_path / f"{arguments[-1].name}.meta.json").read_text())
            assert settings["interpolation"] == "bilinear" and settings["std"] == [0.2, 0.2, 0.2]
            assert "mean=0.485,0.456,0.406" in settings["assumptions"]
            assert settings["notes"] == []
            assert not any(text.startswith("std=") for text in settings["assumptions"])
            assert ("activation=softmax" in settings["assumptions"]) == (arguments[0] == "predict")

    def test_contain_notes_which_do_not_prevent_resuming(self, image, bare, tmp_path):
        arguments = ["predict", image, "--weights", bare, "-o", tmp_path / "r.jsonl"]
        (tmp_path / "config.json").write_text("{}")
        assert densenet(*arguments).status == 0
        (note,) = json.loads((tmp_path / "r.jsonl.meta.json").read_text())["notes"]
        assert "config.json" in note
        (tmp_path / "config.json").unlink()
        assert densenet(*arguments, "--resume").status == 0

    def test_other_settings_are_not_resumed_but_stated_assumptions_are(self, image, bare, tmp_path):
        arguments = ["predict", image, "--weights", bare, "-o", tmp_path / "r.jsonl"]
        assert densenet(*arguments).status == 0
        changed = densenet(*arguments, "--resume", "--mean", "0.5")
        assert changed.status == 2 and "--mean" in changed.err
        assert densenet(*arguments, "--resume", "--activation", "sigmoid").status == 2
        assert densenet(*arguments, "--resume", "--mean", "0.485,0.456,0.406", "--activation", "softmax").status == 0

    @pytest.mark.parametrize(("key", "value"), [("pooling", "max"), ("stem", "deep-blur")])
    def test_another_network_with_the_same_arrays_is_not_resumed(self, image, bare, tmp_path, key, value):
        """Because ``config.json`` or ``--variant`` changed."""
        arguments = ["predict", image, "--weights", bare, "-o", tmp_path / "r.jsonl"]
        assert densenet(*arguments).status == 0
        path = tmp_path / "r.jsonl.meta.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
        changed = densenet(*arguments, "--resume")
        assert changed.status == 2 and key in changed.err

    def test_the_default_crop_ratio_is_a_number_and_was_null(self, image, bare, tmp_path):
        arguments = ["predict", image, "--weights", bare, "-o", tmp_path / "r.jsonl"]
        assert densenet(*arguments).status == 0
        path = tmp_path / "r.jsonl.meta.json"
        settings = json.loads(path.read_text())
        assert settings["crop_ratio"] == 0.875
        path.write_text(json.dumps({**settings, "crop_ratio": None}))
        assert densenet(*arguments, "--resume").status == 0
        path.write_text(json.dumps({**settings, "crop_ratio": None}))
        assert densenet(*arguments, "--resume", "--crop-ratio", "0.9").status == 2
        assert densenet(*arguments, "--overwrite", "--preprocess", "squash").status == 0
        assert json.loads(path.read_text())["crop_ratio"] is None

    def test_a_variant_states_its_activation(self, image):
        result = densenet("predict", image, "--variant", "tiny", "--activation", "sigmoid")
        assert result.status == 2 and "tiny states softmax" in result.err

    @pytest.mark.parametrize("mode", ["crop", "keras"])
    def test_files_of_older_versions_are_resumed_with_defaults(self, image, bare, tmp_path, mode):
        arguments = ["predict", image, "--weights", bare, "-o", tmp_path / "r.jsonl", "--preprocess", mode]
        assert densenet(*arguments).status == 0
        path = tmp_path / "r.jsonl.meta.json"
        settings = json.loads(path.read_text())
        for key in ("interpolation", "crop_ratio", "mean", "std", "assumptions", "activation", "stem", "pooling"):
            del settings[key]
        path.write_text(json.dumps(settings))
        assert densenet(*arguments, "--resume").status == 0
        assert densenet(*arguments, "--resume", "--mean", "0.5").status == 2
