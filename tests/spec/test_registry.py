"""Published checkpoints against torchvision's own records, and the paper's tables typed out once more."""

from pathlib import Path

import pytest
import torchvision
from torchvision.models import Weights

from resnet_infer.errors import UnknownNameError
from resnet_infer.files import cache_folder
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.registry import (
    DEFAULT_MODEL,
    PAPER_CIFAR10,
    PAPER_MULTI_SCALE,
    PAPER_TEN_CROP,
    PUBLISHED,
    bundled_folders,
    published,
)

THEIRS: dict[str, Weights] = {
    f"resnet{depth}.tv{version}_in1k": weights
    for depth in (18, 34, 50, 101, 152)
    for version, weights in zip(("", "2"), torchvision.models.get_model_weights(f"resnet{depth}"), strict=False)
}


def test_every_resnet_of_torchvision_is_there_and_nothing_else() -> None:
    assert set(PUBLISHED) == set(THEIRS)
    assert DEFAULT_MODEL in PUBLISHED


@pytest.mark.parametrize("key", THEIRS)
def test_a_published_checkpoint_is_as_torchvision_says(key: str) -> None:
    ours, theirs = published(key), THEIRS[key]
    accuracy, transforms = theirs.meta["_metrics"]["ImageNet-1K"], theirs.transforms()
    assert ours.key == key
    assert ours.url == theirs.url
    assert theirs.url == f"https://download.pytorch.org/models/{ours.architecture}-{ours.sha256_prefix}.pth"
    assert ours.filename == theirs.url.split("/")[-1]
    assert ours.single_crop == pytest.approx((100 - accuracy["acc@1"], 100 - accuracy["acc@5"]), abs=1e-9)
    assert spec_from_name(ours.architecture).params == theirs.meta["num_params"]
    assert [ours.preprocessing.resize] == transforms.resize_size
    assert [ours.preprocessing.crop] == transforms.crop_size
    assert list(ours.preprocessing.mean) == transforms.mean
    assert list(ours.preprocessing.std) == transforms.std
    assert ours.preprocessing.interpolation == transforms.interpolation.value


def test_the_papers_errors() -> None:
    """Tables 2 and 3 (10-crop), 4 (multi-scale) and 6 (CIFAR-10)."""
    table_2 = {"plain18": 27.94, "resnet18-A": 27.88, "plain34": 28.54, "resnet34-A": 25.03}
    table_3 = """plain34 28.54 10.02   resnet34-A 25.03 7.76   resnet34 24.52 7.46   resnet34-C 24.19 7.40
        resnet50-v1 22.85 6.71   resnet101-v1 21.75 6.05   resnet152-v1 21.43 5.71"""
    table_4 = """resnet34 21.84 5.71   resnet34-C 21.53 5.60   resnet50-v1 20.74 5.25   resnet101-v1 19.87 4.60
        resnet152-v1 19.38 4.49"""
    table_6 = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43, 1202: 7.93}
    assert {name: PAPER_TEN_CROP[name][0] for name in table_2} == table_2
    assert {name: (error, None) for name, error in table_2.items()} | _errors(table_3) == PAPER_TEN_CROP
    assert _errors(table_4) == PAPER_MULTI_SCALE
    assert {f"resnet{depth}": error for depth, error in table_6.items()} == PAPER_CIFAR10


def _errors(table: str) -> dict[str, tuple[float, float]]:
    words = iter(table.split())
    return {name: (float(top1), float(top5)) for name, top1, top5 in zip(words, words, words, strict=True)}


@pytest.mark.parametrize("name", [*PAPER_TEN_CROP, *PAPER_MULTI_SCALE, *PAPER_CIFAR10])
def test_the_papers_networks_are_named_as_ours(name: str) -> None:
    assert spec_from_name(name).name == name


def test_an_unknown_key_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'resnet50\.tv3_in1k'.*resnet50\.tv2_in1k"):
        published("resnet50.tv3_in1k")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RESNET_INFER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "resnet-infer"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "resnet-infer"
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_every_bundled_checkpoint_is_listed_by_its_folder() -> None:
    models = Path(__file__).resolve().parents[2] / "models"
    shipped = {folder.name for folder in models.iterdir() if (folder / "weights.safetensors").is_file()}
    assert set(bundled_folders()) == shipped
    assert not shipped & set(PUBLISHED)
