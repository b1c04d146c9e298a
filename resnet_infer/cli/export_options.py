"""The flags of `export`, what each of them concerns, and their text forms turned into values."""

from dataclasses import dataclass, fields
from typing import Annotated

import typer

from resnet_infer.errors import UsageError
from resnet_infer.spec.shapes import BatchRange

CalibrationData = Annotated[
    str | None, typer.Option(help="int8, fp8: images to find ranges on, and to judge by.", metavar="DATA")
]
CalibrationImages = Annotated[
    int | None, typer.Option(help="Most of them to calibrate on (500); as many are held out.", min=1, metavar="N")
]
CalibrationMethod = Annotated[
    str | None, typer.Option(help="search (default), minmax, entropy or percentile.", metavar="NAME")
]
KeepFloat = Annotated[
    str | None, typer.Option(help="Not quantised: classifier (default), stem,classifier, or none.", metavar="LAYERS")
]
ArrangementName = Annotated[
    str | None,
    typer.Option("--arrangement", help="Q/DQ placed for onnxruntime (default of onnx) or tensorrt.", metavar="NAME"),
]
ReduceRange = Annotated[
    bool | None,
    typer.Option(
        "--reduce-range/--full-range", help="7-bit weights, for CPUs before VNNI; by default as this CPU needs."
    ),
]
GateData = Annotated[
    str | None, typer.Option(help="Keep the export only if it classifies these as its reference does.", metavar="DATA")
]
GateProtocol = Annotated[
    str | None, typer.Option(help="single-crop, ten-crop or multiscale; by default as the head.", metavar="NAME")
]
MaxTop1Drop = Annotated[float | None, typer.Option(help="Points of top-1 error it may lose (0.5).", metavar="POINTS")]
MinAgreement = Annotated[
    float | None, typer.Option(help="Share of images with the same best class (0.99).", metavar="SHARE")
]
FlavourName = Annotated[
    str | None,
    typer.Option("--flavour", help="tensorrt or tensorrt-rtx; by default what is installed.", metavar="NAME"),
]
BatchRangeText = Annotated[
    str | None,
    typer.Option("--batch-range", help="Batches of native-size tiles to build for (1,32,128).", metavar="MIN,OPT,MAX"),
]
MaxAspect = Annotated[
    float | None, typer.Option(help="Longest side over shortest of whole images to build for (2).", metavar="RATIO")
]
OptimizationLevel = Annotated[int | None, typer.Option(help="0 (quick build) to 5 (long search); 3.", metavar="N")]
Workspace = Annotated[int | None, typer.Option(help="Scratch memory of a layer at most.", metavar="MIB")]
VersionCompatible = Annotated[
    bool, typer.Option("--version-compatible", help="The engine runs on later TensorRT releases too.")
]
HardwareCompatibility = Annotated[
    str | None, typer.Option(help="none, ampere-plus or same-compute-capability.", metavar="LEVEL")
]
ComputeCapability = Annotated[
    list[str] | None, typer.Option(help="tensorrt-rtx: a GPU to build for, as 8.9; repeatable.", metavar="X.Y")
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Build anew, even what was built before, and do not keep it.")
]
TritonName = Annotated[
    str | None, typer.Option("--name", help="triton: the model's name; by default the file's.", metavar="NAME")
]

QUANTIZING = (
    "calibration_data", "calibration_images", "calibration_method", "keep_float", "arrangement", "reduce_range",
)  # fmt: skip
GATING = ("gate_data", "gate_protocol", "max_top1_drop", "min_agreement")
BUILDING = (
    "flavour", "max_aspect", "optimization_level", "workspace", "version_compatible", "hardware_compatibility",
    "compute_capability", "no_cache",
)  # fmt: skip
OF_A_GRAPH = ("head", "precision", "preprocess_in_graph", "input_layout", "images", *QUANTIZING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The flags as they were given; None or False where they were not."""

    head: str | None
    precision: str | None
    preprocess_in_graph: bool
    input_layout: str | None
    images: str | None
    calibration_data: str | None
    calibration_images: int | None
    calibration_method: str | None
    keep_float: str | None
    arrangement: str | None
    reduce_range: bool | None
    gate_data: str | None
    gate_protocol: str | None
    max_top1_drop: float | None
    min_agreement: float | None
    on_error: str | None
    flavour: str | None
    scales: str | None
    batch_range: str | None
    max_aspect: float | None
    optimization_level: int | None
    workspace: int | None
    version_compatible: bool
    hardware_compatibility: str | None
    compute_capability: list[str] | None
    no_cache: bool
    name: str | None

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
        if key in OF_A_GRAPH and exported and not (key == "precision" and self.precision == "tf32"):
            return "was decided when this file was made; give the checkpoint to decide anew"
        if key in GATING and exported and to == "triton":
            return "is of no use here: packing changes nothing; gate the export"
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
