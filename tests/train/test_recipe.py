"""Recipes hold the paper's constants, rescale, and refuse what cannot work."""

from dataclasses import fields
from pathlib import Path

import pytest

from resnet_infer.errors import UsageError
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.train.recipe import FIELDS, RECIPES, Recipe, recipe_for

RESNET20 = spec_from_name("resnet20")


def test_cifar10_is_section_4_2() -> None:
    recipe = recipe_for("cifar10", RESNET20, {})
    assert (recipe.batch, recipe.lr, recipe.momentum, recipe.weight_decay) == (128, 0.1, 0.9, 1e-4)
    assert (recipe.iterations, recipe.drops, recipe.drop_factor) == (64_000, (32_000, 48_000), 0.1)
    assert (recipe.pad, recipe.crop, recipe.mirror, recipe.mean) == (4, 32, True, "pixel")
    assert (recipe.scale_max, recipe.colour, recipe.warmup_lr, recipe.hold_out) == (0, 0, 0, 0)


def test_imagenet_is_section_3_4() -> None:
    recipe = recipe_for("imagenet", spec_from_name("resnet50"), {})
    assert (recipe.batch, recipe.lr, recipe.momentum, recipe.weight_decay) == (256, 0.1, 0.9, 1e-4)
    assert (recipe.iterations, recipe.schedule, recipe.drop_factor) == (600_000, "plateau", 0.1)
    assert (recipe.scale_min, recipe.scale_max, recipe.crop, recipe.pad) == (256, 480, 224, 0)
    assert (recipe.mirror, recipe.mean, recipe.colour, recipe.warmup_lr) == (True, "channel", 0.1, 0)


@pytest.mark.parametrize(
    ("arch", "warmup"), [("resnet56", 0), ("resnet110", 0.01), ("plain110", 0.01), ("resnet1202", 0.01)]
)
def test_110_layers_warm_up_until_80_percent_of_training_error(arch: str, warmup: float) -> None:
    recipe = recipe_for("cifar10", spec_from_name(arch), {})
    assert (recipe.warmup_lr, recipe.warmup_err) == (warmup, 80)


def test_no_recipe_has_nesterov() -> None:
    assert "nesterov" not in {field.name for field in fields(Recipe)}


def test_iterations_rescale_the_schedule() -> None:
    short = recipe_for("cifar10", RESNET20, {"iterations": 16_000})
    assert short.drops == (8000, 12_000)
    own = recipe_for("cifar10", RESNET20, {"iterations": 16_000, "drops": (10_000, 15_000)})
    assert own.drops == (10_000, 15_000)
    plateau = RECIPES["imagenet"].rescaled(6000)
    assert (plateau.eval_every, plateau.patience) == (100, RECIPES["imagenet"].patience)


def test_a_toml_file_changes_fields_and_flags_change_it(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('name = "cifar10"\niterations = 6400\nlr = 1\nmean = "channel"\n')
    recipe = recipe_for(str(path), RESNET20, {"lr": 0.5, "mirror": False})
    assert (recipe.iterations, recipe.drops, recipe.lr, recipe.mean) == (6400, (3200, 4800), 0.5, "channel")
    assert recipe.mirror is False


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_survives_its_file(tmp_path: Path, name: str) -> None:
    recipe = RECIPES[name].with_values({"decay": "weights", "seed": 7, "sync_bn": False, "weight_decay": 5e-5})
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml())
    assert recipe_for(str(path), spec_from_name("resnet20" if name == "cifar10" else "resnet18"), {}) == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_every_field_has_help_and_a_known_type() -> None:
    for field in fields(Recipe):
        assert field.name == "name" or field.metadata["help"].endswith("."), field.name
        assert field.name in FIELDS


@pytest.mark.parametrize(("values", "words"), [
    ({"batch": 0}, ["--batch", "at least 1", "0"]),
    ({"lr": 0.0}, ["--lr", "above 0"]),
    ({"lr": "0.1"}, ["lr must be float", "'0.1'"]),
    ({"momentum": 1.0}, ["--momentum", "below 1"]),
    ({"drops": (300, 200)}, ["--drops", "rising"]),
    ({"drops": (1.5,)}, ["drops", "whole numbers"]),
    ({"iterations": 0}, ["--iterations", "at least 1"]),
    ({"schedule": "cosine"}, ["--schedule", "steps, plateau, one-cycle", "cosine"]),
    ({"mean": "none"}, ["--mean", "pixel, channel"]),
    ({"scale_min": 40, "scale_max": 30}, ["--scale-min 40", "--scale-max 30"]),
    ({"scale_min": 16, "scale_max": 30}, ["--scale-min 16", "crop of 32"]),
    ({"mirror": 1}, ["mirror must be bool"]),
    ({"learning_rate": 0.1}, ["unknown recipe field 'learning_rate'", "lr"]),
])  # fmt: skip
def test_values_that_cannot_work(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        recipe_for("cifar10", RESNET20, values)
    for word in words:
        assert word in str(caught.value)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.toml: cannot be read"):
        recipe_for(str(tmp_path / "nothing.toml"), RESNET20, {})
    path = tmp_path / "own.toml"
    path.write_text("lr = ")
    with pytest.raises(UsageError, match="TOML"):
        recipe_for(str(path), RESNET20, {})
    path.write_text("lr = 0.1")
    with pytest.raises(UsageError, match="set name"):
        recipe_for(str(path), RESNET20, {})
    with pytest.raises(UsageError, match=r"unknown recipe 'cifar'\. Nearest: cifar10"):
        recipe_for("cifar", RESNET20, {})
