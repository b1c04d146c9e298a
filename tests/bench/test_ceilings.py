"""The ceilings' own time is bounded."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from resnet_infer.bench import ceilings
from resnet_infer.pipeline import workers

SIDE = ceilings.SIDE["cpu"]


@pytest.mark.parametrize(
    ("flop_per_s", "largest"),
    [
        (3e11, SIDE),
        (2e9, 512),  # a type without instructions
        (2e8, 256),
    ],
)
def test_a_type_that_a_cpu_is_slow_at_is_measured_on_small_matrices(
    flop_per_s: float, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    asked: list[int] = []

    def product(side: int) -> Callable[[], object]:
        def work() -> None:
            nonlocal clock
            asked.append(side)
            clock += 2 * side**3 / flop_per_s

        return work

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    assert ceilings._rate(torch.device("cpu"), product) == pytest.approx(flop_per_s / 1e12)
    assert max(asked) == largest
    assert clock < 2


def test_every_type_has_a_rate_and_what_cannot_be_decoded_is_left_out() -> None:
    found = ceilings.measure_ceilings(torch.device("cpu"), [b"no image", ceilings.synthetic_jpeg()])
    assert found.matmul_tflop_per_s.keys() >= {"fp32", "bf16", "fp16"}
    assert all(rate > 0 for rate in found.matmul_tflop_per_s.values())
    assert found.decode_images_per_s_per_core > 0
    assert found.decode_images_per_s > 0


def test_without_a_rate_of_all_cores_it_is_that_of_one_times_their_number() -> None:
    old = ceilings.Ceilings(copy_gb_per_s=1, matmul_tflop_per_s={}, decode_images_per_s_per_core=300, cores=4)
    assert old.decoding == 1200
    assert replace(old, decode_images_per_s=700).decoding == 700


def test_a_machine_without_worker_processes_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*args: object) -> None:
        raise OSError("no process can be made")

    monkeypatch.setattr(workers, "Worker", refused)
    assert ceilings._decode_together([ceilings.synthetic_jpeg()], 100) == 0
    assert "decoding on all cores was not measured: no process can be made" in capsys.readouterr().err
