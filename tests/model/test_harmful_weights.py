"""Weights files made to harm: to hang the reader, or to have it fill the memory from a small file."""

import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from resnet_infer.errors import CheckpointError
from resnet_infer.model.adapters import conform
from resnet_infer.model.checkpoints import load_checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.catalogue import spec_from_name

StateDict = dict[str, Tensor]


@pytest.fixture
def state(small_net: ResNet) -> StateDict:
    """The tensors of a resnet20."""
    return {key: tensor.clone() for key, tensor in small_net.state_dict().items()}


def test_what_holds_itself_is_no_state_dict(tmp_path: Path, state: StateDict) -> None:
    """The pickle's memo makes the circle; a wrapping of wrappings has an end too."""
    circle: dict[str, object] = {}
    circle["state_dict"] = circle
    deep: dict[str, object] = dict(state)
    for _ in range(60):
        deep = {"model": deep}
    for loaded in (circle, {"state_dict": circle}, deep, {"n_averaged": torch.tensor(3)}):
        torch.save(loaded, tmp_path / "net.pth")
        with pytest.raises(CheckpointError, match=r"net\.pth"):
            load_checkpoint(str(tmp_path / "net.pth"))


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("layer1.99999999999999999999.conv1.weight", r"layer1\.99999999999999999999\.conv1\.weight"),
        (f"layer1.{'9' * 5000}.conv1.weight", "not a ResNet: it has a tensor layer1"),
        ("layer1.9999.conv1.weight", r"layer1\.3 is missing"),
        ("layer2.4.conv1.weight", r"layer2\.3 is missing"),
        ("layer99999999999.0.conv1.weight", "not a ResNet"),
        ("layer9999.0.conv2.weight", "layer4 is missing"),
        ("layer0.0.conv2.weight", "stages are not layer1, layer2"),
        (f"layer1.0.{'x' * 10**6}", r"extra \(layer1\.0\.x{1,60}\)"),
    ],
    ids=["20 digits", "5000 digits", "far", "next but one", "a stage", "a far stage", "stage 0", "a long name"],
)
def test_blocks_are_found_not_counted_up_to(tmp_path: Path, state: StateDict, key: str, says: str) -> None:
    torch.save(state | {key: torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=says) as caught:
        load_checkpoint(str(tmp_path / "net.pth"))
    assert len(str(caught.value)) < 500


def test_tensors_cannot_claim_more_than_they_hold(tmp_path: Path, state: StateDict) -> None:
    """A million classes of one number; a network whose layers are all the same bytes."""
    classes = torch.zeros(1).expand(10**6, 64), torch.zeros(1).expand(10**6)
    one = torch.zeros(max(v.numel() for v in state.values()))
    views = {k: one[: v.numel()].view(v.shape) if v.is_floating_point() else v for k, v in state.items()}
    for tensors in (state | dict(zip(("fc.weight", "fc.bias"), classes, strict=True)), views):
        torch.save(tensors, tmp_path / "net.pth")
        with pytest.raises(CheckpointError, match=r"claim .* bytes of values and hold"):
            load_checkpoint(str(tmp_path / "net.pth"))
    flat = torch.cat([v.reshape(-1) for v in state.values() if v.is_floating_point()])
    parts = flat.split([v.numel() for v in state.values() if v.is_floating_point()])
    names = [k for k, v in state.items() if v.is_floating_point()]
    joined = {k: part.view(state[k].shape) for k, part in zip(names, parts, strict=True)}
    read = conform(state | joined, spec_from_name("resnet20"), "here")  # views of one are honest
    assert all(torch.equal(read[key], state[key]) for key in state)


def test_a_packed_checkpoint_is_not_unpacked(tmp_path: Path, state: StateDict) -> None:
    """torch.load inflates: a gigabyte of zeros is a megabyte of file."""
    torch.save(state | {"more": torch.zeros(10**7)}, tmp_path / "stored.pth")
    with (
        zipfile.ZipFile(tmp_path / "stored.pth") as stored,
        zipfile.ZipFile(tmp_path / "net.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in stored.infolist():
            packed.writestr(member.filename, stored.read(member))
    assert (tmp_path / "net.pth").stat().st_size < 2 * 10**6
    with pytest.raises(CheckpointError, match=r"net\.pth: is packed, to 4\d,\d{3},\d{3} bytes"):
        load_checkpoint(str(tmp_path / "net.pth"))
