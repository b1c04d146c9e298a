"""Flags that several commands share, and their text forms turned into values."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from resnet_infer.errors import UsageError
from resnet_infer.spec.protocols import Average, Protocol, protocol_for

if TYPE_CHECKING:
    from resnet_infer.pipeline.loading import Loading as PipelineLoading
    from resnet_infer.pipeline.packing import Offload
    from resnet_infer.spec.manifest import Manifest

_verbose = False


def _set_verbose(wanted: bool) -> None:
    global _verbose
    _verbose = _verbose or wanted


def verbose_errors() -> bool:
    """Whether --verbose was given."""
    return _verbose


Verbose = Annotated[
    bool, typer.Option("--verbose", callback=_set_verbose, is_eager=True, help="Show the traceback of an error.")
]
FormatName = Annotated[Literal["table", "json", "jsonl", "csv"], typer.Option("--format", help="Form of the output.")]
OnError = Annotated[
    Literal["fail", "skip"] | None,
    typer.Option("--on-error", help="Unreadable images: fail, or leave them out. They are always listed."),
]


class ProtocolName(StrEnum):
    """Typer repeats a flag of an enumeration, not of a Literal."""

    SINGLE_CROP = "single-crop"
    TEN_CROP = "ten-crop"
    MULTISCALE = "multiscale"


Where = Literal["workers", "device"]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", metavar="NAME")]
Scales = Annotated[
    str | None, typer.Option(help="Shorter sides of multiscale in pixels, as 224,256,384.", metavar="N,N,...")
]


@dataclass(frozen=True, kw_only=True)
class Views:
    """Which protocols, and how they differ from the model's own."""

    PANEL: ClassVar = "Protocol"
    protocol: Annotated[
        list[ProtocolName] | None,
        typer.Option(help="Default: single-crop. Repeat it for several.", metavar="single-crop|ten-crop|multiscale"),
    ] = None
    single_crop: Annotated[bool, typer.Option("--single-crop", help="Short for --protocol single-crop.")] = False
    ten_crop: Annotated[bool, typer.Option("--ten-crop", help="Short for --protocol ten-crop.")] = False
    multiscale: Annotated[bool, typer.Option("--multiscale", help="Short for --protocol multiscale.")] = False
    resize: Annotated[int | None, typer.Option(help="Shorter side in pixels before cropping.", min=1, metavar="N")] = (
        None
    )
    crop: Annotated[int | None, typer.Option(help="Side of the crop in pixels.", min=1, metavar="N")] = None
    scales: Scales = None
    average: Annotated[
        Average | None, typer.Option("--average", help="How multiscale averages; default: window-softmax.")
    ] = None
    mirror: Annotated[
        bool | None, typer.Option("--mirror/--no-mirror", help="Score mirrored views too, in ten-crop and multiscale.")
    ] = None

    @property
    def names(self) -> list[str]:
        """The protocols asked for, each once."""
        short = (("single-crop", self.single_crop), ("ten-crop", self.ten_crop), ("multiscale", self.multiscale))
        given = [*(name.value for name in self.protocol or []), *(name for name, wanted in short if wanted)]
        return list(dict.fromkeys(given)) or ["single-crop"]

    @property
    def asked(self) -> bool:
        """Whether a protocol was named."""
        return bool(self.protocol or self.single_crop or self.ten_crop or self.multiscale)

    @property
    def dense(self) -> bool:
        """Whether a protocol needs the dense head."""
        return "multiscale" in self.names and self.average != "gap"

    def protocols(self, manifest: "Manifest") -> list[Protocol]:
        """The protocols for this model, with the flags applied to those that they concern.

        Raises UsageError for a flag that concerns none of them.
        """
        names = self.names
        cropped, mirrored, whole = (
            [name for name in names if name in kinds]
            for kinds in (("single-crop", "ten-crop"), ("ten-crop", "multiscale"), ("multiscale",))
        )
        for flag, value, concerned in (
            ("--resize", self.resize, cropped),
            ("--crop", self.crop, cropped),
            ("--scales", self.scales, whole),
            ("--average", self.average, whole),
            ("--mirror", self.mirror, mirrored),
        ):
            if value not in (None, False) and not concerned:
                raise UsageError(
                    f"{flag} does not apply to {', '.join(names)}; leave it out, or choose another protocol"
                )
        whole_sides = sides(self.scales)
        return [
            protocol_for(
                name,
                manifest.spec,
                manifest.preprocessing,
                resize=self.resize if name in cropped else None,
                crop=self.crop if name in cropped else None,
                scales=whole_sides if name in whole else None,
                mirror=self.mirror if name in mirrored else None,
                average=self.average if name in whole else None,
            )
            for name in names
        ]


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """Where images are prepared."""

    PANEL: ClassVar = "Loading"
    workers: Annotated[
        int | None,
        typer.Option(
            help="Decoding worker processes; 0 decodes in this process; default: what suits the machine.",
            min=0,
            metavar="N",
        ),
    ] = None
    render: Annotated[Where, typer.Option("--render", help="Where images are resized and cropped.")] = "workers"
    decode: Annotated[
        Where, typer.Option("--decode", help="Where JPEG is decoded; device is nvJPEG, whose pixels differ slightly.")
    ] = "workers"

    @property
    def offload(self) -> "Offload":
        """What is left to the device."""
        if self.decode == "device":
            return "decoding"  # what is decoded there is rendered there
        return "rendering" if self.render == "device" else "nothing"


@dataclass(frozen=True, kw_only=True)
class Loading(Preparing):
    """How images are brought to the network."""

    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Tiles of the native size in a batch; other sizes: as many pixels. Default: by device.",
            min=1,
            metavar="N",
        ),
    ] = None
    image_timeout: Annotated[
        float | None,
        typer.Option("--image-timeout", help="Seconds for reading and decoding one image (60).", metavar="S"),
    ] = None
    strict_decode: Annotated[
        bool, typer.Option("--strict-decode", help="A JPEG file that its decoder finds damaged is unreadable.")
    ] = False

    def __post_init__(self) -> None:
        if self.image_timeout is None:
            return
        if not 0 < self.image_timeout < float("inf"):
            raise UsageError(f"--image-timeout is in seconds, above 0; got {self.image_timeout:g}")
        if self.workers == 0:
            raise UsageError("--image-timeout needs a worker process that can be ended; leave out --workers 0")

    def value(self) -> "PipelineLoading":
        """As the pipeline takes it."""
        from resnet_infer.pipeline.loading import Loading

        return Loading(
            batch_size=self.batch_size,
            workers=self.workers,
            offload=self.offload,
            image_timeout_s=self.image_timeout,
            strict_decode=self.strict_decode,
        )


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is printed."""

    PANEL: ClassVar = "Output"
    format_name: FormatName = "table"
    verbose: Verbose = False


def sides(text: str | None) -> tuple[int, ...] | None:
    """`224,256,384` as numbers; raises UsageError."""
    return numbers("--scales", text, "224,256,384")


def numbers(flag: str, text: str | None, example: str = "1,8,32") -> tuple[int, ...] | None:
    """Whole numbers with commas; raises UsageError."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{flag} needs whole numbers with commas, as {example}; got '{text}'") from error


def names(text: str | None) -> tuple[str, ...] | None:
    """Words with commas."""
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())
