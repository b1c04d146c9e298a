"""transformers' ResNets: their tensors under torchvision's names compute what transformers computes."""

import dataclasses
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from resnet_infer.errors import UsageError
from resnet_infer.model.adapters import conform, read_architecture
from resnet_infer.model.layouts import unwrap
from resnet_infer.model.resnet import build
from resnet_infer.model.transformers_layout import (
    facts_of_transformers,
    from_transformers,
    is_transformers,
    spec_of_transformers,
)

transformers = pytest.importorskip("transformers")

BASIC: dict[str, Any] = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
BOTTLENECK: dict[str, Any] = {"layer_type": "bottleneck", "depths": [1, 2, 1, 1]}


def network(**config: Any) -> Any:
    """A random one whose batch norms have statistics, and scale and shift."""
    torch.manual_seed(0)
    net = transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=7, **config))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.2, 0.2)
    return net.eval()


@torch.inference_mode()
def assert_same_logits(theirs: Any, ours: nn.Module, side: int = 96) -> None:
    x_BCHW = torch.rand(2, 3, side, side)
    expected: Tensor = theirs(x_BCHW).logits
    actual = ours.eval()(x_BCHW)
    assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-5
    assert float(expected.std()) > 1e-3


@pytest.mark.parametrize("config", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
def test_torchvisions_network_takes_the_tensors_and_gives_the_logits(config: dict[str, Any]) -> None:
    """Equal to the default, downsample_in_bottleneck false: the stride is in the 3x3."""
    theirs = network(**config)
    block: Any = BasicBlock if config is BASIC else Bottleneck
    ours = torchvision.models.ResNet(block, config["depths"], num_classes=7)
    assert is_transformers(theirs.state_dict())
    ours.load_state_dict(from_transformers(theirs.state_dict()))
    assert_same_logits(theirs, ours)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("config", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
def test_our_network_of_its_configuration_gives_the_logits(config: dict[str, Any], first: bool) -> None:
    theirs = network(**config, downsample_in_bottleneck=first)
    facts = facts_of_transformers(theirs.config.to_dict())
    spec = spec_of_transformers(facts, 7)
    assert spec.stride_in == ("first" if first and config is BOTTLENECK else "3x3")
    state = conform(from_transformers(theirs.state_dict()), spec, "here")
    assert_same_logits(theirs, build(spec, state))
    assert sum(p.numel() for p in theirs.parameters()) == spec.params
    if config is BOTTLENECK:  # the other stride position is another function of the same tensors
        other = build(dataclasses.replace(spec, stride_in="3x3" if first else "first"), state)
        with pytest.raises(AssertionError):
            assert_same_logits(theirs, other)


def test_a_backbone_and_other_tensors_keep_what_is_theirs() -> None:
    theirs = network(**BASIC)
    backbone = from_transformers(theirs.resnet.state_dict())
    assert set(backbone) == set(torchvision.models.resnet18().state_dict()) - {"fc.weight", "fc.bias"}
    assert set(from_transformers({"fc.weight": torch.zeros(1), "x": torch.zeros(1)})) == {"fc.weight", "x"}
    assert not is_transformers(torchvision.models.resnet18().state_dict())


def test_facts_are_transformers_defaults_where_the_file_is_silent() -> None:
    default = transformers.ResNetConfig()
    facts = facts_of_transformers({"model_type": "resnet"})
    assert (list(facts.depths), list(facts.outputs)) == (list(default.depths), list(default.hidden_sizes))
    assert (facts.stem_channels, facts.channels, facts.block) == (
        default.embedding_size,
        default.num_channels,
        default.layer_type,
    )
    assert (facts.widths, facts.stride_in, facts.first_stage_strides) == ((64, 128, 256, 512), "3x3", False)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"layer_type": "odd"}, "layer_type"),
        ({"depths": [2, 2]}, "2 depths and 4 hidden_sizes"),
        ({"depths": "2"}, "depths"),
        ({"hidden_sizes": [64, -1, 2, 3]}, "hidden_sizes"),
        ({"downsample_in_bottleneck": 1}, "downsample_in_bottleneck"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"downsample_in_first_stage": True}, "downsample_in_first_stage"),
        ({"num_channels": "3"}, "num_channels"),
        ({"num_channels": 5}, "1, 3 or 4 channels"),
        ({"hidden_sizes": [256, 511, 1024, 2048]}, "multiples of 4"),
    ],
)
def test_what_is_malformed_or_cannot_be_done_is_named(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        spec_of_transformers(facts_of_transformers({"model_type": "resnet", **changed}), 1000)


@pytest.mark.parametrize("layer", ["basic", "bottleneck"])
def test_a_narrow_stem_and_grey_inputs(layer: str) -> None:
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        layer_type=layer, depths=[1, 2], hidden_sizes=[32, 64], embedding_size=24, num_channels=1, num_labels=5
    )
    theirs = transformers.ResNetForImageClassification(config).eval()
    tensors = unwrap(dict(theirs.state_dict()), "theirs")
    spec = spec_of_transformers(facts_of_transformers(config.to_dict()), 5)
    assert read_architecture(tensors, "theirs") == spec
    x_BCHW = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        expected_BK, logits_BK = theirs(x_BCHW).logits, build(spec, conform(tensors, spec, "theirs"))(x_BCHW)
    assert (logits_BK - expected_BK).abs().max() <= 1e-5 * expected_BK.abs().max()
