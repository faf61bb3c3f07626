"""``config.json``: all dialects, what wins, what is refused, and malformed files."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_cli import Classifier
from densenet_cli.errors import CheckpointError
from densenet_cli.labels import ClassLabel, imagenet
from densenet_cli.topology import DenseNetConfig
from densenet_cli.weights import checkpoint, model_config, safetensors
from tests.data.make_timm_folders import FOLDER
from tests.support import checkpoints as support
from tests.support.networks import TINY, random_arrays, unscaled_arrays

INNER = {
    "input_size": [3, 224, 224],
    "test_input_size": [3, 288, 288],
    "test_crop_pct": 0.95,
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "num_classes": 1000,
}
TIMM = {"architecture": "densenet121", "num_classes": 1000, "pretrained_cfg": INNER}


def read(tmp_path, values):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    return model_config.read(path)


def refused(tmp_path, values) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, values)
    message = str(caught.value)
    assert "config.json" in message and "\n" not in message and len(message) < 400 + len(str(tmp_path))
    return message


class TestDialects:
    def test_timm(self, tmp_path):
        config = read(tmp_path, TIMM)
        assert (config.classes, config.channels, config.pooling) == (1000, 3, "avg")
        metadata = config.metadata
        assert (metadata.interpolation, metadata.crop_ratio, metadata.input_size) == ("bicubic", 0.875, 224)
        assert (metadata.test_input_size, metadata.test_crop_ratio) == (288, 0.95)
        assert (metadata.mean, metadata.std) == (tuple(INNER["mean"]), tuple(INNER["std"]))
        assert (metadata.activation, metadata.labels, metadata.preprocess) == (None, None, "crop")

    def test_flat(self, tmp_path):
        """timm before 0.9 has all values at the top."""
        flat = {"architecture": "densenet121", **INNER, "num_classes": 2, "labels": ["cat", "dog"]}
        config = read(tmp_path, flat)
        assert [label.name for label in config.metadata.labels] == ["cat", "dog"]
        assert config.metadata == read(tmp_path, {**TIMM, "num_classes": 2, "label_names": ["cat", "dog"]}).metadata

    def test_timm_wrapper(self, tmp_path):
        wrapper = {
            **TIMM,
            "model_type": "timm_wrapper",
            "num_classes": 2,
            "id2label": {"0": "cat", "1": "dog"},
            "problem_type": "multi_label_classification",
        }
        metadata = read(tmp_path, wrapper).metadata
        assert [label.name for label in metadata.labels] == ["cat", "dog"]
        assert metadata.activation == "sigmoid"
        placeholders = {**wrapper, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "problem_type": None}
        metadata = read(tmp_path, placeholders).metadata
        assert (metadata.labels, metadata.activation) == (None, None)

    def test_omitted_values_have_the_defaults_of_timm(self, tmp_path):
        metadata = read(tmp_path, {"architecture": "densenet169", "pretrained_cfg": {}}).metadata
        assert (metadata.interpolation, metadata.crop_ratio, metadata.input_size) == ("bicubic", 0.875, 224)
        assert metadata.mean == tuple(INNER["mean"]) and metadata.test_input_size is None

    def test_values_at_the_top_win(self, tmp_path):
        values = {
            **TIMM,
            "num_classes": 2,
            "label_names": ["a", "b"],
            "label_descriptions": {"a": "apple", "b": "banana"},
            "pretrained_cfg": {**INNER, "label_names": ["x", "y"], "global_pool": "avg"},
            "global_pool": "max",
            "model_args": {"in_chans": 1},
        }
        config = read(tmp_path, values)
        assert (config.classes, config.channels, config.pooling) == (2, 1, "max")
        assert [label.name for label in config.metadata.labels] == ["apple", "banana"]
        assert config.metadata.mean == pytest.approx((0.449,), abs=1e-6)  # as timm computes it
        assert "three channels" in config.metadata.notes[0]

    @pytest.mark.parametrize("name", ["densenet121.tv_in1k", "tv_densenet121"])
    def test_names_with_tags_and_older_names(self, tmp_path, name):
        assert read(tmp_path, {**TIMM, "architecture": name}).architecture.blocks == (6, 12, 24, 16)

    def test_stems_are_known_from_the_architecture(self, tmp_path):
        for name, stem in (("densenetblur121d", "deep-blur"), ("densenet264d", "deep"), ("densenet161", "imagenet")):
            assert read(tmp_path, {**TIMM, "architecture": name}).architecture.stem == stem

    @pytest.mark.parametrize(("crop_mode", "preprocess"), [("center", "crop"), ("squash", "squash"), ("border", "pad")])
    def test_crop_modes(self, tmp_path, crop_mode, preprocess):
        inner = {**INNER, "crop_mode": crop_mode, "crop_pct": 1.0}
        assert read(tmp_path, {**TIMM, "pretrained_cfg": inner}).metadata.preprocess == preprocess


class TestLabels:
    def test_wordnet_ids_of_imagenet(self, tmp_path):
        names = [label.id for label in imagenet()]
        labels = read(tmp_path, {**TIMM, "label_names": names, "label_descriptions": dict.fromkeys(names, "x")})
        assert labels.metadata.labels == imagenet()

    def test_other_wordnet_ids_get_their_descriptions(self, tmp_path):
        values = {**TIMM, "num_classes": 2, "label_names": ["n00004475", "n00006024"]}
        descriptions = {"n00004475": "organism", "n00006024": "heterotroph"}
        labels = read(tmp_path, {**values, "label_descriptions": descriptions}).metadata.labels
        assert labels == (ClassLabel(0, "n00004475", "organism"), ClassLabel(1, "n00006024", "heterotroph"))

    def test_gaps(self, tmp_path):
        labels = read(tmp_path, {**TIMM, "num_classes": 3, "label_names": {"0": "cat", "2": "dog"}}).metadata.labels
        assert [label.name for label in labels] == ["cat", "class 1", "dog"]

    @pytest.mark.parametrize("names", [["cat", "dog", "emu"], {"0": "cat", "1": "dog", "2": "emu"}])
    @pytest.mark.parametrize("key", ["label_names", "id2label"])
    def test_without_a_number_of_classes(self, tmp_path, key, names):
        """The names state it."""
        config = read(tmp_path, {"architecture": "densenet121", key: names, "pretrained_cfg": {}})
        assert config.classes == 3
        assert [label.name for label in config.metadata.labels] == ["cat", "dog", "emu"]

    def test_placeholders_do_not_state_a_number_of_classes(self, tmp_path):
        names = {"0": "LABEL_0", "1": "LABEL_1"}
        config = read(tmp_path, {"architecture": "densenet121", "id2label": names, "pretrained_cfg": {}})
        assert (config.classes, config.metadata.labels) == (None, None)

    @pytest.mark.parametrize("names", [["a"], ["a", "b", "c", "d"]])
    def test_another_number_of_names_than_classes(self, tmp_path, names):
        config = DenseNetConfig((1, 2), growth_rate=2, stem_width=4, classes=3)
        support.write_torchvision(tmp_path / "x.safetensors", unscaled_arrays(config), config)
        values = {"architecture": "densenet121", "model_args": {"block_config": [1, 2]}, "label_names": ["a", "b", "c"]}
        (tmp_path / "config.json").write_text(json.dumps(values))
        assert len(checkpoint.read(tmp_path / "x.safetensors").metadata.labels) == 3
        (tmp_path / "config.json").write_text(json.dumps({**values, "label_names": names}))
        with pytest.raises(CheckpointError, match=f"{len(names)} classes"):
            checkpoint.read(tmp_path / "x.safetensors")

    @pytest.mark.parametrize(
        "names",
        [["a", "b", "c"], {"2": "a"}, {"-1": "a"}, {"0": 7}, ["a", ""], ["a", "b\x1b[2J"], "ab", 5, [["a"], "b"]],
    )
    def test_invalid(self, tmp_path, names):
        refused(tmp_path, {**TIMM, "num_classes": 2, "label_names": names})


class TestRefused:
    @pytest.mark.parametrize(
        ("values", "keyword"),
        [
            ({"architecture": "densenet999"}, "densenet999"),
            ({"global_pool": "avgmax"}, "avgmax"),
            ({"global_pool": ""}, "global_pool"),
            ({"num_classes": -1}, "num_classes"),
            ({"num_classes": True}, "num_classes"),
            ({"num_classes": 10**30}, "num_classes"),
            ({"problem_type": "regression"}, "regression"),
            ({"model_args": {"act_layer": "gelu"}}, "act_layer"),
            ({"model_args": {"bn_size": 2}}, "bn_size"),
            ({"model_args": {"in_chans": 4}}, "in_chans"),
            ({"model_args": {"block_config": [1, -1]}}, "block_config"),
            ({"model_args": []}, "model_args"),
            ({"pretrained_cfg": "x"}, "pretrained_cfg"),
        ],
        ids=str,
    )
    def test_statements(self, tmp_path, values, keyword):
        assert keyword in refused(tmp_path, {**TIMM, **values})

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("interpolation", "lanczos"),
            ("interpolation", 3),
            ("input_size", [3, 224, 192]),
            ("input_size", [3, 224]),
            ("input_size", [3, 10**9, 10**9]),
            ("input_size", 224),
            ("crop_pct", 0),
            ("crop_pct", 1.5),
            ("crop_pct", "0.9"),
            ("crop_pct", float("nan")),
            ("crop_mode", "squash"),  # with a crop_pct below 1
            ("crop_mode", "other"),
            ("mean", [0.5, 0.5]),
            ("mean", [0.5, 0.5, "0.5"]),
            ("mean", [float("inf")] * 3),
            ("mean", 0.5),
            ("std", [0, 1, 1]),
            ("test_input_size", [3, 0, 0]),
            ("test_crop_pct", -1),
        ],
    )
    def test_preprocessing(self, tmp_path, key, value):
        assert key in refused(tmp_path, {**TIMM, "pretrained_cfg": {**INNER, key: value}})

    @pytest.mark.parametrize("text", ['{"architecture": "densenet121"', '{"architecture": ' + "[" * 100_000])
    def test_damaged_json(self, tmp_path, text):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError):
            model_config.read(tmp_path / "config.json")

    def test_large_files(self, tmp_path):
        with (tmp_path / "config.json").open("wb") as file:
            file.truncate(model_config.MAX_FILE_SIZE + 1)
        with pytest.raises(CheckpointError):
            model_config.read(tmp_path / "config.json")


class TestUnrelatedFiles:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "not JSON",
            "[]",
            "7",
            "{}",
            '{"model_type": "bert"}',
            '{"architecture": "resnet50"}',
            '{"architecture": 5}',
        ],
    )
    def test_are_ignored_with_a_note(self, tmp_path, text):
        shutil.copy(FOLDER / "plain" / "model.safetensors", tmp_path)
        (tmp_path / "config.json").write_text(text)
        metadata = checkpoint.read(tmp_path / "model.safetensors").metadata
        assert metadata.mean is None
        assert "config.json" in metadata.notes[0]

    def test_a_folder_of_that_name(self, tmp_path):
        (tmp_path / "config.json").mkdir()
        assert model_config.read(tmp_path / "config.json") is None

    def test_a_checkpoint_with_its_own_configuration(self, tmp_path):
        safetensors.write(tmp_path / "model.safetensors", random_arrays(TINY, 0), TINY)
        shutil.copy(FOLDER / "plain" / "config.json", tmp_path)
        metadata = checkpoint.read(tmp_path / "model.safetensors").metadata
        assert metadata.interpolation == "bilinear"
        assert "ignored" in metadata.notes[0]

    @pytest.mark.parametrize("other", ["blur", "gray-max"])
    def test_a_config_of_another_network_is_an_error(self, tmp_path, other):
        shutil.copy(FOLDER / "plain" / "model.safetensors", tmp_path)
        shutil.copy(FOLDER / other / "config.json", tmp_path)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            Classifier(weights=tmp_path / "model.safetensors")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [*INNER, "crop_mode", "label_names", "label_descriptions", "global_pool", "model_args", "problem_type", "id2label"]
)


@settings(max_examples=300, deadline=None)
@given(inner=st.dictionaries(KEYS, JSON, max_size=3), outer=st.dictionaries(KEYS, JSON, max_size=3))
def test_any_values_give_a_configuration_or_one_error(inner, outer, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any-config.json"
    path.write_text(json.dumps({**TIMM, **outer, "pretrained_cfg": {**INNER, **inner}}))
    try:
        config = model_config.read(path)
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert config is not None and config.channels in (1, 3) and len(config.metadata.mean) == config.channels
