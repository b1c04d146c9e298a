"""The checkpoints that ship with the package: a run's files under its key, and pages generated from their metrics.

    python -m benchmarks.bundle models RUN KEY     add a run's last weights as models/KEY, and write the pages
    python -m benchmarks.bundle models             write the pages anew

The last weights are taken, not those of the lowest test error, which would be chosen on the images they are tested on.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_infer.errors import CheckpointError
from resnet_infer.evaluation.rows import wilson_interval
from resnet_infer.model.checkpoints import read_file
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.registry import PAPER_CIFAR10
from resnet_infer.train import state as saved
from resnet_infer.train.log import FILE, read_metrics
from resnet_infer.train.recipe import Recipe, read_toml, recipe_for

OURS = ("loading", "precision", "compile", "sync_bn", "seed", "log_every", "eval_every", "save_every")
"""Fields of a recipe that the paper says nothing of."""
WEIGHTS, PAGE = "weights.safetensors", "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundled:
    """One checkpoint of models/, as its own files tell it."""

    key: str
    manifest: Manifest
    recipe: Recipe
    records: Sequence[Mapping[str, Any]]

    @property
    def test(self) -> Mapping[str, Any]:
        """The record of the last test."""
        return [record for record in self.records if record["kind"] == "test"][-1]

    @property
    def paper_err(self) -> float | None:
        """Table 6's error in percent of this network."""
        return PAPER_CIFAR10.get(self.manifest.spec.name) if self.recipe.name == "cifar10" else None


def add(run: Path, models: Path, key: str) -> None:
    """Copy a finished run's weights, recipe and metrics to models/KEY."""
    folder = models / key
    folder.mkdir(parents=True, exist_ok=True)
    for name, into in ((saved.LAST, WEIGHTS), (saved.RECIPE, saved.RECIPE), (FILE, FILE)):
        shutil.copyfile(run / name, folder / into)


def read(folder: Path) -> Bundled:
    """The checkpoint in a folder; raises CheckpointError if its weights have no manifest."""
    _, manifest, _ = read_file(folder / WEIGHTS)
    if manifest is None:
        raise CheckpointError(f"{folder / WEIGHTS}: has no manifest; train it with resnet-infer")
    recipe = Recipe.from_dict(read_toml(folder / saved.RECIPE))
    return Bundled(key=folder.name, manifest=manifest, recipe=recipe, records=read_metrics(folder))


def pages(models: Path) -> dict[Path, str]:
    """Every generated page by its path: the list, and a card for each checkpoint."""
    bundled = [read(path.parent) for path in sorted(models.glob(f"*/{WEIGHTS}"))]
    cards = {models / each.key / PAGE: card(each) for each in bundled}
    return {models / PAGE: overview(bundled)} | cards


def overview(bundled: Sequence[Bundled]) -> str:
    """The list of checkpoints."""
    rows = [
        f"| [`{each.key}`]({each.key}/{PAGE}) | {each.manifest.spec.params:,} | {each.recipe.iterations:,} "
        f"| {each.test['test_err']:.2f} | {each.test['test_errors']:,} of {each.test['test_images']:,} "
        f"| {'' if each.paper_err is None else f'{each.paper_err:.2f}'} |"
        for each in bundled
    ]
    return "\n".join(
        [
            "# Bundled checkpoints",
            "",
            "Trained by `resnet-infer train`. They load by key, from a clone and from an installed wheel, with no",
            "network: `resnet-infer predict photo.jpg -m resnet20.cifar10`. This page and the cards are generated",
            "from the metrics files by `python -m benchmarks.bundle models`.",
            "",
            "| key | parameters | iterations | test error % | wrong | paper, 64,000 iterations |",
            "|---|--:|--:|--:|--:|--:|",
            *rows,
            "",
            "The paper's column is Table 6, which has no plain networks. A shorter schedule ends higher.",
            "",
        ]
    )


def card(each: Bundled) -> str:
    """What a user should know of one checkpoint."""
    test, recipe, spec = each.test, each.recipe, each.manifest.spec
    low, high = wilson_interval(test["test_errors"], test["test_images"])
    paper = recipe_for(recipe.name, spec, {}).to_dict()
    changed = [
        f"| {name} | {_value(value)} | {_value(paper[name])} |"
        for name, value in recipe.to_dict().items()
        if value != paper[name] and name not in OURS
    ]
    beside = f" The paper's, after 64,000 iterations: {each.paper_err:.2f} %." if each.paper_err is not None else ""
    last = [record for record in each.records if record["kind"] == "train"][-1]
    return "\n".join(
        [
            f"# {each.key}",
            "",
            f"{spec.name}, {spec.params:,} parameters, trained on CIFAR-10's 50,000 training images for "
            f"{recipe.iterations:,} iterations.",
            "",
            f"Test error {test['test_err']:.2f} %: {test['test_errors']:,} of {test['test_images']:,} images wrong, "
            f"95 % interval {low:.2f} .. {high:.2f}.{beside}",
            f"Training error over the last {recipe.log_every} iterations: {last['train_err']:.2f} %.",
            "",
            f"Input: {each.manifest.preprocessing.describe()}.",
            f"Arithmetic: {recipe.precision}{', compiled' if recipe.compile else ''}, seed {recipe.seed}. Made with "
            f"{', '.join(f'{tool} {version}' for tool, version in each.manifest.versions.items())}.",
            "",
            "```sh",
            f"resnet-infer train train.zip --test-data test.zip --arch {spec.name} --recipe {saved.RECIPE} -o run",
            "```",
            "",
            f"Where the recipe ([{saved.RECIPE}]({saved.RECIPE})) is not the paper's:",
            "",
            "| field | here | paper |",
            "|---|---|---|",
            *changed,
            "",
            f"The weights are those of the last iteration, not of the lowest test error. Metrics: [{FILE}]({FILE}).",
            "",
        ]
    )


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def main() -> None:
    """Add a run if one is named, and write the pages."""
    parser = argparse.ArgumentParser(description="The bundled checkpoints and their pages.")
    parser.add_argument("models", type=Path, help="folder of the bundled checkpoints")
    parser.add_argument("run", type=Path, nargs="?", help="folder of a finished run to add")
    parser.add_argument("key", nargs="?", help="its key, as resnet20.cifar10")
    args = parser.parse_args()
    if args.run and not args.key:
        parser.error("KEY is missing")
    if args.run:
        add(args.run, args.models, args.key)
    for path, text in pages(args.models).items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
