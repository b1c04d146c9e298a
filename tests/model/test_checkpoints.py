"""Weights files: they come back whole, run no code, and a bad one is an error that says what is wrong with it."""

import argparse
import contextlib
import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from resnet_infer.errors import ArtifactError, CheckpointError, ResnetInferError, UnknownNameError, UsageError
from resnet_infer.files import replacing
from resnet_infer.model.checkpoints import (
    Overrides,
    is_checkpoint_file,
    load_checkpoint,
    native_preprocessing,
    save_checkpoint,
)
from resnet_infer.model.digest import tensors_sha256
from resnet_infer.model.resnet import ResNet, build
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.labels import CIFAR10_NAMES, Labels, imagenet1k
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

StateDict = dict[str, Tensor]

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
CIFAR = Overrides(mean=MEAN, std=STD)
"""What a bare CIFAR file needs to be told."""


@pytest.fixture
def state(small_net: ResNet) -> StateDict:
    """The tensors of a resnet20 of ten classes."""
    return {key: tensor.clone() for key, tensor in small_net.state_dict().items()}


@pytest.fixture
def manifest(small_net: ResNet) -> Manifest:
    return Manifest(
        spec=small_net.spec,
        preprocessing=Preprocessing(resize=32, crop=32, mean=MEAN, std=STD),
        labels=Labels(names=CIFAR10_NAMES),
        source="recipe",
        extra={"epochs": 3},
    )


@pytest.fixture
def saved(tmp_path: Path, state: StateDict, manifest: Manifest) -> Path:
    """That network as a file of ours, alone in its folder."""
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, state, manifest)
    return path


def assert_same(tensors: StateDict, expected: StateDict) -> None:
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)


def test_a_checkpoint_comes_back_whole(tmp_path: Path, state: StateDict, manifest: Manifest) -> None:
    path = tmp_path / "new folder" / "net.safetensors"
    save_checkpoint(path, state, manifest)
    loaded = load_checkpoint(str(path))
    assert loaded.manifest == replace(manifest, weights_sha256=tensors_sha256(loaded.state_dict))
    assert loaded.name == "net.safetensors"
    assert_same(dict(loaded.state_dict), state)
    assert_same(safetensors.torch.load_file(path), state)
    build(loaded.manifest.spec, dict(loaded.state_dict))


def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved: Path, manifest: Manifest) -> None:
    before, tensor = saved.read_bytes(), torch.zeros(3)
    with pytest.raises(RuntimeError, match="share memory"):  # safetensors' own refusal
        save_checkpoint(saved, {"a": tensor, "b": tensor}, manifest)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_file_is_replaced_only_when_its_successor_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(text: str, error: BaseException | None) -> None:
        with replacing(path) as partial:
            partial.write_text(text)
            assert partial.parent == tmp_path
            assert path.read_text() == "old"
            if error:
                raise error

    for error in (ValueError(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            write("half", error)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["file.txt"]
    write("new", None)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_saved_file_has_the_usual_permissions(saved: Path) -> None:
    (saved.parent / "usual").touch()
    assert saved.stat().st_mode == (saved.parent / "usual").stat().st_mode


def test_a_spoilt_manifest_is_an_error_that_names_the_file(tmp_path: Path, state: StateDict) -> None:
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(state, path, metadata={"resnet_infer": '{"version": 7}'})
    with pytest.raises(ArtifactError, match=r"net\.safetensors.*version 7"):
        load_checkpoint(str(path))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th", ".PTH"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickled_state_dicts_are_read(tmp_path: Path, state: StateDict, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"net{suffix}"
    wrapped = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "args": argparse.Namespace(lr=0.1)}
    torch.save(wrapped, path, _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(str(path), CIFAR)
    assert_same(dict(loaded.state_dict), state)
    assert loaded.manifest.spec == spec_from_name("resnet20")
    assert loaded.manifest.preprocessing == Preprocessing(resize=32, crop=32, mean=MEAN, std=STD)
    assert loaded.manifest.labels is None
    assert loaded.manifest.source == path.name
    assert loaded.manifest.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_safetensors_without_our_manifest_are_read(tmp_path: Path, state: StateDict) -> None:
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file({f"model.{k}": v for k, v in state.items()}, path)
    assert_same(dict(load_checkpoint(str(path), CIFAR).state_dict), state)


def test_a_bare_imagenet_file_is_assumed_to_be_torchvisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    loaded = load_checkpoint(str(path)).manifest
    assert loaded.preprocessing == Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, resize=256, crop=224)
    assert loaded.labels == imagenet1k()
    said = capsys.readouterr().err
    assert "net.pth" in said
    assert "--mean" in said


def test_a_bare_cifar_file_must_be_told_its_preprocessing(tmp_path: Path, state: StateDict) -> None:
    torch.save(state, tmp_path / "net.pth")
    for overrides in (None, Overrides(mean=MEAN), Overrides(std=STD)):
        with pytest.raises(UsageError, match=r"net\.pth.*--mean and --std"):
            load_checkpoint(str(tmp_path / "net.pth"), overrides)


class Payload:
    """An object whose unpickling makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"mkdir '{self.marker}'",)


class Recipe:
    """An innocent class of a training script."""


SAVERS: dict[str, Callable[[object, Path], object]] = {
    "torch": torch.save,
    "torch's older form": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    "pickle": lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2)),
}


@pytest.mark.parametrize("saver", SAVERS)
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, state: StateDict, saver: str) -> None:
    path, marker = tmp_path / "net.pth", tmp_path / "marker"
    SAVERS[saver]({"hook": Payload(marker), "state_dict": state}, path)
    with pytest.raises(CheckpointError, match=r"net\.pth.*run code.*system"):
        load_checkpoint(str(path), CIFAR)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # the payload is a live one


def test_objects_of_a_training_script_are_refused_by_name(tmp_path: Path, state: StateDict) -> None:
    path = tmp_path / "net.pth"
    for value, name in (({"state_dict": state, "recipe": Recipe()}, "Recipe"), (torch.nn.Linear(2, 2), "Linear")):
        torch.save(value, path)
        with pytest.raises(CheckpointError, match=rf"would run code \(.*{name}\).*state_dict"):
            load_checkpoint(str(path))


@pytest.mark.parametrize("suffix", [".pth", ".th", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"\0", b"not weights\n", b"PK\x03\x04", b"\x80\x02.", b"<html>" * 999])
def test_files_of_something_else_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"net\{suffix}"):
        load_checkpoint(str(path))


@pytest.fixture(params=["zip", "legacy", "safetensors"])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A good file of each form, of a network small enough to be spoilt many times."""
    state = build(replace(spec_from_name("resnet20"), depths=(1, 1), widths=(4, 8))).state_dict()
    path = tmp_path / ("net.safetensors" if request.param == "safetensors" else "net.pth")
    if request.param == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=request.param == "zip")
    load_checkpoint(str(path), CIFAR)
    return path


