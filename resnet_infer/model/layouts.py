"""Foreign state dicts to our names: what a trainer wrapped around them, and how other libraries name the layers.

Layouts: torchvision and timm (`conv1 bn1 layerX.Y... fc`), akamaster's and kuangliu's nets for CIFAR (`linear`,
`shortcut`), mmpretrain (`backbone. head.fc. stem.`), timm's resnetv2 (`stem.conv stages.X.blocks.Y`), wide ResNets
(`block1.layer.0`), Hugging Face (`resnet.embedder`); any of them wrapped by a trainer (`state_dict`, `model`, EMA,
Lightning, VISSL) or under a prefix (`module.`, `backbone.`, ...), which the place of `conv1.weight` tells.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from resnet_infer.console import note
from resnet_infer.errors import CheckpointError
from resnet_infer.model.transformers_layout import from_transformers, is_transformers

StateDict = dict[str, Tensor]

WRAPPINGS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model", "net", "weights", "params",
             "classy_state_dict", "base_model", "trunk", "teacher")  # fmt: skip
"""Averaged (EMA) weights first."""
MAX_WRAPPINGS = 8
"""Wrappings around one another; a pickle may even hold itself."""
NOT_OF_THE_NETWORK = re.compile(
    r"(^|\.)(criterion|loss|loss_fn|losses|metrics?|(train|val|test)_(acc|accuracy|loss|metrics?)|class_weights?"
    r"|pos_weight|n_averaged|total_ops|total_params|initted|step)(\.|$)"
)
"""What trainers, losses and profilers leave beside a network, none of which is used when it classifies."""
PROJECTIONS = re.compile(
    r"(^|\.)(encoder_q|encoder_k|momentum_encoder|queue|queue_ptr|projection_head|prototypes|projector|predictor"
    r"|dino_head|online_encoder|target_encoder)(\.|$)"
)
"""Of contrastive pretraining: where one of these is, what looks like a classifier is a projection."""
NO_CLASSIFIER = "has no classifier: {} is missing; give a file that has it with --head-from FILE"
_CLASSIFIERS = ("fc", "linear", "classifier", "head.fc", "head", "cls_head.fc", "last_linear")
_RENAMED = (
    (re.compile(r"^stem\.conv\."), "conv1."),
    (re.compile(r"^stem\.7\."), "bn1."),
    (re.compile(r"^stem\.([0-6])\."), r"conv1.\1."),
    (re.compile(r"^block([1-9])\.layer\.([0-9]+)\."), lambda m: f"layer{m[1]}.{m[2]}."),
    (re.compile(r"^stages\.([0-9])\.blocks\.([0-9]+)\."), lambda m: f"layer{int(m[1]) + 1}.{m[2]}."),
    (re.compile(r"^(norm|bn)\."), "bn."),
    (re.compile(r"\.norm([123])\."), r".bn\1."),
    (re.compile(r"\.(convShortcut|downsample\.conv)\."), ".downsample.0."),
    (re.compile(r"\.downsample\.norm\."), ".downsample.1."),
    (re.compile(r"\.shortcut\."), ".downsample."),
    (re.compile(r"\.se_module\."), ".se."),
    (re.compile(r"\.se_layer\.conv([12])\.conv\."), r".se.fc\1."),
)


def unwrap(loaded: object, where: str) -> StateDict:
    """The state dict inside what a training script saved, under our names; a note says what was left out.

    Averaged (EMA) weights are preferred where both are stored. Raises CheckpointError if there are no tensors, or no
    network of the family, saying what is missing.
    """
    loaded = _inside(loaded)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{where}: holds a {type(loaded).__name__}, not a state dict; save model.state_dict() instead"
        )
    tensors = {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        keys = ", ".join(k[:40] for k in list(loaded)[:6] if isinstance(k, str)) or "nothing"
        raise CheckpointError(f"{where}: no tensors in it (top-level keys: {keys}); save model.state_dict() instead")
    if is_transformers(tensors):
        tensors = from_transformers(tensors)
    return _in_order(_network(tensors, where), where)


def with_classifier(tensors: StateDict, loaded: object, where: str) -> StateDict:
    """The tensors with the classifier that another file holds; raises CheckpointError if it has none."""
    inner = _inside(loaded)
    held = {_without(k): v for k, v in inner.items() if isinstance(v, Tensor)} if isinstance(inner, Mapping) else {}
    for prefix in sorted(
        {key[: key.index(name)] for key in held for name in _CLASSIFIERS if f"{name}." in key}, key=len
    ):
        near = {key.removeprefix(prefix): tensor for key, tensor in held.items() if key.startswith(prefix)}
        if head := _classifier(near):
            return {k: v for k, v in tensors.items() if not k.startswith("fc.")} | _moved(near, head)
    raise CheckpointError(f"{where}: has no classifier: fc.weight is missing")


def _inside(loaded: object) -> object:
    """What a trainer wrapped."""
    for _ in range(MAX_WRAPPINGS):
        if isinstance(loaded, Mapping) and (inner := [loaded[w] for w in WRAPPINGS if _holds_mapping(loaded, w)]):
            loaded = inner[0]
    return loaded


def _holds_mapping(loaded: Mapping[Any, Any], key: str) -> bool:
    return isinstance(loaded.get(key), Mapping)


def _network(tensors: StateDict, where: str) -> StateDict:
    """The network's own tensors, without a prefix, its classifier under `fc.`."""
    renamed = {_without(key): tensor for key, tensor in tensors.items()}
    prefix = _prefix(renamed, where)
    own = {k.removeprefix(prefix): v for k, v in renamed.items() if k.startswith(prefix)}
    outside = {k: v for k, v in renamed.items() if not k.startswith(prefix)}
    contrastive = any(PROJECTIONS.search(key) for key in tensors)
    head = None if contrastive else _classifier(own) or None
    dropped_heads = _CLASSIFIERS if contrastive else (head.rstrip("."),) if head else ()
    found = {k: v for k, v in own.items() if not _belongs(k, dropped_heads)}
    if head:
        found |= _moved(own, head)
    elif not contrastive:
        parents = {".".join(prefix.split(".")[:n]) for n in range(prefix.count("."))} | {""}
        for parent in sorted(parents, key=len, reverse=True):
            near = {k.removeprefix(parent).lstrip("."): v for k, v in outside.items() if k.startswith(parent)}
            if head := _classifier(near):
                found |= _moved(near, head)
                outside = {k: v for k, v in outside.items() if not k.removeprefix(parent).lstrip(".").startswith(head)}
                break
    if contrastive:
        note(f"{where}: was trained without classes (MoCo, SwAV, BYOL or the like); its projection head is left out")
        return {k: v for k, v in found.items() if not PROJECTIONS.search(k)}
    dropped = [k for k in (*found, *outside) if NOT_OF_THE_NETWORK.search(k)]
    if strange := [k for k in outside if k not in dropped]:
        raise CheckpointError(
            f"{where}: has {_some(strange)} beside the network '{prefix}', which may change its scores; "
            "save the network's own state_dict()"
        )
    if dropped:
        note(f"{where}: {_some(dropped)} left out: no part of the network")
    return {k: v for k, v in found.items() if k not in dropped}


