"""A benchmark run on disk: rows of everything, failures too; stopped, resumed, refused."""

import json
import statistics
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from resnet_infer.backends.load import Model
from resnet_infer.bench import session
from resnet_infer.bench.opener import Opener
from resnet_infer.bench.rows import BenchRun, load_run
from resnet_infer.bench.runner import ABOVE_ROOF, Runner
from resnet_infer.bench.session import BenchmarkRequest, run
from resnet_infer.bench.sweep import Cell, Subject, Sweep
from resnet_infer.errors import DataError, UsageError
from resnet_infer.pipeline.packing import Offload
from resnet_infer.spec.protocols import single_crop

Picture = np.ndarray[Any, np.dtype[np.uint8]]
SWEEP = Sweep(
    models=("resnet20.random",),
    backends=("torch", "onnxruntime"),
    protocols=("single-crop", "multiscale"),
    batch_sizes=(2,),
    repeats=2,
    seconds=0.01,
)


@pytest.fixture(scope="module")
def photos(picture: Callable[..., Picture], encode: Callable[..., bytes], tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("photos") / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(6):
            archive.writestr(f"{number}.jpg", encode(picture(40 + number, 50, number), "JPEG"))
    return path


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: Any) -> tuple[BenchmarkRequest, BenchRun]:
    request = BenchmarkRequest(
        sweep=SWEEP, output=tmp_path_factory.mktemp("run"), data=str(photos), device="cpu", workers=0
    )
    return request, run(request)


def test_every_row_of_the_sweep_is_measured(finished: tuple[BenchmarkRequest, BenchRun]) -> None:
    _, done = finished
    assert [(row.backend, row.protocol, row.measurement) for row in done.rows] == [
        (backend, protocol, measurement)
        for backend in ("torch", "onnxruntime")
        for protocol in ("single-crop", "multiscale")
        for measurement in ("network", "memory", "files")
    ]
    for row in done.rows:
        assert row.error == ""
        assert len(row.seconds) == 2
        if row.measurement != "network":  # whose images are a batch's, and need not be a whole number
            assert row.images == 6
            assert row.images_per_s == pytest.approx(6 / statistics.median(row.seconds))
        assert row.views == {"single-crop": 1, "multiscale": 10}[row.protocol]
        assert row.roof_images_per_s > 0
        assert row.roof_fraction == pytest.approx(row.images_per_s / row.roof_images_per_s)
        assert row.bound
        assert row.peak_memory_mib > 50
        assert (row.build_s > 0) == (row.backend == "onnxruntime")
        assert set(row.latency_ms) == ({"p50", "p90", "p95", "p99"} if row.measurement == "network" else set())
        if row.measurement != "network":
            network = next(r for r in done.rows if r.key() == (*row.key()[:5], "network", row.key()[6]))
            assert row.network_fraction == pytest.approx(row.images_per_s / network.images_per_s)


def test_the_file_holds_what_was_returned(finished: tuple[BenchmarkRequest, BenchRun]) -> None:
    request, done = finished
    path = request.output / "benchmark.json"
    assert json.loads(path.read_text())["rows"] == json.loads(done.to_json())["rows"]
    read = load_run(path)
    assert [row.key() for row in read.rows] == [row.key() for row in done.rows]
    assert read.ceilings == replace(done.ceilings) if done.ceilings else False
    assert [p.name for p in request.output.glob(".*")] == []


def test_another_run_does_not_go_over_it(finished: tuple[BenchmarkRequest, BenchRun]) -> None:
    with pytest.raises(UsageError, match="already exists; continue with --resume"):
        run(finished[0])


def test_resuming_a_finished_run_measures_nothing(
    finished: tuple[BenchmarkRequest, BenchRun], capsys: pytest.CaptureFixture[str]
) -> None:
    request, done = finished
    again = run(replace(request, resume=True))
    assert json.loads(again.to_json())["rows"] == json.loads(done.to_json())["rows"]
    assert "12 of 12 rows are there already" in capsys.readouterr().err


def test_what_was_measured_elsewhere_is_not_continued(
    finished: tuple[BenchmarkRequest, BenchRun], tmp_path: Path
) -> None:
    request, done = finished
    for other, what in (
        (replace(done, environment={**done.environment, "cpu": "another"}), "other cpu"),
        (replace(done, data={**done.data, "images": 7}), "other images"),
    ):
        other.save(tmp_path / "benchmark.json")
        with pytest.raises(UsageError, match=what):
            run(replace(request, output=tmp_path, resume=True))


