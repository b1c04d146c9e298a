"""`resnet-infer export`: a checkpoint to a file that other runtimes load, checked before it is kept."""

from pathlib import Path
from typing import Annotated

import typer

from resnet_infer.cli import export_options, options
from resnet_infer.errors import UsageError

FORMATS = {"onnx": ".onnx", "tensorrt": ".engine", "triton": ""}
ALIASES = {"engine": "tensorrt", "trt": "tensorrt"}


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Checkpoint key or file; for tensorrt and triton also an .onnx, for triton an .engine.",
        ),
    ],
    to: Annotated[str, typer.Option("--to", help="onnx, tensorrt or triton.", metavar="FORMAT")] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write, or Triton's repository; by default MODEL.onnx here.", metavar="PATH"
        ),
    ] = None,
    head: Annotated[str | None, typer.Option(help="pooled for crops; dense for multiscale.", metavar="NAME")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, bf16, int8 or fp8; for tensorrt also tf32.", metavar="TYPE")
    ] = None,
    preprocess_in_graph: Annotated[
        bool, typer.Option("--preprocess-in-graph", help="Take the image's bytes; normalise inside.")
    ] = False,
    input_layout: Annotated[
        str | None, typer.Option(help="Of those bytes: nhwc (default) or nchw.", metavar="NAME")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Compare with PyTorch on these images instead of random ones.", metavar="DATA")
    ] = None,
    calibration_data: export_options.CalibrationData = None,
    calibration_images: export_options.CalibrationImages = None,
    calibration_method: export_options.CalibrationMethod = None,
    keep_float: export_options.KeepFloat = None,
    arrangement: export_options.ArrangementName = None,
    reduce_range: export_options.ReduceRange = None,
    gate_data: export_options.GateData = None,
    gate_protocol: export_options.GateProtocol = None,
    max_top1_drop: export_options.MaxTop1Drop = None,
    min_agreement: export_options.MinAgreement = None,
    on_error: options.OnError = None,
    flavour: export_options.FlavourName = None,
    scales: options.Scales = None,
    batch_range: export_options.BatchRangeText = None,
    max_aspect: export_options.MaxAspect = None,
    optimization_level: export_options.OptimizationLevel = None,
    workspace: export_options.Workspace = None,
    version_compatible: export_options.VersionCompatible = False,
    hardware_compatibility: export_options.HardwareCompatibility = None,
    compute_capability: export_options.ComputeCapability = None,
    no_cache: export_options.NoCache = False,
    name: export_options.TritonName = None,
    arch: options.Arch = None,
    mean: options.Mean = None,
    std: options.Std = None,
    labels: options.LabelFile = None,
    verbose: options.Verbose = False,
) -> None:
    """Export a checkpoint, check the file, and keep it only if it holds what it claims (exit code 3 if not)."""
    to = ALIASES.get(to, to)
    if to not in FORMATS:
        raise UsageError(f"--to '{to}' is not one of: {', '.join(FORMATS)}")
    own = Path(model).suffix.lower()
    given = export_options.Flags(
        head=head,
        precision=precision,
        preprocess_in_graph=preprocess_in_graph,
        input_layout=input_layout,
        images=images,
        calibration_data=calibration_data,
        calibration_images=calibration_images,
        calibration_method=calibration_method,
        keep_float=keep_float,
        arrangement=arrangement,
        reduce_range=reduce_range,
        gate_data=gate_data,
        gate_protocol=gate_protocol,
        max_top1_drop=max_top1_drop,
        min_agreement=min_agreement,
        on_error=on_error,
        flavour=flavour,
        scales=scales,
        batch_range=batch_range,
        max_aspect=max_aspect,
        optimization_level=optimization_level,
        workspace=workspace,
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatibility,
        compute_capability=compute_capability,
        no_cache=no_cache,
        name=name,
    )
    given.check_concerned(to, own)
    options.check_on_error(on_error or "fail")
    if own == ".onnx" and to == "onnx":
        raise UsageError(f"{model}: is an ONNX file already; give the checkpoint that it came from")
    if own in (".engine", ".plan") and to != "triton":
        raise UsageError(f"{model}: is an engine already; only --to triton takes one")
    from resnet_infer.cli import export_run
    from resnet_infer.model.checkpoints import is_checkpoint_file

    overrides = options.overrides(arch, mean, std, labels)
    request = export_run.ExportRequest(model=model, to=to, overrides=overrides, given=given)
    suffixes = [part for part, usual in ((head or "pooled", "pooled"), (precision or "fp32", "fp32")) if part != usual]
    stem = Path(model).stem if own in (".onnx", ".engine", ".plan") or is_checkpoint_file(model) else model
    default = Path("model_repository") if to == "triton" else Path(".".join([stem, *suffixes]) + FORMATS[to])
    for line in export_run.run(request, output or default):
        print(line)
