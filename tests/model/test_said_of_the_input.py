"""What is said of a network's input: over the file, refused where it cannot be, wherever it comes from."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import resnet_infer as ri
from resnet_infer.errors import ArtifactError, UsageError
from resnet_infer.model.checkpoints import Overrides, load_checkpoint, native_preprocessing, save_checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.manifest import Manifest, with_check
from resnet_infer.spec.preprocessing import Preprocessing

MEAN_255, STD_255 = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CAFFE = Overrides(mean=(103.939, 116.779, 123.68), std=(1, 1, 1), channel_order="bgr", input_range="0-255")
PASTE = r"--mean 0\.485,0\.456,0\.406 --std 0\.229,0\.224,0\.225"


@pytest.fixture(scope="module")
def files(small_net: ResNet, random_net: Callable[..., ResNet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bare.pth of CIFAR and imagenet.pth, which say nothing, and net.safetensors, which has a manifest."""
    folder = tmp_path_factory.mktemp("said")
    torch.save(small_net.state_dict(), folder / "bare.pth")
    torch.save(random_net("resnet18", 5).state_dict(), folder / "imagenet.pth")
    manifest = Manifest(spec=small_net.spec, preprocessing=Preprocessing(resize=32, crop=32))
    save_checkpoint(folder / "net.safetensors", small_net.state_dict(), manifest)
    return folder


def with_channels(name: str, channels: int) -> ModelSpec:
    """An architecture whose stem takes so many."""

    @dataclass(frozen=True, kw_only=True)
    class Other(ModelSpec):
        channels: int = 3

    known = {key: value for key, value in spec_from_name(name).to_dict().items() if key != "channels"}
    return Other(**known | {"channels": channels})


def rewritten(file: Path, target: Path, net: ResNet, **changed: Any) -> Path:
    """A copy whose manifest says something else of the preprocessing, as another tool may write it."""
    values = json.loads(load_checkpoint(str(file)).manifest.to_json())
    values["preprocessing"] |= changed
    text = json.dumps(with_check(values))
    from safetensors.torch import save_file

    save_file(dict(net.state_dict()), target, metadata={"resnet_infer": text})
    return target


@pytest.mark.parametrize("name", ["bare.pth", "imagenet.pth", "net.safetensors"])
def test_caffes_input_is_said_by_overrides(files: Path, name: str) -> None:
    path = files / name
    found = load_checkpoint(str(path), CAFFE).manifest
    side = found.spec.native_size
    expected = native_preprocessing(found.spec, **CAFFE.input)
    assert found.preprocessing == expected
    assert (expected.channel_order, expected.input_range, expected.mean) == ("bgr", "0-255", CAFFE.mean)
    assert (expected.resize, expected.crop) == ((256, 224) if side == 224 else (32, 32))


