"""The ceilings' own time is bounded."""

import pytest
import torch

from resnet_infer.bench import ceilings


@pytest.mark.parametrize(("tflop_per_s", "sides"), [(1.0, [256, 2048]), (0.00015, [256])])
def test_a_type_that_a_cpu_is_slow_at_is_measured_on_small_matrices(
    tflop_per_s: float, sides: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
        asked.append(side)
        return tflop_per_s

    monkeypatch.setattr(ceilings, "_matmul_of", rate)
    assert ceilings._matmul(torch.device("cpu"), torch.float16) == tflop_per_s
    assert asked == sides
