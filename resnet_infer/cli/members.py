"""The models of a command, each with the protocols it is tested under in its own preprocessing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resnet_infer.cli.model_options import RunModel
from resnet_infer.cli.options import Views

if TYPE_CHECKING:
    from resnet_infer.pipeline.score import Member


def open_members(models: Sequence[str], run_model: RunModel, views: Views, device: str | None = None) -> "list[Member]":
    """Open every model, on `device` instead of the flags' where it is given; raises what opening does."""
    from resnet_infer.pipeline.score import Member

    opened = [run_model.open(model, dense=views.dense, device=device) for model in models]
    return [Member(model, tuple(views.protocols(model.manifest))) for model in opened]


def weights_of(text: str | None, models: int) -> list[float] | None:
    """`2,1` as numbers; raises UsageError."""
    from resnet_infer.errors import UsageError

    if text is None:
        return None
    if models == 1:
        raise UsageError("--weights is for an ensemble; give several models with -m")
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--weights needs numbers with commas, as 2,1,1; got '{text}'") from error
