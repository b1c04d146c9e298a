"""The accuracy gate: each threshold by itself, what a failure leaves behind, and what an export says of a pass."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from resnet_infer.backends.load import Model, open_model
from resnet_infer.backends.onnx_file import stored_manifest
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Source
from resnet_infer.errors import GateError, UsageError
from resnet_infer.evaluation.agreement import Agreement
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.exporters.gate import Gate, run_gate
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.score import Member
from resnet_infer.report.export_text import describe_gate
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.protocols import single_crop

Picture = np.ndarray[Any, np.dtype[np.uint8]]
LABELS = Labels(names=tuple("abcdefghij"))
CROP = single_crop(32, 32)
COUNT = 50


@pytest.fixture(scope="module")
def checkpoint(small_net: ResNet) -> Checkpoint:
    """Classes further apart than fp16 can blur."""
    manifest = Manifest(spec=small_net.spec, preprocessing=Preprocessing(resize=32, crop=32), labels=LABELS)
    return Checkpoint(name="random", manifest=manifest, state_dict=dict(small_net.state_dict()))


@pytest.fixture(scope="module")
def blurred(checkpoint: Checkpoint) -> Checkpoint:
    """Classes whose weights differ by less than fp16's step: its logits are close in fp16, its best class is not."""
    state = dict(checkpoint.state_dict)
    common = torch.rand(1, 64, generator=torch.Generator().manual_seed(1)) + 0.5
    state["fc.weight"] = common + 1e-4 * state["fc.weight"]
    state["fc.bias"] = torch.zeros(10)
    return replace(checkpoint, state_dict=state)


def model(checkpoint: Checkpoint, **changed: Tensor) -> Model:
    from resnet_infer.backends.pytorch import TorchBackend

    state = dict(checkpoint.state_dict) | {key.replace("__", "."): value for key, value in changed.items()}
    checkpoint = replace(checkpoint, state_dict=state)
    return Model(name="random", manifest=checkpoint.manifest, backend=TorchBackend(checkpoint, "cpu"))


@pytest.fixture(scope="module")
def pixels(picture: Callable[..., Picture]) -> list[Picture]:
    return [picture(32, 32, seed) for seed in range(100, 100 + COUNT)]


