"""`--backend auto` picks what was fastest here, scores alike, and remembers."""

from pathlib import Path

import pytest
import torch

from resnet_infer.backends.load import open_model
from resnet_infer.bench import fastest
from resnet_infer.bench.fastest import open_fastest
from resnet_infer.errors import UsageError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fastest, "cache_folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_fastest_way_scores_as_the_usual_one(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x_BCHW = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    chosen = open_fastest("resnet20.cifar10", dense=False, device="cpu")
    usual = open_model("resnet20.cifar10", device="cpu")
    torch.testing.assert_close(
        chosen.backend.run(x_BCHW, "pooled"), usual.backend.run(x_BCHW, "pooled"), rtol=1e-3, atol=1e-3
    )
    said = capsys.readouterr().err
    assert f"backend auto: {chosen.backend.info.name}" in said
    assert "measuring what is fastest" in said

    again = open_fastest("resnet20.cifar10", dense=False, device="cpu")
    assert again.backend.info == chosen.backend.info
    assert "measuring what is fastest" not in capsys.readouterr().err


@pytest.mark.parametrize("expected", ["torch", "onnxruntime"])
def test_what_was_measured_decides(expected: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"torch": 5.0, "onnxruntime": 5.0} | {expected: 9.0}
    monkeypatch.setattr(fastest, "_measure", lambda *arguments: rates)
    assert open_fastest("resnet20.cifar10", dense=True, device="cpu").backend.info.name == expected


def test_an_exported_file_has_one_way_to_run() -> None:
    with pytest.raises(UsageError, match="--backend auto is for checkpoints"):
        open_fastest("some.onnx", dense=False)
