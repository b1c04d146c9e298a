"""Preprocessing and class names as timm's and transformers' configuration files write them.

timm: `pretrained_cfg`, as `timm.data.resolve_data_config(use_test_size=True)` and `create_transform` read it: the
shorter side is resized to `floor(size / crop_pct)`. transformers: `preprocessor_config.json`, as its image processors
read it; `ConvNextImageProcessor` resizes to `int(size / crop_pct)` below 384 and squashes from there on. Where sides
differ by an odd number, its crop begins at the half rounded down, and ours, as torchvision's and timm's, at the even
neighbour: a pixel beside it.
Every function raises UsageError naming the key of what this package cannot do.
"""

import math
from collections.abc import Mapping
from typing import Any, get_args

from resnet_infer.errors import UsageError
from resnet_infer.spec.labels import MAX_CLASSES, Labels, folded, imagenet1k
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing, Triple

TIMM_KEYS = ("mean", "std", "crop_pct", "input_size", "interpolation", "test_input_size", "test_crop_pct", "crop_mode")
HARMLESS_ARGS = ("num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last")
"""Arguments of timm's ResNet that do not change what it computes in evaluation, or that its tensors tell."""
POOLS = ("avg", "fast")
"""timm's names of the mean over the map."""
PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
CONVNEXT_CROP = 224 / 256
LEAST_CROP = 0.01
MOST = 1e9
"""No number of a configuration is larger."""
SQUASHES_FROM = 384
DO = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
SAME_NAMES = 0.9
"""Names of 1000 that must be ImageNet's in place to call them ImageNet's: authors differ in a few."""


def timm_preprocessing(cfg: Mapping[str, Any]) -> tuple[Preprocessing | None, str]:
    """timm's test input of a `pretrained_cfg`, and words for it; None where it says nothing of it."""
    if not any(cfg.get(key) is not None for key in TIMM_KEYS):
        return None, ""
    if (mode := cfg.get("crop_mode")) not in (None, "center"):
        raise UsageError(f"crop_mode is {mode!r}; only center (resize the shorter side, crop the centre) can be done")
    train = _side(cfg.get("input_size") or [3, 224, 224], "input_size")
    side = _side(cfg["test_input_size"], "test_input_size") if cfg.get("test_input_size") else train
    crop_pct = _fraction(cfg.get("test_crop_pct") or cfg.get("crop_pct") or 0.875, "crop_pct")
    mean, std = cfg.get("mean") or IMAGENET_MEAN, cfg.get("std") or IMAGENET_STD
    found = Preprocessing(
        mean=_colours(mean, "mean"),
        std=_colours(std, "std"),
        resize=math.floor(side / crop_pct),
        crop=side,
        interpolation=_interpolation(cfg.get("interpolation") or "bicubic"),
    )
    other = f"; trained at {train}" if train != side else ""
    return found, f"timm's test setting, {side} of {found.resize} pixels{other}"


def check_timm_args(config: Mapping[str, Any]) -> None:
    """Refuse arguments of timm's constructor that change the network and that nothing here knows."""
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise UsageError("model_args is not an object")
    for key, value in arguments.items():
        if key in HARMLESS_ARGS or value is None or (key == "output_stride" and value == 32):
            continue
        if key == "global_pool" and value in POOLS:
            continue
        raise UsageError(
            f"model_args has {key[:40]} = {str(value)[:40]}, which changes the network and is not known here"
        )
    for where in (config, config.get("pretrained_cfg") or {}):
        pool = where.get("global_pool") or "avg"
        if pool not in POOLS:
            raise UsageError(f"global_pool is {str(pool)[:40]!r}; networks here average the last map")
    if config.get("label_offset"):
        raise UsageError(f"label_offset is {str(config['label_offset'])[:20]}; classes here begin at 0")


