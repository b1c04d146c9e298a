"""Names that would command the terminal, standard streams that are full or closed, and signals: by real processes."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.csv
import pyarrow.json
import pytest
from PIL import Image

from resnet_infer.cli.app import main
from resnet_infer.predictions.files import read_predictions

HOSTILE = (
    "colour\x1b[31m.png", "clipboard\x1b]52;c;aGk=\x07.png", "return\rok.png", "line\nbreak.png", "bidi\u202egpj.png",
    "c1\x9b2J.png", "separator\u2028.png", "=1+1,\"quoted\".png", "caf\udce9.png",
)  # fmt: skip
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for name in HOSTILE:
        (folder / "cat").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "cat" / "plain.png")
        os.rename(folder / "cat" / "plain.png", folder / "cat" / name)
    (folder / "dog").mkdir()
    (folder / "dog" / "broken\x1b[2J.png").write_bytes(b"none")
    return folder


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["resnet-infer", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


MODEL = ("-m", "resnet20.cifar10", "--device", "cpu", "--workers", 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "{hostile}", *MODEL, "--on-error", "skip"),
        ("eval", "{hostile}", *MODEL, "--on-error", "count-wrong"),
        ("predict", "no\x1b[31m file", *MODEL),
        ("eval", "{hostile}", "-m", "no\u202e.onnx"),
        ("info", "no\x1b]52;c;aGk=\x07.safetensors"),
        ("eval", "{hostile}", *MODEL, "--on-error", "odd\x1b[31m"),
        ("export", "no\rmodel"),
        ("verify", "no\x9b2J.onnx"),
    ],
    ids=lambda arguments: str(arguments[:2]).encode("unicode_escape").decode(),
)
def test_no_name_reaches_the_terminal_as_a_command(
    arguments: tuple[object, ...], hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(hostile) if argument == "{hostile}" else argument for argument in arguments]
    _, out, err = command(capsys, *given)
    assert not CONTROL.search(out)
    assert not CONTROL.search(err)
    assert "\\x1b" in out + err or "\\u202e" in out + err or "\\r" in out + err or "\\x9b" in out + err


def test_names_come_back_from_csv_and_json_in_every_reader(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(name.encode("utf-8", "backslashreplace").decode() for name in HOSTILE)

    def found(paths: Any) -> list[str]:
        return sorted({str(path).rpartition("/cat/")[2] for path in paths if "/cat/" in str(path)})

    flags = ("predict", hostile, *MODEL, "--on-error", "skip", "--top-k", 1)
    _, out, _ = command(capsys, *flags, "--format", "csv")
    assert found(row["path"] for row in csv.DictReader(io.StringIO(out, newline=""))) == names
    assert found(pd.read_csv(io.StringIO(out, newline=""))["path"]) == names
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    table = pyarrow.csv.read_csv(io.BytesIO(out.encode()), parse_options=options)
    assert found(table["path"].to_pylist()) == names
    _, out, _ = command(capsys, *flags, "--format", "jsonl")
    assert found(json.loads(line)["path"] for line in out.splitlines()) == names
    assert found(pd.read_json(io.StringIO(out), lines=True)["path"]) == names
    assert found(pyarrow.json.read_json(io.BytesIO(out.encode()))["path"].to_pylist()) == names
    for suffix in ("jsonl", "parquet"):
        file = tmp_path / f"x.{suffix}"
        command(capsys, "eval", hostile, *MODEL, "--on-error", "skip", "--predictions", file)
        assert found(record.name for record in read_predictions(file).records["single-crop"]) == names


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a shell, where `R` is resnet-infer."""
    program = f"R() {{ '{sys.executable}' -m resnet_infer \"$@\"; }}; {line}"
    return subprocess.run(
        ["bash", "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("R eval . {model} > /dev/full", 1, "standard output: cannot be written (No space left on device)"),
        ("R eval . {model} >&-", 1, "standard output: is closed"),
        ("R predict - {model} <&-", 2, "standard input is empty"),
        ("R eval . {model} --on-error skip --no-such-flag 2>&-", 2, ""),
        ("TMPDIR=/nonexistent R predict cat {model} > /dev/null", 0, ""),
    ],
)
def test_streams_that_are_closed_or_full_are_one_line(line: str, code: int, words: str, hostile: Path) -> None:
    done = shell(line.format(model="-m resnet20.cifar10 --device cpu --on-error skip"), hostile)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert words in done.stderr
    assert "error" not in done.stdout


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="becomes another user")
def test_a_user_without_a_name_or_a_home_predicts(hostile: Path) -> None:
    code = (
        "import os, sys; from resnet_infer.cli.app import main; import resnet_infer.model.checkpoints\n"
        "import resnet_infer.spec.labels, resnet_infer.report.text; os.setuid(54321); os.environ.pop('HOME', None)\n"
        "sys.argv = ['resnet-infer', 'info', 'resnet50.tv_in1k']; main()"
    )
    clean = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME")}
    clean["RESNET_INFER_MIRROR"] = "file:///nonexistent"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean, check=False)
    if "Permission denied" in done.stderr or "ModuleNotFoundError" in done.stderr:
        pytest.skip("another user cannot read the package here")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot fetch resnet50.tv_in1k" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_an_evaluation_in_one_line_and_lets_go(
    number: signal.Signals, code: int, hostile: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    good = hostile / "cat" / HOSTILE[0]
    names.write_text(f"{good}\tcat\n{good}\tdog\n" * 100_000)
    file = tmp_path / "x.jsonl"
    arguments = ["eval", str(names), "-m", "resnet20.cifar10", "--device", "cpu", "--predictions", str(file)]
    running = subprocess.Popen(
        [sys.executable, "-m", "resnet_infer", *arguments, "--workers", "1"], stderr=subprocess.PIPE, text=True
    )
    parts = tmp_path / "x.jsonl.parts"
    for _ in range(600):
        if list(parts.glob("*-*-*")):
            break
        time.sleep(0.1)
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1
    assert not (parts / "lock").exists()
    assert not list(parts.glob("*.tmp"))
