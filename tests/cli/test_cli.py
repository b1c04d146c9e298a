"""The command line as its user meets it: results on stdout, one line of error on stderr, exit codes."""

import csv
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from resnet_infer.cli.app import main
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import load_checkpoint, save_checkpoint
from resnet_infer.model.resnet import build
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing

NAMES = ("red", "green", "blue")


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "argv", ["resnet-infer", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return Result(int(caught.value.code or 0), out, err)

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random resnet20 of three classes, its dense ONNX file, and six images in a zip and in a folder."""
    folder = tmp_path_factory.mktemp("cli")
    torch.manual_seed(5)
    spec = spec_from_name("resnet20", classes=3)
    manifest = Manifest(spec=spec, preprocessing=Preprocessing(resize=32, crop=32), labels=Labels(names=NAMES))
    save_checkpoint(folder / "net.safetensors", build(spec).state_dict(), manifest)
    export_onnx(load_checkpoint(str(folder / "net.safetensors")), folder / "net.onnx", head="dense")
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for name, colour in zip(NAMES, ("#e02020", "#20e020", "#2020e0"), strict=True):
            for i in range(2):
                path = folder / "data" / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = Image.effect_noise((40 + 4 * i, 50), 80).convert("RGB")
                Image.blend(noise, Image.new("RGB", noise.size, colour), 0.6).save(path)
                archive.write(path, f"{name}/{i}.png")
    return folder


def one_line(result: Result, code: int) -> str:
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    (line,) = result.err.splitlines()[-1:]
    assert line.startswith("resnet-infer: error: ")
    return line


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['resnet-infer', '--help']\n"
        "from resnet_infer.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'onnx', 'onnxruntime', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("models", "info", "predict", "eval", "export", "env", "demo"):
        assert f"\n  {command} " in done.stdout


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resnet_infer", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("resnet-infer 0.")


@pytest.mark.parametrize("model", ["net.safetensors", "net.onnx"])
def test_predict_in_every_format(run: Run, files: Path, model: str) -> None:
    image = files / "data" / "red" / "0.png"
    arguments = ("predict", image, files / "data" / "blue", "-m", files / model, "--top-k", 2)
    table = run(*arguments)
    assert table.code == 0
    assert table.out.startswith(f"{image}\n  ")
    records = json.loads(run(*arguments, "--format", "json").out)
    assert [Path(r["path"]).parent.name for r in records] == ["red", "blue", "blue"]
    assert list(records[0]) == ["path", "model", "protocol", "backend", "predictions"]
    assert [len(r["predictions"]) for r in records] == [2, 2, 2]
    best = records[0]["predictions"][0]
    assert best["label"] == NAMES[best["index"]]
    lines = run(*arguments, "--format", "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == records
    rows = list(csv.DictReader(io.StringIO(run(*arguments, "--format", "csv").out)))
    assert [(r["path"], r["label"]) for r in rows] == [
        (r["path"], p["label"]) for r in records for p in r["predictions"]
    ]


def test_predict_reads_standard_input(run: Run, files: Path) -> None:
    image = files / "data" / "green" / "1.png"
    arguments = ("predict", "-", "-m", files / "net.safetensors", "--format", "json")
    piped = json.loads(run(*arguments, stdin=image.read_bytes()).out)
    listed = json.loads(run(*arguments, stdin=f"{image}\n".encode()).out)
    assert piped[0]["predictions"] == listed[0]["predictions"]
    assert "standard input is empty" in one_line(run(*arguments), 2)


def test_predict_goes_on_past_an_unreadable_image(run: Run, files: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    result = run("predict", broken, files / "data", "-m", files / "net.onnx", "--format", "json")
    records = json.loads(result.out)
    assert result.code == 1
    assert set(records[0]) == {"path", "error"}
    assert len(records) == 7
    assert str(broken) in result.err


def test_eval_rows(run: Run, files: Path) -> None:
    result = run("eval", files / "data.zip", "-m", files / "net.onnx", "--single-crop", "--ten-crop", "--multiscale",
                 "--scales", "32,40", "--format", "json")  # fmt: skip
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["environment"]["packages"]["torch"] == torch.__version__.split("+")[0]
    assert [row["protocol"] for row in report["rows"]] == ["single-crop", "ten-crop", "multiscale"]
    for row in report["rows"]:
        assert row["images"] == 6
        assert row["backend"] == "onnxruntime"
        assert row["top1_err"] == pytest.approx(100 * row["top1_errors"] / 6, abs=1e-3)
        assert row["top1_err_ci95"][0] <= row["top1_err"] <= row["top1_err_ci95"][1]
        assert row["unreadable"] == []
    table = run("eval", files / "data", "-m", files / "net.safetensors", "--multiscale", "--ten-crop").out
    assert max(map(len, table.splitlines()[3:6])) <= 80


def test_eval_on_error(run: Run, files: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(files / "data.zip") as archive:
        archive.extractall(tmp_path)
    (tmp_path / "red" / "0.png").write_bytes(b"")
    (tmp_path / "blue" / "1.png").write_bytes(b"\x89PNG and nothing more")
    arguments = ("eval", tmp_path, "-m", files / "net.safetensors", "--format", "json")
    failed = run(*arguments)
    assert "2 of 6 images cannot be read" in one_line(failed, 1)
    assert "0.png: the file is empty" in failed.err
    assert "1.png: " in failed.err
    for mode, images in (("skip", 4), ("count-wrong", 6)):
        (row,) = json.loads(run(*arguments, "--on-error", mode).out)["rows"]
        assert row["images"] == images
        assert [Path(u["path"]).name for u in row["unreadable"]] == ["1.png", "0.png"]
    assert "fail, skip, count-wrong" in one_line(run(*arguments, "--on-error", "ignore"), 2)


def test_export_and_info(run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("export", files / "net.safetensors", "--precision", "fp16")
    assert result.code == 0, result.err
    assert [p.name for p in tmp_path.iterdir()] == ["net.fp16.onnx"]
    described = json.loads(run("info", "net.fp16.onnx", "--format", "json").out)
    assert described["precision"] == "fp16"
    assert described["labels"]["names"] == list(NAMES)
    assert {layer["type"] for layer in described["layers"]} == {"fp16"}
    table = run("info", files / "net.safetensors").out
    assert "269,267 parameters" in table  # paper.md's 269,722 for ten classes, less 7 of 65 weights
    assert max(map(len, table.splitlines()[1:])) <= 80


def test_models_lists_the_papers_errors(run: Run) -> None:
    listed = json.loads(run("models", "--format", "json").out)
    by_name = {row["architecture"]: row for row in listed["architectures"]}
    assert by_name["resnet152-v1"]["paper_multiscale_top1_err"] == 19.38
    assert by_name["plain34"]["paper_ten_crop_top1_err"] == 28.54
    assert by_name["resnet110"]["paper_cifar10_top1_err"] == 6.43
    assert max(map(len, run("models").out.splitlines())) <= 80


def test_env(run: Run) -> None:
    found = json.loads(run("env", "--format", "json").out)
    assert found["packages"]["torch"] == torch.__version__.split("+")[0]
    assert "CPUExecutionProvider" in found["onnxruntime_providers"]


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["predict", "x.jpg", "-m", "resnet51.tv_in1k"], 1, ["x.jpg", "no such file"]),
    (["predict", "{data}", "-m", "resnet51.tv_in1k"], 2, ["unknown model 'resnet51.tv_in1k'", "resnet50.tv_in1k"]),
    (["predict", "*.nothing", "-m", "{net}"], 1, ["*.nothing", "no file matches"]),
    (["predict", "{data}", "-m", "missing.pth"], 2, ["missing.pth", "no such file"]),
    (["predict", "{data}", "-m", "{net}", "--protocol", "eleven-crop"], 2, ["eleven-crop", "ten-crop"]),
    (["predict", "{data}", "-m", "{net}", "--format", "xml"], 2, ["xml", "jsonl"]),
    (["predict", "{data}", "-m", "{net}", "--mean", "1,2"], 2, ["--mean", "3 channels", "2 numbers"]),
    (["predict", "{data}", "-m", "{net}", "--scales", "32,40"], 2, ["--scales", "single-crop"]),
    (["predict", "{data}", "-m", "{net}", "--crop", "48", "--resize", "30"], 2, ["crop 48", "side 30"]),
    (["predict", "{data}", "-m", "{net}", "--arch", "resnet34"], 1, ["net.safetensors", "resnet34", "--arch"]),
    (["eval", "{data}", "-m", "{net}", "--multiscale", "--scales", "20"], 2, ["20", "at least 29"]),
    (["eval", "{data}", "-m", "{net}", "--multiscale", "--average", "mean"], 2, ["mean", "window-softmax"]),
    (["eval", "{data}", "-m", "{net}", "--weights", "1,2"], 2, ["--weights", "ensemble"]),
    (["eval", "{data}", "-m", "{net}", "--backend", "onnxruntime"], 2, ["resnet-infer export"]),
    (["eval", "{data}", "-m", "{net}", "--device", "cuda:42"], 1, ["cuda:42", "--device cpu"]),
    (["export", "{net}", "--to", "coreml"], 2, ["coreml", "onnx"]),
    (["export", "{net}", "-o", "{data}/a.txt"], 2, ["a.txt", ".onnx"]),
    (["info", "{data}/red/0.png"], 2, ["0.png", "not a model file", ".safetensors"]),
    (["export", "{net}", "-o", "{net}/below/a.onnx"], 2, ["a.onnx", "cannot be written"]),
])  # fmt: skip
def test_errors_are_one_line_with_a_remedy(
    run: Run,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [a.format(data=files / "data", net=files / "net.safetensors") for a in arguments]
    line = one_line(run(*given), code)
    for word in words:
        assert word in line
    assert list(tmp_path.iterdir()) == []


def test_class_folders_that_are_not_the_models(run: Run, files: Path, tmp_path: Path) -> None:
    for name in ("red", "green", "yellow"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "0.png")
    line = one_line(run("eval", tmp_path, "-m", files / "net.safetensors"), 1)
    assert "'yellow'" in line
    assert "'blue'" in line
    assert "--labels" in line


def test_verbose_shows_the_traceback() -> None:
    command = [sys.executable, "-m", "resnet_infer", "eval", "missing", "-m", "missing.onnx", "--verbose"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("resnet-infer: error: missing.onnx: no such file")


def test_unknown_flags_are_usage_errors(run: Run) -> None:
    result = run("eval", "--multi-scale")
    assert result.code == 2
    assert "--multiscale" in result.err