def _without(key: str) -> str:
    """The key without what wrappers of modules insert."""
    return re.sub(r"(^|\.)(?:(?:module|_orig_mod)\.)+", r"\1", key)


def _prefix(tensors: StateDict, where: str) -> str:
    """What stands before the network's first convolution; raises CheckpointError if there is none, or several."""
    found = []
    for key in tensors:
        for first in ("conv1.weight", "conv1.0.weight", "stem.conv.weight", "stem.0.weight"):
            if key.endswith(first) and (not (prefix := key.removesuffix(first)) or prefix.endswith(".")):
                stages = ("layer1.0.", "stages.0.blocks.0.", "block1.layer.0.")
                if any(other.startswith(tuple(prefix + stage for stage in stages)) for other in tensors):
                    found.append(prefix)
    if not found:
        missing = "conv1.weight" if "layer1.0.conv1.weight" in tensors else "conv1.weight and layer1.0"
        if "layer1.0.conv1.weight" not in tensors and "conv1.weight" in tensors:
            missing = "layer1.0"
        raise CheckpointError(f"{where}: not a ResNet: {missing} is missing")
    found = list(dict.fromkeys(found))
    if len(found) > 1:
        whole = [prefix for prefix in found if _classifier({k.removeprefix(prefix): v for k, v in tensors.items()
                                                            if k.startswith(prefix)})]  # fmt: skip
        queried = [prefix for prefix in found if "encoder_q" in prefix or "teacher" in prefix or "online" in prefix]
        chosen = whole if len(whole) == 1 else queried if len(queried) == 1 else []
        if not chosen:
            raise CheckpointError(
                f"{where}: holds several networks ({', '.join(found[:4])}); save the one to test alone"
            )
        found = chosen
    return found[0]


