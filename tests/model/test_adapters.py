"""Weights as trainers save them: unwrapped, renamed, and their architecture read off the tensors."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from resnet_infer.errors import CheckpointError
from resnet_infer.model.adapters import conform, expected_shapes, read_architecture
from resnet_infer.model.checkpoints import Overrides, load_checkpoint
from resnet_infer.model.layouts import unwrap
from resnet_infer.model.resnet import ResNet, build
from resnet_infer.spec.catalogue import architecture_names, spec_from_name
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD

StateDict = dict[str, Tensor]

NAMES = [*(name for name in architecture_names() if "1202" not in name)]
NAMES += [f"resnet{d}-A" for d in (18, 34, 50, 101, 152)] + [f"resnet{d}-B" for d in (20, 32, 44, 56, 110)]
NAMES += [f"resnet{d}-C" for d in (18, 34, 50, 101, 152, 20, 32, 44, 56, 110)]


def meta_state(make: Callable[[], nn.Module]) -> StateDict:
    """Names and shapes of a network's tensors, without memory for them."""
    with torch.device("meta"):
        return dict(make().state_dict())


@pytest.fixture
def state(small_net: ResNet) -> StateDict:
    """The tensors of a resnet20."""
    return {key: tensor.clone() for key, tensor in small_net.state_dict().items()}


def assert_same(tensors: StateDict, state: StateDict) -> None:
    assert set(tensors) == set(state)
    assert all(torch.equal(tensors[key], state[key]) for key in state)


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_is_read_off_its_tensors(name: str) -> None:
    """Plain nets have the tensors of option A, which is assumed."""
    state = meta_state(lambda: ResNet(spec_from_name(name, classes=7)))
    alike = name.replace("plain", "resnet") + ("-A" if name in ("plain18", "plain34") else "")
    assert read_architecture(state, "here") == spec_from_name(alike, classes=7)


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_v1_has_the_tensors_of_the_usual_stride_which_is_assumed(depth: int) -> None:
    state = meta_state(lambda: ResNet(spec_from_name(f"resnet{depth}-v1")))
    assert read_architecture(state, "here") == spec_from_name(f"resnet{depth}")


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_torchvisions_and_timms_networks_are_read(depth: int) -> None:
    for make in (lambda: torchvision.models.get_model(f"resnet{depth}"), lambda: timm.create_model(f"resnet{depth}")):
        assert read_architecture(unwrap(meta_state(make), "theirs"), "theirs") == spec_from_name(f"resnet{depth}")


@pytest.mark.parametrize("name", [*NAMES, "resnet50-v1"])
def test_expected_shapes_are_those_of_the_built_network(name: str) -> None:
    spec = spec_from_name(name)
    built = {k: tuple(v.shape) for k, v in meta_state(lambda: ResNet(spec)).items() if "num_batches" not in k}
    assert expected_shapes(spec) == built


PREFIXED = {
    "nothing": lambda state: state,
    "DataParallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "compiled": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "Lightning": lambda state: {f"model.{k}": v for k, v in state.items()},
    "compiled in DataParallel": lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
    "averaged": lambda state: {f"module.{k}": v for k, v in state.items()} | {"n_averaged": torch.tensor(3)},
}
WRAPPINGS = ("state_dict", "model", "state_dict_ema", "model_ema")


@pytest.mark.parametrize("wrapping", [None, *WRAPPINGS])
@pytest.mark.parametrize("prefix", PREFIXED)
def test_what_trainers_put_around_a_state_dict_is_taken_off(
    state: StateDict, prefix: str, wrapping: str | None
) -> None:
    prefixed = PREFIXED[prefix](state)
    assert_same(unwrap({"epoch": 3, wrapping: prefixed} if wrapping else prefixed, "here"), state)


@pytest.mark.parametrize(("outer", "inner"), [(o, i) for o in WRAPPINGS for i in ("state_dict", "model") if i != o])
def test_a_wrapping_inside_another_is_taken_off_too(state: StateDict, outer: str, inner: str) -> None:
    assert_same(unwrap({"epoch": 3, outer: {inner: state, "arch": "resnet20"}}, "here"), state)


