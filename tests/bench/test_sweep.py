"""Sweeps from flags and files: which rows they ask for, and what they refuse."""

from itertools import pairwise, product
from pathlib import Path

import pytest

from resnet_infer.bench.sweep import Sweep, cells, sweep_from_toml, sweep_with
from resnet_infer.errors import UnknownNameError, UsageError

FULL = Sweep(
    models=("resnet18.random", "own.onnx"),
    backends=("torch", "onnxruntime"),
    precisions=("fp32", "bf16", "int8"),
    compile=("none", "default"),
    protocols=("single-crop", "multiscale"),
    batch_sizes=(1, 8),
    measurements=("network", "files"),
)


def test_every_combination_that_makes_sense_is_there_once() -> None:
    found = [cell.key() for cell in cells(FULL)]
    assert len(found) == len(set(found))
    ways = [
        *(("resnet18.random", "torch", p, o) for p, o in product(("fp32", "bf16"), ("", "compile=default"))),
        *(("resnet18.random", "onnxruntime", p, "") for p in ("fp32", "bf16", "int8")),  # int8 is an export's
        ("own.onnx", "onnxruntime", "own", ""),  # and an export has its precision already
    ]
    rest = product(FULL.protocols, FULL.measurements, map(str, FULL.batch_sizes))
    assert set(found) == {(*way, *row) for way, row in product(ways, list(rest))}


def test_rows_of_one_subject_lie_together() -> None:
    subjects = [cell.subject for cell in cells(FULL)]
    changes = sum(a != b for a, b in pairwise(subjects))
    assert changes == len(set(subjects)) - 1


def test_whole_images_are_for_a_dense_export_and_crops_for_a_pooled_one() -> None:
    for cell in cells(FULL):
        if cell.subject.backend == "onnxruntime" and cell.subject.model != "own.onnx":
            assert cell.subject.dense == (cell.protocol == "multiscale")


def test_a_file_gives_fields_and_flags_go_over_them(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text('models = ["resnet50.random"]\nbatch_sizes = [1, 32]\nseconds = 2\n')
    sweep = sweep_from_toml(tmp_path / "sweep.toml")
    assert (sweep.models, sweep.batch_sizes, sweep.seconds) == (("resnet50.random",), (1, 32), 2.0)
    assert sweep_with(sweep, {"batch_sizes": (4,)}, "flags").batch_sizes == (4,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('model = ["a"]', "unknown sweep field 'model'.*models"),
        ("batch_sizes = [0]", "batch sizes must be at least 1"),
        ('batch_sizes = ["8"]', "batch_sizes must be a list of int"),
        ("batch_sizes = 8", "batch_sizes must be a list of int"),
        ('backends = ["jax"]', "unknown backends 'jax'"),
        ('precisions = ["fp64"]', "unknown precisions 'fp64'"),
        ("repeats = 0", "repeats must be at least 1"),
        ("repeats = true", "repeats must be int"),
        ('protocols = ["ten_crop"]', "Nearest: ten-crop"),
        ("seconds =", "cannot be read as a TOML file"),
    ],
)
def test_what_cannot_be_is_one_line(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(text)
    with pytest.raises((UsageError, UnknownNameError), match=reason):
        sweep_from_toml(tmp_path / "sweep.toml")
