"""What a network of the ResNet family is, as plain values that a manifest holds.

Sources: He et al. 2015 (arXiv 1512.03385) Table 1 (ImageNet), section 4.2 (CIFAR-10), section 3.3 (shortcut options);
He et al. 2016 (arXiv 1603.05027) for pre-activation; Xie et al. 2016 for groups; He et al. 2018 (arXiv 1812.01187) for
deep stems and pooled shortcuts; timm/models/resnet.py for anti-aliasing, attention and a convolution that pools.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args, get_origin

from resnet_infer.errors import UsageError

BlockKind = Literal["basic", "bottleneck"]
Shortcut = Literal["A", "B", "C", "none"]
Stem = Literal["imagenet", "cifar", "deep"]
Stride = Literal["first", "3x3"]
Pool = Literal["max", "caffe", "none", "conv"]
"""`max` is padded on all sides, `caffe` on none: its last window reaches over the edge; `conv` is a 3x3 of stride 2."""
Antialias = Literal["none", "blur", "average"]
Attention = Literal["none", "se", "eca"]
Activation = Literal["relu", "silu", "gelu", "leaky-relu"]
Norm = Literal["batch", "group"]
Preactivation = Literal["none", "activated", "raw"]

EXPANSION: Mapping[str, int] = {"basic": 1, "bottleneck": 4}
MAX_BLOCKS_PER_STAGE = 1000
MAX_CHANNELS = 32768
NORM_GROUPS = 32
"""Of group norm, which no tensor tells: Wu and He 2018 and timm."""


@dataclass(frozen=True, kw_only=True)
class ArchitectureRecord:
    """The fields of a `ModelSpec`, checked."""

    name: str
    block: BlockKind
    depths: tuple[int, ...]
    """Blocks per stage."""
    widths: tuple[int, ...]
    """Channels of the 3x3 convolutions per stage."""
    shortcut: Shortcut
    stride_in: Stride
    """Which convolution of a downsampling bottleneck strides; basic blocks always stride in their first."""
    stem: Stem
    """`imagenet`: a 7x7 convolution of stride 2; `cifar`: a 3x3 of stride 1; `deep`: three 3x3 of strides 2, 1, 1."""
    classes: int
    outputs: tuple[int, ...] = ()
    """Channels after a block per stage, where they are not the widths, times 4 in bottlenecks."""
    groups: int = 1
    """Of the 3x3 convolutions (ResNeXt's cardinality)."""
    narrowing: int = 1
    """By how much a bottleneck's first convolution is narrower than its 3x3: 2 in SENet-154."""
    stem_channels: tuple[int, ...] = ()
    """Channels after each convolution of the stem, where they are not the first width."""
    pool: Pool | Literal[""] = ""
    """What halves the map after the stem, where it is not `max`, or `none` after the cifar stem."""
    antialias: Antialias = "none"
    """What does a stride's work after a convolution of stride 1: a [1 2 1] blur (Zhang 2019), or a mean of 2x2."""
    shortcut_pool: bool = False
    """A mean of 2x2 does the stride of projections (ResNet-D)."""
    shortcut_kernel: int = 1
    """Of strided projections: 3 in SENet-154."""
    attention: Attention = "none"
    """Squeeze-and-excitation (Hu et al. 2017) or ECA (Wang et al. 2019) on a block's branch."""
    squeezed: tuple[int, ...] = ()
    """Per stage: channels between the two layers of squeeze-and-excitation, or ECA's kernel."""
    activation: Activation = "relu"
    norm: Norm = "batch"
    dilated: int = 0
    """So many of the last stages dilate instead of striding."""
    preactivation: Preactivation = "none"
    """Normalisation and activation before each convolution; projections read what is activated, or the raw input."""
    stem_norm: bool = True
    """Whether normalisation and activation follow the stem's last convolution."""
    final_norm: bool = False
    """Whether they follow the last block."""
    hidden: tuple[int, ...] = ()
    """Widths of the classifier's hidden layers, each with ReLU."""
    bias: bool = True
    """Whether the classifier has one."""
    channels: int = 3
    """Of the input."""

    def __post_init__(self) -> None:
        self._check_words()
        usual = {"outputs": self._usual_outputs, "stem_channels": self._usual_stem, "pool": self._usual_pool}
        for field, value in usual.items():  # what is usual is left out, so that equal networks are equal
            if getattr(self, field) == value:
                object.__setattr__(self, field, "" if field == "pool" else ())
        self._check_numbers()

    @property
    def _usual_outputs(self) -> tuple[int, ...]:
        return tuple(width * EXPANSION[self.block] for width in self.widths)

    @property
    def _usual_stem(self) -> tuple[int, ...]:
        return self.widths[:1] * (3 if self.stem == "deep" else 1)

    @property
    def _usual_pool(self) -> Pool:
        return "none" if self.stem == "cifar" else "max"

    @property
    def block_outputs(self) -> tuple[int, ...]:
        """Channels after a block per stage."""
        return self.outputs or self._usual_outputs

    @property
    def stem_outputs(self) -> tuple[int, ...]:
        """Channels after each convolution of the stem."""
        return self.stem_channels or self._usual_stem

    @property
    def pooling(self) -> Pool:
        """What halves the map after the stem."""
        return self.pool or self._usual_pool

    def _check_words(self) -> None:
        known = {
            "block": BlockKind, "shortcut": Shortcut, "stride_in": Stride, "stem": Stem, "antialias": Antialias,
            "attention": Attention, "activation": Activation, "norm": Norm, "preactivation": Preactivation,
        }  # fmt: skip
        for field, kinds in known.items():
            if getattr(self, field) not in get_args(kinds):
                value = str(getattr(self, field))[:40]
                raise UsageError(f"architecture '{self.name}': unknown {field} '{value}'; {_or(get_args(kinds))}")
        if self.pool not in ("", *get_args(Pool)):
            raise UsageError(f"architecture '{self.name}': unknown pool '{str(self.pool)[:40]}'; {_or(get_args(Pool))}")

    def _check_numbers(self) -> None:
        where, stages = f"architecture '{self.name}'", len(self.depths)
        if not 1 <= stages <= 8 or {len(self.widths), len(self.block_outputs)} != {stages}:
            raise UsageError(f"{where}: needs one width per stage, 1 to 8 stages")
        if len(self.squeezed) != (0 if self.attention == "none" else stages) or not 0 <= self.dilated < stages:
            raise UsageError(
                f"{where}: needs one squeezed width per stage with attention, and dilates all but the first"
            )
        if len(self.stem_outputs) != (3 if self.stem == "deep" else 1) or len(self.hidden) > 4:
            raise UsageError(f"{where}: needs one number of channels for every convolution of the stem")
        if not all(1 <= depth <= MAX_BLOCKS_PER_STAGE for depth in self.depths):
            raise UsageError(f"{where}: blocks per stage must be 1..{MAX_BLOCKS_PER_STAGE}")
        counts = (*self.widths, *self.block_outputs, *self.stem_outputs, *self.squeezed, *self.hidden)
        if not all(1 <= count <= MAX_CHANNELS for count in counts) or not 1 <= self.classes <= 10**6:
            raise UsageError(f"{where}: widths or classes out of range")
        if self.groups < 1 or self.narrowing < 1 or any(w % (self.groups * self.narrowing) for w in self.widths):
            raise UsageError(f"{where}: widths are no multiples of its {self.groups} groups")
        if self.channels not in (1, 3, 4) or self.shortcut_kernel not in (1, 3):
            raise UsageError(f"{where}: takes images of 1, 3 or 4 channels, and projects by 1x1 or 3x3")
        strided_early = self.block == "bottleneck" and self.stride_in == "first"
        if self.antialias != "none" and (strided_early or self.pool in ("conv", "caffe") or self.dilated):
            raise UsageError(f"{where}: anti-aliasing is for strides in the 3x3, without dilation")
        if self.dilated and (self.block == "basic" or self.shortcut_pool):
            raise UsageError(f"{where}: stages dilate in bottlenecks whose shortcuts do not pool")
        if self.preactivation != "none" and (self.shortcut in ("A", "none") or self.attention != "none"):
            raise UsageError(f"{where}: pre-activated networks are run with shortcuts B or C, and without attention")
        if self.preactivation != "none" and (self.antialias != "none" or self.shortcut_pool or self.norm != "batch"):
            raise UsageError(f"{where}: pre-activated networks are run with batch norm and plain strides alone")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, of earlier releases too; raises UsageError for values no network has."""
        try:
            known = {field.name: field for field in fields(cls)}
            if unknown := [str(key)[:40] for key in values if key not in known]:
                raise UsageError(f"architecture record has an unknown '{unknown[0]}'; a later release wrote it")
            given = {key: _checked(key, value, known[key].type) for key, value in values.items()}
            return cls(**given | {"name": given["name"][:100]})
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise UsageError(f"architecture record is incomplete or malformed: {error!r}") from error


def _checked(key: str, value: Any, kind: Any) -> Any:
    """A field's value if it is of the field's type; raises TypeError."""
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or not all(type(each) is int for each in value):
            raise TypeError(f"{key} is not a list of whole numbers")
        return tuple(value)
    wanted = kind if kind in (int, bool) else str
    if type(value) is not wanted:
        raise TypeError(f"{key} is no {wanted.__name__}")
    return value


def _or(kinds: tuple[Any, ...]) -> str:
    return f"it is one of {', '.join(map(str, kinds))}"