def test_real_wrappers_are_taken_off(small_net: ResNet, state: StateDict) -> None:
    assert_same(unwrap(nn.DataParallel(small_net).state_dict(), "here"), state)
    assert_same(unwrap(AveragedModel(small_net).state_dict(), "here"), state)
    assert_same(unwrap(AveragedModel(nn.DataParallel(small_net)).state_dict(), "here"), state)


@pytest.mark.parametrize(("plain", "averaged"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_averaged_weights_are_preferred(state: StateDict, plain: str, averaged: str) -> None:
    other = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    assert_same(unwrap({plain: other, averaged: state}, "here"), state)
    assert_same(unwrap({averaged: state, plain: other}, "here"), state)


def test_names_of_the_cifar_nets_in_circulation_become_ours() -> None:
    """akamaster's: `linear` for `fc`, `shortcut` for `downsample`."""
    ours = {k: torch.zeros(v.shape) for k, v in meta_state(lambda: ResNet(spec_from_name("resnet20-B"))).items()}
    theirs = {
        "module." + k.replace("fc.", "linear.").replace(".downsample.", ".shortcut."): v
        for k, v in ours.items()
        if "num_batches" not in k
    }
    tensors = unwrap({"state_dict": theirs, "best_prec1": 91.78}, "here")
    assert set(ours) - set(tensors) == {k for k in ours if "num_batches" in k}
    assert read_architecture(tensors, "here") == spec_from_name("resnet20-B")
    assert_same(conform(tensors, spec_from_name("resnet20-B"), "here"), ours)


def akamaster(x_BCHW: Tensor, tensors: StateDict) -> Tensor:
    """The logits of the CIFAR nets in circulation, from their tensors as they are stored."""

    def norm(x_BCHW: Tensor, name: str) -> Tensor:
        parts = (tensors[f"module.{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x_BCHW, *parts)

    x_BCHW = norm(F.conv2d(x_BCHW, tensors["module.conv1.weight"], padding=1), "bn1").relu()
    for block in dict.fromkeys(key.rsplit(".", 2)[0] for key in tensors if key.startswith("module.layer")):
        first, second = tensors[f"{block}.conv1.weight"], tensors[f"{block}.conv2.weight"]
        narrower = len(first) > first.shape[1]
        name = block.removeprefix("module.")
        y_BCHW = norm(F.conv2d(x_BCHW, first, stride=2 if narrower else 1, padding=1), f"{name}.bn1").relu()
        y_BCHW = norm(F.conv2d(y_BCHW, second, padding=1), f"{name}.bn2")
        if narrower:
            x_BCHW = F.pad(x_BCHW[:, :, ::2, ::2], (0, 0, 0, 0, len(first) // 4, len(first) // 4))
        x_BCHW = (y_BCHW + x_BCHW).relu()
    return F.linear(x_BCHW.mean((2, 3)), tensors["module.linear.weight"], tensors["module.linear.bias"])


@pytest.mark.parametrize(("architecture", "params"), [("resnet20", 269_722), ("resnet56", 853_018)])
@torch.inference_mode()
def test_the_cifar_checkpoints_in_circulation_are_read(shared: Path, architecture: str, params: int) -> None:
    (path,) = (shared / "checkpoints").glob(f"{architecture}-*.th")
    loaded = load_checkpoint(str(path), Overrides(mean=IMAGENET_MEAN, std=IMAGENET_STD))
    assert loaded.manifest.spec == spec_from_name(architecture)
    assert loaded.manifest.spec.params == params
    x_BCHW = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    stored = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    logits_BK = build(loaded.manifest.spec, dict(loaded.state_dict))(x_BCHW)
    torch.testing.assert_close(logits_BK, akamaster(x_BCHW, stored), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("loaded", "says"),
    [
        ([1, 2], "list"),
        (None, "NoneType"),
        ("text", "str"),
        (torch.zeros(3), "Tensor"),
        ({}, "nothing"),
        ({"epoch": 3, "optimizer": {}}, "epoch, optimizer"),
        ({"state_dict": {}}, "nothing"),
        ({"state_dict": {"a": [1.0]}}, "a"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_holds_no_tensors_is_refused_saying_what_it_holds(loaded: object, says: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^file\.pth: .*{says}"):
        unwrap(loaded, "file.pth")


@pytest.mark.parametrize("name", ["vgg11", "mobilenet_v2", "densenet121", "efficientnet_b0", "shufflenet_v2_x0_5"])
def test_other_networks_of_torchvision_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"^file\.pth: not a ResNet: .* missing$"):
        unwrap(meta_state(lambda: torchvision.models.get_model(name)), "file.pth")


@pytest.mark.parametrize(
    "name", ["resnest14d", "skresnet18", "res2net50_26w_4s", "legacy_seresnet18", "resnetv2_50x1_bit"]
)
def test_cousins_of_the_family_are_refused(name: str) -> None:
    """Split attention, selective kernels, several scales in a block, standardised weights."""
    tensors = meta_state(lambda: timm.create_model(name))
    with pytest.raises(CheckpointError, match=r"^file\.pth: ") as caught:
        read_architecture(unwrap(tensors, "file.pth"), "file.pth")
    assert "\n" not in str(caught.value)


def test_missing_extra_and_misshapen_tensors_are_named(state: StateDict) -> None:
    del state["layer2.1.bn2.running_var"]
    state["layer1.0.se.fc1.weight"] = torch.zeros(2)
    state["layer3.2.conv1.weight"] = torch.zeros(64, 64, 5, 5)
    with pytest.raises(CheckpointError) as caught:
        conform(state, read_architecture(state, "file.pth"), "file.pth")
    message = str(caught.value)
    assert "1 missing (layer2.1.bn2.running_var)" in message
    assert "1 extra (layer1.0.se.fc1.weight)" in message
    assert "layer3.2.conv1.weight is 64x64x5x5 instead of 64x64x3x3" in message
    assert "--arch" in message


def test_another_architecture_than_the_tensors_is_refused(state: StateDict) -> None:
    with pytest.raises(CheckpointError, match=r"do not make a resnet32: 60 missing \(layer1\.3\.conv1\.weight"):
        conform(state, spec_from_name("resnet32"), "here")
    with pytest.raises(CheckpointError, match=r"do not make a resnet20-B: 10 missing.*downsample"):
        conform(state, spec_from_name("resnet20-B"), "here")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_numbers_are_refused_by_name(state: StateDict, value: float) -> None:
    state["layer2.0.bn1.running_var"][3] = value
    with pytest.raises(CheckpointError, match=r"1 tensors? hold.*layer2\.0\.bn1\.running_var"):
        conform(state, spec_from_name("resnet20"), "here")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types_become_fp32(state: StateDict, dtype: torch.dtype) -> None:
    cast = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    conformed = conform(cast, spec_from_name("resnet20"), "here")
    for key, tensor in conformed.items():
        assert tensor.dtype == (torch.int64 if "num_batches" in key else torch.float32)
        torch.testing.assert_close(tensor, cast[key].to(tensor.dtype), rtol=0, atol=0)


def absurd(**changed: Tensor) -> StateDict:
    return {k.replace("__", "."): v for k, v in changed.items()}


@pytest.mark.parametrize(
    "change",
    [
        absurd(fc__weight=torch.zeros(0, 64)),
        absurd(fc__weight=torch.zeros(10)),
        absurd(conv1__weight=torch.zeros(16, 3, 3)),
        absurd(layer1__0__conv2__weight=torch.zeros(0, 16, 3, 3)),
        absurd(layer1__0__conv2__weight=torch.zeros(())),
        absurd(layer1__2000__conv1__weight=torch.zeros(1)),
        absurd(layer5__0__conv2__weight=torch.zeros(1, 1, 1, 1)),
        {f"layer{s}.0.conv2.weight": torch.zeros(1, 1, 1, 1) for s in range(4, 12)},
        absurd(bn1__num_batches_tracked=torch.zeros(3)),
    ],
    ids=lambda change: next(iter(change)) + "x".join(map(str, next(iter(change.values())).shape)),
)
def test_tensors_that_no_network_has_are_refused(state: StateDict, change: StateDict) -> None:
    tensors = state | change
    with pytest.raises(CheckpointError):
        conform(tensors, read_architecture(tensors, "here"), "here")
