"""timm's table against the configurations of the installed timm, and typed-out rows of its published results."""

import math
from pathlib import PurePath

import pytest
import timm
from timm.data import create_transform, resolve_data_config

from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.registry import PUBLISHED
from resnet_infer.spec.timm_models import named_as, timm_models

MODELS = timm_models()
PLAIN = tuple(f"resnet{depth}" for depth in (18, 34, 50, 101, 152))


def test_every_plain_resnet_of_timm_is_there_but_torchvisions_own() -> None:
    theirs = {
        name
        for name in timm.list_models([f"{architecture}.*" for architecture in PLAIN], pretrained=True)
        if timm.get_pretrained_cfg(name).num_classes == 1000
    }
    ours = {key for key, card in MODELS.items() if card.architecture in PLAIN}
    assert ours == theirs - set(PUBLISHED)
    assert len(ours) > 30
    assert not set(MODELS) & set(PUBLISHED)


@pytest.mark.parametrize("key", MODELS)
def test_a_models_test_input_is_timms_own(key: str) -> None:
    card, cfg = MODELS[key], timm.get_pretrained_cfg(key)
    data = resolve_data_config(pretrained_cfg=cfg.to_dict(), use_test_size=True)
    resize, crop, _, normalize = create_transform(**data).transforms
    found = card.preprocessing
    assert (found.resize, (found.crop, found.crop)) == (resize.size, tuple(crop.size))
    assert found.interpolation == resize.interpolation.value
    assert found.mean == pytest.approx(normalize.mean.tolist(), abs=1e-6)
    assert found.std == pytest.approx(normalize.std.tolist(), abs=1e-6)
    assert card.repository == cfg.hf_hub_id
    assert card.filename == (cfg.url or "").rsplit("/", 1)[-1]
    assert spec_from_name(card.architecture).name == card.architecture
    assert not card.filename or (len(card.sha256_prefix) == 8 and int(card.sha256_prefix, 16) >= 0)


def test_published_errors() -> None:
    """Rows of timm's results-imagenet.csv typed out once more: errors at test size and crop fraction."""
    rows = """resnet18.a1_in1k 26.836 8.946 288 1.0      resnet34.bt_in1k 23.494 6.658 288 0.95
        resnet50.a1_in1k 18.760 4.888 288 1.0           resnet50.gluon_in1k 22.420 6.296 224 0.875
        resnet50.a3_in1k 21.948 6.220 224 0.95          resnet50.am_in1k 20.996 5.608 224 0.875
        resnet101.a1h_in1k 17.204 3.676 288 1.0         resnet152.a2_in1k 17.386 4.252 288 1.0"""
    words = iter(rows.split())
    for key, top1, top5, size, crop_pct in zip(words, words, words, words, words, strict=True):
        card = MODELS[key]
        assert card.single_crop == (float(top1), float(top5))
        assert card.preprocessing.crop == int(size)
        assert card.preprocessing.resize == math.floor(int(size) / float(crop_pct))


def test_a_file_is_known_by_its_publishers_name() -> None:
    for name, key in (
        ("resnet50-11ad3fa6.pth", "resnet50.tv2_in1k"),
        ("a/b/resnet18-f37072fd.pth", "resnet18.tv_in1k"),
        ("resnet50_a1_0-14fe96d1.pth", "resnet50.a1_in1k"),
        ("rw_resnet50-86acaeed.pth", "resnet50.bt_in1k"),
    ):
        card = named_as(PurePath(name))
        assert card is not None
        assert (card.key, card.sha256_prefix) == (key, name[-12:-4])
    assert named_as(PurePath("resnet50.pth")) is None
    assert named_as(PurePath("")) is None
