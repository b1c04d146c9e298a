"""The family by name: `resnet50`, `resnet50-v1`, `resnet34-A`, `plain20`, `resnext50_32x4d`, `seresnet152d`, ...

The paper's and torchvision's names, and timm's for its variants (timm/models/resnet.py). What no name says follows it:
`resnet18,stem=cifar,pool=max`.
"""

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

from resnet_infer.errors import UnknownNameError, UsageError
from resnet_infer.spec.architecture_record import EXPANSION, BlockKind, Shortcut
from resnet_infer.spec.architectures import ModelSpec

_BASIC: BlockKind = "basic"
_BOTTLENECK: BlockKind = "bottleneck"
_IMAGENET: Mapping[int, tuple[BlockKind, tuple[int, ...]]] = {
    18: (_BASIC, (2, 2, 2, 2)),
    34: (_BASIC, (3, 4, 6, 3)),
    50: (_BOTTLENECK, (3, 4, 6, 3)),
    101: (_BOTTLENECK, (3, 4, 23, 3)),
    152: (_BOTTLENECK, (3, 8, 36, 3)),
    10: (_BASIC, (1, 1, 1, 1)),
    14: (_BOTTLENECK, (1, 1, 1, 1)),
    26: (_BOTTLENECK, (2, 2, 2, 2)),
    200: (_BOTTLENECK, (3, 24, 36, 3)),
    269: (_BOTTLENECK, (3, 30, 48, 8)),
}
_RS: Mapping[int, tuple[int, ...]] = {270: (4, 29, 53, 4), 350: (4, 36, 72, 4), 420: (4, 44, 87, 4)}
_WIDTHS = (64, 128, 256, 512)
_CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)
_CIFAR_V2_BOTTLENECKS = (164, 1001)
_WIDE = ("wrn-16-8", "wrn-28-10", "wrn-40-2")
_NAME = re.compile(
    r"(?P<family>resnet|plain|resnext|seresnet|seresnext|ecaresnet|ecaresnext|wide_resnet|resnetrs|resnetblur|resnetaa"
    r"|seresnetaa|seresnextaa|wrn-|senet)(?P<depth>[1-9][0-9]{0,4}|light)(?P<kind>[cdst]?)(?P<gn>_gn)?"
    r"(?:_(?P<groups>[1-9][0-9]{0,2})x(?P<each>[1-9][0-9]{0,2})d|_(?P<wider>[1-9])|-(?P<wide>[1-9][0-9]?))?"
    r"(?P<small>-cifar)?(?P<version>-v[12])?(?:-(?P<option>[abc]))?",
    re.IGNORECASE,
)
_TIMM = (
    "resnet10t", "resnet14t", "resnet18d", "resnet26", "resnet26d", "resnet26t", "resnet34d", "resnet50c", "resnet50d",
    "resnet50s", "resnet50t", "resnet101c", "resnet101d", "resnet101s", "resnet152c", "resnet152d", "resnet152s",
    "resnet200", "resnet200d", "resnet50_gn", "wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d",
    "resnext50d_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext101_32x16d", "resnext101_32x32d",
    "resnext101_64x4d", "seresnet18", "seresnet34", "seresnet50", "seresnet50t", "seresnet101", "seresnet152",
    "seresnet152d", "seresnet200d", "seresnet269d", "seresnext26d_32x4d", "seresnext26t_32x4d", "seresnext50_32x4d",
    "seresnext101_32x4d", "seresnext101_32x8d", "seresnext101d_32x8d", "seresnext101_64x4d", "senet154",
    "ecaresnet26t", "ecaresnet50d", "ecaresnet50t", "ecaresnetlight", "ecaresnet101d", "ecaresnet200d",
    "ecaresnet269d", "ecaresnext26t_32x4d", "ecaresnext50t_32x4d", "resnetblur18", "resnetblur50", "resnetblur50d",
    "resnetblur101d", "resnetaa34d", "resnetaa50", "resnetaa50d", "resnetaa101d", "seresnetaa50d",
    "seresnextaa101d_32x8d", "seresnextaa201d_32x8d", "resnetrs50", "resnetrs101", "resnetrs152", "resnetrs200",
    "resnetrs270", "resnetrs350", "resnetrs420",
)  # fmt: skip
_OPTIONS: tuple[Shortcut, ...] = ("A", "B", "C")
_SETTABLE = {
    "stride": "stride_in", "shortcut": "shortcut", "pool": "pool", "antialias": "antialias", "stem": "stem",
    "activation": "activation", "dilated": "dilated", "projection": "preactivation",
}  # fmt: skip


def architecture_names() -> tuple[str, ...]:
    """The paper's networks by name, without the optional `-v1` and `-A`, `-B`, `-C` suffixes."""
    resnets = [f"resnet{d}" for d in (18, 34, 50, 101, 152, *_CIFAR_DEPTHS)]
    return (*resnets, "plain18", "plain34", *(f"plain{d}" for d in _CIFAR_DEPTHS))