def test_an_interrupted_run_keeps_its_rows_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path
) -> None:
    said: list[str] = []

    def interrupt(message: str) -> None:
        said.append(message)
        if message.startswith("3/"):
            raise KeyboardInterrupt

    request = BenchmarkRequest(sweep=SWEEP, output=tmp_path, data=str(photos), device="cpu", workers=0, ceilings=False)
    monkeypatch.setattr(session, "note", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(request)
    first = load_run(tmp_path / "benchmark.json").rows
    assert len(first) == 2
    monkeypatch.setattr(session, "note", said.append)
    done = run(replace(request, resume=True))
    assert len(done.rows) == 12
    assert json.loads(done.to_json())["rows"][:2] == json.loads(BenchRun.to_json(replace(done, rows=first)))["rows"]
    assert sum(message.split("/")[0].isdigit() for message in said) == 3 + 10


def test_what_fails_is_a_row_and_the_rest_is_measured(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    sweep = Sweep(
        models=(str(tmp_path / "broken.onnx"), "resnet20.random"),
        backends=("torch", "tensorrt"),
        precisions=("fp32", "int8"),
        protocols=("single-crop",),
        batch_sizes=(2,),
        repeats=1,
        seconds=0.01,
    )
    done = run(BenchmarkRequest(sweep=sweep, output=tmp_path / "run", device="cpu", ceilings=False))
    found = {(Path(row.model).name, row.backend, row.precision): row.error for row in done.rows}
    assert found.pop(("resnet20.random", "torch", "fp32")) == ""
    assert all(found.values())
    assert "--calibration-data" in found["resnet20.random", "tensorrt", "int8"]
    assert "broken.onnx" in found["broken.onnx", "onnxruntime", "own"]


def test_errors_are_counted_where_the_classes_are_the_models(shared: Path, tmp_path: Path) -> None:
    """A sample of the CIFAR-10 test set through the bundled network, whose error on all of it is 9.09 %."""
    sweep = replace(
        SWEEP, models=("resnet20.cifar10",), backends=("torch",), protocols=("single-crop",), images=500,
        batch_sizes=(64,), measurements=("files",), repeats=1,
    )  # fmt: skip
    data = str(shared / "data/cifar10/test.zip")
    (row,) = run(
        BenchmarkRequest(sweep=sweep, output=tmp_path, data=data, device="cpu", workers=0, ceilings=False)
    ).rows
    assert row.top1_images == 500
    assert row.top1_err is not None
    assert row.top1_err_ci95 is not None
    assert row.top1_err_ci95[0] < 9.09 < row.top1_err_ci95[1]


@pytest.mark.parametrize(
    ("measurements", "reason"), [(("transfer",), "on a CPU nothing travels"), (("files",), "give --data DATA")]
)
def test_measurements_that_cannot_be_are_refused(measurements: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=reason):
        run(BenchmarkRequest(sweep=replace(SWEEP, measurements=measurements), output=tmp_path / "x", device="cpu"))
    assert not (tmp_path / "x").exists()


def test_a_file_that_is_no_benchmark_is_an_error(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"schema": 1}', '{"schema": 99, "rows": []}', '{"schema": 1, "rows": [{}]}'):
        (tmp_path / "benchmark.json").write_text(text)
        with pytest.raises(DataError, match=r"benchmark\.json"):
            load_run(tmp_path / "benchmark.json")


def test_what_pytorch_raises_is_a_row_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))  # which torch.compile needs on a CPU
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (str(tmp_path / "no-compiler"),))
    sweep = Sweep(
        models=("resnet20.random",), backends=("torch",), compile=("default", "none"), protocols=("single-crop",),
        batch_sizes=(3,), measurements=("network",), repeats=1, seconds=0.01,
    )  # fmt: skip
    torch._dynamo.reset()
    broken, sound = run(BenchmarkRequest(sweep=sweep, output=tmp_path, device="cpu", ceilings=False)).rows
    assert broken.error
    assert "\n" not in broken.error
    assert sound.images_per_s > 0


def test_a_share_far_above_the_roof_is_a_warning(finished: tuple[BenchmarkRequest, BenchRun], tmp_path: Path) -> None:
    """A busy machine's ceilings are too low, and a cache has none."""
    _, held = finished
    assert held.ceilings is not None
    low = {name: rate / 1e6 for name, rate in held.ceilings.matmul_tflop_per_s.items()}
    runner = Runner(
        opener=Opener(folder=tmp_path, device="cpu"), sweep=replace(SWEEP, repeats=1),
        ceilings=replace(held.ceilings, matmul_tflop_per_s=low),
    )  # fmt: skip
    cell = Cell(
        subject=Subject(model="resnet20.random", backend="torch", precision="fp32"), protocol="single-crop",
        batch_size=2, measurement="network",
    )  # fmt: skip
    (row,) = runner.run([cell])
    assert row.roof_fraction > 2
    for found in (row, *held.rows):
        said = any("of its roof: its activations stay in a cache" in warning for warning in found.warnings)
        assert said is (found.roof_fraction > ABOVE_ROOF)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("offload", ["nothing", "rendering", "decoding"])
def test_the_roof_counts_what_the_processor_decodes_and_what_travels(
    offload: Offload, device: str, finished: tuple[BenchmarkRequest, BenchRun], tmp_path: Path
) -> None:
    _, held = finished
    assert held.ceilings is not None
    cell = Cell(
        subject=Subject(model="resnet20.random", backend="torch", precision="fp32"), protocol="single-crop",
        batch_size=2, measurement="memory",
    )  # fmt: skip
    opener = Opener(folder=tmp_path, device="cpu")
    with opener.open(cell.subject) as (model, _):
        # of a device that is not there, only the name counts here
        backend = SimpleNamespace(info=replace(model.backend.info, device=device))
        on_device = Model(name=model.name, manifest=model.manifest, backend=backend)  # type: ignore[arg-type]

    def bound_by(**ceilings: float) -> str:
        slow = replace(held.ceilings, decode_images_per_s=1e9, upload_gb_per_s=1e9 * (device != "cpu"))  # type: ignore[type-var]
        runner = Runner(opener=opener, sweep=SWEEP, offload=offload, ceilings=replace(slow, **ceilings))  # type: ignore[arg-type]
        return runner._roof(on_device, single_crop(), cell, ((40, 50),))[1]

    gpu = device != "cpu"
    assert (bound_by(decode_images_per_s=0.5) == "decoding") is (offload != "decoding" or not gpu)
    assert (bound_by(upload_gb_per_s=1e-9) == "transfer") is (offload == "nothing")