def timm_labels(cfg: Mapping[str, Any], classes: int | None) -> Labels | None:
    """Class names of a timm configuration: `label_names`, with `label_descriptions` where they are ids."""
    names = cfg.get("label_names") or cfg.get("labels")
    if not names:
        return None
    if isinstance(names, dict):
        names = _by_index(names, "label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError("label_names is not a list of texts")
    _check_count(len(names), classes, "label_names")
    if _numbered(names):
        return None
    told = cfg.get("label_descriptions")
    if isinstance(told, dict) and all(isinstance(told.get(name), str) for name in names):
        return _usual(Labels(names=tuple(told[name] for name in names), ids=tuple(names)))
    return _usual(Labels(names=tuple(names)))


def transformers_labels(config: Mapping[str, Any]) -> Labels | None:
    """Class names of `id2label`; None where they are transformers' LABEL_0, LABEL_1, ... or missing."""
    table = config.get("id2label")
    if not isinstance(table, dict) or not table:
        return None
    names = _by_index(table, "id2label")
    return None if _numbered(names) else _usual(Labels(names=tuple(names)))


def _numbered(names: list[str]) -> bool:
    """Whether these are what transformers writes where nobody gave names."""
    return all(name == f"LABEL_{index}" for index, name in enumerate(names))


def _usual(labels: Labels) -> Labels:
    """ImageNet's own names and ids where these are ImageNet's, which others write as `tench, Tinca tinca`."""
    known = imagenet1k()
    if len(labels.names) != len(known.names):
        return labels
    if labels.ids:
        return known if labels.ids == known.ids else labels
    same = sum(
        folded(theirs.split(",")[0]) == folded(ours) for theirs, ours in zip(labels.names, known.names, strict=True)
    )
    return known if same >= SAME_NAMES * len(known.names) or labels.names == known.ids else labels


def processor_preprocessing(config: Mapping[str, Any]) -> tuple[Preprocessing | None, str]:
    """What `preprocessor_config.json` does to an image, and words for it; None where it refers to timm's own."""
    kind = config.get("image_processor_type") or config.get("feature_extractor_type") or ""
    if not isinstance(kind, str):
        raise UsageError("image_processor_type is no text")
    if kind.startswith("TimmWrapper"):
        return None, ""
    for key, value in config.items():
        if key.startswith("do_") and value and key not in DO:
            raise UsageError(f"{key[:40]} is {str(value)[:20]}, which cannot be done here")
    if config.get("rescale_offset"):
        raise UsageError("rescale_offset is true, which cannot be done here")
    if config.get("do_resize") is False:
        raise UsageError("do_resize is false; images here are resized by their shorter side")
    if config.get("do_rescale") is False:
        raise UsageError("do_rescale is false (pixels of 0..255); pixels here are scaled to 0..1")
    factor = config.get("rescale_factor")
    if factor is not None and not math.isclose(_number(factor, "rescale_factor"), 1 / 255, rel_tol=1e-6):
        raise UsageError(f"rescale_factor is {factor}; it must be 1/255")
    resize, crop = _processor_sizes(config, convnext=kind.startswith("ConvNext"))
    normalize = config.get("do_normalize") is not False
    if normalize and (config.get("image_mean") is None or config.get("image_std") is None):
        raise UsageError("image_mean or image_std is missing, and do_normalize is not false")
    method = config.get("resample", 3 if kind.startswith("ConvNext") else None)
    if type(method) is not int or method not in PILLOW:
        raise UsageError(f"resample is {str(method)[:20]}; Pillow's numbers are 0 to 5")
    found = Preprocessing(
        mean=_colours(config["image_mean"], "image_mean") if normalize else (0.0, 0.0, 0.0),
        std=_colours(config["image_std"], "image_std") if normalize else (1.0, 1.0, 1.0),
        resize=resize,
        crop=crop,
        interpolation=_interpolation(PILLOW[method]),
    )
    return found, f"{kind or 'its processor'}, {crop} of {resize} pixels"


def _processor_sizes(config: Mapping[str, Any], *, convnext: bool) -> tuple[int, int]:
    """(resize, crop) in pixels."""
    size = config.get("size")
    edge = size.get("shortest_edge") if isinstance(size, dict) else size if convnext else None
    if isinstance(size, int) and not convnext and config.get("crop_size") is not None:
        edge = size
    if edge is None or (isinstance(size, dict) and ("height" in size or "longest_edge" in size)):
        raise UsageError(
            f"size is {str(size)[:60]}, not a shortest_edge; images here are resized by their shorter side"
        )
    edge = _pixels(edge, "size")
    wanted = config.get("crop_size") if config.get("do_center_crop") else None
    if isinstance(wanted, dict):
        if wanted.get("height") != wanted.get("width"):
            raise UsageError(f"crop_size is {str(wanted)[:60]}; crops here are square")
        wanted = wanted.get("height")
    if not convnext:
        if wanted is None:
            raise UsageError("do_center_crop is not true; images here are cropped to a square")
        return edge, _pixels(wanted, "crop_size")
    if edge >= SQUASHES_FROM:
        raise UsageError(f"size is {edge}, which this processor squashes to a square; shapes are kept here")
    if wanted not in (None, edge):
        raise UsageError(f"it crops to {edge} and then to crop_size {str(wanted)[:20]}; one crop is done here")
    return int(edge / _fraction(config.get("crop_pct") or CONVNEXT_CROP, "crop_pct")), edge


def _by_index(table: Mapping[str, Any], key: str) -> list[str]:
    try:
        names = {int(index): name for index, name in table.items()}
    except ValueError as error:
        raise UsageError(f"{key} has an index that is no whole number") from error
    if sorted(names) != list(range(len(table))) or not all(isinstance(name, str) for name in names.values()):
        raise UsageError(f"{key} does not name every class from 0 on")
    return [names[index] for index in range(len(names))]


def _check_count(found: int, classes: int | None, key: str) -> None:
    if not 1 <= found <= MAX_CLASSES or (classes is not None and found != classes):
        raise UsageError(f"{key} has {found} names, num_classes is {classes}")


def _side(size: Any, key: str) -> int:
    if not isinstance(size, list) or len(size) != 3 or size[1] != size[2]:
        raise UsageError(f"{key} is {str(size)[:60]}, not [channels, side, side] of a square")
    return _pixels(size[1], key)


def _pixels(value: Any, key: str) -> int:
    if type(value) is not int or not 1 <= value <= 8192:
        raise UsageError(f"{key} is {str(value)[:40]}, not 1 to 8192 pixels")
    return value


def _fraction(value: Any, key: str) -> float:
    number = _number(value, key)
    if not LEAST_CROP <= number <= 1:
        raise UsageError(f"{key} is {number:g}; crops here are no larger than the image: {LEAST_CROP:g} to 1")
    return number


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MOST:
        raise UsageError(f"{key} is {str(value)[:40]}, not a number of use here")
    return float(value)


def _colours(values: Any, key: str) -> Triple:
    if not isinstance(values, list | tuple) or len(values) not in (1, 3):
        raise UsageError(f"{key} is {str(values)[:60]}, not three numbers (or one, for grey images)")
    numbers = [_number(value, key) for value in values]
    if not all(0 <= value <= 1 for value in numbers):
        raise UsageError(f"{key} is {str(values)[:60]}; it must be in 0..1, of pixels scaled to 0..1")
    r, g, b = numbers * (4 - len(numbers)) if len(numbers) == 1 else numbers
    return r, g, b


def _interpolation(name: Any) -> Interpolation:
    known = get_args(Interpolation)
    if name not in known:
        raise UsageError(f"interpolation is {str(name)[:20]}; {', '.join(known)} can be done")
    return name  # type: ignore[no-any-return]
