"""Architectures against the paper's tables, torchvision's records and counts by brute force.

Tables: He et al. 2015 Table 1 and section 4.2, and exact counts made from them by hand elsewhere.
"""

from dataclasses import replace

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from resnet_infer.errors import UnknownNameError, UsageError
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.architectures import ModelSpec, halve
from resnet_infer.spec.catalogue import architecture_names, spec_from_name

PARAMS = {
    "plain18": 11_515_688,
    "resnet18-A": 11_515_688,
    "resnet18": 11_689_512,
    "resnet18-C": 12_043_816,
    "plain34": 21_623_848,
    "resnet34-A": 21_623_848,
    "resnet34": 21_797_672,
    "resnet34-C": 22_716_840,
    "resnet50": 25_557_032,
    "resnet50-v1": 25_557_032,
    "resnet101": 44_549_160,
    "resnet101-v1": 44_549_160,
    "resnet152": 60_192_808,
    "resnet152-v1": 60_192_808,
    "resnet20": 269_722,
    "resnet20-B": 272_474,
    "resnet32": 464_154,
    "resnet32-B": 466_906,
    "resnet44": 658_586,
    "resnet44-B": 661_338,
    "resnet56": 853_018,
    "resnet56-B": 855_770,
    "resnet110": 1_727_962,
    "resnet110-B": 1_730_714,
    "resnet1202": 19_421_274,
    "resnet1202-B": 19_424_026,
    "plain20": 269_722,
    "plain1202": 19_421_274,
}
BILLION_MACS = {
    "plain18": 1.795,
    "resnet18-A": 1.795,
    "resnet18": 1.814,
    "resnet18-C": 1.878,
    "plain34": 3.644,
    "resnet34-A": 3.644,
    "resnet34": 3.664,
    "resnet34-C": 3.831,
    "resnet50-v1": 3.858,
    "resnet50": 4.089,
    "resnet101-v1": 7.570,
    "resnet101": 7.801,
    "resnet152-v1": 11.282,
    "resnet152": 11.514,
}
MILLION_MACS = {
    "resnet20": 40.55,
    "resnet32": 68.86,
    "resnet44": 97.17,
    "resnet56": 125.49,
    "resnet110": 252.89,
    "resnet1202": 2829.24,
}
PAPER_BILLION_FLOPS = {"resnet18": 1.8, "resnet50-v1": 3.8, "resnet101-v1": 7.6, "resnet152-v1": 11.3, "plain34": 3.6}
LARGER_SQUARES = {"resnet50-v1": (5.04, 11.33, 17.71, 31.48), "resnet50": (5.34, 12.01, 18.77, 33.37)}

EVERY_NAME = sorted({*architecture_names(), *PARAMS, "resnet20-C", "resnet50-A", "resnet50-C", "resnet50-v1-A"})
SHALLOW = [name for name in EVERY_NAME if "1202" not in name]


def on_meta(spec: ModelSpec) -> ResNet:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return ResNet(spec).eval()


