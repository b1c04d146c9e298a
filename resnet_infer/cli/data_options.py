"""Flags that say how data is read where its files leave that open."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

if TYPE_CHECKING:
    from resnet_infer.data.reading import Reading


@dataclass(frozen=True, kw_only=True)
class PictureData:
    """How images are found."""

    PANEL: ClassVar = "Data"
    split: Annotated[
        str | None, typer.Option(help="Of data in several parts: which one, as train or validation.", metavar="NAME")
    ] = None

    def reading(self) -> "Reading":
        """As `open_source` takes it."""
        from resnet_infer.data.reading import Reading

        return Reading(split=self.split, merged=True)


@dataclass(frozen=True, kw_only=True)
class LabelledData(PictureData):
    """How images and their classes are found."""

    class_order: Annotated[
        str | None,
        typer.Option(
            "--class-order",
            help="How class folders are numbered: numeric, sorted, or a file of their names in order.",
            metavar="numeric|sorted|FILE",
        ),
    ] = None

    def reading(self) -> "Reading":
        """As `open_source` takes it."""
        from resnet_infer.data.reading import Reading

        return Reading(split=self.split, class_order=self.class_order)
