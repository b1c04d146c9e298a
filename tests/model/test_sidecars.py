"""Files beside weights: what timm and transformers write is read as they read it, and what cannot be done is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_data_config
from timm.models import save_for_hf
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from resnet_infer.errors import CheckpointError
from resnet_infer.model.sidecars import Sidecar, read_sidecar
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.labels import Labels, imagenet1k
from resnet_infer.spec.preprocessing import Preprocessing

PROCESSOR: dict[str, Any] = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}
"""As beside microsoft/resnet-50."""
RESNET: dict[str, Any] = {"model_type": "resnet"}


@pytest.fixture
def beside(tmp_path: Path) -> Callable[..., Sidecar | None]:
    """beside(**files): what is read beside a weights file; names with __ for the dot, values as text or as JSON."""

    def read(weights: str = "model.safetensors", **files: Any) -> Sidecar | None:
        (tmp_path / weights).touch()
        for name, values in files.items():
            text = values if isinstance(values, str) else json.dumps(values)
            (tmp_path / name.replace("__", ".")).write_text(text)
        return read_sidecar(tmp_path / weights)

    return read


def rendered(image: Image.Image, found: Preprocessing) -> torch.Tensor:
    """An image as this preprocessing says, by torchvision's functions of a tensor, cropped as transformers does.

    transformers begins the crop at the half difference rounded down; torchvision, timm and we round to even.
    """
    mode = InterpolationMode(found.interpolation)
    x_CHW = tv.resize(tv.pil_to_tensor(image), [found.resize], mode, antialias=True)
    top, left = ((side - found.crop) // 2 for side in x_CHW.shape[1:])
    x_CHW = tv.crop(x_CHW, top, left, found.crop, found.crop)
    return tv.normalize(x_CHW / 255, list(found.mean), list(found.std))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"test_input_size": None, "test_crop_pct": None},
        {"crop_pct": 0.9, "test_crop_pct": None},
        {"interpolation": "bilinear", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.4, 0.3)},
        {"input_size": (3, 160, 160), "test_input_size": None, "test_crop_pct": 0.95},
    ],
)
def test_what_timm_saves_is_read_as_timm_reads_it(tmp_path: Path, changed: dict[str, Any]) -> None:
    net = timm.create_model("resnet18", num_classes=10, pretrained_cfg_overlay=changed)
    save_for_hf(net, tmp_path, safe_serialization=True)
    found = read_sidecar(tmp_path / "model.safetensors")
    assert found is not None
    assert found.preprocessing is not None
    config = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    data = resolve_data_config(pretrained_cfg=config, use_test_size=True)
    resize, crop, _, normalize = create_transform(**data).transforms
    assert (found.preprocessing.resize, found.preprocessing.crop) == (resize.size, crop.size[0])
    assert found.preprocessing.interpolation == resize.interpolation.value
    assert list(found.preprocessing.mean) == pytest.approx(normalize.mean.tolist(), abs=1e-6)
    assert list(found.preprocessing.std) == pytest.approx(normalize.std.tolist(), abs=1e-6)
    assert (found.architecture, found.classes, found.labels) == ("resnet18", 10, None)
    assert found.files == (tmp_path / "config.json",)


def test_a_flat_configuration_is_read_and_the_test_setting_is_said(beside: Callable[..., Sidecar]) -> None:
    """As timm wrote them at first, and as many repositories hold them."""
    flat = {
        "architecture": "resnet50",
        "num_classes": 3,
        "global_pool": "avg",
        "input_size": [3, 224, 224],
        "test_input_size": [3, 288, 288],
        "crop_pct": 0.95,
        "label_names": ["n1", "n2", "n3"],
        "label_descriptions": {"n1": "cat", "n2": "dog", "n3": "fish"},
    }
    found = beside(config__json=flat)
    assert found.preprocessing == Preprocessing(resize=303, crop=288, interpolation="bicubic")
    assert found.setting == "timm's test setting, 288 of 303 pixels; trained at 224"
    assert found.labels == Labels(names=("cat", "dog", "fish"), ids=("n1", "n2", "n3"))


@pytest.mark.parametrize(
    ("size", "crop_pct", "resample"), [(224, 0.875, 3), (224, 0.95, 2), (160, 0.9, 3), (383, None, 2)]
)
def test_the_convnext_processor_gives_the_same_pixels(
    beside: Callable[..., Sidecar], size: int, crop_pct: float | None, resample: int
) -> None:
    """Within a grey level: its library may round a resized pixel the other way."""
    transformers = pytest.importorskip("transformers")
    config = {**PROCESSOR, "size": {"shortest_edge": size}, "crop_pct": crop_pct, "resample": resample}
    found = beside(config__json=RESNET, preprocessor_config__json=config)
    given = {key: value for key, value in config.items() if key != "feature_extractor_type" and value is not None}
    processor = transformers.ConvNextImageProcessor(**given)
    smooth = np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8)
    image = Image.fromarray(smooth).resize((500, 347), Image.Resampling.BICUBIC)
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    assert found.preprocessing is not None
    actual = rendered(image, found.preprocessing)
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) < 1.1 / 255 / 0.224


def test_a_processor_that_crops_by_itself_gives_the_same_pixels(beside: Callable[..., Sidecar]) -> None:
    transformers = pytest.importorskip("transformers")
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 200},
        "do_center_crop": True,
        "crop_size": {"height": 160, "width": 160},
        "resample": 2,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
    }
    found = beside(config__json=RESNET, preprocessor_config__json=config).preprocessing
    assert found == Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), resize=200, crop=160)
    processor = transformers.CLIPImageProcessor(**{k: v for k, v in config.items() if k != "image_processor_type"})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (240, 300, 3), dtype=np.uint8))
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    assert float((rendered(image, found) - expected).abs().max()) < 1.1 / 255 / 0.2


def test_without_normalisation_pixels_are_0_to_1(beside: Callable[..., Sidecar]) -> None:
    found = beside(config__json=RESNET, preprocessor_config__json={**PROCESSOR, "do_normalize": False})
    assert found.preprocessing == Preprocessing(
        mean=(0, 0, 0), std=(1, 1, 1), resize=256, crop=224, interpolation="bicubic"
    )


def test_imagenets_classes_are_known_by_what_others_call_them(beside: Callable[..., Sidecar]) -> None:
    info = ImageNetInfo("imagenet-1k")
    long = {str(i): name for i, name in enumerate(info.label_descriptions(detailed=False))}
    assert beside(config__json={**RESNET, "id2label": long}).labels == imagenet1k()
    ids = {"architecture": "resnet18", "num_classes": 1000, "label_names": list(info.label_names())}
    assert beside(config__json=ids).labels == imagenet1k()
    turned = {str(i): long[str(999 - i)] for i in range(1000)}
    labels = beside(config__json={**RESNET, "id2label": turned}).labels
    assert labels is not None
    assert (labels.names[999], labels.ids) == (long["0"], ())
    empty = {str(i): f"LABEL_{i}" for i in range(5)}
    assert beside(config__json={**RESNET, "id2label": empty}).labels is None
    wrapped = {"architecture": "resnet18", "num_classes": 5, "label_names": list(empty.values())}
    assert beside(config__json=wrapped).labels is None
    named = beside(config__json={**RESNET, "id2label": {"1": "dog", "0": "cat"}})
    assert (named.labels, named.classes) == (Labels(names=("cat", "dog")), 2)


def test_an_architecture_file_holds_a_name_or_a_record(beside: Callable[..., Sidecar], tmp_path: Path) -> None:
    spec = spec_from_name("resnet50-v1", 5)
    for text in ("resnet50-v1\n", '"resnet50-v1"', '{"architecture": "resnet50-v1"}'):
        assert beside(architecture=text).architecture == "resnet50-v1"
    for record in (spec.to_dict(), {"version": 1, "architecture": spec.to_dict()}):
        assert beside(architecture=record).architecture == spec
    assert beside(architecture__json=spec.to_dict()).architecture == spec
    assert beside(architecture="resnet50-v1").files == (tmp_path / "architecture", tmp_path / "architecture.json")
    with pytest.raises(
        CheckpointError, match=r"architecture: says resnet50, and architecture\.json beside it resnet50-v1"
    ):
        beside(architecture="resnet50")
    with pytest.raises(CheckpointError, match=r"architecture: says resnet50-v1, and config\.json beside it resnet50"):
        beside(architecture="resnet50-v1", config__json={"architecture": "resnet50"})
    assert beside(config__json={"architecture": "resnet50-v1"}).architecture == "resnet50-v1"


def test_a_configuration_of_other_weights_is_not_used(
    beside: Callable[..., Sidecar | None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"architecture": "resnet18", "num_classes": 10}
    assert beside("last.pth", config__json=config) is not None
    (tmp_path / "optimizer.pt").touch()
    assert beside("last.pth") is not None
    assert not capsys.readouterr().err
    (tmp_path / "best.pth").touch()
    assert beside("last.pth") is None
    assert "config.json: not used for last.pth, since best.pth beside it" in capsys.readouterr().err
    assert beside("model.safetensors") is not None
    assert beside("pytorch_model.bin", config__json={"lr": 0.1}) is None
    assert "names no architecture" in capsys.readouterr().err


TIMM = {"architecture": "resnet18", "num_classes": 10}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON|nested deeper"),
        ("[1]", "not a JSON object"),
        ({"architecture": 5}, "holds no name of an architecture"),
        ({"model_type": "vit"}, "describes a model of type 'vit', not a ResNet"),
        ({**TIMM, "crop_mode": "squash"}, "crop_mode is 'squash'"),
        ({**TIMM, "pretrained_cfg": {"crop_mode": "border"}}, "crop_mode is 'border'"),
        ({**TIMM, "model_args": {"output_stride": 16}}, "model_args has output_stride = 16"),
        ({**TIMM, "model_args": {"act_layer": "silu"}}, "model_args has act_layer = silu"),
        ({**TIMM, "model_args": {"num_classes": 9}}, "num_classes is 10, and 9 in model_args"),
        ({**TIMM, "global_pool": "max"}, "global_pool is 'max'"),
        ({**TIMM, "model_args": {"global_pool": "catavgmax"}}, "global_pool = catavgmax"),
        ({**TIMM, "crop_pct": 1.2}, "crop_pct is 1.2"),
        ({**TIMM, "mean": [123.675, 116.28, 103.53]}, r"mean is \[123.675.*0\.\.1"),
        ({**TIMM, "std": [0.2, 0.2]}, "std is"),
        ({**TIMM, "input_size": [3, 224, 192]}, "input_size is .*not .*square"),
        ({**TIMM, "input_size": [3, 10**9, 10**9]}, "8192 pixels"),
        ({**TIMM, "interpolation": "nearest"}, "interpolation is nearest"),
        ({**TIMM, "label_names": ["a"]}, "label_names has 1 names, num_classes is 10"),
        ({**TIMM, "num_classes": "ten"}, "num_classes is ten"),
        ({**RESNET, "id2label": {"0": "a", "2": "b"}}, "does not name every class from 0 on"),
    ],
)
def test_a_bad_configuration_is_one_line_that_names_the_file(
    beside: Callable[..., Sidecar], config: Any, told: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"config\.json: .*({told}).*") as caught:
        beside(config__json=config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"size": {"shortest_edge": 384}}, "size is 384, which this processor squashes"),
        ({"size": {"height": 224, "width": 224}}, "size is .*not a shortest_edge"),
        ({"image_processor_type": "ViTImageProcessor", "size": 224}, "size is 224, not a shortest_edge"),
        (
            {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}},
            "do_center_crop is not true",
        ),
        ({"do_center_crop": True, "crop_size": 200}, "then to crop_size 200"),
        ({"do_rescale": False}, "do_rescale is false"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor is"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order is True"),
        ({"do_resize": False}, "do_resize is false"),
        ({"resample": 0}, "interpolation is nearest"),
        ({"resample": "bicubic"}, "resample is bicubic"),
        ({"image_mean": None}, "image_mean or image_std is missing"),
    ],
)
def test_a_bad_processor_is_one_line_that_names_the_file(
    beside: Callable[..., Sidecar], changed: dict[str, Any], told: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"preprocessor_config\.json: .*{told}"):
        beside(config__json=RESNET, preprocessor_config__json={**PROCESSOR, **changed})


def test_two_files_that_contradict_each_other_are_refused(beside: Callable[..., Sidecar]) -> None:
    timms = {**TIMM, "input_size": [3, 224, 224], "crop_pct": 0.875, "mean": [0.485, 0.456, 0.406]}
    assert beside(config__json=timms, preprocessor_config__json=PROCESSOR).preprocessing is not None
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: contradicts config\.json"):
        beside(preprocessor_config__json={**PROCESSOR, "crop_pct": 0.9})
