"""A description behind a model's name: over the flags, which are over the file; every key is a flag's."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

import resnet_infer as ri
from resnet_infer.backends.base import RunOptions
from resnet_infer.backends.described import Asked, cut, described, with_description
from resnet_infer.backends.load import open_model
from resnet_infer.cli.model_options import Checkpoint, RunModel
from resnet_infer.errors import UnknownNameError, UsageError
from resnet_infer.model.checkpoints import Overrides, save_checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.labels import CIFAR10_NAMES
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def net(tmp_path: Path, small_net: ResNet, monkeypatch: pytest.MonkeyPatch) -> str:
    """A resnet20 of ten classes in the working folder."""
    monkeypatch.chdir(tmp_path)
    manifest = Manifest(spec=small_net.spec, preprocessing=Preprocessing(resize=40, crop=32, mean=MEAN, std=STD))
    save_checkpoint(Path("net.safetensors"), small_net.state_dict(), manifest)
    Path("names+1.txt").write_text("\n".join(f"class {number}" for number in range(10)))
    return "net.safetensors"


def test_every_key_is_read(net: str) -> None:
    said = (
        "arch=resnet20&mean=0.1,0.2,0.3&std=1,1,1&interpolation=lanczos&channel-order=bgr&input-range=0-1&no-verify"
        "&labels=names%2B1.txt&backend=torch&precision=bf16&compile=default&autocast&provider=cpu&prefer_nhwc=no"
    )
    asked = described(Asked(model=f"{net}?{said}", overrides=Overrides(mean=MEAN), precision="fp16"))
    assert (asked.model, asked.backend, asked.precision) == (net, "torch", "bf16")
    assert asked.overrides.labels is not None
    assert asked.overrides.labels.names[9] == "class 9"
    rest = Overrides(
        arch="resnet20", mean=(0.1, 0.2, 0.3), std=(1, 1, 1), interpolation="lanczos", channel_order="bgr",
        input_range="0-1", labels=asked.overrides.labels, verify=False,
    )  # fmt: skip
    assert asked.overrides == rest
    assert asked.options == RunOptions(compile="default", autocast=True, provider="cpu")
    assert asked.settings == ["backend", "precision", "compile", "autocast", "provider", "prefer-nhwc"]


def test_a_plus_is_itself(net: str) -> None:
    labels = described(Asked(model=f"{net}?labels=names+1.txt")).overrides.labels
    assert labels is not None
    assert len(labels.names) == 10


def names_of(group: Any) -> list[str]:
    return [field.name for field in fields(group)]


def test_keys_are_the_flags_of_a_model() -> None:
    """All of them but the device, which a command has one of."""
    flags = {name.replace("_", "-") for name in names_of(RunModel)} - {"device"}
    with pytest.raises(UnknownNameError) as caught:
        described(Asked(model="x?none"))
    keys = str(caught.value).rpartition("the keys are ")[2].rstrip(".").split(", ")
    assert set(keys) == flags
    assert {name.replace("_", "-") for name in names_of(Checkpoint)} <= flags


def test_the_description_goes_over_what_is_given_which_goes_over_the_file(net: str) -> None:
    given = Overrides(mean=(0.1, 0.1, 0.1), std=(0.9, 0.9, 0.9))
    for name, overrides, mean, std in (
        (net, None, MEAN, STD),
        (net, given, given.mean, given.std),
        (f"{net}?mean=0.2,0.2,0.2", given, (0.2, 0.2, 0.2), given.std),
        (f"{net}?mean=0.2,0.2,0.2", None, (0.2, 0.2, 0.2), STD),
    ):
        with open_model(name, device="cpu", overrides=overrides) as model:
            assert (model.manifest.preprocessing.mean, model.manifest.preprocessing.std) == (mean, std)
            assert model.name == name


def test_it_scores_as_the_same_said_by_arguments(net: str, picture: Callable[..., Any]) -> None:
    """Through the Python API, where models of one call may differ; what is exported is what was described."""
    images = [picture(44, 50, seed) for seed in range(3)]
    said = "mean=0.5,0.5,0.5&std=0.5,0.5,0.5&channel_order=bgr&interpolation=bicubic"
    with ri.load(net, device="cpu") as plain, ri.load(f"{net}?{said}", device="cpu") as differs:
        half = (0.5, 0.5, 0.5)
        given = ri.load(net, device="cpu", mean=half, std=half, channel_order="bgr", interpolation="bicubic")
        assert torch.equal(ri.score(differs, images), ri.score(given, images))
        assert not torch.allclose(ri.score(differs, images), ri.score(plain, images), atol=1e-3)
        manifest = ri.export(differs, "net.onnx", input_format="uint8-nhwc")
        assert manifest.preprocessing == differs.manifest.preprocessing
        with ri.load("net.onnx", device="cpu") as exported:
            torch.testing.assert_close(ri.score(exported, images), ri.score(differs, images), atol=1e-4, rtol=0)


def test_a_real_file_wins(net: str, small_net: ResNet) -> None:
    """Whatever its name; and a description may stand behind that."""
    name = "ne?arch=x.safetensors"
    Path(net).rename(name)
    assert cut(name) == (name, None)
    assert cut(f"{name}?precision=bf16") == (name, "precision=bf16")
    with open_model(f"{name}?precision=bf16", device="cpu") as model:
        assert (model.file, model.backend.info.precision) == (Path(name), "bf16")
    assert cut("absent.pth?labels=a?b.txt") == ("absent.pth", "labels=a?b.txt")


def test_keys_have_descriptions_too() -> None:
    with open_model("resnet20.cifar10?precision=bf16", device="cpu") as model:
        assert model.backend.info.precision == "bf16"
        assert model.manifest.labels is not None
        assert model.manifest.labels.names == CIFAR10_NAMES


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("maen=0.5,0.5,0.5", r"unknown key 'maen'. Nearest: mean.*the keys are arch, mean"),
        ("device=cpu", r"unknown key 'device'.*the keys are"),
        ("mean=123.675,116.28,103.53", r"net.safetensors.*--mean 0.485,0.456,0.406"),
        ("mean=red", r"net.safetensors\?mean=red: needs numbers with commas"),
        ("mean=0.5", r"takes 3 channels, and --mean has 1 number;"),
        ("interpolation=bicubik", r"interpolation=bicubik: .*Nearest: bicubic"),
        ("precision=half", r"precision=half: unknown value 'half'.*fp16"),
        ("labels=absent.txt", r"absent.txt"),
        ("labels=", r"labels=: needs a value"),
        ("autocast=perhaps", r"true or false"),
        ("mean=0.5,0.5,0.5&mean=0.5,0.5,0.5", r"mean is there twice"),
        ("channel-order=bgr&channel_order=rgb", r"channel-order is there twice"),
        ("", r"describes nothing"),
        ("backend=tensorrt", r"resnet-infer export net.safetensors --to tensorrt"),
    ],
)
def test_what_makes_no_sense_is_one_line(net: str, said: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        open_model(f"{net}?{said}", device="cpu")
    assert "\n" not in str(caught.value)


def test_flags_become_a_description_and_come_back(net: str) -> None:
    flags = Checkpoint(mean="0.1,0.2,0.3", std="1,1,1", labels=Path("names+1.txt"), no_verify=True)
    name = with_description(f"{net}?mean=0.5,0.5,0.5", flags.given())
    asked = described(Asked(model=name))
    assert asked.overrides.mean == (0.5, 0.5, 0.5)
    assert (asked.overrides.std, asked.overrides.verify) == ((1, 1, 1), False)
    assert asked.overrides.labels == flags.overrides().labels
    assert with_description(net, {}) == net