@pytest.fixture(scope="module")
def unlabelled(pixels: list[Picture], encode: Any, tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("data") / "plain.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(pixels):
            archive.writestr(f"{number:02}.png", encode(image))
    return open_source(path)


def labelled_by(net: Checkpoint, pixels: list[Picture], encode: Any, path: Path) -> Source:
    """The images, each in the folder of the class that this network finds best in it."""
    x_BCHW = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    best = model(net).backend.run(x_BCHW, "pooled")[:, :, 0, 0].argmax(1).tolist()
    assert len(set(best)) > 1
    with zipfile.ZipFile(path, "w") as archive:
        for number, (image, index) in enumerate(zip(pixels, best, strict=True)):
            archive.writestr(f"{LABELS.names[index]}/{number:02}.png", encode(image))
    return open_source(path)


@pytest.fixture(scope="module")
def labelled(
    checkpoint: Checkpoint, pixels: list[Picture], encode: Any, tmp_path_factory: pytest.TempPathFactory
) -> Source:
    return labelled_by(checkpoint, pixels, encode, tmp_path_factory.mktemp("data") / "labelled.zip")


def measured(**values: Any) -> Agreement:
    usual: dict[str, Any] = dict.fromkeys(("kl_divergence", "max_diff", "mean_diff", "p99_diff"), 0.0)
    usual |= {"images": 1000, "top1_agreement": 1.0, "top5_overlap": 1.0, "logit_cosine": 1.0}
    return Agreement(**usual | values)


def test_each_threshold_is_checked_by_itself_and_holds_at_equality(unlabelled: Source) -> None:
    gate = Gate(data=unlabelled, protocol=CROP)  # half a point and 99 %
    assert gate.failures(measured(top1_agreement=0.99, reference_errors=10, candidate_errors=15)) == []
    (only,) = gate.failures(measured(top1_agreement=0.989, reference_errors=10, candidate_errors=15))
    assert "98.90 %" in only
    assert "99.00 %" in only
    (only,) = gate.failures(measured(top1_agreement=1.0, reference_errors=10, candidate_errors=16))
    assert "0.60 points higher" in only
    assert "16 errors, 10 of the reference" in only
    assert len(gate.failures(measured(top1_agreement=0, reference_errors=0, candidate_errors=1000))) == 2
    assert gate.failures(measured(reference_errors=500, candidate_errors=0)) == []  # better is no failure
    for agreeing in range(1001):  # a share that equals the threshold passes, whatever its rounding
        share = agreeing / 1000
        assert replace(gate, min_agreement=share).failures(measured(top1_agreement=share)) == []


@pytest.mark.parametrize("bad", [-0.01, 1.01, float("nan"), 99])
def test_an_agreement_that_is_no_share_is_refused(unlabelled: Source, bad: float) -> None:
    with pytest.raises(UsageError, match=r"--min-agreement.*0\.\.1"):
        Gate(data=unlabelled, protocol=CROP, min_agreement=bad)


@pytest.mark.parametrize("bad", [-0.5, 100.5, float("nan")])
def test_a_drop_that_is_no_percentage_is_refused(unlabelled: Source, bad: float) -> None:
    with pytest.raises(UsageError, match=r"--max-top1-drop.*0\.\.100"):
        Gate(data=unlabelled, protocol=CROP, max_top1_drop=bad)


def test_either_failure_raises_and_keeps_the_report_and_a_pass_removes_it(
    checkpoint: Checkpoint, labelled: Source, tmp_path: Path
) -> None:
    path, beside = tmp_path / "net.onnx", tmp_path / "net.onnx.gate.json"
    reference = model(checkpoint)
    turned = model(checkpoint, fc__weight=checkpoint.state_dict["fc.weight"].flip(0))
    strict = Gate(data=labelled, protocol=CROP)
    for gate, words in (
        (replace(strict, max_top1_drop=100), "best class agrees"),
        (replace(strict, min_agreement=0), "points higher"),
    ):
        with pytest.raises(GateError, match=rf"net\.onnx: not written: .*{words}.*net\.onnx\.gate\.json") as caught:
            run_gate(gate, reference, turned, path)
        assert caught.value.exit_code == 3
        assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx.gate.json"]
        report = json.loads(beside.read_text("utf-8"))
        assert report["passed"] is False
        (failure,) = report["failures"]
        assert words in failure
        assert report["reference_errors"] == 0
        (row,) = evaluate([Member(turned, (CROP,))], labelled)
        assert report["candidate_errors"] == row.top1_errors > 0
        assert report["top1_drop"] == pytest.approx(row.top1_err)
    passed = run_gate(replace(strict, max_top1_drop=100, min_agreement=0), reference, turned, path)
    assert passed["passed"] is True
    assert passed["failures"] == []
    assert list(tmp_path.iterdir()) == []


def test_images_without_classes_are_gated_by_agreement_alone(
    checkpoint: Checkpoint, unlabelled: Source, tmp_path: Path
) -> None:
    reference = model(checkpoint)
    turned = model(checkpoint, fc__weight=checkpoint.state_dict["fc.weight"].flip(0))
    path = tmp_path / "net.onnx"
    report = run_gate(Gate(data=unlabelled, protocol=CROP, max_top1_drop=0, min_agreement=0), reference, turned, path)
    assert report["passed"] is True
    assert report["top1_drop"] is None
    with pytest.raises(GateError, match="agrees"):
        run_gate(Gate(data=unlabelled, protocol=CROP), reference, turned, path)


def test_the_report_of_a_failure_goes_beside_what_the_user_asked_for(
    checkpoint: Checkpoint, unlabelled: Source, tmp_path: Path
) -> None:
    turned = model(checkpoint, fc__weight=checkpoint.state_dict["fc.weight"].flip(0))
    target = tmp_path / "repository" / "resnet"
    gate = Gate(data=unlabelled, protocol=CROP, target=target)
    with pytest.raises(GateError, match="resnet: not written"):
        run_gate(gate, model(checkpoint), turned, tmp_path / "passing" / "net.onnx")
    assert [p.relative_to(tmp_path) for p in tmp_path.rglob("*.json")] == [Path("repository/resnet.gate.json")]


def test_a_passing_gate_is_in_the_manifest_of_the_file(
    checkpoint: Checkpoint, labelled: Source, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    (tmp_path / "net.onnx.gate.json").write_text("of an earlier failure")
    advanced: list[float] = []
    gate = Gate(data=labelled, protocol=CROP)
    returned = export_onnx(checkpoint, path, precision="fp16", gate=gate, gating=advanced.append)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]
    assert sum(advanced) == 2 * COUNT
    manifest = stored_manifest(onnx.load(path), str(path))
    assert manifest is not None
    assert manifest.gate == returned.gate
    report = manifest.gate
    assert report["passed"] is True
    assert (report["images"], report["data"], report["protocol"]) == (COUNT, labelled.name, "single-crop")
    assert report["reference_errors"] == 0
    (row,) = evaluate([Member(open_model(str(path), device="cpu"), (CROP,))], labelled)
    assert report["candidate_errors"] == row.top1_errors
    assert 0 < report["max_diff"] < 0.5
    assert "onnxruntime" in report["candidate"]
    assert "fp16" in report["candidate"]
    assert "torch" in report["reference"]
    table = describe_gate(report)
    assert f"0 -> {row.top1_errors}" in table
    assert f"{100 * report['top1_agreement']:.2f} %" in table


def test_a_failing_gate_keeps_the_older_file_and_reports(
    blurred: Checkpoint, pixels: list[Picture], encode: Any, tmp_path: Path
) -> None:
    """In fp16 the classes of this net are one, though its logits are as PyTorch's to fp16's tolerance."""
    source = labelled_by(blurred, pixels, encode, tmp_path / "images.zip")
    path = tmp_path / "net.onnx"
    path.write_bytes(b"what was here before")
    with pytest.raises(GateError, match=r"best class agrees on .* points higher") as caught:
        export_onnx(blurred, path, precision="fp16", gate=Gate(data=source, protocol=CROP))
    assert caught.value.exit_code == 3
    assert path.read_bytes() == b"what was here before"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["images.zip", "net.onnx", "net.onnx.gate.json"]
    report = json.loads((tmp_path / "net.onnx.gate.json").read_text("utf-8"))
    assert report["passed"] is False
    assert len(report["failures"]) == 2
    (row,) = evaluate([Member(model(blurred), (CROP,))], source)
    assert report["reference_errors"] == row.top1_errors < 0.2 * COUNT  # sums in another order decide some
    assert report["candidate_errors"] > 0.5 * COUNT
