"""Folded batch norms: the same scores, half the layers, and the network that was given left as it was."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from resnet_infer.model.fold import fold_batch_norm
from resnet_infer.model.resnet import ResNet

NAMES = ("resnet20", "resnet18", "resnet50", "resnet20-B", "plain20")


@pytest.fixture(scope="module", params=NAMES)
def net(request: pytest.FixtureRequest, random_net: Callable[..., ResNet]) -> ResNet:
    """Statistics of pictures, and affine parameters that are not the 1 and 0 of a new network."""
    made = random_net(request.param)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.5, 0.5, generator=generator)
    return made


def count(net: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in net.modules())


def test_a_folded_net_gives_the_same_scores_and_feature_maps(net: ResNet) -> None:
    side = net.spec.native_size
    x_BCHW = torch.randn(2, 3, side, side + 9, generator=torch.Generator().manual_seed(1))
    folded = fold_batch_norm(net)
    with torch.inference_mode():
        for expected, actual in ((net(x_BCHW), folded(x_BCHW)), (net.features(x_BCHW), folded.features(x_BCHW))):
            assert expected.std() > 0.01
            assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_no_batch_norm_is_left_and_every_convolution_has_a_bias(net: ResNet) -> None:
    folded = fold_batch_norm(net)
    assert count(net, nn.BatchNorm2d) == count(net, nn.Conv2d) > 0
    assert count(folded, nn.BatchNorm2d) == 0
    assert count(folded, nn.Conv2d) == count(net, nn.Conv2d)
    assert all(module.bias is not None for module in folded.modules() if isinstance(module, nn.Conv2d))
    assert not folded.training


def test_the_original_is_untouched_and_shares_no_memory(net: ResNet) -> None:
    before = {key: value.clone() for key, value in net.state_dict().items()}
    folded = fold_batch_norm(net)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.fill_(torch.nan)
    assert list(before) == list(net.state_dict())
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_weights_and_bias_are_those_of_the_formula(net: ResNet) -> None:
    """Jacob et al. 2018: W gamma / sqrt(var + eps) and beta - mean gamma / sqrt(var + eps), here in float64."""
    folded = fold_batch_norm(net)
    pairs = {
        "conv1": "bn1",
        "layer2.0.conv2": "layer2.0.bn2",
        "layer2.0.downsample.0": "layer2.0.downsample.1",  # where there is a projection
    }
    modules = dict(net.named_modules())
    present = [name for name in pairs if name in modules]
    assert len(present) == (3 if net.spec.name in ("resnet18", "resnet50", "resnet20-B") else 2)
    for name in present:
        norm, weight = modules[pairs[name]], modules[name].weight
        factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        made = folded.get_submodule(name)
        torch.testing.assert_close(
            made.weight.double(), weight.double() * factor[:, None, None, None], rtol=1e-6, atol=0
        )
        bias = norm.bias.double() - norm.running_mean.double() * factor
        torch.testing.assert_close(made.bias.double(), bias, rtol=1e-5, atol=1e-6)
