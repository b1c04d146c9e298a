"""State dicts as trainers and other libraries lay them out: read as the network that they are, or refused."""

from pathlib import Path

import pytest
import torch
from layout_cases import ACCEPTED, PAGE, QUEUE, REFUSED, Layout, head, many, under, updated
from torch import nn

from resnet_infer.errors import CheckpointError, UsageError
from resnet_infer.model.checkpoints import Overrides, load_checkpoint, save_checkpoint
from resnet_infer.model.resnet import ResNet, build
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD

GIVEN = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


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


def test_the_page_lists_every_layout() -> None:
    page = PAGE.read_text("utf-8")
    assert updated(page) == page, "run python tests/model/layout_cases.py"


def test_the_longest_name_counts(tmp_path: Path) -> None:
    state = build(spec_from_name("resnet50,dilated=0", 5)).state_dict()
    for file, architecture in (("resnet50-v1.pth", "resnet50-v1"), ("resnet50-v1-0a1b2c3d.pth", "resnet50-v1"),
                               ("resnet50-best.pth", "resnet50"), ("resnetaa50.pth", "resnetaa50")):  # fmt: skip
        torch.save(state, tmp_path / file)
        assert load_checkpoint(str(tmp_path / file)).manifest.spec == spec_from_name(architecture, 5)


def test_a_second_head_is_not_left_out_in_silence(net: ResNet, tmp_path: Path) -> None:
    """What it does to the scores is not known."""
    state = dict(net.state_dict())
    torch.save(many(state, {"head.weight": torch.zeros(64, 64)}), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"1 extra \(head\.weight\)"):
        load_checkpoint(str(tmp_path / "net.pth"), Overrides(**GIVEN))


def test_a_file_with_a_classifier_takes_none_from_elsewhere(net: ResNet, tmp_path: Path) -> None:
    manifest = load_checkpoint("resnet20.cifar10").manifest
    save_checkpoint(tmp_path / "net.safetensors", dict(net.state_dict()), manifest)
    with pytest.raises(UsageError, match=r"net\.safetensors: has its own classifier"):
        load_checkpoint(str(tmp_path / "net.safetensors"), Overrides(head_from=tmp_path / "x.pth"))
    made = load_checkpoint(str(tmp_path / "net.safetensors"), Overrides(arch="activation=silu"))
    assert made.manifest.spec == spec_from_name("resnet20,activation=silu")
