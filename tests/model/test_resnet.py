"""Our networks against torchvision's and timm's with the same weights, and the paper's options written by hand."""

import math
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from resnet_infer.model.adapters import conform, read_architecture
from resnet_infer.model.layouts import unwrap
from resnet_infer.model.parts import PaddedShortcut
from resnet_infer.model.resnet import Block, ResNet, build
from resnet_infer.spec.catalogue import architecture_names, spec_from_name


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def with_lively_norms(net: nn.Module) -> nn.Module:
    """The network in evaluation mode with batch norms that do something and keep activations in range."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.7)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def assert_equal_logits(ours: nn.Module, theirs: nn.Module, x_BCHW: Tensor) -> None:
    """To 1e-5 of the largest."""
    with torch.inference_mode():
        expected_BK, logits_BK = theirs(x_BCHW), ours(x_BCHW)
    assert logits_BK.shape == expected_BK.shape
    assert expected_BK.std() > 0
    assert (logits_BK - expected_BK).abs().max() <= 1e-5 * expected_BK.abs().max()


def strided_in_the_first(net: nn.Module) -> nn.Module:
    """torchvision's network with each bottleneck's stride moved to its first 1x1 convolution."""
    for module in net.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
    return net


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_logits_equal_torchvisions(depth: int) -> None:
    theirs = with_lively_norms(torchvision.models.get_model(f"resnet{depth}"))
    ours = build(spec_from_name(f"resnet{depth}"), theirs.state_dict())
    assert_equal_logits(ours, theirs, torch.randn(1, 3, 49, 66))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_logits_equal_timms(name: str) -> None:
    theirs = with_lively_norms(timm.create_model(name, pretrained=False, num_classes=11))
    tensors = unwrap(theirs.state_dict(), "timm")
    spec = read_architecture(tensors, "timm")
    assert spec == spec_from_name(name, classes=11)
    assert_equal_logits(build(spec, conform(tensors, spec, "timm")), theirs, torch.randn(1, 3, 64, 49))


def test_v1_strides_in_the_first_1x1() -> None:
    theirs = with_lively_norms(torchvision.models.resnet50())
    v1 = build(spec_from_name("resnet50-v1"), theirs.state_dict())
    x_BCHW = torch.randn(1, 3, 49, 66)
    with torch.inference_mode():
        unmoved_BK = theirs(x_BCHW)
        assert not torch.allclose(v1(x_BCHW), unmoved_BK, rtol=0.01, atol=0.01 * float(unmoved_BK.abs().max()))
    assert_equal_logits(v1, strided_in_the_first(theirs), x_BCHW)


def test_a_v1_block_equals_torchvisions_bottleneck_with_its_stride_moved() -> None:
    project = nn.Sequential(nn.Conv2d(256, 512, 1, 2, bias=False), nn.BatchNorm2d(512))
    theirs = strided_in_the_first(
        nn.Sequential(with_lively_norms(torchvision.models.resnet.Bottleneck(256, 128, 2, project)))
    )[0]
    ours = block_of("resnet50-v1", "layer2.0").eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert_equal_logits(ours, theirs, torch.randn(2, 256, 13, 8))


@pytest.mark.parametrize("name", ["resnet18", "resnet34-A", "resnet50", "resnet50-v1", "plain34", "resnet20"])
@pytest.mark.parametrize("size", [(193, 257), (225, 226), (31, 301), (33, 1)])
def test_feature_maps_are_of_the_size_the_spec_foretells(name: str, size: tuple[int, int]) -> None:
    spec = spec_from_name(name)
    with torch.device("meta"):
        features_BCHW = ResNet(spec).features(torch.empty(1, 3, *size))
    assert features_BCHW.shape == (1, spec.features, spec.map_size(size[0]), spec.map_size(size[1]))


@pytest.mark.parametrize(("channels", "out", "stride"), [(16, 32, 2), (64, 256, 1), (5, 8, 2), (7, 7, 2)])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 3)])
def test_option_a_pads_both_sides_and_takes_every_second_pixel(
    channels: int, out: int, stride: int, size: tuple[int, int]
) -> None:
    x_BCHW = torch.randn(2, channels, *size)
    height, width = math.ceil(size[0] / stride), math.ceil(size[1] / stride)
    expected_BCHW = torch.zeros(2, out, height, width)
    for c in range(channels):
        for row in range(height):
            for column in range(width):
                expected_BCHW[:, (out - channels) // 2 + c, row, column] = x_BCHW[:, c, row * stride, column * stride]
    assert torch.equal(PaddedShortcut(channels, out, stride)(x_BCHW), expected_BCHW)


def block_of(name: str, place: str) -> Block:
    """A block of a network, new."""
    spec = spec_from_name(name)
    return Block(spec, place, dict(spec.blocks())[place])


def branch(block: Block, x_BCHW: Tensor) -> Tensor:
    """F(x) of a basic block, from its tensors alone."""
    s = block.state_dict()
    for n, stride in ((1, block.conv1.stride), (2, (1, 1))):
        x_BCHW = F.conv2d(x_BCHW, s[f"conv{n}.weight"], stride=stride, padding=1)
        scale_C = s[f"bn{n}.weight"] / (s[f"bn{n}.running_var"] + 1e-5).sqrt()
        shift_C = s[f"bn{n}.bias"] - s[f"bn{n}.running_mean"] * scale_C
        x_BCHW = x_BCHW * scale_C[:, None, None] + shift_C[:, None, None]
        x_BCHW = x_BCHW.relu() if n == 1 else x_BCHW
    return x_BCHW


@pytest.mark.parametrize(
    ("name", "shortcut"),
    {
        "plain20": lambda x_BCHW: torch.zeros(()),
        "resnet20": lambda x_BCHW: F.pad(x_BCHW[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)),
    }.items(),
)
@torch.inference_mode()
def test_a_plain_block_is_its_branch_and_a_residual_one_adds_the_shortcut(
    name: str, shortcut: Callable[[Tensor], Tensor]
) -> None:
    block = with_lively_norms(block_of(name, "layer2.0"))
    assert isinstance(block, Block)
    x_BCHW = torch.randn(2, 16, 9, 12)
    expected_BCHW = (branch(block, x_BCHW) + shortcut(x_BCHW)).relu()
    torch.testing.assert_close(block(x_BCHW), expected_BCHW)


@pytest.mark.parametrize("name", ["plain18", "plain34", "plain20", "plain110"])
def test_plain_networks_have_no_shortcut_anywhere(name: str) -> None:
    """With branches that give nothing, nothing passes: the logits are the classifier's bias."""
    net = build(spec_from_name(name))
    for key, tensor in net.state_dict().items():
        if key.endswith("bn2.weight"):
            tensor.zero_()
    with torch.inference_mode():
        assert torch.equal(net(torch.randn(1, 3, 16, 16))[0], net.fc.bias)


