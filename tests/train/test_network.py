"""First weights, per-pixel means, and the step, against formulae and PyTorch's own optimizer."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from resnet_infer.backends.base import Normalize
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.data.open import open_source
from resnet_infer.errors import UsageError
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from resnet_infer.model.resnet import ResNet, build
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.train import network
from resnet_infer.train.images import Batch, InMemory, read_into_memory
from resnet_infer.train.recipe import RECIPES, Recipe
from resnet_infer.train.step import EagerStep, sgd
from resnet_infer.train.stream import Stream

CIFAR10 = replace(RECIPES["cifar10"], precision="fp32")
SPEC = spec_from_name("resnet20")
MEAN = torch.rand(32, 32, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_fan_in_is_hes() -> None:
    net = network.fresh(spec_from_name("resnet56"), CIFAR10, MEAN)
    for name, fan_in in (("layer3.1.conv1", 64 * 9), ("layer2.0.conv1", 16 * 9), ("fc", 64)):
        assert float(net.get_submodule(name).weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)  # type: ignore[union-attr, operator]
    assert not net.fc.bias.detach().any()


def test_fan_out_is_torchvisions() -> None:
    net = network.fresh(spec_from_name("resnet56"), replace(CIFAR10, init="fan-out"), MEAN)
    assert float(net.layer2[0].conv1.weight.detach().std()) == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.05)  # type: ignore[index, union-attr]
    assert float(net.fc.weight.detach().abs().max()) <= 1 / math.sqrt(64)


def test_weights_are_the_seeds_and_disturb_no_one() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = network.fresh(SPEC, CIFAR10, MEAN)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.conv1.weight, network.fresh(SPEC, CIFAR10, MEAN).conv1.weight)
    assert not torch.equal(first.conv1.weight, network.fresh(SPEC, replace(CIFAR10, seed=1), MEAN).conv1.weight)


def checkpoint_of(recipe: Recipe) -> Checkpoint:
    net = network.fresh(SPEC, recipe, MEAN).eval()
    preprocessing = network.preprocessing_of(MEAN, recipe)
    manifest = network.manifest_of(SPEC, preprocessing, None, recipe)  # type: ignore[arg-type]
    return Checkpoint(name="net", manifest=manifest, state_dict=net.state_dict())


def test_a_per_pixel_mean_is_subtracted_wherever_the_weights_go(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(CIFAR10)
    save_checkpoint(tmp_path / "net.safetensors", checkpoint.state_dict, checkpoint.manifest)
    loaded = load_checkpoint(str(tmp_path / "net.safetensors"))
    x_BCHW = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    scores = TorchBackend(loaded, "cpu").run(x_BCHW, "pooled").flatten(1)
    plain = build(SPEC, {k: v for k, v in checkpoint.state_dict.items() if k != "input_offset"})
    expected = plain((x_BCHW / 255 - MEAN.permute(2, 0, 1)).float())
    assert torch.allclose(scores, expected, atol=1e-4 * float(expected.abs().max()))
    channels = plain((x_BCHW / 255 - MEAN.mean((0, 1))[:, None, None]).float())
    assert not torch.allclose(scores, channels, atol=1e-2 * float(expected.abs().max()))


def test_a_per_pixel_mean_takes_no_other_size_and_is_not_exported(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(CIFAR10)
    with pytest.raises(UsageError, match=r"per-pixel mean of 32x32 .* not 40x36; .*--mean channel"):
        TorchBackend(checkpoint, "cpu").run(torch.zeros(1, 3, 36, 40, dtype=torch.uint8), "pooled")
    with pytest.raises(UsageError, match="per-pixel mean, which no export carries; train with --mean channel"):
        export_onnx(checkpoint, tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_channel_means_are_in_the_manifest_alone() -> None:
    checkpoint = checkpoint_of(replace(CIFAR10, mean="channel"))
    assert "input_offset" not in checkpoint.state_dict
    assert checkpoint.manifest.preprocessing.mean == pytest.approx(MEAN.mean((0, 1)).tolist())
    assert checkpoint.manifest.preprocessing.std == (1, 1, 1)


def batch_of(images: Path, recipe: Recipe) -> tuple[Batch, InMemory]:
    pixels = read_into_memory(open_source(images), 32, 0)
    held = InMemory(pixels, [i % 10 for i in range(24)], Stream(24, 8, 0), recipe, torch.device("cpu"))
    return next(held.batches(0, 1)), held


def test_the_mean_image_is_the_images_mean(images: Path) -> None:
    _, held = batch_of(images, CIFAR10)
    expected = sum(image.double() for image in held.images_NHWC) / 24 / 255
    assert torch.allclose(held.mean_image(), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("decay", ["all", "weights"])
def test_a_step_is_plain_sgd(images: Path, decay: str) -> None:
    recipe = replace(CIFAR10, mean="channel", decay=decay, weight_decay=0.05, colour=0.1)  # type: ignore[arg-type]
    batch, held = batch_of(images, recipe)
    ours = network.fresh(SPEC, recipe, MEAN).train()
    preprocessing = network.preprocessing_of(held.mean_image(), recipe)
    step = EagerStep(ours, sgd(ours, recipe), Normalize(preprocessing, "cpu"), recipe)
    theirs = network.fresh(SPEC, recipe, MEAN).train()
    velocity = {name: torch.zeros_like(p) for name, p in theirs.named_parameters()}
    for lr in (0.1, 0.1, 0.01):
        loss, wrong = step(batch, lr)
        expected = plain_step(theirs, velocity, batch, lr, recipe, held)
        assert (float(loss), float(wrong)) == pytest.approx(expected, rel=1e-4)
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, rtol=1e-3, atol=1e-5), name


def plain_step(
    net: ResNet, velocity: dict[str, torch.Tensor], batch: Batch, lr: float, recipe: Recipe, held: InMemory
) -> tuple[float, float]:
    """v = m v + g + decay w; w = w - lr v, written out; colour by its formula."""
    from resnet_infer.train.augment import colour_basis

    x_BCHW, classes_B, normal_B3 = batch
    x_BCHW = x_BCHW / 255 + (normal_B3 @ colour_basis(0.1))[:, :, None, None]
    x_BCHW = (x_BCHW - held.mean_image().mean((0, 1))[:, None, None]).float()
    logits = net(x_BCHW)
    loss = F.cross_entropy(logits, classes_B)
    net.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for name, p in net.named_parameters():
            assert p.grad is not None
            spared = recipe.decay == "weights" and (".bn" in f".{name}" or name.endswith("bias"))
            velocity[name].mul_(0.9).add_(p.grad + (0 if spared else recipe.weight_decay) * p)
            p -= lr * velocity[name]
    return float(loss.detach()), float((logits.argmax(1) != classes_B).float().mean())
