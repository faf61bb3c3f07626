"""Record folders of small models that timm saves, with timm's own outputs: ``python -m tests.data.make_timm_folders``.

Needs timm 1.0.31 and torchvision.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.images import photograph

FOLDER = Path(__file__).parent / "timm"
SMALL = {"growth_rate": 4, "block_config": (1, 2, 1)}

MODELS: dict[str, dict[str, Any]] = {
    "plain": {"model_name": "densenet121.ra_in1k", "num_classes": 5, **SMALL},
    "gray-max": {"model_name": "densenet121", "num_classes": 3, "in_chans": 1, "global_pool": "max", **SMALL},
    "blur": {"model_name": "densenetblur121d.ra_in1k", "num_classes": 4, **SMALL},
    "deep": {"model_name": "densenet264d", "num_classes": 4, **SMALL},
    "headless": {"model_name": "densenet121", "num_classes": 0, **SMALL},
}
"""Name -> arguments of ``timm.create_model``."""

DATA_CONFIGS: dict[str, dict[str, Any]] = {
    "gray-max": {"input_size": (1, 96, 96), "crop_pct": 0.9},
    "blur": {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1), "interpolation": "bilinear"},
}
"""Name -> preprocessing that differs from timm's default."""

IMAGES = {"landscape": (600, 400), "portrait": (301, 450)}


def randomize(model: Any, seed: int) -> None:
    """Give a model weights whose outputs depend on the image."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, values in model.state_dict().items():
        if name.endswith("running_var"):
            values.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("running_mean", "bias")):
            values.normal_(0, 0.2, generator=generator)
        elif name.endswith("weight") and values.ndim == 1:
            values.uniform_(0.7, 1.3, generator=generator)
        elif name.endswith("weight"):
            scale = 0.1 if name.startswith("classifier") else 2
            values.normal_(0, (scale / values[0].numel()) ** 0.5, generator=generator)


def save(name: str, folder: Path) -> Any:
    """Create a model, save it to ``folder``, and return it."""
    import timm
    from timm.models._hub import save_for_hf

    model = timm.create_model(**MODELS[name]).eval()
    randomize(model, seed=len(name))
    config = {"label_names": [f"label {n}" for n in range(model.num_classes)]} if model.num_classes else {}
    save_for_hf(model, folder, model_config=config, safe_serialization=True, data_config=DATA_CONFIGS.get(name))
    return model


def expected_outputs(model: Any, folder: Path, image: Any, use_test_size: bool = False) -> np.ndarray:
    """Return what timm computes for an image with the configuration in ``folder``."""
    import torch
    from timm.data import create_transform, resolve_data_config
    from timm.models._hub import load_model_config_from_path

    config = load_model_config_from_path(folder)[0]
    arguments = resolve_data_config({}, pretrained_cfg=config, use_test_size=use_test_size)
    transform = create_transform(**arguments)
    with torch.no_grad():
        pixels = transform(image.convert("L") if arguments["input_size"][0] == 1 else image)
        return model(pixels[None])[0].numpy()


def main() -> None:
    """Write ``FOLDER``."""
    for name in MODELS:
        folder = FOLDER / name
        model = save(name, folder)
        outputs = {}
        for kind, size in IMAGES.items():
            for suffix, use_test_size in (("", False), ("-test-size", True)):
                outputs[kind + suffix] = expected_outputs(model, folder, photograph("coffee", size), use_test_size)
        (folder / "model.safetensors").chmod(0o644)
        np.savez_compressed(folder / "expected.npz", **outputs)


if __name__ == "__main__":
    main()
