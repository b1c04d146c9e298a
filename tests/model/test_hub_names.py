"""Which names are of models on the hub."""

import sys
from pathlib import Path

import pytest

from resnet_infer.errors import UnknownNameError, UsageError
from resnet_infer.model import hub as hubs
from resnet_infer.model.checkpoints import load_checkpoint

NAME = "timm/resnet18.a1_in1k"


def test_what_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("resnet50", "a/b/c", "resnet50.tv2_in1k", "../net", "/net", "a/b@", "a/.b", ""):
        assert hubs.repository_of(name) is None
    assert hubs.repository_of("resnet50.a1_in1k") == ("timm/resnet50.a1_in1k", None)
    assert hubs.repository_of("a/b@x/y") == ("a/b", "x/y")
    Path("a").mkdir()
    Path("a/b").mkdir()
    assert hubs.repository_of("a/b") is None
    for name in ("hf-hub:", "hf-hub:net", "hf-hub:a/b/c", "hf-hub:a/b@../c@d"):
        with pytest.raises(UsageError, match="is no repository's name"):
            load_checkpoint(name)
    with pytest.raises(UnknownNameError, match=r"resnet50\.a1_in1k"):
        load_checkpoint("resnet50.a1_in1")
    assert [hubs.short_name(n) for n in (f"hf-hub:{NAME}@v1", NAME, "resnet18")] == ["resnet18.a1_in1k"] * 2 + [
        "resnet18"
    ]


def test_without_huggingface_hub_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install 'resnet-infer\[hub\]'"):
        load_checkpoint(NAME)