def macs_by_hooks(net: nn.Module, height: int, width: int) -> int:
    """Multiply-adds counted while a forward pass runs, layer by layer."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    net(torch.empty(1, 3, height, width, device="meta"))
    return total


@pytest.mark.parametrize(("name", "params"), PARAMS.items())
def test_parameters_are_those_of_the_tables(name: str, params: int) -> None:
    assert spec_from_name(name).params == params


@pytest.mark.parametrize(("name", "billions"), BILLION_MACS.items())
def test_imagenet_macs_are_those_of_the_tables(name: str, billions: float) -> None:
    assert round(spec_from_name(name).macs() / 1e9, 3) == billions


@pytest.mark.parametrize(("name", "millions"), MILLION_MACS.items())
def test_cifar_macs_are_those_of_the_tables(name: str, millions: float) -> None:
    assert round(spec_from_name(name).macs() / 1e6, 2) == millions


@pytest.mark.parametrize(("name", "billions"), PAPER_BILLION_FLOPS.items())
def test_macs_agree_with_the_papers_table_1(name: str, billions: float) -> None:
    """To the digit it prints, which it sometimes cuts off and sometimes rounds."""
    assert abs(spec_from_name(name).macs() / 1e9 - billions) < 0.1


@pytest.mark.parametrize(("name", "billions"), LARGER_SQUARES.items())
def test_macs_at_the_larger_sizes(name: str, billions: tuple[float, ...]) -> None:
    macs = [spec_from_name(name).macs(side, side) for side in (256, 384, 480, 640)]
    assert tuple(round(m / 1e9, 2) for m in macs) == billions


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_torchvision_records_the_same_sizes(depth: int) -> None:
    weights = torchvision.models.get_model_weights(f"resnet{depth}").IMAGENET1K_V1
    spec = spec_from_name(f"resnet{depth}")
    assert spec.params == weights.meta["num_params"]
    assert round(spec.macs() / 1e9, 3) == weights.meta["_ops"]


@pytest.mark.parametrize("name", EVERY_NAME)
def test_parameters_are_those_of_the_built_network(name: str) -> None:
    spec = spec_from_name(name)
    assert spec.params == sum(p.numel() for p in on_meta(spec).parameters())


@pytest.mark.parametrize("name", EVERY_NAME)
def test_macs_are_those_of_a_forward_pass(name: str) -> None:
    spec = spec_from_name(name)
    assert spec.macs() == macs_by_hooks(on_meta(spec), spec.native_size, spec.native_size)


@pytest.mark.parametrize("name", ["resnet18-C", "resnet34-A", "resnet50", "resnet50-v1", "resnet20"])
@pytest.mark.parametrize("size", [(193, 257), (225, 301), (31, 50)])
def test_macs_at_odd_sizes_are_those_of_a_forward_pass(name: str, size: tuple[int, int]) -> None:
    spec = spec_from_name(name)
    assert spec.macs(*size) == macs_by_hooks(on_meta(spec), *size)


@pytest.mark.parametrize("name", SHALLOW)
def test_convolutions_are_those_of_the_built_network(name: str) -> None:
    spec = spec_from_name(name)
    built = {k: m for k, m in on_meta(spec).named_modules() if isinstance(m, nn.Conv2d)}
    described = {
        c.name: (c.in_channels, c.out_channels, (c.kernel, c.kernel), (c.stride, c.stride)) for c in spec.convs()
    }
    assert described == {k: (m.in_channels, m.out_channels, m.kernel_size, m.stride) for k, m in built.items()}


@pytest.mark.parametrize(
    ("name", "projections"),
    # "thirteen" more in C than in B for the 34 layers; four in B for the 50, since its first stage widens too
    {"resnet34-A": 0, "resnet34": 3, "resnet34-C": 16, "resnet50": 4, "plain34": 0, "resnet20": 0}.items(),
)
def test_number_of_projection_shortcuts(name: str, projections: int) -> None:
    assert sum("downsample" in conv.name for conv in spec_from_name(name).convs()) == projections


@pytest.mark.parametrize("name", EVERY_NAME)
def test_layers_are_the_number_in_the_name(name: str) -> None:
    spec = spec_from_name(name)
    assert str(spec.layers) in name
    weighted = sum("downsample" not in conv.name for conv in spec.convs()) + 1
    assert spec.layers == weighted


@given(st.integers(1, 5000), st.integers(0, 10))
def test_halving_at_once_is_halving_step_by_step(side: int, times: int) -> None:
    step_by_step = side
    for _ in range(times):
        step_by_step = (step_by_step + 1) // 2
    assert halve(side, times) == step_by_step


def test_map_sizes_of_the_papers_scales() -> None:
    sides = {224: 7, 256: 8, 384: 12, 480: 15, 640: 20, 298: 10, 341: 11, 512: 16, 853: 27, 225: 8, 226: 8, 257: 9}
    assert {side: spec_from_name("resnet50").map_size(side) for side in sides} == sides


@pytest.mark.parametrize(
    ("name", "window", "least"), [("resnet18", 7, 193), ("resnet152-v1", 7, 193), ("resnet20", 8, 29)]
)
def test_dense_window_and_the_smallest_side_that_has_one(name: str, window: int, least: int) -> None:
    spec = spec_from_name(name)
    assert (spec.window, spec.min_dense_side) == (window, least)
    assert spec.map_size(least) == window > spec.map_size(least - 1)


@pytest.mark.parametrize("name", EVERY_NAME)
def test_a_network_keeps_the_name_it_was_asked_by(name: str) -> None:
    assert spec_from_name(name).name == name
    assert spec_from_name(name.upper()) == spec_from_name(name)


def test_default_options_have_no_suffix() -> None:
    assert spec_from_name("resnet34-B") == spec_from_name("resnet34")
    assert spec_from_name("resnet56-A") == spec_from_name("resnet56")
    assert spec_from_name("resnet50-v1-b") == spec_from_name("resnet50-v1")


def test_suffixes_change_one_thing_each() -> None:
    base = spec_from_name("resnet50")
    assert spec_from_name("resnet50-v1") == replace(base, name="resnet50-v1", stride_in="first")
    assert spec_from_name("resnet50-C") == replace(base, name="resnet50-C", shortcut="C")
    assert spec_from_name("resnet50-v1-A") == replace(base, name="resnet50-v1-A", shortcut="A", stride_in="first")
    assert spec_from_name("plain34") == replace(spec_from_name("resnet34"), name="plain34", shortcut="none")


@pytest.mark.parametrize(
    ("given", "nearest"),
    {"resnet51": "resnet50", "resnt18": "resnet18", "plain19": "plain18", "ResNet-50": "resnet50"}.items(),
)
def test_an_unknown_architecture_offers_the_nearest(given: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"unknown architecture '{given}'.*Nearest:.*{nearest}\b"):
        spec_from_name(given)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet50-D", "resnet50-v3", "resnet50-A-v1", "resnet50-", "resnet18-v1", "resnet20-v1"),
        *("plain20-v1", "plain18-A", "resnet", "resnet-1", "resnet19", "plain50", "densenet121"),
        *("", " resnet50", "resnet50\n", "resnet" + "9" * 5000),
    ],
    ids=lambda name: repr(name[:16]),
)
def test_nonsense_names_are_usage_errors(name: str) -> None:
    with pytest.raises(UsageError):
        spec_from_name(name)


def test_classes() -> None:
    assert spec_from_name("resnet18").classes == 1000
    assert spec_from_name("resnet20").classes == 10
    ten = spec_from_name("resnet18", classes=10)
    assert ten == replace(spec_from_name("resnet18"), classes=10)
    assert ten.params == PARAMS["resnet18"] - 990 * 513
    assert ten.macs() == spec_from_name("resnet18").macs() - 990 * 512


@pytest.mark.parametrize("name", EVERY_NAME)
def test_a_record_gives_the_same_architecture_back(name: str) -> None:
    assert ModelSpec.from_dict(spec_from_name(name).to_dict()) == spec_from_name(name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"block": "inverted"},
        {"shortcut": "D"},
        {"stride_in": "last"},
        {"stem": "odd"},
        {"depths": ()},
        {"depths": (2, 2)},
        {"depths": (2, 2, 0)},
        {"depths": (2, 2, 10**9)},
        {"depths": "two"},
        {"depths": 2},
        {"widths": (16, 32, 0)},
        {"widths": (16, 32, 10**9)},
        {"classes": 0},
        {"classes": 10**9},
        {"classes": "ten"},
        {"classes": float("inf")},
        {"classes": None},
    ],
    ids=str,
)
def test_values_no_network_has_are_usage_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ModelSpec.from_dict(spec_from_name("resnet20").to_dict() | wrong)
