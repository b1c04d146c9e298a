"""Every ResNet of torchvision and timm, by name and off its tensors: logits, parameters and multiply-adds as theirs.

Networks of over LARGE parameters are made with fewer blocks for the logits, and whole without memory for the rest.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from resnet_infer.errors import CheckpointError, UnknownNameError, UsageError
from resnet_infer.model.adapters import conform, read_architecture
from resnet_infer.model.layouts import unwrap
from resnet_infer.model.resnet import build
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.catalogue import architecture_names, family_names, spec_from_name

LARGE = 12e6
TORCHVISION = [n for n in torchvision.models.list_models() if n.startswith(("resnet", "resnext", "wide_resnet"))]
TIMM = timm.list_models(module="resnet")
NOT_RUN = {
    "ecaresnet50d_pruned": "differ in width",
    "ecaresnet101d_pruned": "differ in width",
    "test_resnet": "mixes basic and bottleneck",
}
"""timm's networks that are refused, and why."""
UNTOLD = ("blur", "aa")
"""Names whose anti-aliasing no tensor tells."""


def theirs(library: str, name: str, **options: Any) -> nn.Module:
    create = torchvision.models.get_model if library == "torchvision" else timm.create_model
    return create(name, **options).eval()


def with_lively_norms(net: nn.Module) -> nn.Module:
    """Norms that do something and keep activations in range."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.3, 0.7)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def counted(net: nn.Module, x_BCHW: Tensor) -> tuple[int, int]:
    """Parameters, and multiply-adds of convolutions and linear layers as they run."""
    macs = 0

    def add(module: nn.Module, given: Any, out: Tensor) -> None:
        nonlocal macs
        weight = module.get_parameter("weight")
        macs += weight.numel() * (1 if isinstance(module, nn.Linear) else out[0, 0].numel())

    hooks = [m.register_forward_hook(add) for m in net.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Linear)]
    net(x_BCHW)
    for hook in hooks:
        hook.remove()
    return sum(p.numel() for p in net.parameters()), macs


def assert_same_logits(net: nn.Module, spec: ModelSpec, side: int = 64) -> None:
    """To 1e-5 of the largest, on images of two shapes."""
    ours = build(spec, conform(unwrap(dict(net.state_dict()), "theirs"), spec, "theirs"))
    for width in (side, side + 32):
        x_BCHW = torch.randn(2, spec.channels, side, width)
        with torch.inference_mode():
            expected_BK, logits_BK = net(x_BCHW), ours(x_BCHW)
        assert expected_BK.std() > 0
        assert (logits_BK - expected_BK).abs().max() <= 1e-5 * expected_BK.abs().max()


@pytest.mark.parametrize(
    ("library", "name"), [*(("torchvision", n) for n in TORCHVISION), *(("timm", n) for n in TIMM)]
)
def test_every_resnet_of_the_libraries(library: str, name: str) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        whole = theirs(library, name)
    tensors = unwrap(dict(whole.state_dict()), "theirs")
    if reason := NOT_RUN.get(name):
        with pytest.raises(CheckpointError, match=reason):
            read_architecture(tensors, "theirs")
        with pytest.raises(UnknownNameError):
            spec_from_name(name)
        return
    spec = spec_from_name(name)
    assert spec.name == name
    assert (read_architecture(tensors, "theirs") == spec) is not any(part in name for part in UNTOLD)
    parameters, macs = counted(whole, torch.empty(1, 3, 224, 224, device="meta"))
    assert (spec.params, spec.macs()) == (parameters, macs)
    layers = [min(depth, 2) for depth in spec.depths] if parameters > LARGE else list(spec.depths)
    if library == "timm":
        net = theirs(library, name, num_classes=7, layers=tuple(layers))
    else:
        block, each = BasicBlock if spec.block == "basic" else Bottleneck, spec.widths[0] // spec.groups
        net = torchvision.models.ResNet(block, layers, 7, groups=spec.groups, width_per_group=each)
    read = read_architecture(unwrap(dict(net.state_dict()), "theirs"), "theirs")
    spec = ModelSpec(**read.to_dict() | {"antialias": spec.antialias})
    assert_same_logits(with_lively_norms(net), spec)


def test_what_of_the_libraries_is_covered(record_property: Callable[[str, object], None]) -> None:
    published = {name.split(".")[0] for name in timm.list_pretrained() if name.split(".")[0] in TIMM}
    covered = published - set(NOT_RUN)
    record_property("published networks of timm/models/resnet.py", f"{len(covered)} of {len(published)}")
    print(f"published networks of timm/models/resnet.py: {len(covered)} of {len(published)}")
    assert published - covered <= set(NOT_RUN)
    assert len(covered) >= 61


@pytest.mark.parametrize("name", [*architecture_names(), *family_names()])
def test_a_name_stands_for_one_network_and_its_record_comes_back(name: str) -> None:
    spec = spec_from_name(name)
    assert spec.name == name
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    assert spec_from_name(spec.name, 7) == spec_from_name(name.upper() if name.islower() else name, 7)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", ["resnet18", "resnet26t"])
def test_grey_inputs_and_those_with_alpha(name: str, channels: int) -> None:
    torch.manual_seed(0)
    net = with_lively_norms(timm.create_model(name, num_classes=5, in_chans=channels))
    spec = read_architecture(unwrap(dict(net.state_dict()), "theirs"), "theirs")
    assert spec == replace(spec_from_name(name, 5), channels=channels)
    assert_same_logits(net, spec)


@pytest.mark.parametrize(("stride", "dilated"), [(16, 1), (8, 2)])
def test_dilated_stages(stride: int, dilated: int) -> None:
    torch.manual_seed(0)
    net = with_lively_norms(timm.create_model("resnet26", num_classes=5, output_stride=stride))
    assert_same_logits(net, spec_from_name(f"resnet26,dilated={dilated}", 5))
    for name in ("resnet18", "resnet50d"):
        with pytest.raises(UsageError, match="stages dilate in bottlenecks"):
            spec_from_name(f"{name},dilated=1")


def test_pre_activated_networks_equal_timms() -> None:
    torch.manual_seed(0)
    net = with_lively_norms(timm.create_model("resnetv2_50", num_classes=5))
    spec = read_architecture(unwrap(dict(net.state_dict()), "theirs"), "theirs")
    assert spec == spec_from_name("resnet50-v2", 5)
    assert_same_logits(net, spec)
    assert spec.params == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu", "leaky-relu"])
def test_activations(activation: str) -> None:
    torch.manual_seed(0)
    kinds = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "leaky-relu": nn.LeakyReLU}
    net = with_lively_norms(timm.create_model("resnet26t", num_classes=5))
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, kinds[activation]())
    assert_same_logits(net, spec_from_name(f"resnet26t,activation={activation}", 5))


def test_hidden_and_bias_free_heads() -> None:
    torch.manual_seed(0)
    for head in (
        nn.Sequential(nn.Dropout(), nn.Linear(512, 5)),
        nn.Linear(512, 5, bias=False),
        nn.Sequential(nn.Linear(512, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 5)),
        nn.Sequential(nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 5, bias=False)),
    ):
        net = torchvision.models.resnet18()
        net.fc = head
        tensors = unwrap(dict(net.state_dict()), "theirs")
        spec = read_architecture(tensors, "theirs")
        assert spec.params == sum(p.numel() for p in net.parameters())
        assert_same_logits(with_lively_norms(net), spec)


@pytest.mark.parametrize("size", [(224, 224), (225, 226), (227, 195), (33, 40)])
def test_caffes_networks_of_the_papers_authors(size: tuple[int, int]) -> None:
    """Strides in the first 1x1, and windows that begin at the edge and reach over the other."""
    torch.manual_seed(0)
    net = torchvision.models.ResNet(Bottleneck, [1, 2, 1, 1], 5)
    net.maxpool = nn.MaxPool2d(3, 2, 0, ceil_mode=True)
    for module in net.modules():
        if isinstance(module, Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
    read = read_architecture(unwrap(dict(with_lively_norms(net).state_dict()), "theirs"), "theirs")
    spec = ModelSpec(**read.to_dict() | {"stride_in": "first", "pool": "caffe"})
    ours = build(spec, conform(unwrap(dict(net.state_dict()), "theirs"), spec, "theirs"))
    x_BCHW = torch.randn(1, 3, *size)
    with torch.inference_mode():
        expected_BK, logits_BK = net(x_BCHW), ours(x_BCHW)
        assert ours.features(x_BCHW).shape[2:] == tuple(map(spec.map_size, size))
    assert (logits_BK - expected_BK).abs().max() <= 1e-5 * expected_BK.abs().max()
    assert spec.map_size(spec.min_dense_side) == spec.window > spec.map_size(spec.min_dense_side - 1)
