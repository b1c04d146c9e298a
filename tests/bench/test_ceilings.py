"""The ceilings' own time is bounded."""

import pytest
import torch

from resnet_infer.bench import ceilings

SIDE = ceilings.SIDE["cpu"]


@pytest.mark.parametrize(
    ("dtype", "tflop_per_s", "largest"),
    [(torch.float16, 0.05, SIDE), (torch.float16, 0.00015, 256), (torch.float32, 0.0001, SIDE)],
)
def test_a_type_that_a_cpu_is_slow_at_is_measured_on_small_matrices(
    dtype: torch.dtype, tflop_per_s: float, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And fp32 never is, however slow a busy machine makes it: nothing says that the machine is the cause."""
    asked: list[int] = []

    def rate(device: torch.device, of: torch.dtype, side: int) -> float:
        asked.append(side)
        return tflop_per_s if of == dtype else 0.1

    monkeypatch.setattr(ceilings, "_matmul_of", rate)
    assert ceilings._matmul(torch.device("cpu"), dtype) == tflop_per_s
    assert max(asked) == largest
