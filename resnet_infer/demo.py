"""The whole road in about a minute, offline, on real labelled images: scikit-learn's handwritten digits.

Fit, test by every protocol, export, test the export, predict: each step is the one the other commands use.
"""

import io
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from resnet_infer.backends.load import Model, open_model
from resnet_infer.console import say, visible
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Source
from resnet_infer.errors import UsageError
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.evaluation.predict import predict
from resnet_infer.evaluation.rows import EvalRow
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import load_checkpoint, save_checkpoint
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member, score
from resnet_infer.report.text import as_table
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.protocols import PROTOCOL_NAMES, Protocol, protocol_for
from resnet_infer.train.job import new_job
from resnet_infer.train.loop import train
from resnet_infer.train.state import LAST

SIDE = 32
SCALES = (30, 32, 34, 36)
RECIPE = {
    "iterations": 300,
    "batch": 64,
    "lr": 0.2,
    "weight_decay": 5e-4,
    "schedule": "one-cycle",
    "scale_min": 30,
    "scale_max": 37,
    "mean": "channel",
    "log_every": 20,
}
"""The paper's in small: one cycle in place of 64,000 iterations, and scales, so that it can be tested at several."""
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def run(folder: Path | None) -> None:
    """Print every step; files go to `folder`, or to a temporary one. Raises UsageError without scikit-learn."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="resnet-infer-demo-") as temporary:
        _run(folder or Path(temporary))
    kept = f"The files are in {visible(str(folder))}." if folder else "Keep the files with: resnet-infer demo -o FOLDER"
    say(f"\n{time.perf_counter() - begun:.0f} s in all. {kept}")


def _run(folder: Path) -> None:
    to_fit, held_out = write_digits(folder)
    say(
        f"1. Data: scikit-learn's digits as {SIDE}x{SIDE} RGB: {len(to_fit.samples)} to fit, "
        f"{len(held_out.samples)} held out"
    )
    weights = folder / "resnet20.digits.safetensors"
    say(f"2. {_fit(to_fit, weights)}")

    checkpoint = load_checkpoint(str(weights))
    artifact = folder / "resnet20.digits.onnx"
    say("3. Export to ONNX with the dense head ...")
    parity = export_onnx(checkpoint, artifact, head="dense").parity
    say(f"   checked: largest difference from PyTorch {parity['relative_diff']:.0e} of the largest logit")

    models = [open_model(str(path), device="cpu") for path in (weights, artifact)]
    spec, preprocessing = checkpoint.manifest.spec, checkpoint.manifest.preprocessing
    protocols = [
        protocol_for(name, spec, preprocessing, scales=SCALES if name == "multiscale" else None)
        for name in PROTOCOL_NAMES
    ]
    say("4. The held-out images by the paper's three protocols, on both backends\n")
    results = [
        [evaluate([Member(model, (protocol,))], held_out, loading=Loading(workers=0))[0] for model in models]
        for protocol in protocols
    ]
    say(_ladder(protocols, results))
    say(f"\n5. Backends: largest difference of a probability {_difference(models, protocols, held_out):.0e}")

    say("6. Predictions from the ONNX file")
    some = open_source(_excerpt(held_out, folder / "some.zip"))
    for record in predict(models[1], protocols[0], some, top_k=1, loading=Loading(workers=0)):
        best = record.predictions[0]
        say(f"   {record.path.ljust(22)}  {best.label} ({100 * best.prob:.1f} %)")


def write_digits(folder: Path) -> tuple[Source, Source]:
    """The digits as two zip files with one folder per class: three quarters to fit, a quarter held out."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise UsageError("the demo needs scikit-learn's digits: `pip install 'resnet-infer[demo]'`") from error
    digits = load_digits()
    indices = np.arange(len(digits.target))
    parts = train_test_split(indices, test_size=0.25, stratify=digits.target, random_state=0)
    folder.mkdir(parents=True, exist_ok=True)
    sources = []
    for name, part in zip(("fit", "held-out"), parts, strict=True):
        path = folder / f"digits-{name}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for index in part:
                grey = Image.fromarray((digits.images[index] * (255 / 16)).astype(np.uint8))
                image = grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")
                encoded = io.BytesIO()
                image.save(encoded, "PNG")
                archive.writestr(f"{NAMES[digits.target[index]]}/{index:04}.png", encoded.getvalue())
        sources.append(open_source(path))
    return sources[0], sources[1]


def _fit(source: Source, weights: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="resnet-infer-demo-run-") as folder:
        job = new_job(source, Path(folder), arch="resnet20", recipe="cifar10", values=RECIPE, device="cpu", workers=0)
        result = train(replace(job, labels=Labels(names=NAMES)), device="cpu")
        checkpoint = load_checkpoint(str(Path(folder, LAST)))
    assert result is not None
    save_checkpoint(weights, checkpoint.state_dict, replace(checkpoint.manifest, source="resnet-infer demo"))
    seconds, err = result.seconds, result.train_err
    return f"Fit: resnet20, {result.iterations} iterations in {seconds:.0f} s, training error {err:.1f} %"


def _ladder(protocols: Sequence[Protocol], results: Sequence[Sequence[EvalRow]]) -> str:
    lines = []
    for protocol, (torch_row, onnx_row) in zip(protocols, results, strict=True):
        lines.append(
            [
                protocol.name,
                str(len(protocol.views(SIDE, SIDE))),
                f"{torch_row.top1_err:.2f}",
                "{:.2f} .. {:.2f}".format(*torch_row.top1_err_ci95),
                f"{torch_row.top1_errors} / {onnx_row.top1_errors}",
                f"{torch_row.images_per_s:.0f} / {onnx_row.images_per_s:.0f}",
            ]
        )
    header = ["protocol", "views", "top-1 err %", "95 % interval", "errors", "images/s"]
    table = as_table(header, lines, right=(1, 2, 3, 4, 5))
    return f"{table}\n{'torch / onnxruntime'.rjust(len(table.splitlines()[0]))}"


def _difference(models: Sequence[Model], protocols: Sequence[Protocol], source: Source, images: int = 60) -> float:
    probs = [
        {
            result.index: result.probs_PK
            for result in score(
                [Member(m, tuple(protocols))], source, indices=range(images), loading=Loading(workers=0)
            )
        }
        for m in models
    ]
    first, second = (torch.stack([part[i] for i in range(images) if part[i] is not None]) for part in probs)  # type: ignore[misc]
    return float((first - second).abs().max())


def _excerpt(source: Source, path: Path) -> Path:
    """A zip of one image of each of the first classes."""
    seen: dict[str | None, bytes | object] = {}
    with zipfile.ZipFile(path, "w") as archive:
        for sample in source.samples:
            if sample.label not in seen and len(seen) < 4:
                seen[sample.label] = data = source.read(sample)
                archive.writestr(f"{sample.name}", bytes(data))
    return path
