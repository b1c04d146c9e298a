"""`resnet-infer models`: every architecture and checkpoint by name."""

from typing import Annotated, Any, Literal

import typer

from resnet_infer.cli import options
from resnet_infer.console import emit, say
from resnet_infer.files import cache_folder
from resnet_infer.report import text
from resnet_infer.spec.catalogue import architecture_names, family_names, spec_from_name
from resnet_infer.spec.registry import PAPER_CIFAR10, PAPER_MULTI_SCALE, PAPER_TEN_CROP, PUBLISHED, bundled_folders
from resnet_infer.spec.timm_models import timm_models


def models(
    format_name: Annotated[
        Literal["table", "json", "jsonl", "csv"], typer.Option("--format", help="Form of the output.")
    ] = "table",
    verbose: options.Verbose = False,
) -> None:
    """List architectures with their size and the paper's errors, and checkpoints with their published errors."""
    form = format_name
    architectures, checkpoints = _architectures(), _checkpoints()
    if form == "json":
        emit(text.as_json({"architectures": architectures, "checkpoints": checkpoints}))
    elif form == "jsonl":
        emit(text.as_json_lines([*architectures, *checkpoints]))
    elif form == "csv":
        emit(text.as_csv([*architectures, *checkpoints]))
    else:
        say(_tables(architectures, checkpoints))


def _architectures() -> list[dict[str, Any]]:
    names = dict.fromkeys((*architecture_names(), *PAPER_TEN_CROP, *PAPER_MULTI_SCALE))
    specs = sorted((spec_from_name(name) for name in names), key=lambda spec: spec.small)
    specs += [spec_from_name(name) for name in family_names()]
    return [
        {
            "architecture": spec.name,
            "input": spec.native_size,
            "params": spec.params,
            "macs": spec.macs(),
            "paper_ten_crop_top1_err": PAPER_TEN_CROP.get(spec.name, (None, None))[0],
            "paper_multiscale_top1_err": PAPER_MULTI_SCALE.get(spec.name, (None, None))[0],
            "paper_cifar10_top1_err": PAPER_CIFAR10.get(spec.name),
        }
        for spec in specs
    ]


def _checkpoints() -> list[dict[str, Any]]:
    bundled = [{"checkpoint": key, "architecture": key.split(".")[0], "where": "bundled"} for key in bundled_folders()]
    downloads = [
        {
            "checkpoint": card.key,
            "architecture": card.architecture,
            "resize": card.preprocessing.resize,
            "crop": card.preprocessing.crop,
            "published_top1_err": card.single_crop[0],
            "published_top5_err": card.single_crop[1],
            "where": "downloaded" if (cache_folder() / card.filename).is_file() else "torchvision",
        }
        for card in PUBLISHED.values()
    ]
    hub = [
        {
            "checkpoint": card.key,
            "architecture": card.architecture,
            "resize": card.preprocessing.resize,
            "crop": card.preprocessing.crop,
            "published_top1_err": card.single_crop[0],
            "published_top5_err": card.single_crop[1],
            "where": "hub",
        }
        for card in timm_models().values()
    ]
    return [*bundled, *downloads, *hub]


def _tables(architectures: list[dict[str, Any]], checkpoints: list[dict[str, Any]]) -> str:
    first = [
        [
            row["architecture"],
            str(row["input"]),
            f"{row['params'] / 1e6:.2f}",
            f"{row['macs'] / 1e9:.3f}",
            _percent(row["paper_ten_crop_top1_err"]),
            _percent(row["paper_multiscale_top1_err"]),
            _percent(row["paper_cifar10_top1_err"]),
        ]
        for row in architectures
        if row["architecture"] not in family_names()
    ]
    others = [
        [row["architecture"], str(row["input"]), f"{row['params'] / 1e6:.2f}", f"{row['macs'] / 1e9:.3f}"]
        for row in architectures
        if row["architecture"] in family_names()
    ]
    second = [
        [
            row["checkpoint"],
            f"{row['resize']}/{row['crop']}" if "resize" in row else "",
            _percent(row.get("published_top1_err")),
            _percent(row.get("published_top5_err")),
            row["where"],
        ]
        for row in checkpoints
    ]
    hub = [row[:-1] for row in second if row[-1] == "hub"]
    others_than_hub = [row for row in second if row[-1] != "hub"]
    return "\n".join(
        [
            "Architectures, with the paper's top-1 errors in percent",
            text.as_table(
                ["name", "input", "params M", "GMACs", "10-crop", "multiscale", "CIFAR-10"],
                first,
                right=(1, 2, 3, 4, 5, 6),
            ),
            "",
            "Suffixes: -A -B -C shortcut options; -v1 strides in the first 1x1 as the paper.",
            "",
            "The rest of the family: timm's, pre-activated (-v2), wide (wrn-), CIFAR's",
            text.as_table(["name", "input", "params M", "GMACs"], others, right=(1, 2, 3)),
            "",
            "What no name says follows it: resnet18-cifar,pool=max; resnet50,activation=silu.",
            "",
            "Checkpoints (-m NAME), with their published single-crop errors in percent",
            text.as_table(["name", "resize/crop", "top-1", "top-5", "from"], others_than_hub, right=(1, 2, 3)),
            "",
            "timm's on the Hugging Face hub (-m NAME), at their own test sizes",
            text.as_table(["name", "resize/crop", "top-1", "top-5"], hub, right=(1, 2, 3)),
        ]
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