def family_names() -> tuple[str, ...]:
    """Every other network by name: timm's variants, the follow-up paper's, wide ones, and those for small images."""
    pre = [f"resnet{d}-v2" for d in (18, 34, 50, 101, 152, 200, *_CIFAR_DEPTHS[:-1], *_CIFAR_V2_BOTTLENECKS)]
    small = [f"resnet{d}-cifar" for d in (18, 34, 50, 101, 152)]
    return (*_TIMM, *pre, *small, *(f"{name}-v2" for name in small), *_WIDE)


def spec_from_name(name: str, classes: int | None = None) -> ModelSpec:
    """The architecture called `resnet50`, `resnet50-v1`, `resnext50_32x4d`, `resnet18,stem=cifar`, ...

    Shortcuts default to B for ImageNet nets and A for CIFAR nets, classes to 1000 and 10.
    Raises UnknownNameError for any other name, UsageError for a change that no network has.
    """
    name, _, changes = name.partition(",")
    match = _NAME.fullmatch(name)
    base = _base(match) if match else None
    if not match or base is None:
        known = (*architecture_names(), *family_names())
        raise UnknownNameError("architecture", name, known, "`resnet-infer models` lists them.")
    spec = replace(ModelSpec(name=name, **base), **_suffixes(match, base))
    spec = with_changes(spec, changes) if changes else canonical(spec)
    return replace(spec, classes=classes or (10 if spec.small else 1000))


def with_changes(spec: ModelSpec, text: str) -> ModelSpec:
    """The network but for `field=value,...`; raises UsageError naming what can be changed."""
    values: dict[str, Any] = {}
    for change in text.split(","):
        field, equals, value = change.strip().partition("=")
        if field not in _SETTABLE or not equals:
            raise UsageError(f"architecture: '{change[:60]}' is not FIELD=VALUE with one of {', '.join(_SETTABLE)}")
        values[_SETTABLE[field]] = int(value) if value.isdecimal() else value
    if "stem" in values:  # what depends on it and was not named goes back to its default
        deep = "deep" in (spec.stem, values["stem"])
        values = {"pool": "", "stem_channels": () if deep else spec.stem_channels} | values
    try:
        return canonical(replace(spec, **values))
    except TypeError as error:
        raise UsageError(f"architecture '{spec.name},{text[:80]}': a value is of the wrong kind") from error


