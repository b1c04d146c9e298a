"""What is known of a weights file: flags go over files beside it, those over its published name, that over a guess."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from resnet_infer.errors import CheckpointError, UsageError
from resnet_infer.model.checkpoints import Overrides, load_checkpoint, save_checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec import registry
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.labels import imagenet1k
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing

OTHER = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), resize=40, crop=36)


@pytest.fixture(scope="module")
def weights(random_net: Callable[..., ResNet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare resnet18 of 1000 classes."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(random_net("resnet18", 1000).state_dict(), path)
    return path


@pytest.fixture
def named(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same file under the name it was published by, as resnet18.local."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    card = replace(
        registry.PUBLISHED["resnet18.tv_in1k"],
        key="resnet18.local",
        url=f"https://example.org/resnet18-{digest[:8]}.pth",
        sha256_prefix=digest[:8],
        preprocessing=OTHER,
    )
    monkeypatch.setitem(registry.PUBLISHED, card.key, card)  # type: ignore[arg-type]
    path = tmp_path / card.filename
    path.write_bytes(weights.read_bytes())
    return path


def test_a_file_that_is_what_its_name_says_gets_what_was_published(
    named: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_checkpoint(str(named)).manifest
    assert (loaded.preprocessing, loaded.labels, loaded.source) == (OTHER, imagenet1k(), "resnet18.local")
    told = capsys.readouterr().err
    assert "is resnet18.local as it was published; its architecture, preprocessing, labels are used" in told
    assert "using ImageNet's mean" not in told
    assert "resnet18" in loaded.extra["described_by"]["said"]


def test_a_file_that_only_has_the_name_gets_nothing_of_it(
    named: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(weights)
    state["fc.bias"] += 1
    torch.save(state, named)
    loaded = load_checkpoint(str(named)).manifest
    assert loaded.preprocessing == Preprocessing()
    assert loaded.source == named.name
    digest = hashlib.sha256(named.read_bytes()).hexdigest()
    told = capsys.readouterr().err
    assert f"its SHA-256 begins with {digest[:8]}, not {named.stem[-8:]}; nothing is taken from its name" in told
    assert "using ImageNet's mean" in told


def test_what_lies_beside_goes_over_the_name_and_flags_over_both(named: Path) -> None:
    config = {"architecture": "resnet18", "num_classes": 1000, "crop_pct": 0.9, "interpolation": "bilinear"}
    (named.parent / "config.json").write_text(json.dumps(config))
    loaded = load_checkpoint(str(named)).manifest
    assert loaded.preprocessing == Preprocessing(resize=248, crop=224)
    assert set(loaded.extra["described_by"]["files"]) == {"config.json"}
    said = Overrides(mean=OTHER.mean, std=OTHER.std)
    assert load_checkpoint(str(named), said).manifest.preprocessing == replace(OTHER, resize=248, crop=224)


def test_an_architecture_beside_the_weights_decides_what_tensors_cannot(
    random_net: Callable[..., ResNet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.pth"
    torch.save(random_net("resnet50", 3).state_dict(), path)
    assert load_checkpoint(str(path)).manifest.spec.stride_in == "3x3"
    (tmp_path / "architecture").write_text("resnet50-v1\n")
    loaded = load_checkpoint(str(path)).manifest
    assert loaded.spec == spec_from_name("resnet50-v1", 3)
    assert "net.pth: architecture resnet50-v1: from architecture beside it" in capsys.readouterr().err
    assert loaded.extra["described_by"]["files"] == {"architecture": hashlib.sha256(b"resnet50-v1\n").hexdigest()}
    (tmp_path / "architecture").write_text(json.dumps(spec_from_name("resnet50-v1", 9).to_dict()))
    assert load_checkpoint(str(path)).manifest.spec == spec_from_name("resnet50-v1", 3)
    assert load_checkpoint(str(path), Overrides(arch="resnet50")).manifest.spec == spec_from_name("resnet50", 3)
    for text, told in (
        ("resnet34", "says resnet34, which these weights are not"),
        ("resnext9000", "unknown architecture 'resnext9000'.*move it out of the folder and give --arch"),
        ('{"name": "x"}', "architecture record is incomplete"),
        ("\x00", "holds no name of an architecture"),
        ("", "holds no name of an architecture"),
    ):
        (tmp_path / "architecture").write_text(text)
        with pytest.raises(CheckpointError, match=rf"/architecture: .*{told}"):
            load_checkpoint(str(path))


def test_the_files_own_manifest_goes_over_all_beside_it(small_net: ResNet, tmp_path: Path) -> None:
    manifest = Manifest(spec=small_net.spec, preprocessing=OTHER, source="recipe")
    save_checkpoint(tmp_path / "model.safetensors", small_net.state_dict(), manifest)
    for name in ("config.json", "architecture"):
        (tmp_path / name).write_text("{")
    loaded = load_checkpoint(str(tmp_path / "model.safetensors")).manifest
    assert (loaded.spec, loaded.preprocessing, loaded.extra) == (manifest.spec, OTHER, {})


def test_a_cifar_file_is_still_asked_for_its_mean(small_net: ResNet, tmp_path: Path) -> None:
    torch.save(small_net.state_dict(), tmp_path / "net.pth")
    (tmp_path / "architecture").write_text("resnet20")
    with pytest.raises(UsageError, match="give --mean and --std"):
        load_checkpoint(str(tmp_path / "net.pth"))
