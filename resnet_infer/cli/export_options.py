"""The flags of `export`, what each of them concerns, and their text forms turned into values."""

from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

import typer

from resnet_infer.cli.options import OnError, ProtocolName, Scales
from resnet_infer.errors import UsageError
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.shapes import BatchRange

QUANTIZATION, GATE, DEPLOYMENT = "Quantization", "Gate", "TensorRT and Triton"
"""Panels of the help."""

CalibrationData = Annotated[
    str | None,
    typer.Option(
        help="int8, fp8: images to find ranges on, and to judge by.", metavar="DATA", rich_help_panel=QUANTIZATION
    ),
]
CalibrationImages = Annotated[
    int | None,
    typer.Option(
        help="Most of them to calibrate on (500); as many are held out.",
        min=1,
        metavar="N",
        rich_help_panel=QUANTIZATION,
    ),
]
CalibrationMethod = Annotated[
    Literal["search", "minmax", "entropy", "percentile"] | None,
    typer.Option(
        help="How ranges are found; default: search, which tries all.",
        rich_help_panel=QUANTIZATION,
    ),
]
KeepFloat = Annotated[
    str | None,
    typer.Option(
        help="Not quantised: classifier (default), stem,classifier, or none.",
        metavar="LAYERS",
        rich_help_panel=QUANTIZATION,
    ),
]
ArrangementName = Annotated[
    Literal["onnxruntime", "tensorrt"] | None,
    typer.Option(
        "--arrangement", help="Runtime that Q/DQ pairs are placed for; default: by --to.", rich_help_panel=QUANTIZATION
    ),
]
ReduceRange = Annotated[
    bool | None,
    typer.Option(
        "--reduce-range/--full-range",
        help="7-bit weights, for CPUs before VNNI; by default as this CPU needs.",
        rich_help_panel=QUANTIZATION,
    ),
]
GateData = Annotated[
    str | None,
    typer.Option(
        help="Keep the export only if it classifies these as its reference does.", metavar="DATA", rich_help_panel=GATE
    ),
]
GateProtocol = Annotated[
    ProtocolName | None,
    typer.Option(
        help="Default: the one that the head is for.",
        rich_help_panel=GATE,
    ),
]
MaxTop1Drop = Annotated[
    float | None,
    typer.Option(
        help="Points of top-1 error it may lose (0.5).",
        metavar="POINTS",
        rich_help_panel=GATE,
    ),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        help="Share of images with the same best class (0.99).",
        metavar="SHARE",
        rich_help_panel=GATE,
    ),
]
FlavourName = Annotated[
    Literal["tensorrt", "tensorrt-rtx"] | None,
    typer.Option(
        "--flavour",
        help="Default: the one that is installed.",
        rich_help_panel=DEPLOYMENT,
    ),
]
BatchRangeText = Annotated[
    str | None,
    typer.Option(
        "--batch-range",
        help="Batches of native-size tiles to build for (1,32,128).",
        metavar="MIN,OPT,MAX",
        rich_help_panel=DEPLOYMENT,
    ),
]
MaxAspect = Annotated[
    float | None,
    typer.Option(
        help="Longest side over shortest of whole images to build for (2).", metavar="RATIO", rich_help_panel=DEPLOYMENT
    ),
]
OptimizationLevel = Annotated[
    int | None,
    typer.Option(
        help="0 (quick build) to 5 (long search); 3.",
        metavar="N",
        rich_help_panel=DEPLOYMENT,
    ),
]
Workspace = Annotated[
    int | None,
    typer.Option(
        help="Scratch memory of a layer at most.",
        metavar="MIB",
        rich_help_panel=DEPLOYMENT,
    ),
]
VersionCompatible = Annotated[
    bool,
    typer.Option(
        "--version-compatible", help="The engine runs on later TensorRT releases too.", rich_help_panel=DEPLOYMENT
    ),
]
HardwareCompatibility = Annotated[
    Literal["none", "ampere-plus", "same-compute-capability"] | None,
    typer.Option(
        help="Other GPUs that the engine runs on; default: none.",
        rich_help_panel=DEPLOYMENT,
    ),
]
ComputeCapability = Annotated[
    list[str] | None,
    typer.Option(
        help="tensorrt-rtx: a GPU to build for, as 8.9; repeatable.", metavar="X.Y", rich_help_panel=DEPLOYMENT
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache", help="Rebuild an engine that was built before, and do not keep it.", rich_help_panel=DEPLOYMENT
    ),
]
TritonName = Annotated[
    str | None,
    typer.Option(
        "--name", help="triton: the model's name; by default the file's.", metavar="NAME", rich_help_panel=DEPLOYMENT
    ),
]

