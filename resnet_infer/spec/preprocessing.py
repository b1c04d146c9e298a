"""How an image becomes the network's input: part of a checkpoint, never a guess of the caller's.

`mean` and `std` are given in the network's own order of channels and in its own range, as every tool prints them: the
ResNets of the paper's authors take BGR in 0..255 and subtract (103.939, 116.779, 123.68).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from resnet_infer.errors import UsageError

Interpolation = Literal["bilinear", "bicubic", "lanczos"]
ChannelOrder = Literal["rgb", "bgr"]
InputRange = Literal["0-1", "0-255"]
InputFormat = Literal["normalized", "normalized-nhwc", "uint8-nchw", "uint8-nhwc"]
"""What a graph takes: the network's own input, (batch, channels, height, width) or, by `-nhwc`, with channels last; or
the image's RGB bytes in either layout, with everything that `Normalize` does inside the graph."""
Triple = tuple[float, float, float]
ChannelValues = tuple[float, ...]
"""One number a channel: one for grey, three for RGB or BGR, four with alpha."""

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
CHANNELS = (1, 3, 4)
"""Grey; RGB or BGR; and those with alpha."""
NEW: Mapping[str, Any] = {"channel_order": "rgb", "input_range": "0-1"}
"""Fields that the first records do not have, and what those mean; stored only where they differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Resize the shorter side, crop, bring to channels and range, subtract `mean`, divide by `std`."""

    mean: ChannelValues = IMAGENET_MEAN
    std: ChannelValues = IMAGENET_STD
    resize: int = 256
    """Shorter side in pixels for the single crop."""
    crop: int = 224
    """Side in pixels of the square crop."""
    interpolation: Interpolation = "bilinear"
    """Always antialiased."""
    channel_order: ChannelOrder = "rgb"
    """Alpha, where there is one, comes last in either."""
    input_range: InputRange = "0-1"
    """What the pixels' 0..255 are brought to before the mean is subtracted."""

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in CHANNELS or not all(math.isfinite(v) for v in values):
                raise UsageError(
                    f"{name} needs a finite number a channel: three for R, G, B, one for grey, four with alpha; "
                    f"got {values}"
                )
        if len(self.mean) != len(self.std):
            raise UsageError(f"mean has {len(self.mean)} numbers and std {len(self.std)}; give one a channel in each")
        if not all(v > 0 for v in self.std):
            raise UsageError(f"std must be positive; got {self.std}")
        if not 1 <= self.crop <= self.resize <= 8192:
            raise UsageError(f"need 1 <= crop <= resize <= 8192 pixels; got resize {self.resize}, crop {self.crop}")
        for name, kind in (
            ("interpolation", Interpolation),
            ("channel_order", ChannelOrder),
            ("input_range", InputRange),
        ):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise UsageError(f"{name.replace('_', ' ')} must be one of {known}; got '{getattr(self, name)}'")
        if self.channels == 1 and self.channel_order != "rgb":
            raise UsageError(f"channel order {self.channel_order} is for three channels or four; mean has one number")
        _check_range(self.mean, self.std, self.input_range)

    @property
    def channels(self) -> int:
        """Of the network's input."""
        return len(self.mean)

    @property
    def plain(self) -> bool:
        """Whether it is RGB in 0..1, as most networks take."""
        return self.channels == 3 and (self.channel_order, self.input_range) == ("rgb", "0-1")

    def describe(self) -> str:
        """One line in plain words."""
        return (
            f"shorter side to {self.resize} ({self.interpolation}, antialiased), centre crop {self.crop}; "
            f"{self.describe_values()}"
        )

    def describe_values(self) -> str:
        """What is done to the values of pixels, in plain words."""
        mean, std = (", ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        order = self.channel_order.upper()
        colours = {1: "grey (luma of RGB)", 3: order, 4: f"{order}A (alpha opaque)"}[self.channels]
        scaled = " / 255" if self.input_range == "0-1" else " in 0..255"
        return f"{colours}{scaled}, mean ({mean}), std ({std})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {name: value for name, value in asdict(self).items() if name not in NEW or value != NEW[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`; raises UsageError for anything malformed."""
        try:
            return cls(
                mean=_numbers(values["mean"]),
                std=_numbers(values["std"]),
                resize=_pixels(values["resize"]),
                crop=_pixels(values["crop"]),
                interpolation=values["interpolation"],
                channel_order=values.get("channel_order", NEW["channel_order"]),
                input_range=values.get("input_range", NEW["input_range"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"preprocessing record is incomplete or malformed: {error!r}") from error


def changed(preprocessing: Preprocessing, said: Mapping[str, Any], channels: int = 3) -> Preprocessing:
    """The preprocessing of a network with so many input channels, with what a user said of it over what is known.

    Raises UsageError where that makes no sense, or where mean and std would then be of another order or range than
    they were given for.
    """
    for name in ("mean", "std"):
        if name in said and len(said[name]) != channels:
            raise UsageError(
                f"the network takes {_counted(channels)}, and --{name} has {_numbered(said[name])}; give one a channel"
            )
    for name, flag in (("channel_order", "--channel-order"), ("input_range", "--input-range")):
        moved = name in said and said[name] != getattr(preprocessing, name)
        if moved and not {"mean", "std"} <= set(said) and _depend_on(name, preprocessing):
            raise UsageError(
                f"{flag} {said[name]} changes what mean ({_commas(preprocessing.mean)}) and std "
                f"({_commas(preprocessing.std)}) are of; give --mean and --std with it, in the network's own order and "
                "range"
            )
    made = replace(preprocessing, **said)
    if made.channels != channels:
        raise UsageError(
            f"the network takes {_counted(channels)}, and its preprocessing has {_numbered(made.mean)} in mean and "
            "std; give --mean and --std"
        )
    return made


def channel_values(text: str) -> ChannelValues:
    """`0.485,0.456,0.406` as numbers; raises UsageError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"needs numbers with commas, one a channel, as 0.485,0.456,0.406 (or 0.5 for grey); got '{text}'"
        ) from error


def _depend_on(name: str, preprocessing: Preprocessing) -> bool:
    """Whether mean or std mean something else in another channel order, or input range."""
    mean, std = preprocessing.mean, preprocessing.std
    if name == "channel_order":
        return mean[:3] != mean[2::-1] or std[:3] != std[2::-1]
    return any(mean) or set(std) != {1.0}


def _check_range(mean: Sequence[float], std: Sequence[float], input_range: str) -> None:
    """Raise UsageError for values that cannot be of pixels in this range, with those of the other.

    Data in 0..1 has a mean in 0..1 and a standard deviation of at most 0.5; std 1 stands for no division. Data in
    0..255 whose mean is below 1 in every channel would be black, and its std is 1 or more unless it was meant for 0..1.
    """
    if any(v < 0 for v in mean):
        raise UsageError(f"mean ({_commas(mean)}) is below 0; it is subtracted: give it as a positive number")
    if max(*mean, *std) > 255:
        raise UsageError(f"mean {_commas(mean)} or std {_commas(std)} is over 255, the largest value of a pixel")
    dark = 0 < max(mean) <= 1
    if input_range == "0-1" and max(*mean, *std) > 1:
        less = [_commas([v / 255 for v in values] if max(values) > 1 else values) for values in (mean, std)]
        whole = f"--mean {_commas(mean)} --std {_commas(std)} --input-range 0-255"
        either = "" if dark or min(std) < 1 else f", or, if the network takes 0..255, {whole}"
        what = f"mean {_commas(mean)}" if max(mean) > 1 else f"std {_commas(std)}"
        raise UsageError(f"{what} is of 0..255, not 0..1; give --mean {less[0]} --std {less[1]}{either}")
    if input_range == "0-255" and (dark or min(std) < 1):
        more = [
            _commas([v * 255 for v in values] if small else values)
            for values, small in ((mean, dark), (std, min(std) < 1))
        ]
        either = "leave out --input-range, or " if max(*mean, *std) <= 1 else ""
        what = f"mean {_commas(mean)}" if dark else f"std {_commas(std)}"
        raise UsageError(f"{what} is of 0..1, not 0..255; {either}give --mean {more[0]} --std {more[1]}")


def _counted(channels: int) -> str:
    return f"{channels} channels" if channels != 1 else "one channel (grey)"


def _numbered(values: Sequence[float]) -> str:
    return f"{len(values)} number{'s' if len(values) != 1 else ''}"


def _commas(values: Sequence[float]) -> str:
    return ",".join(f"{v:.7g}" for v in values)


def _numbers(values: Any) -> ChannelValues:
    if isinstance(values, str) or any(isinstance(value, bool | str) for value in values):
        raise TypeError("not a number a channel")
    return tuple(float(value) for value in values)


def _pixels(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("not a whole number of pixels")
    return value
