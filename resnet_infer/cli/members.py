"""The models of a command, each with the protocols it is tested under in its own preprocessing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resnet_infer.cli import options

if TYPE_CHECKING:
    from resnet_infer.pipeline.score import Member


def open_members(models: Sequence[str], names: Sequence[str], views: dict[str, Any], **how: Any) -> "list[Member]":
    """Open every model; `views` are the flags of `options.protocols`, `how` is passed to `options.open_as_asked`.

    Raises what those do.
    """
    from resnet_infer.pipeline.score import Member

    dense = "multiscale" in names and views.get("average") != "gap"
    opened = [options.open_as_asked(model, dense=dense, **how) for model in models]
    return [Member(model, tuple(options.protocols(names, model.manifest, **views))) for model in opened]


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
