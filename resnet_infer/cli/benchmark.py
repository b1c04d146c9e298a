"""`resnet-infer benchmark`: throughput of models, backends, precisions, batch sizes and protocols."""

from pathlib import Path
from typing import Annotated

import typer

from resnet_infer.cli import options
from resnet_infer.errors import BackendError
from resnet_infer.report import text


def benchmark(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for benchmark.json, .csv and .html.", metavar="DIR")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Checkpoint key or file, an exported file, or ARCHITECTURE.random; may be repeated.",
            metavar="MODEL",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Images for the measurements memory and files, and for errors.", metavar="DATA"),
    ] = None,
    sweep: Annotated[
        Path | None, typer.Option(help="TOML file with the fields of a sweep; flags go over it.", metavar="FILE")
    ] = None,
    backends: Annotated[str | None, typer.Option(help="torch, onnxruntime, tensorrt.", metavar="A,B,...")] = None,
    precisions: Annotated[
        str | None, typer.Option(help="fp32, tf32, bf16, fp16, int8, fp8.", metavar="A,B,...")
    ] = None,
    compile: Annotated[
        str | None,
        typer.Option(help="Of torch: none, default, max-autotune, cuda-graphs.", metavar="A,B,..."),
    ] = None,
    autocast: Annotated[
        bool, typer.Option("--autocast", help="Of torch: bf16 and fp16 under autocast as well.")
    ] = False,
    protocols: Annotated[
        str | None, typer.Option(help="single-crop, ten-crop, multiscale; all by default.", metavar="A,B,...")
    ] = None,
    batch_sizes: Annotated[
        str | None,
        typer.Option(help="Tiles of the native size in a batch; other sizes as many pixels.", metavar="N,N,..."),
    ] = None,
    measurements: Annotated[
        str | None, typer.Option(help="network, transfer, memory, files.", metavar="A,B,...")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(help="Repeats of every measurement; 5 by default.", metavar="N")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Least duration of a repeat of the network's; 1 by default.", metavar="S")
    ] = None,
    images: Annotated[int | None, typer.Option(help="Most images of DATA in a repeat.", min=1, metavar="N")] = None,
    calibration_data: Annotated[
        str | None, typer.Option(help="Images for int8 and fp8; as DATA by default.", metavar="DATA")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where DIR/benchmark.json ends.")] = False,
    ceilings: Annotated[
        bool, typer.Option("--ceilings/--no-ceilings", help="Measure what the machine allows, first.")
    ] = True,
    device: options.Device = "auto",
    workers: options.Workers = None,
    render: options.RenderOn = "workers",
    decode: options.DecodeOn = "workers",
    format_name: options.FormatName = "table",
    verbose: options.Verbose = False,
) -> None:
    """Measure throughput and latency, and write a report. Ctrl-C keeps what is measured; --resume goes on.

    network: tiles on the device to scores. transfer: and their way to the device. memory: from encoded images in
    memory. files: from files.
    """
    form = text.check_format(format_name)
    from resnet_infer.bench.session import FILE, BenchmarkRequest, run
    from resnet_infer.bench.sweep import Sweep, sweep_from_toml, sweep_with

    wanted = sweep_from_toml(sweep) if sweep else Sweep()
    flags = {
        "models": model or None,
        "backends": options.names(backends),
        "precisions": options.names(precisions),
        "compile": options.names(compile),
        "autocast": autocast or None,
        "protocols": options.names(protocols),
        "batch_sizes": options.numbers("--batch-sizes", batch_sizes),
        "measurements": options.names(measurements),
        "repeats": repeats,
        "seconds": seconds,
        "images": images,
    }
    wanted = sweep_with(wanted, {name: value for name, value in flags.items() if value is not None}, "flags")
    from resnet_infer.bench.rows import load_run
    from resnet_infer.console import note
    from resnet_infer.report.benchmark.files import printed, write_files

    request = BenchmarkRequest(
        sweep=wanted,
        output=output,
        data=data,
        calibration_data=calibration_data,
        device=device,
        workers=workers,
        offload=options.offload(render, decode),
        resume=resume,
        ceilings=ceilings,
    )
    try:
        done = run(request)
    except KeyboardInterrupt:
        if (output / FILE).exists():
            write_files(load_run(output / FILE), output)
            note(f"{output / FILE} keeps what is measured; the same command with --resume goes on")
        raise
    write_files(done, output)
    print(printed(done, form))
    if all(row.error for row in done.rows):
        raise BackendError("nothing could be measured; each row says why")
