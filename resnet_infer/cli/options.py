"""Flags that several commands share, and their text forms turned into values."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_infer.errors import UsageError
from resnet_infer.spec.preprocessing import Triple
from resnet_infer.spec.protocols import Average, Protocol, protocol_for

if TYPE_CHECKING:
    from resnet_infer.backends.base import RunOptions
    from resnet_infer.backends.load import Model
    from resnet_infer.model.checkpoints import Overrides
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
    bool, typer.Option("--verbose", callback=_set_verbose, is_eager=True, help="Show tracebacks of errors.")
]
Arch = Annotated[
    str | None, typer.Option(help="Architecture, where the file cannot tell: resnet50-v1, plain20.", metavar="NAME")
]
Mean = Annotated[str | None, typer.Option(help="Input mean in 0..1, as 0.485,0.456,0.406.", metavar="R,G,B")]
Std = Annotated[str | None, typer.Option(help="Input std in 0..1, as 0.229,0.224,0.225.", metavar="R,G,B")]
LabelFile = Annotated[
    Path | None, typer.Option("--labels", help="Class names in order, one a line, or id<TAB>name.", metavar="FILE")
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="torch, onnxruntime, tensorrt; auto measures which is fastest. Default: what the model is made for.",
        metavar="NAME",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", metavar="NAME")]
Precision = Annotated[
    str | None, typer.Option(help="fp32, tf32, bf16 or fp16 on torch; an exported file has its own.", metavar="TYPE")
]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Tiles of the native size in a batch; other sizes as many pixels.", min=1, metavar="N"),
]
ProviderName = Annotated[
    str | None,
    typer.Option("--provider", help="Of onnxruntime: cpu, cuda or tensorrt; by default as the device.", metavar="NAME"),
]
PreferNhwc = Annotated[
    bool, typer.Option("--prefer-nhwc", help="onnxruntime on cuda: convolutions with channels innermost.")
]
CudaGraph = Annotated[
    bool, typer.Option("--cuda-graph", help="Exported files on a GPU: replay recorded launches; for small batches.")
]
Compile = Annotated[
    str | None,
    typer.Option(
        help="torch: default or max-autotune compiles, in a minute; cuda-graphs replays crops, for small batches.",
        metavar="MODE",
    ),
]
Autocast = Annotated[bool, typer.Option("--autocast", help="torch, bf16 and fp16: fp32 weights, types by operation.")]
Workers = Annotated[int | None, typer.Option(help="Processes that decode; 0 is none.", min=0, metavar="N")]
RenderOn = Annotated[
    str, typer.Option("--render", help="Where images are resized and cropped: workers or device.", metavar="WHERE")
]
DecodeOn = Annotated[
    str,
    typer.Option("--decode", help="Where JPEG is decoded: workers or device (nvJPEG; other pixels).", metavar="WHERE"),
]
ImageTimeout = Annotated[
    float | None,
    typer.Option("--image-timeout", help="Longest that reading and decoding one image may take (60).", metavar="S"),
]
OnError = Annotated[
    str | None,
    typer.Option("--on-error", help="Unreadable images: fail, or skip. They are always listed.", metavar="MODE"),
]
FormatName = Annotated[str, typer.Option("--format", help="table, json, jsonl or csv.", metavar="F")]
Scales = Annotated[
    str | None, typer.Option(help="Shorter sides of multiscale in pixels, as 224,256,384.", metavar="N,N,...")
]
AverageName = Annotated[
    str | None, typer.Option("--average", help="Of multiscale: window-softmax, map-logits or gap.", metavar="NAME")
]
Mirror = Annotated[
    bool | None, typer.Option("--mirror/--no-mirror", help="Score mirrored views too, in ten-crop and multiscale.")
]
Resize = Annotated[int | None, typer.Option(help="Shorter side in pixels before cropping.", min=1, metavar="N")]
Crop = Annotated[int | None, typer.Option(help="Side of the crop in pixels.", min=1, metavar="N")]


def check_image_timeout(seconds: float | None, workers: int | None) -> None:
    """Raise UsageError unless it is a time, and there can be a process to be held to it."""
    if seconds is None:
        return
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--image-timeout is in seconds, above 0; got {seconds:g}")
    if workers == 0:
        raise UsageError("--image-timeout needs a process that decodes, to be ended; leave out --workers 0")


def check_on_error(mode: str) -> None:
    """Raise UsageError unless it is `fail` or `skip`."""
    if mode not in ("fail", "skip"):
        raise UsageError(f"--on-error '{mode}' is not one of fail, skip")


def overrides(arch: str | None, mean: str | None, std: str | None, labels: Path | None) -> "Overrides":
    """What the flags say of a model; raises UsageError."""
    from resnet_infer.model.checkpoints import Overrides
    from resnet_infer.spec.labels import labels_from_file

    return Overrides(
        arch=arch,
        mean=_triple("--mean", mean),
        std=_triple("--std", std),
        labels=labels_from_file(labels) if labels else None,
    )


def run_options(
    provider: str | None, prefer_nhwc: bool, cuda_graph: bool, compile: str | None = None, autocast: bool = False
) -> "RunOptions":
    """How a model is to be run; the backends check it."""
    from resnet_infer.backends.base import RunOptions

    return RunOptions(
        provider=provider,  # type: ignore[arg-type]
        prefer_nhwc=prefer_nhwc,
        cuda_graph=cuda_graph,
        compile=compile,  # type: ignore[arg-type]
        autocast=autocast,
    )


def open_as_asked(
    model: str,
    *,
    backend: str | None,
    device: str,
    precision: str | None,
    overrides: "Overrides",
    options: "RunOptions",
    dense: bool,
) -> "Model":
    """The model on the backend of this name, `auto` among them; raises what opening does."""
    from resnet_infer.backends.base import RunOptions
    from resnet_infer.backends.load import open_model

    if backend != "auto":
        return open_model(
            model, backend=backend, device=device, precision=precision, overrides=overrides, options=options
        )
    if options != RunOptions():
        raise UsageError("--backend auto chooses how to run; leave out --compile, --autocast, --provider and the like")
    from resnet_infer.bench.fastest import open_fastest

    return open_fastest(model, dense=dense, device=device, precision=precision, overrides=overrides)


def offload(render: str, decode: str) -> "Offload":
    """What --render and --decode leave to the device; raises UsageError."""
    for flag, value in (("--render", render), ("--decode", decode)):
        if value not in ("workers", "device"):
            raise UsageError(f"{flag} '{value}' is not one of workers, device")
    if decode == "device":
        return "decoding"  # what is decoded there is rendered there
    return "rendering" if render == "device" else "nothing"


def protocols(
    names: Sequence[str],
    manifest: "Manifest",
    *,
    resize: int | None,
    crop: int | None,
    scales: str | None,
    mirror: bool | None,
    average: str | None,
) -> list[Protocol]:
    """The protocols of these names with the flags applied to those that they concern.

    Raises UsageError for a flag that concerns none of them.
    """
    names = list(dict.fromkeys(names))
    cropped, mirrored, whole = (
        [name for name in names if name in kinds]
        for kinds in (("single-crop", "ten-crop"), ("ten-crop", "multiscale"), ("multiscale",))
    )
    for flag, value, concerned in (
        ("--resize", resize, cropped),
        ("--crop", crop, cropped),
        ("--scales", scales, whole),
        ("--average", average, whole),
        ("--mirror", mirror, mirrored),
    ):
        if value not in (None, False) and not concerned:
            raise UsageError(f"{flag} does not concern {', '.join(names)}; leave it out, or choose another protocol")
    whole_sides = sides(scales)
    return [
        protocol_for(
            name,
            manifest.spec,
            manifest.preprocessing,
            resize=resize if name in cropped else None,
            crop=crop if name in cropped else None,
            scales=whole_sides if name in whole else None,
            mirror=mirror if name in mirrored else None,
            average=_average(average) if name in whole else None,
        )
        for name in names
    ]


def _average(name: str | None) -> Average | None:
    return name  # type: ignore[return-value]  # Protocol checks it


def _triple(flag: str, text: str | None) -> Triple | None:
    if text is None:
        return None
    try:
        r, g, b = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{flag} needs three numbers with commas, as 0.485,0.456,0.406; got '{text}'") from error
    return r, g, b


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
