"""Printed results: whatever a path is called, it reads back from JSON, JSON lines and CSV."""

import csv
import io
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.errors import UsageError
from resnet_infer.evaluation.rows import EvalRow, Prediction
from resnet_infer.report.text import as_csv, as_json, as_json_lines, as_table, check_format

AWKWARD = 'a, "quoted" path\nwith a newline\tand ünïcode \u2028\r.png'
BEST = [{"index": 3, "label": 'great white shark, "white"', "prob": 0.75}]
PREDICTIONS = [
    Prediction(path=AWKWARD, model="resnet20", protocol="ten-crop", backend="torch", predictions=BEST),
    Prediction(path="broken, too.png", error='damaged\n"header"'),
]
ROW = EvalRow(
    model="resnet20.cifar10",
    architecture="resnet20",
    data=AWKWARD,
    protocol="ten-crop",
    views="four corners, and centre",
    head="pooled",
    backend="torch",
    device="cpu",
    precision="fp32",
    images=10,
    top1_errors=1,
    top5_errors=0,
    top1_err=10.0,
    top5_err=0.0,
    top1_err_ci95=(1.7876, 40.415),
    images_per_s=12.5,
    seconds=0.8,
    unreadable=[{"path": AWKWARD, "error": "empty"}],
    on_error="skip",
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
cells = st.one_of(text, st.integers(), st.floats(allow_nan=False), st.lists(st.integers()))
records = st.lists(st.dictionaries(st.sampled_from(["path", "error", "a,b", 'c"d']), cells, min_size=1), max_size=5)


@given(records)
def test_json_and_json_lines_read_back(records: list[dict[str, Any]]) -> None:
    assert json.loads(as_json(records)) == records
    lines = as_json_lines(records).split("\n") if records else []
    assert [json.loads(line) for line in lines] == records


@given(records)
def test_csv_reads_back_with_a_column_for_every_key(records: list[dict[str, Any]]) -> None:
    printed = as_csv(records) + "\n"  # as print() ends it
    rows = list(csv.DictReader(io.StringIO(printed, newline="")))
    keys = list(dict.fromkeys(key for record in records for key in record))
    expected = [
        {key: json.dumps(value) if isinstance(value, list) else str(value) for key, value in record.items()}
        for record in records
    ]
    assert rows == [dict.fromkeys(keys, "") | record for record in expected]


def test_predictions_and_failures_share_a_table() -> None:
    records = [prediction.to_dict() for prediction in PREDICTIONS]
    assert json.loads(as_json(records)) == [
        {"path": AWKWARD, "model": "resnet20", "protocol": "ten-crop", "backend": "torch", "predictions": BEST},
        {"path": "broken, too.png", "error": 'damaged\n"header"'},
    ]
    scored, failed = csv.DictReader(io.StringIO(as_csv(records), newline=""))
    assert (scored["path"], scored["error"], json.loads(scored["predictions"])) == (AWKWARD, "", BEST)
    assert (failed["path"], failed["error"], failed["model"]) == ("broken, too.png", 'damaged\n"header"', "")


def test_an_evaluations_row_reads_back_from_every_format() -> None:
    values = ROW.to_dict()
    as_lists = values | {"top1_err_ci95": list(ROW.top1_err_ci95)}
    assert json.loads(as_json(values)) == as_lists
    assert json.loads(as_json_lines([values])) == as_lists
    (row,) = csv.DictReader(io.StringIO(as_csv([values]), newline=""))
    assert list(row) == list(values)
    assert row["data"] == AWKWARD
    assert float(row["top1_err"]) == 10
    assert json.loads(row["top1_err_ci95"]) == [1.7876, 40.415]
    assert json.loads(row["unreadable"]) == [{"path": AWKWARD, "error": "empty"}]


@pytest.mark.parametrize("form", [as_json, as_json_lines])
def test_a_file_name_that_is_no_unicode_survives_printing(form: Any) -> None:
    """As a backslash escape: a lone surrogate in JSON is refused by pandas and Arrow."""
    name = os.fsdecode(b"caf\xe9.png")
    read = json.loads(form([{"path": name}]).encode("ascii"))
    assert (read[0] if isinstance(read, list) else read) == {"path": "caf\\udce9.png"}


@given(
    st.lists(st.lists(st.text("ab é×", max_size=9), min_size=3, max_size=3), min_size=1, max_size=6),
    st.sets(st.integers(0, 2)),
)
def test_a_tables_columns_line_up(rows: list[list[str]], right: set[int]) -> None:
    header, *lines = rows
    printed = as_table(header, lines, sorted(right)).split("\n")
    assert len(printed) == len(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row, line in zip(rows, printed, strict=True):
        padded, start = line.ljust(sum(widths) + 4), 0
        assert not line.endswith(" ")
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            field = padded[start : start + width]
            if column in right:
                assert field.endswith(cell)
                assert not field[: width - len(cell)].strip()
            else:
                assert field.startswith(cell)
                assert not field[len(cell) :].strip()
            assert padded[start + width : start + width + 2].strip() == ""
            start += width + 2


def test_an_unknown_format_is_refused() -> None:
    assert [check_format(name) for name in ("table", "json", "jsonl", "csv")] == ["table", "json", "jsonl", "csv"]
    with pytest.raises(UsageError, match="'xml' is not one of table, json, jsonl, csv"):
        check_format("xml")