@torch.inference_mode()
def test_with_branches_that_give_nothing_a_residual_network_passes_its_stem_through() -> None:
    net = build(spec_from_name("resnet20"))
    for key, tensor in net.state_dict().items():
        if key.endswith("bn2.weight"):
            tensor.zero_()
    x_BCHW = torch.randn(1, 3, 32, 32)
    stem_BCHW = net.bn1(net.conv1(x_BCHW)).relu()
    features_BCHW = net.features(x_BCHW)
    assert torch.equal(features_BCHW[:, 24:40], stem_BCHW[:, :, ::4, ::4])
    assert not features_BCHW[:, :24].any()
    assert not features_BCHW[:, 40:].any()


@pytest.mark.parametrize(
    ("convolution", "std"),
    {
        "conv1": 0.0253,
        "layer1.0.conv3": 0.0884,
        "layer1.1.conv1": 0.1768,
        "layer4.1.conv2": math.sqrt(2 / (9 * 512)),
    }.items(),
)
def test_convolutions_start_at_hes_fan_out(convolution: str, std: float) -> None:
    weight = build(spec_from_name("resnet50")).get_submodule(convolution).weight.detach()
    assert float(weight.std()) == pytest.approx(std, rel=0.02)
    assert abs(float(weight.mean())) < 0.02 * std + 3 * std / math.sqrt(weight.numel())


@pytest.mark.parametrize("name", [n for n in architecture_names() if "1202" not in n])
def test_a_built_network_is_ready_for_inference(name: str) -> None:
    spec = spec_from_name(name)
    with torch.device("meta"):
        state = ResNet(spec).state_dict()
    net = build(spec, state)
    assert net.spec == spec
    assert not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in state.items()}


def test_given_weights_are_used_and_not_copied() -> None:
    state = build(spec_from_name("resnet20")).state_dict()
    net = build(spec_from_name("resnet20"), state)
    assert all(tensor.data_ptr() == state[key].data_ptr() for key, tensor in net.state_dict().items())


def test_random_weights_follow_the_global_generator() -> None:
    def first(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return build(spec_from_name("resnet20")).fc.weight

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@torch.inference_mode()
def test_an_images_logits_do_not_depend_on_its_batch() -> None:
    net = with_lively_norms(build(spec_from_name("resnet34-C")))
    x_BCHW = torch.randn(3, 3, 33, 64)
    torch.testing.assert_close(net(x_BCHW), torch.cat([net(x_BCHW[i : i + 1]) for i in range(3)]), rtol=1e-4, atol=1e-5)
