"""`resnet-infer env`: what this machine can run."""

from typing import Annotated, Literal

import typer

from resnet_infer.cli import options
from resnet_infer.report import text


def env(
    format_name: Annotated[Literal["table", "json"], typer.Option("--format", help="Form of the output.")] = "table",
    verbose: options.Verbose = False,
) -> None:
    """Show versions, processor, GPUs and onnxruntime's providers: what to paste into a report."""
    form = format_name
    import onnxruntime

    from resnet_infer.console import emit, say, visible
    from resnet_infer.environment import environment
    from resnet_infer.files import cache_folder

    found = environment() | {
        "onnxruntime_providers": onnxruntime.get_available_providers(),
        "cache": str(cache_folder()),
    }
    if form == "json":
        emit(text.as_json(found))
        return
    gpus = [f"{gpu['name']}, {gpu['memory_mib']} MiB, compute {gpu['compute_capability']}" for gpu in found["gpus"]]
    lines = [
        ("python", found["python"]),
        ("platform", found["platform"]),
        ("cpu", f"{found['cpu']}, {found['cores']} cores"),
        ("gpu", "; ".join(gpus) or "none that PyTorch can use"),
        *found["packages"].items(),
        ("providers built in", ", ".join(p.removesuffix("ExecutionProvider") for p in found["onnxruntime_providers"])),
        ("weights cache", found["cache"]),
    ]
    width = max(len(name) for name, _ in lines)
    say("\n".join(f"{name.ljust(width)}  {visible(value)}" for name, value in lines))