@pytest.mark.parametrize("name", ["bare.pth", "imagenet.pth", "net.safetensors"])
def test_values_of_0_to_255_are_refused_from_everywhere(files: Path, name: str) -> None:
    """Overrides as the flags make them, arguments of the Python API, a description: the file, and what to paste."""
    path = files / name
    said = f"mean={','.join(map(str, MEAN_255))}&std={','.join(map(str, STD_255))}"
    for load in (
        lambda: load_checkpoint(str(path), Overrides(mean=MEAN_255, std=STD_255)),
        lambda: ri.load(path, device="cpu", mean=MEAN_255, std=STD_255),
        lambda: ri.load(path, device="cpu", mean=list(MEAN_255), std=list(STD_255)),
        lambda: ri.load(f"{path}?{said}", device="cpu"),
    ):
        with pytest.raises(
            UsageError, match=rf"{name}: mean 123.*{PASTE}, or, if the network takes 0..255, --mean"
        ) as caught:
            load()
        assert "\n" not in str(caught.value)
    pasted = Overrides(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    ranged = Overrides(mean=MEAN_255, std=STD_255, input_range="0-255")
    assert [load_checkpoint(str(path), given).manifest.preprocessing.mean for given in (pasted, ranged)] == [
        pasted.mean,
        MEAN_255,
    ]


def test_the_same_in_a_manifest_is_refused(files: Path, tmp_path: Path, small_net: ResNet) -> None:
    wrong = rewritten(files / "net.safetensors", tmp_path / "wrong.safetensors", small_net, mean=MEAN_255, std=STD_255)
    with pytest.raises(ArtifactError, match=rf"wrong\.safetensors.*{PASTE}"):
        load_checkpoint(str(wrong))
    right = rewritten(
        files / "net.safetensors", tmp_path / "right.safetensors", small_net, mean=MEAN_255, std=STD_255,
        input_range="0-255",
    )  # fmt: skip
    assert load_checkpoint(str(right)).manifest.preprocessing.input_range == "0-255"


def test_a_manifest_that_is_not_plain_rgb_is_refused_by_releases_that_know_no_other(files: Path) -> None:
    """They read version 1 alone, and would drop the order and the range."""
    plain, caffe = (load_checkpoint(str(files / "net.safetensors"), given).manifest for given in (None, CAFFE))
    assert json.loads(plain.to_json())["version"] == 1
    assert json.loads(caffe.to_json())["version"] == 2
    assert Manifest.from_json(caffe.to_json(), "here") == caffe


def test_what_is_saved_is_read_back(files: Path, tmp_path: Path, small_net: ResNet) -> None:
    manifest = load_checkpoint(str(files / "net.safetensors"), replace(CAFFE, interpolation="lanczos")).manifest
    save_checkpoint(tmp_path / "again.safetensors", small_net.state_dict(), manifest)
    assert load_checkpoint(str(tmp_path / "again.safetensors")).manifest.preprocessing == manifest.preprocessing
    flagged = load_checkpoint(str(tmp_path / "again.safetensors"), Overrides(interpolation="bicubic")).manifest
    assert flagged.preprocessing == replace(manifest.preprocessing, interpolation="bicubic")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Overrides(channel_order="bgr"), "--channel-order bgr changes what mean .0.485.* --mean and --std with it"),
        (Overrides(input_range="0-255"), "--input-range 0-255 changes what mean .0.485.* --mean and --std with it"),
        (Overrides(mean=(0.5,), std=(0.5,)), "takes 3 channels, and --mean has 1 number;"),
        (Overrides(mean=(0.5,) * 4, std=(0.5,) * 4), "takes 3 channels, and --mean has 4 numbers;"),
    ],
)
@pytest.mark.parametrize("name", ["imagenet.pth", "net.safetensors"])
def test_what_does_not_fit_is_refused_with_the_file(files: Path, name: str, given: Overrides, words: str) -> None:
    with pytest.raises(UsageError, match=rf"{name}: .*{words}"):
        load_checkpoint(str(files / name), given)


def test_numbers_of_the_python_api(files: Path) -> None:
    with pytest.raises(UsageError, match=r"mean needs a number a channel.*got 'red'"):
        ri.load(files / "net.safetensors", mean="red")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"mean needs a number a channel.*got 0.5"):
        ri.load(files / "net.safetensors", mean=0.5)  # type: ignore[arg-type]
    given: dict[str, Any] = {"channel_order": "gbr", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(UsageError, match=r"net\.safetensors: channel order must be one of rgb, bgr; got 'gbr'"):
        ri.load(files / "net.safetensors", device="cpu", **given)


def test_a_grey_network_asks_for_one_number_and_alpha_is_said_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    grey = Manifest(spec=with_channels("resnet18", 1), preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)))
    said = Overrides(mean=(0.45,), std=(0.22,)).applied_to(grey, "grey.pth").preprocessing
    assert (said.mean, said.channels) == ((0.45,), 1)
    with pytest.raises(UsageError, match=r"grey\.pth: the network takes one channel \(grey\), and --mean has 3"):
        Overrides(mean=(0.45,) * 3).applied_to(grey, "grey.pth")
    assert capsys.readouterr().err == ""
    alpha = replace(grey, spec=with_channels("resnet18", 4), preprocessing=Preprocessing(mean=(0.5,) * 4, std=(1,) * 4))
    Overrides().applied_to(alpha, "alpha.pth")
    (line,) = capsys.readouterr().err.splitlines()
    assert "alpha.pth" in line
    assert "over white" in line
    assert "opaque" in line
