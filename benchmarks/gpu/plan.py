"""How large the work of every step is: as a GPU needs it, or tiny, which sees in little time that all steps run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_infer.spec.protocols import Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Networks, batches and numbers of images."""

    network: str
    """torchvision's and timm's name, too."""
    dense: str
    """Of the five scales without images; ARCHITECTURE.random or the network."""
    precision: str
    ways: Sequence["Way"]
    """How the network is run, the most telling first; the first compiles nothing."""
    more: Sequence["Way"]
    """What is worth a look when all else is done."""
    batch: int
    """Where one is enough."""
    ladder: Sequence[int]
    """Other batches of the network alone, the most telling first."""
    repeats: int
    seconds: float
    """Of a repeat."""
    distinct: int
    """Different pictures."""
    sizes: Sequence[Size]
    """(height, width) in pixels of the pictures, in turn."""
    checked: int
    """Pictures whose scores are compared."""
    dense_checked: int
    single_crop: int
    """Pictures in one pass of each protocol, end to end."""
    ten_crop: int
    multiscale: int
    naive_multiscale: int
    scales: tuple[int, ...] | None
    """Of the loop of one image at a time; None for the paper's."""
    others: Sequence[str]
    latency_repeats: int
    quick: bool = False
    """Contests of one side each."""


Way = Mapping[str, Any]
"""Fields of a Subject that differ from the plan's network on torch in the plan's precision."""

WAYS: Sequence[Way] = ({}, {"compile": "cuda-graphs"}, {"compile": "default"})
"""What a GPU has found to be fastest belongs in second place: all that comes after the first may be out of time."""
MORE: Sequence[Way] = (
    {"compile": "default", "autocast": True}, {"autocast": True}, {"precision": "fp16"}, {"precision": "tf32"},
    {"compile": "max-autotune"},
)  # fmt: skip

SIZES: Sequence[Size] = (
    (375, 500), (375, 500), (500, 375), (375, 500), (333, 500), (375, 500), (500, 333), (375, 500), (375, 500),
    (500, 500), (334, 500), (375, 500), (500, 400), (375, 500), (768, 1024), (332, 500), (480, 640), (375, 500),
    (263, 350), (500, 375), (600, 800), (375, 500), (419, 500), (240, 320),
)  # fmt: skip
"""A mix as of photographs on the web, most of them 500 pixels long and 4:3; the tail has shapes of its own."""

FULL = Plan(
    network="resnet50",
    dense="resnet50",
    precision="bf16",
    ways=WAYS,
    more=MORE,
    batch=256,
    ladder=(1024, 64, 512, 128, 32, 16),
    repeats=5,
    seconds=0.5,
    distinct=480,
    sizes=SIZES,
    checked=256,
    dense_checked=12,
    single_crop=6144,
    ten_crop=2048,
    multiscale=1024,
    naive_multiscale=24,
    scales=None,
    others=("resnet18", "resnet152", "resnet34", "resnet101"),
    latency_repeats=5,
)

TINY = Plan(
    network="resnet18",
    dense="resnet20.random",
    precision="bf16",
    ways=WAYS[:2],
    more=(),
    batch=2,
    ladder=(1,),
    repeats=1,
    seconds=0.01,
    distinct=64,
    sizes=((75, 100), (120, 90)),
    checked=4,
    dense_checked=1,
    single_crop=4,
    ten_crop=2,
    multiscale=1,
    naive_multiscale=1,
    scales=(224,),
    others=("resnet20",),
    latency_repeats=1,
    quick=True,
)


def rescaled(plan: Plan) -> dict[str, Any]:
    """Settings of the loop of one image at a time."""
    return {} if plan.scales is None else {"scales": list(plan.scales)}