def _classifier(tensors: Mapping[str, Tensor]) -> str:
    """The name of the classifier, with a dot; empty without one."""
    for name in _CLASSIFIERS:
        if any(re.fullmatch(rf"{re.escape(name)}\.([0-9]+\.)?weight", key) for key in tensors):
            return f"{name}."
    return ""


def _belongs(key: str, names: tuple[str, ...]) -> bool:
    return key.startswith(tuple(f"{name}." for name in names))


def _moved(tensors: Mapping[str, Tensor], head: str) -> StateDict:
    """The classifier's tensors under `fc.`, layers numbered 0, 2, ... if there are several; 1x1 convolutions flat."""
    found = {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}
    found = {k: v[:, :, 0, 0] if v.ndim == 4 and v.shape[2:] == (1, 1) else v for k, v in found.items()}
    numbers = sorted({int(k.split(".")[0]) for k in found if k.split(".")[0].isdecimal()})
    if len(numbers) == 1:
        found = {k.removeprefix(f"{numbers[0]}."): v for k, v in found.items()}
    elif numbers:
        place = {str(number): str(2 * index) for index, number in enumerate(numbers)}
        found = {
            ".".join([place.get(k.split(".")[0], k.split(".")[0]), *k.split(".")[1:]]): v for k, v in found.items()
        }
    return {f"fc.{key}": tensor for key, tensor in found.items()}


def _in_order(tensors: StateDict, where: str) -> StateDict:
    """Layers under torchvision's and timm's names."""
    named = {_rename(key): tensor for key, tensor in tensors.items()}
    if any(key.endswith(".downsample.1.weight") and tensor.ndim == 4 for key, tensor in named.items()):
        # a pooled shortcut takes the first place (timm); mmpretrain leaves it out where nothing is to be pooled
        early = {
            k[: k.rindex(".0.weight")] for k, v in named.items() if k.endswith(".downsample.0.weight") and v.ndim == 4
        }
        named = {
            _later(key) if key.split(".downsample.")[0] + ".downsample" in early else key: v for key, v in named.items()
        }
    last = max((k for k in named if re.fullmatch(r"layer[0-9]\.0\.conv[123]\.weight", k)), default="")
    norm = named.get("bn1.weight")
    if (
        norm is not None
        and "bn.weight" not in named
        and last
        and norm.shape == named[last].shape[:1] != _stem_out(named)
    ):
        named = {re.sub(r"^bn1\.", "bn.", key): tensor for key, tensor in named.items()}  # the last, by another name
    return named


def _stem_out(tensors: Mapping[str, Tensor]) -> Any:
    stem = [key for key in ("conv1.weight", "conv1.6.weight") if key in tensors]
    return tensors[stem[0]].shape[:1] if stem else None


def _later(key: str) -> str:
    return re.sub(r"\.downsample\.([01])\.", lambda m: f".downsample.{int(m[1]) + 1}.", key)


def _rename(key: str) -> str:
    for pattern, name in _RENAMED:
        key = pattern.sub(name, key)
    return key


def _some(keys: Any, most: int = 4) -> str:
    keys = list(keys)
    return ", ".join(str(key)[:60] for key in keys[:most]) + (f", ... {len(keys)} in all" if len(keys) > most else "")
