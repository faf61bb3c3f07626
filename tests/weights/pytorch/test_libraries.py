"""Files of torchvision, timm, and MONAI (installed by ``make test-backends``) give the outputs of these libraries.

Whole photographs go through the library's own preprocessing and network, and through both engines.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from densenet_cli import Classifier, engines
from tests.support.networks import probabilities_of
from tests.support.torch_libraries import import_library

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-backends")
import_library("torchvision")
pytestmark = pytest.mark.slow

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = {"growth_rate": 8, "block_config": (2, 3, 2)}


def randomize(network, channels: int = 3):
    """Set random statistics, scales, and shifts of all batch norms, and scale the head to moderate probabilities."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for values, low, high in (
                    (module.weight, 0.7, 1.3),
                    (module.bias, -0.3, 0.3),
                    (module.running_mean, -0.3, 0.3),
                    (module.running_var, 1e-3, 2.0),
                ):
                    values.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)
        logits = network.eval()(torch.randn(2, channels, 224, 224, generator=generator))
        head = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
        head.weight.div_(logits.std())
        head.bias.div_(logits.std())
    return network


def torchvision_transform(image: Image.Image, interpolation: str = "bilinear"):
    from torchvision import transforms

    mode = transforms.InterpolationMode(interpolation)
    steps = [
        transforms.Resize(256, mode),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    return transforms.Compose(steps)(image.convert("RGB"))


def timm_transform(network):
    from timm.data import create_transform, resolve_data_config

    transform = create_transform(**resolve_data_config({}, model=network))
    return lambda image: transform(image.convert("RGB"))


def gray_transform(image: Image.Image):
    from torchvision import transforms

    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(0.4, 0.3)]
    return transforms.Compose(steps)(image.convert("L"))


def open_image(path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


BICUBIC = {"interpolation": "bicubic", "crop_ratio": 0.875}


def torchvision_file(path):
    from torchvision.models import densenet121

    network = randomize(densenet121(num_classes=20))
    torch.save(network.state_dict(), path)
    return network, torchvision_transform, {}


def torchvision_stream(path):
    from torchvision.models import densenet169

    network = randomize(densenet169(num_classes=7))
    state = {"epoch": 9, "state_dict": torch.nn.DataParallel(network).state_dict(), "best": torch.tensor(1.5)}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return network, torchvision_transform, {}


def sigmoid_file(path):
    """Like CheXNet: the sigmoid of the wrapper leaves no trace in the state dict."""
    from torchvision.models import DenseNet

    network = randomize(DenseNet(**SMALL, num_classes=14))
    network.classifier = torch.nn.Sequential(network.classifier, torch.nn.Sigmoid())
    torch.save({"state_dict": {f"module.densenet121.{k}": v for k, v in network.state_dict().items()}}, path)
    return network, torchvision_transform, {"activation": "sigmoid"}


def timm_training_file(path):
    import timm
    from timm.utils import CheckpointSaver, ModelEmaV3

    network = randomize(timm.create_model("densenet121", num_classes=11))
    average = ModelEmaV3(randomize(timm.create_model("densenet121", num_classes=11)))
    with torch.no_grad():
        for values in network.state_dict().values():
            values.add_(1)
    folder = path.parent / "run"
    folder.mkdir()
    saver = CheckpointSaver(
        network,
        torch.optim.SGD(network.parameters(), 0.1, momentum=0.9),
        args=argparse.Namespace(model="densenet121", lr=0.1),
        model_ema=average.module,
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(epoch=0, metric=0.5)
    (folder / "last.pth.tar").rename(path)
    return average.module.eval(), timm_transform(network), BICUBIC


def timm_folder(path):
    """A folder with ``pytorch_model.bin`` and the ``config.json`` that timm writes for the Hub."""
    import timm
    from timm.models import _hub

    network = randomize(timm.create_model("densenetblur121d", num_classes=6))
    path.mkdir()
    _hub.save_config_for_hf(network, path / "config.json")
    torch.save(network.state_dict(), path / "pytorch_model.bin")
    assert json.loads((path / "config.json").read_text())["architecture"] == "densenetblur121d"
    return network, timm_transform(network), {}


def monai_file(path):
    from monai.networks.nets import DenseNet121

    network = randomize(DenseNet121(spatial_dims=2, in_channels=1, out_channels=4), channels=1)
    torch.save(network.state_dict(), path)
    return network, gray_transform, {"mean": [0.4], "std": [0.3]}


def module_file(path):
    from torchvision.models import DenseNet

    network = randomize(DenseNet(**SMALL, num_classes=5))
    torch.save(network, path)
    return network, torchvision_transform, {}


def bfloat16_file(path):
    from torchvision.models import DenseNet

    network = randomize(DenseNet(**SMALL, num_classes=5)).bfloat16()
    torch.save({"model_state_dict": network.state_dict()}, path)
    return network.float(), torchvision_transform, {}


FILES = [
    torchvision_file,
    torchvision_stream,
    sigmoid_file,
    timm_training_file,
    timm_folder,
    monai_file,
    module_file,
    bfloat16_file,
]


@pytest.mark.parametrize("write", FILES)
def test_probabilities_equal_those_of_the_library(tmp_path, photographs, write):
    path = tmp_path / "model.pth.tar"
    network, transform, options = write(path)
    images = {photo: open_image(photo) for photo in photographs}
    # The libraries ignore color profiles.
    images = {photo: image for photo, image in images.items() if "icc_profile" not in image.info}
    photographs = list(images)
    batch = torch.stack([transform(image) for image in images.values()])
    with torch.no_grad():
        outputs = network(batch)
        expected = (outputs if write is sigmoid_file else outputs.softmax(1)).numpy()
    assert expected.max() - expected.min() > 0.05 and np.ptp(expected, axis=0).max() > 1e-3, "outputs are too uniform"
    for engine in engines.ENGINES:
        classifier = Classifier(weights=path, engine=engine, exact=True, **options)
        np.testing.assert_allclose(np.stack(probabilities_of(classifier, photographs)), expected, atol=1e-5)
    if write is torchvision_file:
        wrong = Classifier(weights=path, exact=True, interpolation="bicubic")
        assert np.abs(np.stack(probabilities_of(wrong, photographs)) - expected).max() > 1e-4
