"""Layer responses against their definition, and third-party checkpoints in the ranges measured before."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.layer_responses import layer_responses
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Subset
from resnet_infer.model.checkpoints import Checkpoint, Overrides, load_checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from resnet_infer.train.images import read_into_memory


def test_responses_are_stds_before_the_relu(images: Path, small_net: ResNet) -> None:
    manifest = Manifest(spec=small_net.spec, preprocessing=Preprocessing(resize=32, crop=32))
    checkpoint = Checkpoint(name="net", manifest=manifest, state_dict=small_net.state_dict())
    found = layer_responses(checkpoint, open_source(images), workers=0)
    assert [name for name, _ in found[:3]] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert len(found) == 19
    pixels = read_into_memory(open_source(images), 32, 0).permute(0, 3, 1, 2) / 255
    x = (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.inference_mode():
        stem = small_net.bn1(small_net.conv1(x))
        block = small_net.get_submodule("layer1.0")
        inside = block.bn1(block.conv1(F.relu(stem)))
        second = block.bn2(block.conv2(F.relu(inside)))
    expected = [float(y.double().std(correction=0)) for y in (stem, inside, second)]
    assert [std for _, std in found[:3]] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("file", "layers", "lowest", "highest"),
    [("resnet20-12fca82f.th", 19, 0.42, 1.62), ("resnet56-4bfd9763.th", 55, 0.26, 0.96)],
)
def test_third_party_checkpoints(shared: Path, file: str, layers: int, lowest: float, highest: float) -> None:
    """The ranges are of all 10,000 test images; a twentieth of them gives the same to within 2 %."""
    overrides = Overrides(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    checkpoint = load_checkpoint(str(shared / "checkpoints" / file), overrides)
    test_set = open_source(shared / "data" / "cifar10" / "test.zip")
    some = Subset("some", test_set, range(0, 10_000, 20))
    values = [std for _, std in layer_responses(checkpoint, some, workers=0)]
    assert len(values) == layers
    assert (min(values), max(values)) == (pytest.approx(lowest, rel=0.02), pytest.approx(highest, rel=0.02))
