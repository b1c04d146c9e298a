"""`export` and `info` as their user meets them: what is printed, what is written, and what is refused in one line."""

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from resnet_infer.cli.app import main
from resnet_infer.model.checkpoints import save_checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.labels import CIFAR10_NAMES, Labels
from resnet_infer.spec.manifest import Manifest, with_check
from resnet_infer.spec.preprocessing import Preprocessing


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / ".cache"))

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["resnet-infer", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        with pytest.raises(SystemExit) as caught:
            main()
        return Result(int(caught.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def files(
    small_net: ResNet,
    picture: Callable[..., NDArray],  # type: ignore[type-arg]
    encode: Callable[..., bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A random resnet20 and 80 pictures in two class folders of a zip."""
    folder = tmp_path_factory.mktemp("export")
    manifest = Manifest(
        spec=small_net.spec, preprocessing=Preprocessing(resize=32, crop=32), labels=Labels(names=CIFAR10_NAMES)
    )
    save_checkpoint(folder / "net.safetensors", small_net.state_dict(), manifest)
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for seed in range(80):
            archive.writestr(f"{('cat', 'dog')[seed % 2]}/{seed}.png", encode(picture(32, 32, seed)))
    return folder


def written(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts)


def test_int8_with_search_gate_and_preprocessing_inside(run: Run, files: Path, tmp_path: Path) -> None:
    data = files / "data.zip"
    done = run(
        "export", files / "net.safetensors", "--precision", "int8", "--calibration-data", data, "--keep-float", "none",
        "--gate-data", data, "--min-agreement", 0.5, "--max-top1-drop", 100, "--preprocess-in-graph", "-o", "net.onnx",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert written(tmp_path) == ["net.onnx"]
    assert max(map(len, done.out.replace(f"{files}/", "").splitlines())) <= 80
    table = [line.split() for line in done.out.splitlines() if line.startswith(("minmax", "entropy", "percentile"))]
    assert [row[0] for row in table] == ["minmax", "entropy", "percentile"]  # 80 images: one size, 40
    assert sum(row[-1] == "kept" for row in table) == 1
    assert "layers: 19 Conv in int8, 9 Add in int8, 1 Gemm in int8" in done.out
    assert "takes uint8-nhwc" in done.out
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    assert (session.get_inputs()[0].type, session.get_inputs()[0].shape[3]) == ("tensor(uint8)", 3)

    described = json.loads(run("info", "net.onnx", "--format", "json").out)
    assert described["gate"]["passed"] is True
    assert described["gate"]["reference_errors"] is not None
    assert described["quantization"]["method"] in ("minmax", "entropy", "percentile")
    assert (described["input"], described["shape"]) == ("uint8-nhwc", "batch x height x width x 3")
    (row,) = json.loads(run("eval", data, "-m", "net.onnx", "--format", "json").out)["rows"]
    assert (row["precision"], row["top1_errors"]) == ("int8", described["gate"]["candidate_errors"])
    assert "--mean, --std cannot change" in run("eval", data, "-m", "net.onnx", "--mean", "0,0,0", "--std", "1,1,1").err


def test_a_failing_gate_exits_3_keeps_its_report_and_promotes_nothing(run: Run, files: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"before")
    arguments = (
        "export", files / "net.safetensors", "--precision", "int8", "--calibration-data", files / "data.zip",
        "--calibration-method", "minmax", "--gate-data", files / "data.zip", "-o",
    )  # fmt: skip
    failed = run(*arguments, "net.onnx", "--min-agreement", 1)
    assert failed.code == 3
    assert "net.onnx: not written: best class agrees on" in failed.err
    assert (tmp_path / "net.onnx").read_bytes() == b"before"
    report = json.loads((tmp_path / "net.onnx.gate.json").read_text())
    assert (report["passed"], report["images"], report["min_agreement"]) == (False, 80, 1)
    assert 0 < report["top1_agreement"] < 1
    failed = run(*arguments, "repo", "--to", "triton", "--min-agreement", 1)
    assert (failed.code, written(tmp_path / "repo")) == (3, ["net.gate.json"])


def test_a_file_that_is_not_what_it_claims_is_shown_and_exits_3(run: Run, files: Path, tmp_path: Path) -> None:
    assert run("export", files / "net.safetensors", "-o", "net.onnx").code == 0
    proto = onnx.load("net.onnx")
    (prop,) = proto.metadata_props
    prop.value = json.dumps(with_check(json.loads(prop.value) | {"precision": "fp16"}))  # a lie, not damage
    onnx.save(proto, "net.onnx")
    shown = run("info", "net.onnx")
    assert shown.code == 3
    assert "Conv   fp32" in shown.out
    assert "claims fp16" in shown.err
    assert run("eval", files / "data.zip", "-m", "net.onnx").code == 3


def test_an_engine_and_a_repository(run: Run, files: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    arguments = ("export", files / "net.safetensors", "--to", "tensorrt", "--flavour", "tensorrt-rtx")
    built = run(*arguments, "--head", "dense", "--precision", "fp16")
    assert built.code == 0, built.err
    assert written(tmp_path) == ["net.dense.fp16.engine", "net.dense.fp16.engine.json"]
    assert "layers: 20 Conv in fp16, 9 Add in fp16" in built.out
    assert built.out.count("profile ") == 5
    assert "engine cache: miss" in built.out
    assert "engine cache: hit" in run(*arguments, "--head", "dense", "--precision", "fp16", "-o", "again.engine").out
    shown = run("info", "again.engine")
    assert shown.code == 0
    assert "tensorrt-rtx" in shown.out
    assert "runs here" in shown.out
    packed = run("export", "again.engine", "--to", "triton", "-o", "repo", "--name", "net")
    assert packed.code == 0, packed.err
    assert written(tmp_path / "repo") == [
        "net/1/model.plan", "net/1/model.plan.json", "net/config.pbtxt", "net/labels.txt",
    ]  # fmt: skip
    assert "tritonserver --model-repository=" in packed.out
    assert run("info", "repo/net/1/model.plan").code == 0


INT8 = ("--precision", "int8", "--calibration-data", "{data}")


@pytest.mark.parametrize(("arguments", "words"), [
    (["{net}", "--precision", "int8"], ["int8 needs images", "--calibration-data"]),
    (["{net}", "--precision", "fp16", "--calibration-data", "{data}"], ["--calibration-data is for int8 and fp8"]),
    (["{net}", "--calibration-images", "40"], ["--calibration-images", "give --calibration-data"]),
    (["{net}", *INT8, "--calibration-method", "best"], ["best", "minmax"]),
    (["{net}", *INT8, "--keep-float", "middle"], ["middle", "stem"]),
    (["{net}", *INT8, "--arrangement", "x"], ["'x'", "onnxruntime"]),
    (["{net}", *INT8, "--calibration-images", "4"], ["at least 32"]),
    (["{net}", "--min-agreement", "0.9"], ["--min-agreement", "give --gate-data"]),
    (["{net}", "--gate-data", "{data}", "--min-agreement", "99"], ["--min-agreement", "0..1"]),
    (["{net}", "--precision", "tf32"], ["tf32", "export fp32"]),
    (["{net}", "--input-layout", "nchw"], ["--preprocess-in-graph"]),
    (["{net}", "--preprocess-in-graph", "--input-layout", "nwhc"], ["nwhc", "nhwc, nchw"]),
    (["{net}", "--max-aspect", "3"], ["--max-aspect is for --to tensorrt"]),
    (["{net}", "--no-cache"], ["--no-cache is for --to tensorrt"]),
    (["{net}", "--name", "x"], ["--name is for --to triton"]),
    (["{net}", "--to", "trt", "--flavour", "tensorrt-lite"], ["tensorrt-lite", "tensorrt-rtx"]),
    (["{net}", "--to", "trt", "--batch-range", "8"], ["MIN,OPT,MAX", "'8'"]),
    (["{net}", "--to", "trt", "--max-aspect", "0.5"], ["--max-aspect", "1..40"]),
    (["{net}", "--to", "trt", "--compute-capability", "ada"], ["ada", "8.9"]),
    (["{net}", "--to", "trt", "--scales", "8", "--head", "dense"], ["8", "at least 29"]),
    (["a.onnx", "--to", "onnx"], ["a.onnx", "is an ONNX file already"]),
    (["a.engine", "--to", "tensorrt"], ["a.engine", "is an engine already"]),
    (["a.onnx", "--to", "trt", "--head", "dense"], ["--head was decided"]),
    (["a.onnx", "--to", "triton", "--gate-data", "{data}"], ["--gate-data", "gate the export"]),
])  # fmt: skip
def test_flags_that_cannot_work_are_one_line_with_a_remedy(
    run: Run, files: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    done = run("export", *(a.format(net=files / "net.safetensors", data=files / "data.zip") for a in arguments))
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    for word in words:
        assert word in line
    assert written(tmp_path) == []
