"""Networks for small images as their authors define them: kuangliu's, pre-activated ones, wide ones.

The references are written from the papers (He et al. 2016 section 3, Zagoruyko and Komodakis 2016 section 2) as plain
functions of tensors under the names in circulation; none of our modules runs in them.
"""

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_infer.errors import CheckpointError
from resnet_infer.model.adapters import conform, expected_shapes, read_architecture
from resnet_infer.model.layouts import unwrap
from resnet_infer.model.resnet import build
from resnet_infer.spec.catalogue import spec_from_name

StateDict = dict[str, Tensor]
Reference = Callable[[Tensor, StateDict], Tensor]


def random_state(name: str, classes: int = 10) -> StateDict:
    """A network's tensors under our names, with lively norms."""
    torch.manual_seed(0)
    state = {}
    for key, shape in expected_shapes(spec_from_name(name, classes)).items():
        fan_in = max(1, torch.Size(shape[1:]).numel())
        state[key] = torch.randn(shape) * (2 / fan_in) ** 0.5 if len(shape) > 1 else torch.randn(shape) * 0.2
        if key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
            state[key] = torch.rand(shape) * 0.4 + 0.5
    return state


def norm(x_BCHW: Tensor, s: Mapping[str, Tensor], name: str) -> Tensor:
    mean, var, weight, bias = (s[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x_BCHW, mean, var, weight, bias)


def blocks(s: Mapping[str, Tensor], stage: str) -> list[str]:
    return list(dict.fromkeys(k[: k.index(".conv1.")] for k in s if k.startswith(stage) and ".conv1." in k))


def kuangliu(x_BCHW: Tensor, s: StateDict) -> Tensor:
    """ResNet18 and ResNet50 for CIFAR: no pooling after the stem, `shortcut` and `linear`."""
    x_BCHW = norm(F.conv2d(x_BCHW, s["conv1.weight"], padding=1), s, "bn1").relu()
    for stage in range(1, 5):
        for number, b in enumerate(blocks(s, f"layer{stage}")):
            stride = 2 if stage > 1 and not number else 1
            if f"{b}.conv3.weight" in s:
                y_BCHW = norm(F.conv2d(x_BCHW, s[f"{b}.conv1.weight"]), s, f"{b}.bn1").relu()
                y_BCHW = norm(F.conv2d(y_BCHW, s[f"{b}.conv2.weight"], None, stride, 1), s, f"{b}.bn2").relu()
                y_BCHW = norm(F.conv2d(y_BCHW, s[f"{b}.conv3.weight"]), s, f"{b}.bn3")
            else:
                y_BCHW = norm(F.conv2d(x_BCHW, s[f"{b}.conv1.weight"], None, stride, 1), s, f"{b}.bn1").relu()
                y_BCHW = norm(F.conv2d(y_BCHW, s[f"{b}.conv2.weight"], padding=1), s, f"{b}.bn2")
            if f"{b}.shortcut.0.weight" in s:
                x_BCHW = norm(F.conv2d(x_BCHW, s[f"{b}.shortcut.0.weight"], None, stride), s, f"{b}.shortcut.1")
            x_BCHW = (y_BCHW + x_BCHW).relu()
    return F.linear(F.avg_pool2d(x_BCHW, 4).flatten(1), s["linear.weight"], s["linear.bias"])


def pre_activated(stages: tuple[str, ...], shortcut: str, last: str, fc: str) -> Reference:
    """Norm and ReLU before every convolution; a projection reads what is activated, an identity does not."""

    def logits(x_BCHW: Tensor, s: StateDict) -> Tensor:
        x_BCHW = F.conv2d(x_BCHW, s["conv1.weight"], padding=1)
        for place, stage in enumerate(stages):
            for number, b in enumerate(blocks(s, stage)):
                stride = 2 if place and not number else 1
                a_BCHW = norm(x_BCHW, s, f"{b}.bn1").relu()
                if f"{b}.conv3.weight" in s:
                    y_BCHW = norm(F.conv2d(a_BCHW, s[f"{b}.conv1.weight"]), s, f"{b}.bn2").relu()
                    y_BCHW = norm(F.conv2d(y_BCHW, s[f"{b}.conv2.weight"], None, stride, 1), s, f"{b}.bn3").relu()
                    y_BCHW = F.conv2d(y_BCHW, s[f"{b}.conv3.weight"])
                else:
                    y_BCHW = norm(F.conv2d(a_BCHW, s[f"{b}.conv1.weight"], None, stride, 1), s, f"{b}.bn2").relu()
                    y_BCHW = F.conv2d(y_BCHW, s[f"{b}.conv2.weight"], padding=1)
                if f"{b}.{shortcut}.weight" in s:
                    x_BCHW = F.conv2d(a_BCHW, s[f"{b}.{shortcut}.weight"], None, stride)
                x_BCHW = y_BCHW + x_BCHW
        x_BCHW = norm(x_BCHW, s, last).relu() if last else x_BCHW
        return F.linear(x_BCHW.mean((2, 3)), s[f"{fc}.weight"], s[f"{fc}.bias"])

    return logits


def renamed(state: StateDict, *pairs: tuple[str, str]) -> StateDict:
    """With what begins with, or has after a dot, the first of a pair, under the second."""
    for ours, theirs in pairs:
        state = {f".{key}".replace(ours, theirs).removeprefix("."): tensor for key, tensor in state.items()}
    return state


THREE, FOUR = ("layer1", "layer2", "layer3"), ("layer1", "layer2", "layer3", "layer4")
WIDE = ("block1.layer", "block2.layer", "block3.layer")
TO_KUANGLIU = ((".downsample.", ".shortcut."), (".fc.", ".linear."))
TO_WIDE = ((".bn.", ".bn1."), (".downsample.0.", ".convShortcut."), (".layer1.", ".block1.layer."),
           (".layer2.", ".block2.layer."), (".layer3.", ".block3.layer."))  # fmt: skip
CASES = {
    "resnet18-cifar": (TO_KUANGLIU, kuangliu),
    "resnet50-cifar": (TO_KUANGLIU, kuangliu),
    "resnet18-cifar-v2": (TO_KUANGLIU, pre_activated(FOUR, "shortcut.0", "", "linear")),
    "resnet50-cifar-v2": (TO_KUANGLIU, pre_activated(FOUR, "shortcut.0", "", "linear")),
    "resnet110-v2": ((), pre_activated(THREE, "downsample.0", "bn", "fc")),
    "resnet164-v2": ((), pre_activated(THREE, "downsample.0", "bn", "fc")),
    "wrn-16-8": (TO_WIDE, pre_activated(WIDE, "convShortcut", "bn1", "fc")),
    "wrn-28-10": (TO_WIDE, pre_activated(WIDE, "convShortcut", "bn1", "fc")),
}


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_a_network_for_small_images_is_its_authors(name: str) -> None:
    """Read off their tensors, and of the same logits to 1e-5 of the largest."""
    pairs, reference = CASES[name]
    theirs = renamed(random_state(name, 100), *pairs)
    tensors = unwrap({"net": theirs}, "theirs")
    spec = read_architecture(tensors, "theirs")
    assert spec == spec_from_name(name, 100)
    x_BCHW = torch.randn(2, 3, 32, 32)
    expected_BK, logits_BK = reference(x_BCHW, theirs), build(spec, conform(tensors, spec, "theirs"))(x_BCHW)
    assert expected_BK.std() > 0
    assert (logits_BK - expected_BK).abs().max() <= 1e-5 * expected_BK.abs().max()


@pytest.mark.parametrize(
    ("name", "millions"),
    {"resnet110-v2": 1.7, "resnet164-v2": 1.7, "resnet1001-v2": 10.2, "wrn-28-10": 36.5, "wrn-16-8": 11.0}.items(),
)
def test_parameters_are_those_the_papers_state(name: str, millions: float) -> None:
    """He et al. 2016 Table 4, which may not count all of a norm's; Zagoruyko and Komodakis 2016 Table 4."""
    assert spec_from_name(name).params / 1e6 == pytest.approx(millions, abs=0.05 if millions != 10.2 else 0.15)


@torch.inference_mode()
def test_projections_of_the_raw_input_are_asked_for() -> None:
    specs = spec_from_name("resnet164-v2,projection=raw"), spec_from_name("resnet164-v2")
    assert [spec.name for spec in specs] == ["resnet164-v2,projection=raw", "resnet164-v2"]
    state = random_state("resnet164-v2")
    x_BCHW = torch.randn(2, 3, 32, 32)
    raw, activated = (build(spec, conform(dict(state), spec, "here"))(x_BCHW) for spec in specs)
    assert not torch.allclose(raw, activated, rtol=0.01)


def test_convolutions_with_biases_are_refused() -> None:
    state = random_state("wrn-16-8") | {"conv1.bias": torch.zeros(16)}
    with pytest.raises(CheckpointError, match="convolutions have biases"):
        read_architecture(unwrap(state, "theirs"), "theirs")
