"""The family in ONNX: every kind of layer that a variant adds, against the network as PyTorch runs it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from resnet_infer.errors import UsageError
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import Checkpoint, native_preprocessing
from resnet_infer.model.resnet import build
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD

NAMES = (
    "resnext50_32x4d", "seresnet50t", "resnetblur18", "resnet50_gn", "ecaresnet26t,activation=silu", "resnetrs50",
    "resnet18-cifar-v2", "wrn-16-8", "resnet50,dilated=2",
)  # fmt: skip


def checkpoint(name: str) -> Checkpoint:
    """Random weights, norms that do something, one block a stage."""
    torch.manual_seed(0)
    spec = spec_from_name(name, 10)
    spec = replace(spec, depths=(1,) * len(spec.depths))
    net = build(spec)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.3, 0.7)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) * 0.2
            module.running_var = torch.rand(module.num_features) + 0.5
    manifest = Manifest(spec=spec, preprocessing=native_preprocessing(spec, IMAGENET_MEAN, IMAGENET_STD), source="made")
    return Checkpoint(name=name, manifest=manifest, state_dict=net.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_exports_as_it_runs(name: str, tmp_path: Path) -> None:
    """With either head in turn; the check within compares several sizes with the unfolded network."""
    made = checkpoint(name)
    head: Head = "dense" if NAMES.index(name) % 2 else "pooled"
    manifest = export_onnx(made, tmp_path / "net.onnx", head=head)
    assert manifest.spec == made.manifest.spec
    assert manifest.parity["relative_diff"] <= 1e-5
    assert len(manifest.parity["shapes"]) == 4


@pytest.mark.parametrize("name", ["wrn-16-8", "resnetaa34d"])
def test_half_precision_of_what_folds_otherwise(name: str, tmp_path: Path) -> None:
    """A stem's norm that only activates is folded by us, in fp32; one size is exported for networks that take one."""
    manifest = export_onnx(checkpoint(name), tmp_path / "net.onnx", precision="bf16")
    assert manifest.parity["relative_diff"] <= 0.05


def test_average_anti_aliasing_takes_one_size(tmp_path: Path) -> None:
    manifest = export_onnx(checkpoint("resnetaa34d"), tmp_path / "net.onnx")
    assert {tuple(shape[1:]) for shape in manifest.parity["shapes"]} == {(224, 224)}
    with pytest.raises(UsageError, match="has no dense head: its anti-aliasing takes one size; export --head pooled"):
        export_onnx(checkpoint("resnetaa34d"), tmp_path / "net.onnx", head="dense")