def test_truncated_files_are_refused_wherever_they_end(whole: Path) -> None:
    content = whole.read_bytes()
    for end in range(1, len(content), 101):
        whole.write_bytes(content[:end])
        with pytest.raises(CheckpointError):
            load_checkpoint(str(whole), CIFAR)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_are_read_or_refused(whole: Path) -> None:
    content, rng = whole.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        whole.write_bytes(damaged)
        with contextlib.suppress(ResnetInferError):
            load_checkpoint(str(whole), CIFAR)


def test_tensors_of_another_network_or_not_numbers_are_refused(
    saved: Path, state: StateDict, manifest: Manifest
) -> None:
    save_checkpoint(saved, state, replace(manifest, spec=spec_from_name("resnet32")))
    with pytest.raises(CheckpointError, match=r"net\.safetensors.*do not make a resnet32"):
        load_checkpoint(str(saved))
    save_checkpoint(saved, state | {"fc.bias": torch.full((10,), float("nan"))}, manifest)
    with pytest.raises(CheckpointError, match=r"net\.safetensors.*fc\.bias"):
        load_checkpoint(str(saved))


def test_what_is_no_file_and_no_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.pth: no such file"):
        load_checkpoint(str(tmp_path / "absent.pth"))
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(ResnetInferError, match=r"folder\.pth"):
        load_checkpoint(str(tmp_path / "folder.pth"))
    with pytest.raises(UnknownNameError, match=r"resnet50\.tv_in1k"):
        load_checkpoint("resnet50.tv1_in1k")


def test_weights_files_are_told_by_their_suffix() -> None:
    assert all(map(is_checkpoint_file, ("a.pth", "b.pt", "c.TH", "d/e.safetensors", "f.ckpt", "g.bin", "a.pth.tar")))
    assert not any(map(is_checkpoint_file, ("resnet50.tv_in1k", "a.onnx", "pth", "a.engine")))


def test_overrides_win_over_a_manifest(saved: Path, manifest: Manifest) -> None:
    labels = Labels(names=tuple("abcdefghij"))
    loaded = load_checkpoint(str(saved), Overrides(arch="plain20", mean=STD, labels=labels)).manifest
    assert loaded.spec == spec_from_name("plain20")
    assert loaded.preprocessing == replace(manifest.preprocessing, mean=STD)
    assert (loaded.labels, loaded.source, loaded.extra) == (labels, "recipe", {"epochs": 3})


def test_arch_decides_what_tensors_cannot_tell(tmp_path: Path) -> None:
    path = str(tmp_path / "net.pth")
    torch.save(build(spec_from_name("resnet50", classes=3)).state_dict(), path)
    assert load_checkpoint(path).manifest.spec.stride_in == "3x3"
    assert load_checkpoint(path, Overrides(arch="resnet50-v1")).manifest.spec == spec_from_name("resnet50-v1", 3)
    with pytest.raises(CheckpointError, match="do not make a resnet101"):
        load_checkpoint(path, Overrides(arch="resnet101"))
    with pytest.raises(UnknownNameError, match="resnet50"):
        load_checkpoint(path, Overrides(arch="resnet51"))


def test_labels_must_be_as_many_as_classes(saved: Path, state: StateDict) -> None:
    torch.save(state, saved.with_suffix(".pth"))
    for path in (saved, saved.with_suffix(".pth")):
        with pytest.raises(UsageError, match=r"3 names.*10 classes"):
            load_checkpoint(str(path), replace(CIFAR, labels=Labels(names=("a", "b", "c"))))


@pytest.mark.parametrize(("name", "resize", "crop"), [("resnet50-v1", 256, 224), ("resnet20", 32, 32)])
def test_native_preprocessing(name: str, resize: int, crop: int) -> None:
    expected = Preprocessing(mean=MEAN, std=STD, resize=resize, crop=crop)
    assert native_preprocessing(spec_from_name(name), MEAN, STD) == expected
