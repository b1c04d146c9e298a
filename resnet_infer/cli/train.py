"""`resnet-infer train`: a network from images, by the paper's recipe or one of your own."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_infer.cli import options
from resnet_infer.cli.data_options import LabelledData
from resnet_infer.cli.groups import fields_of
from resnet_infer.console import say, visible
from resnet_infer.errors import UsageError
from resnet_infer.train.recipe import FIELDS, Recipe, read_toml

if TYPE_CHECKING:
    from resnet_infer.data.source import Source
    from resnet_infer.train.loop import Result

DEFAULT_RECIPE = "cifar10"
_FIELDS = [field for field in fields(Recipe) if field.name != "name"]


def with_recipe_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags of the data, and one for every field of a recipe; those given reach the command as `given`."""
    signature = inspect.signature(command)
    flags = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(field))
        for field in _FIELDS
    ]
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = signature.replace(parameters=[*own, *fields_of(LabelledData), *flags])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*own, *fields_of(LabelledData), *flags)}
    return command


def _annotation(field: Any) -> Any:
    kind = FIELDS[field.name]
    flag = f"--{field.name.replace('_', '-')}"
    if kind is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    metavar = {int: "N", float: "X", bool: None, tuple[int, ...]: "N,N"}.get(kind, "NAME")
    shown = kind if kind in (int, float, bool) else str
    return Annotated[shown | None, typer.Option(flag, help=field.metadata["help"], metavar=metavar)]


@with_recipe_flags
def train(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="Training images: folder per class, .zip or .tar of one, `path<TAB>label` list, cifar-10-batches-py.",
        ),
    ],
    recipe: Annotated[
        str | None, typer.Option(help="cifar10 (default), imagenet, or a TOML file of fields.", metavar="NAME")
    ] = None,
    arch: Annotated[str | None, typer.Option(help="Architecture, as resnet20 or plain34.", metavar="NAME")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the run.", metavar="DIR")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.", metavar="DIR")] = None,
    test_data: Annotated[str | None, typer.Option(help="Images to test on while training.", metavar="DATA")] = None,
    on_error: options.OnError = None,
    device: options.DeviceName = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Decoding worker processes; 0 decodes in this process.", min=0, metavar="N")
    ] = None,
    verbose: options.Verbose = False,
    **given: Any,
) -> None:
    """Train a network; its weights, metrics and curves go to a folder.

    With torchrun, as `torchrun --nproc-per-node 2 -m resnet_infer train ...`, a batch is shared by several processes.
    """
    folder = _folder(output, resume)
    reading = LabelledData(**{field.name: given.pop(field.name) for field in fields(LabelledData)}).reading()
    values = {name: value for name, value in given.items() if value is not None}
    if "drops" in values:
        values["drops"] = _numbers(values["drops"])
    from resnet_infer.data.left_out import note_left_out
    from resnet_infer.data.open import open_inputs, open_source
    from resnet_infer.pipeline.readable import readable
    from resnet_infer.report.training import PAGE, write_curves
    from resnet_infer.train.job import new_job, resumed_job
    from resnet_infer.train.loop import train as run
    from resnet_infer.train.state import exclusive

    with exclusive(folder):
        source = open_inputs(data, sys.stdin.buffer, "train", reading)
        testing = open_source(test_data, reading=replace(reading, split=None)) if test_data else _own_test_part(data)
        for part in (source, testing):
            if part is not None:
                note_left_out(part)
        if on_error == "skip":
            source = readable(source, workers=workers)
            testing = readable(testing, workers=workers) if testing else None
        if resume:
            if recipe:
                values = (read_toml(Path(recipe)) if recipe.endswith(".toml") else {"name": recipe}) | values
            job, state = resumed_job(source, folder, arch=arch, values=values, testing=testing, workers=workers)
        else:
            if arch is None:
                raise UsageError(
                    "--arch is missing: which network to train, as resnet20; `resnet-infer models` lists them"
                )
            job, state = (
                new_job(
                    source,
                    folder,
                    arch=arch,
                    recipe=recipe or DEFAULT_RECIPE,
                    values=values,
                    testing=testing,
                    device=device,
                    workers=workers,
                ),
                None,
            )
        result = run(job, device=device, state=state)
        if result:
            say(summary(visible(job.spec.name), visible(str(folder)), result))
            if write_curves(folder, job.spec.name):
                say(f"curves:  {visible(str(folder / PAGE))}")


def _folder(output: Path | None, resume: Path | None) -> Path:
    if output and resume and output.resolve() != resume.resolve():
        raise UsageError(f"--resume {resume} goes on in that folder; leave out --output {output}")
    folder = resume or output
    if folder is None:
        raise UsageError("--output is missing: a folder for the run, or --resume with the folder of one")
    return folder


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError as error:
        raise UsageError(f"--drops needs whole numbers with commas, as 32000,48000; got '{text}'") from error


def _own_test_part(data: list[str]) -> "Source | None":
    """The test images that come with a cifar-10-batches-py folder."""
    from resnet_infer.data.formats.cifar10 import Cifar10
    from resnet_infer.data.open import open_source

    return open_source(data[0], "test") if len(data) == 1 and Cifar10.fits(Path(data[0])) else None


def summary(name: str, folder: str, result: "Result") -> str:
    """How a run ended, in a few lines."""
    lines = [
        f"{name}: {result.iterations} iterations in {result.seconds:.0f} s, training error {result.train_err:.2f} %"
    ]
    if result.test:
        row = result.test
        lines.append(
            f"test error {row.top1_err:.2f} % ({row.top1_errors} of {row.images}), "
            f"95 % interval {row.top1_err_ci95[0]:.2f} .. {row.top1_err_ci95[1]:.2f}, lowest {result.best_err:.2f} %"
        )
    return "\n".join([*lines, f"weights: {Path(folder) / 'last.safetensors'}"])
