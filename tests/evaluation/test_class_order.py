"""Class order of several models: by id or name, however they differ in their order."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from resnet_infer.backends.load import Model
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Memory, Source
from resnet_infer.errors import UsageError
from resnet_infer.evaluation.class_order import naming, order_between, orders, reorder
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.labels import Labels, imagenet1k

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay")
SHUFFLED = (3, 1, 0, 2, 9, 8, 7, 6, 5, 4)
MIXED = tuple(NAMES[at] for at in SHUFFLED)


@pytest.fixture(scope="module")
def source(
    picture: Callable[..., Any], encode: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory
) -> Source:
    path = tmp_path_factory.mktemp("aligned") / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(NAMES):
            archive.writestr(f"{name}/{number}.png", encode(picture(32, 32, number)))
    return open_source(path)


@pytest.fixture(scope="module")
def model(small_net: ResNet, model_of: Callable[..., Model]) -> Callable[..., Model]:
    """model(names): the small network with its classes in this order; its weights do not matter here."""
    return lambda names: model_of(small_net, Labels(names=tuple(names)) if names else None)


@pytest.mark.parametrize("first", [NAMES, MIXED, None])
@pytest.mark.parametrize("second", [NAMES, MIXED, None])
def test_every_class_finds_itself(first: Any, second: Any, source: Source, model: Callable[..., Model]) -> None:
    """A model without names has the folders in their sorted order, which here is that of NAMES."""
    truth, (own, other) = orders([model(first), model(second)], source)
    assert own is None
    assert truth is not None
    assert list(truth) == [(first or NAMES).index(sample.label) for sample in source.samples]
    scores_K = torch.arange(10.0)  # of class k of the second model: k
    aligned_K = reorder(scores_K, other)
    for index, name in enumerate(first or NAMES):
        assert aligned_K[index] == (second or NAMES).index(name)


def test_ids_decide_where_both_have_them_and_names_elsewhere() -> None:
    usual = imagenet1k()
    turned = Labels(names=usual.names[::-1], ids=usual.ids[::-1])
    assert order_between(usual, turned, ("a", "b")) == tuple(range(999, -1, -1))
    assert order_between(usual, usual, ("a", "b")) is None
    assert order_between(usual, Labels(names=usual.names), ("a", "b")) is None  # crane is there twice, in one order
    assert order_between(Labels(names=("Big dog", "cat")), Labels(names=("CAT", "big_dog")), ("a", "b")) == (1, 0)
    with pytest.raises(UsageError, match="share a name"):
        order_between(usual, Labels(names=usual.names[::-1]), ("a", "b"))


def test_models_of_other_classes_are_refused(
    source: Source, model: Callable[..., Model], random_net: Callable[..., ResNet], model_of: Callable[..., Model]
) -> None:
    with pytest.raises(UsageError, match="'jay' is not a class of random"):
        orders([model(NAMES), model((*NAMES[:-1], "yak"))], Memory("m", [("x", b"")]))
    with pytest.raises(UsageError, match="random 10, random 7"):
        orders([model(NAMES), model_of(random_net("resnet20", 7))], source)


def test_without_classes_in_the_data_the_models_decide(model: Callable[..., Model], capsys: Any) -> None:
    unlabelled = Memory("m", [("x", b"")])
    truth, found = orders([model(NAMES), model(MIXED)], unlabelled)
    assert truth is None
    assert found == [None, tuple(MIXED.index(name) for name in NAMES)]
    assert capsys.readouterr().err == ""
    assert orders([model(NAMES), model(None)], unlabelled) == (None, [None, None])
    assert "assuming all models use the same class order" in capsys.readouterr().err


def test_names_are_the_models_or_else_the_datas(source: Source) -> None:
    assert naming(Labels(names=NAMES), source, None)(3) == "dog"
    assert naming(None, source, list(range(10)))(3) == "dog"
    assert naming(None, source, None)(3) is None


def test_the_images_are_only_listed(source: Source, model: Callable[..., Model], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(f"absent{n}.png\t{name}" for n, name in enumerate(NAMES)))
    truth, _ = orders([model(NAMES)], open_source(tmp_path / "list.txt"))
    assert truth is not None
    assert list(truth) == list(range(10))
