"""`resnet-infer report` as its user meets it: tables, records and pages on stdout and in files, one line for errors."""

import csv
import io
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from resnet_infer.bench.rows import BenchRow, BenchRun
from resnet_infer.cli.app import main

Answer = tuple[int, str, str]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """report(argument, ...): exit code, stdout and stderr of `resnet-infer report argument ...`."""

    def called(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["resnet-infer", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return called


def save(path: Path, rates: Sequence[float]) -> Path:
    """A result of one row whose repeats have these images/s."""
    row = BenchRow(
        model="net.onnx", architecture="resnet18", backend="onnxruntime", device="cpu", precision="fp32",
        protocol="single-crop", measurement="network", batch_size=8, images=100, seconds=[100 / rate for rate in rates],
        images_per_s=statistics.median(rates), cv_pct=1.0,
    )  # fmt: skip
    run = BenchRun(
        command="resnet-infer benchmark -m net.onnx", started="2026-01-01T00:00:00Z", environment={"cpu": "A CPU"},
        data={}, ceilings=None, rows=[row],
    )  # fmt: skip
    run.save(path)
    return path


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    return save(tmp_path / "slow.json", (100, 101, 102, 103, 104))


@pytest.fixture
def fast(tmp_path: Path) -> Path:
    return save(tmp_path / "fast.json", (150, 151, 153, 154, 155))


def test_one_result_in_every_format(report: Callable[..., Answer], slow: Path) -> None:
    code, out, err = report(slow)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "A CPU; random pixels"
    assert "single-crop  network          8     102.0  1.0 %" in out
    assert json.loads(report(slow, "--format", "json")[1]) == json.loads(slow.read_text("utf-8"))
    assert json.loads(report(slow, "--format", "jsonl")[1])["images_per_s"] == 102
    (line,) = csv.DictReader(io.StringIO(report(slow, "--format", "csv")[1], newline=""))
    assert json.loads(line["seconds"])[0] == 1.0


def test_a_folder_stands_for_its_result(report: Callable[..., Answer], tmp_path: Path) -> None:
    save(tmp_path / "benchmark.json", (1, 2, 3))
    assert "2.00" in report(tmp_path)[1]


def test_several_results_in_every_format(report: Callable[..., Answer], slow: Path, fast: Path, tmp_path: Path) -> None:
    code, out, err = report(slow, fast, "--page", tmp_path / "page.html")
    assert (code, err) == (0, "")
    assert "single-crop  network          8  102.0  153.0  1.500  faster" in out
    assert "1 faster; 1.50× as fast" in (tmp_path / "page.html").read_text("utf-8")
    found = json.loads(report(slow, fast, "--format", "json")[1])
    assert found["first"] == "slow.json"
    (record,) = found["rows"]
    assert (record["run"], record["ratio"], record["verdict"]) == ("fast.json", 1.5, "faster")
    assert json.loads(report(slow, fast, "--format", "jsonl")[1]) == record
    (line,) = csv.DictReader(io.StringIO(report(slow, fast, "--format", "csv")[1], newline=""))
    assert float(line["ratio"]) == 1.5


def test_results_of_one_name_are_told_apart_by_their_folders(
    report: Callable[..., Answer], slow: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = save(tmp_path / "other" / "slow.json", (100, 101, 102, 103, 104))
    assert str(other) in " ".join(report(slow, other)[1].split())


def test_the_page_is_written_with_the_table_still_printed(
    report: Callable[..., Answer], slow: Path, tmp_path: Path
) -> None:
    code, out, _ = report(slow, "-o", tmp_path / "page.html")
    assert code == 0
    assert "102.0" in out
    assert (tmp_path / "page.html").read_text("utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "slow.json"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("", "not a benchmark's JSON file"),
        ("{", "not a benchmark's JSON file"),
        ("[]", "not a benchmark's result of schema 1"),
        ('{"schema": 99, "rows": []}', "not a benchmark's result of schema 1"),
        ('{"schema": 1, "rows": []}', "not those of a benchmark"),
        (
            '{"schema": 1, "rows": 3, "command": "", "started": "", "environment": {}, "data": {}, "ceilings": null}',
            "not those",
        ),
    ],
)
def test_a_file_that_is_no_result_is_one_line(
    report: Callable[..., Answer], slow: Path, tmp_path: Path, content: str | None, words: str
) -> None:
    wrong = tmp_path / "wrong.json"
    if content is not None:
        wrong.write_text(content)
    for arguments in ((wrong,), (slow, wrong)):
        code, out, err = report(*arguments, "-o", tmp_path / "page.html")
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        assert err.startswith("resnet-infer: error: ")
        assert words in err
        assert "wrong.json" in err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("images_per_s", "fast"), ("model", 3), ("seconds", ["long"]), ("latency_ms", 4), ("batch_size", None)],
)
def test_a_row_of_wrong_types_is_one_line(report: Callable[..., Answer], slow: Path, name: str, value: object) -> None:
    values = json.loads(slow.read_text("utf-8"))
    values["rows"][0][name] = value
    slow.write_text(json.dumps(values))
    code, out, err = report(slow)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "slow.json: its contents are not those of a benchmark" in err


def test_wrong_usage_is_one_line_and_exit_code_2(report: Callable[..., Answer], slow: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ((slow, "--format", "xml"), "'xml' is not one of"),
        ((slow, slow), "the same result is given twice"),
        ((slow, "-o", tmp_path / "page.pdf"), "ends in .html"),
        ((slow, "-o", tmp_path / "absent" / "page.html"), "does not exist"),
    ):
        code, out, err = report(*arguments)
        assert (code, out) == (2, "")
        assert words in err
        assert len(err.splitlines()) == 1