QUANTIZING = (
    "calibration_data", "calibration_images", "calibration_method", "keep_float", "arrangement", "reduce_range",
)  # fmt: skip
GATING = ("gate_data", "gate_protocol", "max_top1_drop", "min_agreement")
BUILDING = (
    "flavour", "max_aspect", "optimization_level", "workspace", "version_compatible", "hardware_compatibility",
    "compute_capability", "no_cache",
)  # fmt: skip
FOR_INT8 = ("precision", "images", *QUANTIZING)
"""What an int8 form of an ONNX file heeds."""
OF_A_GRAPH = ("head", "precision", "preprocess_in_graph", "input_layout", "images", *QUANTIZING)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags as they were given; None or False where they were not."""

    PANEL: ClassVar = "Export"
    head: Annotated[Head | None, typer.Option(help="pooled for crops (default); dense for multiscale.")] = None
    precision: Annotated[Precision | None, typer.Option(help="Default: fp32; tf32 is for --to tensorrt only.")] = None
    preprocess_in_graph: Annotated[
        bool, typer.Option("--preprocess-in-graph", help="Take the image's bytes as input; normalize in the graph.")
    ] = False
    input_layout: Annotated[
        Literal["nhwc", "nchw"] | None, typer.Option(help="Layout of those bytes; default: nhwc.")
    ] = None
    opset: Annotated[
        int | None, typer.Option(help="ONNX operator set, 13 to 25; default: the exporter's own, 18.", metavar="N")
    ] = None
    images: Annotated[
        str | None, typer.Option(help="Compare with PyTorch on these images instead of random ones.", metavar="DATA")
    ] = None
    calibration_data: CalibrationData = None
    calibration_images: CalibrationImages = None
    calibration_method: CalibrationMethod = None
    keep_float: KeepFloat = None
    arrangement: ArrangementName = None
    reduce_range: ReduceRange = None
    gate_data: GateData = None
    gate_protocol: GateProtocol = None
    max_top1_drop: MaxTop1Drop = None
    min_agreement: MinAgreement = None
    on_error: OnError = None
    flavour: FlavourName = None
    scales: Scales = None
    batch_range: BatchRangeText = None
    max_aspect: MaxAspect = None
    optimization_level: OptimizationLevel = None
    workspace: Workspace = None
    version_compatible: VersionCompatible = False
    hardware_compatibility: HardwareCompatibility = None
    compute_capability: ComputeCapability = None
    no_cache: NoCache = False
    name: TritonName = None

    def check_concerned(self, to: str, suffix: str) -> None:
        """Raise UsageError for a flag that an export of a file of this suffix would not heed."""
        given = [f.name for f in fields(self) if getattr(self, f.name) not in (None, False, [])]
        for key in given:
            if reason := self._unheeded(key, to, suffix):
                raise UsageError(f"{_flag(key)} {reason}")
        for whole, parts, what in (
            ("gate_data", GATING, "a gate"),
            ("calibration_data", QUANTIZING, "int8 and fp8"),
            ("preprocess_in_graph", ("input_layout",), "preprocessing in the graph"),
        ):
            if whole not in given and (loose := [key for key in parts if key in given]):
                raise UsageError(f"{_flag(loose[0])} is for {what}; give {_flag(whole)} too")

    def _unheeded(self, key: str, to: str, suffix: str) -> str:
        """Why this flag says nothing here, or nothing."""
        exported, engine = suffix in (".onnx", ".engine", ".plan"), suffix in (".engine", ".plan")
        if key in BUILDING and to != "tensorrt":
            return f"is for --to tensorrt, not for {to}"
        if key == "scales" and to != "tensorrt" and self.gate_data is None:
            return "is for --to tensorrt; an ONNX file takes images of any size"
        if key == "batch_range" and (to == "onnx" or engine):
            return "is for --to tensorrt, and for packing an ONNX file, which takes batches of any size"
        if key == "on_error" and not (self.calibration_data or self.gate_data or self.images):
            return "says what becomes of unreadable images; give --calibration-data, --gate-data or --images too"
        if key == "name" and to != "triton":
            return "is for --to triton; elsewhere -o names the file"
        if key in FOR_INT8 and suffix == ".onnx" and to == "onnx":
            return ""
        if key == "opset" and (exported or to != "onnx"):
            return "is for --to onnx from a checkpoint"
        if key in OF_A_GRAPH and exported and not (key == "precision" and self.precision == "tf32"):
            return "was decided when this file was made; give the checkpoint to change it"
        if key in GATING and exported and to == "triton":
            return "has no effect here: packing changes nothing; gate the export instead"
        return ""


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def batch_range(text: str | None) -> BatchRange:
    """`1,32,128` as a range; raises UsageError."""
    if text is None:
        return BatchRange()
    try:
        low, best, high = (int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--batch-range needs MIN,OPT,MAX, as 1,32,128; got '{text}'") from error
    return BatchRange(min=low, opt=best, max=high)


def capability(text: str) -> tuple[int, int]:
    """`8.9` as (8, 9); raises UsageError."""
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise UsageError(f"--compute-capability is a number with a dot, as 8.9; got '{text}'")
    return int(major), int(minor)
