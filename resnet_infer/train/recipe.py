"""Training recipes as data: the paper's settings are the defaults, and every one of them can be changed.

Sources: He et al. 2015 section 3.4 (`imagenet`) and section 4.2 (`cifar10`). What the paper leaves open is a field
with a default: which weights decay (it names no exception, so all; the authors' later release spares batch norm),
fan-in or fan-out (its reference [13] and Caffe take fan-in), when the error counts as a plateau.

Three things are settled: no Nesterov momentum; PyTorch's form of momentum, v = m v + g and w = w - lr v, which differs
from Caffe's only in the steps after a change of the learning rate; padding is black, added before the mean is
subtracted.

`mean = "pixel"` is the paper's on CIFAR-10. Weights so trained carry the mean image's deviation from its channel means
as a tensor and can be scored at the size they were trained at; another size, and export, is an error. `channel` makes
weights without that limit, and is what the bundled networks were trained with.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from resnet_infer.errors import UnknownNameError, UsageError
from resnet_infer.spec.architectures import ModelSpec

ScheduleName = Literal["steps", "plateau", "one-cycle"]
Decay = Literal["all", "weights"]
Init = Literal["fan-in", "fan-out"]
Loading = Literal["memory", "stream"]
Mean = Literal["pixel", "channel"]
Precision = Literal["auto", "fp32", "bf16"]

CHOICES: Mapping[str, tuple[str, ...]] = {
    "schedule": get_args(ScheduleName),
    "decay": get_args(Decay),
    "init": get_args(Init),
    "loading": get_args(Loading),
    "mean": get_args(Mean),
    "precision": get_args(Precision),
}
WARMUP_LAYERS = 110
"""From so many layers on, `cifar10` begins at a smaller learning rate (section 4.2)."""
WARMUP_LR = 0.01


def _field(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to train. The defaults are the paper's for CIFAR-10."""

    name: str
    batch: int = _field(128, "Images an iteration, over all processes together.")
    iterations: int = _field(64_000, "Iterations in all; the schedule is rescaled to them.")
    lr: float = _field(0.1, "Learning rate at the start.")
    momentum: float = _field(0.9, "Of SGD, without Nesterov's correction.")
    weight_decay: float = _field(1e-4, "L2 penalty.")
    decay: Decay = _field("all", "What decays: all, or weights (neither batch norm nor biases).")
    schedule: ScheduleName = _field("steps", "Learning rate: steps, plateau or one-cycle.")
    drops: tuple[int, ...] = _field((32_000, 48_000), "Of steps: the iterations after which the rate drops.")
    drop_factor: float = _field(0.1, "What a drop multiplies the rate by, in steps and plateau.")
    patience: int = _field(3, "Of plateau: tests in a row without a new best before a drop.")
    warmup_lr: float = _field(0.0, "Rate until the training error is below --warmup-err; 0 is none.")
    warmup_err: float = _field(80.0, "Training error in percent that ends the warm-up.")
    init: Init = _field("fan-in", "He's initialisation: fan-in (with zero biases) or fan-out (torchvision's).")
    loading: Loading = _field("memory", "memory: all images on the device; stream: decoded as they come.")
    crop: int = _field(32, "Side in pixels of the network's input.")
    pad: int = _field(4, "Black pixels added to every side before cropping.")
    scale_min: int = _field(0, "Shorter side in pixels before cropping, at least; 0 leaves the size.")
    scale_max: int = _field(0, "Shorter side in pixels before cropping, at most.")
    mirror: bool = _field(True, "Mirror half of the images.")
    colour: float = _field(0.0, "Standard deviation of AlexNet's PCA colour shift; the paper's is 0.1.")
    mean: Mean = _field("pixel", "What is subtracted: the mean of every pixel or of every channel.")
    hold_out: int = _field(0, "Training images set aside to test on; the paper's split is 5000.")
    precision: Precision = _field("auto", "fp32, bf16, or auto: bf16 where the hardware has it.")
    compile: bool = _field(False, "Compile the network with torch.compile; on a CPU that needs a C++ compiler.")
    sync_bn: bool = _field(True, "Batch-norm statistics over all processes instead of each.")
    seed: int = _field(0, "Of weights, order and augmentation.")
    log_every: int = _field(100, "Iterations over which loss and training error are averaged.")
    eval_every: int = _field(1000, "Iterations between tests.")
    save_every: int = _field(1000, "Iterations between checkpoints.")

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"{_flag(name)} must be one of {', '.join(choices)}; got '{getattr(self, name)}'")
        for name in ("batch", "iterations", "patience", "log_every", "eval_every", "save_every", "crop"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("pad", "scale_min", "scale_max", "hold_out", "colour", "weight_decay", "warmup_lr"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("lr", 0 < self.lr < math.inf, "above 0")
        self._require("momentum", 0 <= self.momentum < 1, "0 or more and below 1")
        self._require("drop_factor", 0 < self.drop_factor < 1, "between 0 and 1")
        self._require("warmup_err", 0 < self.warmup_err <= 100, "a percentage above 0")
        self._require("seed", 0 <= self.seed < 2**63, "0 or more")
        self._require("drops", list(self.drops) == sorted(set(self.drops)), "in rising order")
        if self.scale_min > self.scale_max:
            raise UsageError(f"--scale-min {self.scale_min} is above --scale-max {self.scale_max}")
        if self.scale_min and self.scale_min + 2 * self.pad < self.crop:
            raise UsageError(
                f"--scale-min {self.scale_min} with --pad {self.pad} is smaller than the crop of {self.crop} pixels"
            )

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise UsageError(f"{_flag(name)} must be {what}; got {getattr(self, name)}")

    def rescaled(self, iterations: int) -> "Recipe":
        """The same schedule over another number of iterations: every drop at the same share of them."""
        if iterations < 1:
            raise UsageError(f"--iterations must be at least 1; got {iterations}")
        drops = tuple(dict.fromkeys(round(drop * iterations / self.iterations) for drop in self.drops))
        eval_every = self.eval_every
        if self.schedule == "plateau":  # its patience is counted in tests
            eval_every = max(1, round(eval_every * iterations / self.iterations))
        return replace(self, iterations=iterations, drops=drops, eval_every=eval_every)

    def with_values(self, values: Mapping[str, Any]) -> "Recipe":
        """This recipe with some fields changed; changed iterations rescale what is not given as well."""
        checked = {name: _checked(name, value) for name, value in values.items()}
        base = self.rescaled(checked["iterations"]) if "iterations" in checked else self
        return replace(base, **checked)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored in a checkpoint."""
        return asdict(self) | {"drops": list(self.drops)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The inverse of `to_dict`; raises UsageError for anything malformed."""
        return cls(**{name: _checked(name, value) for name, value in values.items()})

    def to_toml(self) -> str:
        """The recipe as a file that `--recipe` reads."""
        return "".join(f"{name} = {_toml(value)}\n" for name, value in self.to_dict().items())


RECIPES: Mapping[str, Recipe] = {
    "cifar10": Recipe(name="cifar10"),
    "imagenet": Recipe(
        name="imagenet",
        batch=256,
        iterations=600_000,
        schedule="plateau",
        drops=(),
        loading="stream",
        crop=224,
        pad=0,
        scale_min=256,
        scale_max=480,
        colour=0.1,
        mean="channel",
        eval_every=10_000,
    ),
}
FIELDS: Mapping[str, Any] = {
    name: kind for name, kind in get_type_hints(Recipe).items() if name in {f.name for f in fields(Recipe)}
}
"""The type of every field."""


def recipe_for(named: str, spec: ModelSpec, values: Mapping[str, Any]) -> Recipe:
    """The recipe of a name or a TOML file, as this architecture needs it, with these fields changed.

    A TOML file gives fields by name; its `name` says which recipe it changes. Raises UsageError.
    """
    in_file = read_toml(Path(named)) if named.lower().endswith(".toml") else {"name": named}
    name = str(in_file.get("name", ""))
    if name not in RECIPES:
        remedy = f"{named}: set name to one of them" if "name" not in in_file else "Or give a TOML file."
        raise UnknownNameError("recipe", name, RECIPES, f"There are {', '.join(RECIPES)}. {remedy}")
    recipe = RECIPES[name]
    if recipe.crop != spec.native_size and not {"crop"} & (in_file.keys() | values.keys()):
        raise UsageError(
            f"the recipe {name} is for inputs of {recipe.crop} pixels, and {spec.name} for {spec.native_size}; "
            "choose another --recipe, or say --crop"
        )
    if name == "cifar10" and spec.layers >= WARMUP_LAYERS:
        recipe = replace(recipe, warmup_lr=WARMUP_LR)
    return recipe.with_values(in_file).with_values(values)


def read_toml(path: Path) -> dict[str, Any]:
    """The fields in a TOML file, checked; raises UsageError."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a TOML file of recipe fields ({error})") from error
    return {name: _checked(name, value, str(path)) for name, value in values.items()}


def _checked(name: str, value: Any, where: str = "recipe") -> Any:
    kind = FIELDS.get(name)
    if kind is None:
        raise UnknownNameError("recipe field", name, FIELDS, f"{where}: the fields are {', '.join(FIELDS)}.")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind == tuple[int, ...] and isinstance(value, (list, tuple)):
        if all(type(item) is int for item in value):
            return tuple(value)
    elif type(value) is (str if name in CHOICES else kind):
        return value
    wanted = "a list of whole numbers" if name == "drops" else getattr(kind, "__name__", "str")
    raise UsageError(f"{where}: {name} must be {wanted}; got {value!r}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
