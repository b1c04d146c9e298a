"""State dicts as trainers and other libraries lay them out: read as the network that they are, or refused."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from resnet_infer.errors import CheckpointError
from resnet_infer.model.checkpoints import Overrides, load_checkpoint
from resnet_infer.model.resnet import ResNet, build
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD

StateDict = dict[str, Tensor]
GIVEN = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
FC = ("fc.weight", "fc.bias")


@dataclass(frozen=True)
class Layout:
    """How a trainer saves a network, and what becomes of it."""

    origin: str
    saved: Callable[[StateDict], object]
    name: str = "net.pth"
    said: str = ""
    """In the notes, or in the error."""


def under(prefix: str, state: StateDict) -> StateDict:
    return {prefix + key: tensor for key, tensor in state.items()}


def trunk(state: StateDict) -> StateDict:
    return {key: tensor for key, tensor in state.items() if key not in FC}


def head(name: str, state: StateDict) -> StateDict:
    return {f"{name}.weight": state["fc.weight"], f"{name}.bias": state["fc.bias"]}


def without(start: str, state: StateDict) -> StateDict:
    return {key: tensor for key, tensor in state.items() if not key.startswith(start)}


def in_vissl(state: StateDict) -> dict[str, object]:
    return {"classy_state_dict": {"base_model": {"model": {"trunk": state}}}}


def many(*parts: StateDict) -> StateDict:
    return {key: tensor for part in parts for key, tensor in part.items()}


EXTRA = {"criterion.weight": torch.ones(10), "train_acc.total": torch.zeros(()), "conv1.total_ops": torch.zeros(1)}
PROTOTYPES = {"projection_head.0.weight": torch.zeros(4, 64), "prototypes.weight": torch.zeros(9, 4)}
QUEUE = {"queue": torch.zeros(64, 4), "queue_ptr": torch.zeros(1)}

ACCEPTED = [
    Layout("torchvision, timm", lambda s: s),
    Layout("kuangliu", lambda s: {"net": under("module.", many(trunk(s), head("linear", s))), "acc": 95.0, "epoch": 9}),
    Layout("Lightning", lambda s: {"state_dict": many(under("model.", s), EXTRA)}, "a.ckpt", "criterion.weight"),
    Layout("Lightning, another prefix", lambda s: {"state_dict": under("net.resnet.", s)}, "a.ckpt"),
    Layout("thop's counts", lambda s: many(s, {"total_params": torch.zeros(1)}), said="total_params"),
    Layout("torch.compile in DataParallel", lambda s: under("module._orig_mod.", s)),
    Layout("averaged", lambda s: many(under("module.", s), {"n_averaged": torch.tensor(3)})),
    Layout("distillation", lambda s: under("student.", s)),
    Layout("wrapped by a class", lambda s: under("_model.backbone.", s)),
    Layout("encoder and classifier", lambda s: many(under("encoder.", trunk(s)), head("classifier", s))),
    Layout("mmpretrain", lambda s: {"state_dict": many(under("backbone.", trunk(s)), head("head.fc", s)), "meta": {}}),
    Layout("head after dropout", lambda s: many(trunk(s), head("fc.1", s))),
    Layout(".pth.tar", lambda s: {"state_dict": under("module.", s), "best_acc1": 70.0}, "model_best.pth.tar"),
    Layout(".bin", lambda s: s, "pytorch_model.bin"),
    Layout("VISSL with a linear head", lambda s: in_vissl(under("_feature_blocks.", s))),
]
NO_CLASSIFIER = r"has no classifier: fc\.weight is missing; .*--head-from FILE"
REFUSED = [
    Layout(
        "MoCo",
        lambda s: {"state_dict": many(under("module.encoder_q.", s), under("module.encoder_k.", s), QUEUE)},
        said=NO_CLASSIFIER,
    ),
    Layout("DINO, the backbone", trunk, said=NO_CLASSIFIER),
    Layout("SwAV", lambda s: under("module.", many(trunk(s), PROTOTYPES)), said=NO_CLASSIFIER),
    Layout("VISSL, the trunk", lambda s: in_vissl(under("_feature_blocks.", trunk(s))), said=NO_CLASSIFIER),
    Layout("two networks", lambda s: many(under("net_a.", s), under("net_b.", s)), said="holds several networks"),
    Layout(
        "normalisation inside",
        lambda s: many(under("1.", s), {"0.mean": torch.zeros(3), "0.std": torch.ones(3)}),
        said=r"has 0\.mean, 0\.std beside the network",
    ),
    Layout("no first convolution", lambda s: without("conv1.weight", s), said=r"conv1\.weight is missing"),
    Layout("no stages", lambda s: without("layer1", s), said="layer1.* is missing"),
    Layout("batch norm folded", lambda s: many(s, {"conv1.bias": torch.zeros(16)}), said="biases"),
    Layout(
        "a head with batch norm",
        lambda s: many(trunk(s), {"fc.0.weight": torch.ones(64), "fc.1.weight": s["fc.weight"]}),
        said="no linear layer",
    ),
]


@pytest.fixture(scope="module")
def net() -> ResNet:
    torch.manual_seed(0)
    return build(spec_from_name("resnet20"))


@pytest.mark.parametrize("layout", ACCEPTED, ids=lambda layout: layout.origin)
def test_a_layout_is_read_as_the_network_it_is(
    net: ResNet, layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / layout.name
    torch.save(layout.saved(dict(net.state_dict())), path)
    loaded = load_checkpoint(str(path), Overrides(**GIVEN))
    assert loaded.manifest.spec == net.spec
    x_BCHW = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(build(loaded.manifest.spec, dict(loaded.state_dict))(x_BCHW), net(x_BCHW))
    assert layout.said in capsys.readouterr().err


@pytest.mark.parametrize("layout", REFUSED, ids=lambda layout: layout.origin)
def test_what_is_no_classifier_is_refused_naming_what_is_missing(net: ResNet, layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / layout.name
    torch.save(layout.saved(dict(net.state_dict())), path)
    with pytest.raises(CheckpointError, match=layout.said) as caught:
        load_checkpoint(str(path), Overrides(**GIVEN))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["fc", "module.fc", "linear", "classifier", "head.fc", "model.fc.1"])
def test_a_classifier_comes_from_another_file(net: ResNet, name: str, tmp_path: Path) -> None:
    state = dict(net.state_dict())
    torch.save({"state_dict": under("module.encoder_q.", state) | QUEUE}, tmp_path / "moco.pth.tar")
    torch.save({"state_dict": head(name, state)}, tmp_path / "linear.pth.tar")
    overrides = Overrides(**GIVEN, head_from=tmp_path / "linear.pth.tar")
    loaded = load_checkpoint(str(tmp_path / "moco.pth.tar"), overrides)
    assert all(torch.equal(loaded.state_dict[key], state[key]) for key in state if "num_batches" not in key)
    torch.save({"x": torch.zeros(2)}, tmp_path / "linear.pth.tar")
    with pytest.raises(CheckpointError, match=r"linear\.pth\.tar: has no classifier"):
        load_checkpoint(str(tmp_path / "moco.pth.tar"), overrides)


def test_a_program_is_named_as_such(net: ResNet, tmp_path: Path) -> None:
    torch.jit.trace(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)).save(str(tmp_path / "net.pt"))
    with pytest.raises(CheckpointError, match=r"net\.pt: is TorchScript, a program and not weights; .*state_dict\(\)"):
        load_checkpoint(str(tmp_path / "net.pt"), Overrides(**GIVEN))


def test_a_files_name_says_what_tensors_do_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """timm's resnetblur50 has resnet50's tensors, and a name of another network changes nothing."""
    state = build(spec_from_name("resnetblur18", 5)).state_dict()
    for file, architecture in (("resnetblur18-84f4748f.pth", "resnetblur18"), ("net.pth", "resnet18"),
                               ("resnet34.pth", "resnet18"), ("resnet18-f37072fd.pth", "resnet18")):  # fmt: skip
        torch.save(state, tmp_path / file)
        loaded = load_checkpoint(str(tmp_path / file))
        assert loaded.manifest.spec == spec_from_name(architecture, 5)
        said = capsys.readouterr().err
        assert architecture in said
        assert "anti-aliasing" in said or "blur pooling" in said
        assert "--arch" in said
        assert "assumed" in str(loaded.manifest.extra["architecture"])


def test_arch_says_what_tensors_do_not(tmp_path: Path) -> None:
    """Four stages after a 3x3 stem: kuangliu's network does not pool, others do."""
    path = str(tmp_path / "net.pth")
    torch.save(build(spec_from_name("resnet18-cifar", 200)).state_dict(), path)
    for arch, pooling in ((None, "none"), ("pool=max", "max"), ("resnet18-cifar,pool=max", "max")):
        spec = load_checkpoint(path, Overrides(**GIVEN, arch=arch)).manifest.spec
        assert (spec.pooling, spec.classes, spec.stem) == (pooling, 200, "cifar")
    with pytest.raises(CheckpointError, match="do not make a resnet18"):
        load_checkpoint(path, Overrides(**GIVEN, arch="resnet18"))