def _base(match: re.Match[str]) -> dict[str, Any] | None:
    """A name's fields without its suffixes; None if there is no such network."""
    family, depth = match["family"].lower(), match["depth"].lower()
    size = int(depth) if depth.isdecimal() else 0
    if family == "wrn-":
        blocks = (size - 4) // 6
        if size != 6 * blocks + 4 or not blocks or not match["wide"] or match["small"] or match["version"]:
            return None
        wide = int(match["wide"])
        return _preactivated(_small("basic", blocks, (16 * wide, 32 * wide, 64 * wide)))
    if match["wide"]:
        return None
    v2 = (match["version"] or "").lower() == "-v2"
    if match["small"] is None and family in ("resnet", "plain") and not match["kind"]:
        if size in _CIFAR_DEPTHS:
            base = _small("basic", (size - 2) // 6, (16, 32, 64))
            return _preactivated(base) if v2 else base | {"shortcut": "none" if family == "plain" else "A"}
        if v2 and size in _CIFAR_V2_BOTTLENECKS:
            return _preactivated(_small("bottleneck", (size - 2) // 9, (16, 32, 64)))
    return _imagenet(match, family, size)


def _imagenet(match: re.Match[str], family: str, size: int) -> dict[str, Any] | None:
    block, depths = _IMAGENET.get(size, (_BOTTLENECK, _RS.get(size, ()) if family == "resnetrs" else ()))
    light = match["depth"].lower() == "light"
    if light:
        depths = (1, 1, 11, 3) if family == "ecaresnet" else ()
    elif family == "senet":
        depths = (3, 8, 36, 3) if size == 154 else ()
    elif family == "seresnextaa" and size == 201:
        depths = (3, 24, 36, 4)
    stem = "d" if family == "resnetrs" else "s" if family == "senet" else match["kind"].lower()
    fixed = family in ("resnetrs", "senet") or light
    if not depths or (family == "plain" and size not in (18, 34)) or (fixed and match["kind"]):
        return None
    base: dict[str, Any] = {"block": block, "depths": depths, "widths": _WIDTHS, "shortcut": "B", "stride_in": "3x3",
                            "stem": "imagenet", "classes": 1000, "stem_channels": (64,)}  # fmt: skip
    groups, each = (int(match[key] or 0) for key in ("groups", "each"))
    groups, each = (64, 4) if family == "senet" else (groups, each)
    if ("resnext" in family or family == "senet") != bool(groups) or (family == "wide_resnet") != bool(match["wider"]):
        return None
    factor = groups * each if groups else 64 * int(match["wider"] or 1)
    if block == "basic" and factor != 64:
        return None
    base |= {"widths": tuple(width * factor // 64 for width in _WIDTHS), "groups": groups or 1}
    base["outputs"] = tuple(width * EXPANSION[block] for width in _WIDTHS)
    base |= _stem_of(stem) | ({"stem_channels": (64, 64, 128)} if size == 201 else {})
    if family.startswith(("se", "eca", "resnetrs")):
        base |= _attention(family, base["outputs"])
    if family == "plain":
        base["shortcut"] = "none"
    if family == "senet":
        base |= {"narrowing": 2, "shortcut_kernel": 3}
    if family == "resnetrs":
        base["pool"] = "conv"
    if "aa" in family or "blur" in family:
        base["antialias"] = "blur" if "blur" in family else "average"
    if light:
        base["shortcut_pool"] = True
    return base | ({"norm": "group"} if match["gn"] else {})


def _stem_of(kind: str) -> dict[str, Any]:
    stems = {"c": (32, 32, 64), "d": (32, 32, 64), "s": (64, 64, 128), "t": (24, 32, 64)}
    if kind not in stems:
        return {}
    return {"stem": "deep", "stem_channels": stems[kind], "shortcut_pool": kind in "dt"}


def _attention(family: str, outputs: tuple[int, ...]) -> dict[str, Any]:
    if family.startswith("eca"):  # Wang et al. 2019: the nearest odd number above (log2 C + 1) / 2
        kernels = (count.bit_length() // 2 for count in outputs)
        return {"attention": "eca", "squeezed": tuple(max(k + 1 - k % 2, 3) for k in kernels)}
    share = 4 if family == "resnetrs" else 16
    return {"attention": "se", "squeezed": tuple(max(8, count // share) for count in outputs)}


def _small(block: BlockKind, blocks: int, widths: tuple[int, ...]) -> dict[str, Any]:
    return {"block": block, "depths": (blocks,) * 3, "widths": widths, "shortcut": "B", "stride_in": "3x3",
            "stem": "cifar", "stem_channels": (16,), "classes": 10}  # fmt: skip


def _preactivated(base: dict[str, Any]) -> dict[str, Any]:
    return base | {"preactivation": "activated", "stem_norm": False, "final_norm": True}


def _suffixes(match: re.Match[str], base: dict[str, Any]) -> dict[str, Any]:
    """What -cifar, -v1, -v2 and -A, -B, -C change; raises UsageError where they cannot."""
    name, changes = match[0], dict[str, Any]()
    version = (match["version"] or "").lower()
    if match["small"]:  # github.com/kuangliu/pytorch-cifar
        changes |= {"stem": "cifar", "pool": "none"}
    if version == "-v2" and base.get("preactivation") is None:
        changes |= _preactivated({}) | ({"final_norm": False} if match["small"] else {})
    if version == "-v1":
        if base["block"] == "basic":
            raise UsageError(f"architecture '{name}': -v1 is about bottleneck blocks; it has none")
        changes["stride_in"] = "first"
    if match["option"]:
        if base["shortcut"] == "none":
            raise UsageError(f"architecture '{name}': a plain network has no shortcuts, so no option {match['option']}")
        changes["shortcut"] = match["option"].upper()
    return changes


@lru_cache(maxsize=1)
def _known() -> Mapping[ModelSpec, str]:
    found: dict[ModelSpec, str] = {}
    for name in (*architecture_names(), *family_names()):
        match = _NAME.fullmatch(name)
        assert match, name
        base = _base(match)
        assert base, name
        found.setdefault(_bare(replace(ModelSpec(name=name, **base), **_suffixes(match, base))), name)
    return found


def _bare(spec: ModelSpec) -> ModelSpec:
    return replace(spec, name="", classes=1, hidden=(), bias=True, channels=3)


def canonical(spec: ModelSpec) -> ModelSpec:
    """The same network under its usual name, with what departs from it after the name."""
    known = _known()
    bare = _bare(spec)
    if bare in known:
        return replace(spec, name=known[bare])
    v1 = "-v1" if spec.block == "bottleneck" and spec.stride_in == "first" else ""
    for option in _OPTIONS if spec.shortcut in _OPTIONS and spec.preactivation == "none" else ():
        name = known.get(replace(bare, shortcut=option, stride_in="3x3"))
        if name:
            return replace(spec, name=f"{name}{v1}{'' if option == spec.shortcut else f'-{spec.shortcut}'}")
    return replace(spec, name=_described(spec, bare))


def _described(spec: ModelSpec, bare: ModelSpec) -> str:
    """The nearest name and what differs from it, if that can be said; else the family and the layers."""
    said = {field: key for key, field in _SETTABLE.items() if field != "stem"}
    for other, name in _known().items():
        differing = [f.name for f in fields(bare) if getattr(bare, f.name) != getattr(other, f.name)]
        if said.keys() >= set(differing):
            values = {field: getattr(bare, field) for field in differing} | {"pool": bare.pooling}
            return ",".join([name, *(f"{said[field]}={values[field]}" for field in differing)])
    return f"{'plain' if spec.shortcut == 'none' else 'resnet'}{spec.layers} of its own kind"
