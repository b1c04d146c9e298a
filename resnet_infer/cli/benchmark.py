"""`resnet-infer benchmark`: throughput of models, backends, precisions, batch sizes and protocols."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from resnet_infer.cli import options
from resnet_infer.cli.groups import with_flags
from resnet_infer.cli.model_options import MODEL_HELP, Checkpoint
from resnet_infer.cli.options import Output, Preparing
from resnet_infer.errors import BackendError
from resnet_infer.spec.registry import DEFAULT_MODEL


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is measured; every field that is given goes over the TOML file's."""

    PANEL: ClassVar = "Sweep"
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help=f"{MODEL_HELP} Or ARCHITECTURE.random; may be repeated.",
            metavar="MODEL",
        ),
    ] = None
    sweep: Annotated[
        Path | None, typer.Option(help="TOML file with the fields of a sweep; flags go over it.", metavar="FILE")
    ] = None
    backends: Annotated[str | None, typer.Option(help="torch, onnxruntime, tensorrt.", metavar="A,B,...")] = None
    precisions: Annotated[str | None, typer.Option(help="fp32, tf32, bf16, fp16, int8, fp8.", metavar="A,B,...")] = None
    compile: Annotated[
        str | None,
        typer.Option(help="Of torch: none, default, max-autotune, cuda-graphs.", metavar="A,B,..."),
    ] = None
    autocast: Annotated[bool, typer.Option("--autocast", help="Of torch: bf16 and fp16 under autocast as well.")] = (
        False
    )
    protocols: Annotated[
        str | None, typer.Option(help="single-crop, ten-crop, multiscale; all by default.", metavar="A,B,...")
    ] = None
    batch_sizes: Annotated[
        str | None,
        typer.Option(help="Tiles of the native size in a batch; other sizes as many pixels.", metavar="N,N,..."),
    ] = None
    measurements: Annotated[str | None, typer.Option(help="network, transfer, memory, files.", metavar="A,B,...")] = (
        None
    )
    repeats: Annotated[int | None, typer.Option(help="Repeats of every measurement; 5 by default.", metavar="N")] = None
    seconds: Annotated[
        float | None, typer.Option(help="Least duration of a repeat of the network's; 1 by default.", metavar="S")
    ] = None
    images: Annotated[int | None, typer.Option(help="Most images of DATA in a repeat.", min=1, metavar="N")] = None

    def flags(self) -> dict[str, Any]:
        """The fields of a sweep that were given."""
        given = {
            "models": self.model or None,
            "backends": options.names(self.backends),
            "precisions": options.names(self.precisions),
            "compile": options.names(self.compile),
            "autocast": self.autocast or None,
            "protocols": options.names(self.protocols),
            "batch_sizes": options.numbers("--batch-sizes", self.batch_sizes),
            "measurements": options.names(self.measurements),
            "repeats": self.repeats,
            "seconds": self.seconds,
            "images": self.images,
        }
        return {name: value for name, value in given.items() if value is not None}


@with_flags
def benchmark(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for benchmark.json, .csv and .html.", metavar="DIR")
    ],
    measured: Measured,
    said: Checkpoint,
    preparing: Preparing,
    printing: Output,
    data: Annotated[
        str | None,
        typer.Option(help="Images for the measurements memory and files, and for errors.", metavar="DATA"),
    ] = None,
    calibration_data: Annotated[
        str | None, typer.Option(help="Images for int8 and fp8; as DATA by default.", metavar="DATA")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue DIR/benchmark.json.")] = False,
    ceilings: Annotated[
        bool, typer.Option("--ceilings/--no-ceilings", help="Measure what the machine allows, first.")
    ] = True,
    device: options.DeviceName = "auto",
) -> None:
    """Measure throughput and latency, and write a report. Ctrl-C keeps what is measured; --resume continues.

    Four stages are timed separately: network is the network on tiles that are on the device; transfer adds the copy to
    the device; memory runs the whole path from encoded images in memory; files runs it from files.
    """
    form = printing.format_name
    from resnet_infer.backends.described import with_description
    from resnet_infer.bench.session import FILE, BenchmarkRequest, run
    from resnet_infer.bench.sweep import RANDOM, Sweep, sweep_from_toml, sweep_with

    wanted = sweep_from_toml(measured.sweep) if measured.sweep else Sweep()
    wanted = sweep_with(wanted, measured.flags(), "flags")
    if given := said.given():
        models = wanted.models or (DEFAULT_MODEL,)
        named = [name if name.endswith(RANDOM) else with_description(name, given) for name in models]
        wanted = replace(wanted, models=tuple(named))
    from resnet_infer.bench.rows import load_run
    from resnet_infer.console import emit, note
    from resnet_infer.report.benchmark.files import printed, write_files

    request = BenchmarkRequest(
        sweep=wanted,
        output=output,
        data=data,
        calibration_data=calibration_data,
        device=device,
        workers=preparing.workers,
        offload=preparing.offload,
        resume=resume,
        ceilings=ceilings,
    )
    try:
        done = run(request)
    except KeyboardInterrupt:
        if (output / FILE).exists():
            write_files(load_run(output / FILE), output)
            note(f"{output / FILE} keeps what is measured; repeat the command with --resume to continue")
        raise
    try:
        emit(printed(done, form))
    finally:  # neither result depends on the other's being written
        write_files(done, output)
    if all(row.error for row in done.rows):
        raise BackendError("nothing could be measured; each row says why")
