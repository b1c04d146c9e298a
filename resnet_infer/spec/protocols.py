"""The test protocols as data: which views of an image are scored, with which head, and how scores are averaged.

Sources: the paper's section 3.4 (10-crop; "the fully-convolutional form", "average the scores at multiple scales")
and the works it refers to. 10-crop is the authors' release: corners and centre of the rectangular image with its
shorter side at 256 and of its mirror, softmax averaged. For the dense test the sources differ, so the average is a
switch: `window-softmax` (SPP-net 3.1.5 and He's PReLU paper: softmax of every 7x7 window, then the mean),
`map-logits` (VGG 3.2: mean of the score map, softmax, then the mean over mirror and scales), `gap` (global average
pooling, torchvision's forward at another size). At the native 224x224 the three coincide.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from resnet_infer.errors import UsageError
from resnet_infer.spec.architectures import Head, ModelSpec
from resnet_infer.spec.preprocessing import Preprocessing

Crops = Literal["center", "five", "whole"]
Average = Literal["window-softmax", "map-logits", "gap"]
Size = tuple[int, int]
"""(height, width) in pixels."""

PAPER_SCALES = (224, 256, 384, 480, 640)
CIFAR_SCALES = (32, 36, 40, 44, 48)
PROTOCOL_NAMES = ("single-crop", "ten-crop", "multiscale")


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of the resized image, all in pixels: what is rendered and batched."""

    resize: Size
    top: int
    left: int
    height: int
    width: int
    interpolation: str = "bilinear"


@dataclass(frozen=True, slots=True)
class View:
    """One rendering of one image: a tile, mirrored left to right or not, and its share in the average."""

    tile: Tile
    mirrored: bool
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """The views of an image, the head that scores them, and how the scores are averaged."""

    name: str
    scales: tuple[int, ...]
    """Shorter sides in pixels. Every scale weighs the same, every view within a scale too."""
    crops: Crops
    crop: int
    """Side in pixels of the square crop; 0 for the whole image."""
    mirror: bool
    average: Average
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if not self.scales or not all(1 <= s <= 8192 for s in self.scales):
            raise UsageError(f"{self.name}: scales must be 1..8192 pixels; got {list(self.scales)}")
        if len(set(self.scales)) != len(self.scales):
            raise UsageError(f"{self.name}: a scale is given twice: {list(self.scales)}")
        if self.crops != "whole" and not 1 <= self.crop <= min(self.scales):
            raise UsageError(
                f"{self.name}: crop {self.crop} must be within the resized shorter side {min(self.scales)}; "
                "give a larger --resize or a smaller --crop"
            )
        if self.average not in get_args(Average):
            raise UsageError(f"dense average must be one of {', '.join(get_args(Average))}; got '{self.average}'")

    @property
    def head(self) -> Head:
        """The head whose scores the average is defined on."""
        return "pooled" if self.average == "gap" else "dense"

    def views(self, height: int, width: int) -> tuple[View, ...]:
        """Every view of an image of this size in pixels; the weights sum to 1."""
        views: list[View] = []
        for scale in self.scales:
            resized = shorter_side_to(scale, height, width)
            tiles = self._tiles(resized)
            mirrored = [_mirror_image_of(tile) for tile in tiles] if self.mirror else []
            weight = 1 / (len(self.scales) * (len(tiles) + len(mirrored)))
            views += [View(tile, False, weight) for tile in tiles]
            views += [View(tile, True, weight) for tile in mirrored]
        return tuple(views)

    def _tiles(self, resized: Size) -> list[Tile]:
        height, width = resized
        if self.crops == "whole":
            return [Tile(resized, 0, 0, height, width, self.interpolation)]
        bottom, right = height - self.crop, width - self.crop
        center = (round(bottom / 2), round(right / 2))  # torchvision's rounding: half to even
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)] if self.crops == "five" else []
        side = self.crop
        return [Tile(resized, top, left, side, side, self.interpolation) for top, left in (*corners, center)]

    def shapes(self, image_sizes: Iterable[Size]) -> tuple[Size, ...]:
        """The distinct network input sizes (height, width) that images of these sizes give, smallest first."""
        views = (view for size in image_sizes for view in self.views(*size))
        return tuple(sorted({(v.tile.height, v.tile.width) for v in views}, key=lambda s: (s[0] * s[1], s)))

    def describe(self) -> str:
        """One line in plain words."""
        scales = ", ".join(map(str, self.scales))
        mirror = " and of its mirror image" if self.mirror else ""
        if self.crops == "whole":
            average = {
                "window-softmax": "softmax of every window, averaged",
                "map-logits": "mean logits of the map, softmax, averaged",
                "gap": "global average pooling, softmax, averaged",
            }[self.average]
            return f"whole image at shorter side {scales}{mirror}; {average}, every scale alike"
        crops = {"center": "centre crop", "five": "four corners and centre"}[self.crops]
        averaged = " averaged" if self.crops == "five" else ""
        return f"{crops} {self.crop} at shorter side {scales}{mirror}; softmax{averaged}"


def shorter_side_to(scale: int, height: int, width: int) -> Size:
    """The size after resizing the shorter side to `scale` pixels; the longer is truncated, as torchvision does."""
    if height <= width:
        return scale, int(scale * width / height)
    return int(scale * height / width), scale


def _mirror_image_of(tile: Tile) -> Tile:
    """The tile which, mirrored, is this rectangle of the mirrored image.

    The network's stride grid is not symmetric, so the mirrored pixels must be run; a score map is never mirrored.
    """
    return replace(tile, left=tile.resize[1] - tile.left - tile.width)


def single_crop(resize: int = 256, crop: int = 224, interpolation: str = "bilinear") -> Protocol:
    """The centre crop of the image with its shorter side at `resize`."""
    return Protocol(
        name="single-crop",
        scales=(resize,),
        crops="center",
        crop=crop,
        mirror=False,
        average="gap",
        interpolation=interpolation,
    )


def ten_crop(resize: int = 256, crop: int = 224, *, mirror: bool = True, interpolation: str = "bilinear") -> Protocol:
    """The paper's 10-crop (Tables 2 and 3): corners and centre of the image and of its mirror, softmax averaged."""
    return Protocol(
        name="ten-crop",
        scales=(resize,),
        crops="five",
        crop=crop,
        mirror=mirror,
        average="gap",
        interpolation=interpolation,
    )


def multi_scale(
    scales: tuple[int, ...] = PAPER_SCALES,
    *,
    mirror: bool = True,
    average: Average = "window-softmax",
    interpolation: str = "bilinear",
) -> Protocol:
    """The paper's fully-convolutional test (Table 4): the whole image at every scale."""
    return Protocol(
        name="multiscale",
        scales=scales,
        crops="whole",
        crop=0,
        mirror=mirror,
        average=average,
        interpolation=interpolation,
    )


def protocol_for(
    name: str,
    spec: ModelSpec,
    preprocessing: Preprocessing,
    *,
    resize: int | None = None,
    crop: int | None = None,
    scales: tuple[int, ...] | None = None,
    mirror: bool | None = None,
    average: Average | None = None,
) -> Protocol:
    """The protocol called `name` as this checkpoint is tested, with overrides; raises UsageError on nonsense.

    Ten-crop resizes to 256 for a 224 crop as the paper did, whatever the checkpoint's own single-crop resize,
    and in the same proportion for other crops.
    """
    interpolation = preprocessing.interpolation
    crop = crop or preprocessing.crop
    if name != "multiscale" and crop % spec.multiple_of:
        raise UsageError(
            f"{spec.name} takes crops whose side is a multiple of {spec.multiple_of}: its anti-aliasing and its "
            f"shortcuts differ by a row elsewhere; give --crop {max(1, crop // spec.multiple_of) * spec.multiple_of}"
        )
    if name == "single-crop":
        if mirror:
            raise UsageError("single-crop has no mirrored view; --mirror is for ten-crop and multiscale")
        return single_crop(resize or max(preprocessing.resize, crop), crop, interpolation)
    if name == "ten-crop":
        resize = resize or round(crop * 256 / 224)
        return ten_crop(resize, crop, mirror=mirror is not False, interpolation=interpolation)
    if name != "multiscale":
        raise UsageError(f"unknown protocol '{name}'; choose from {', '.join(PROTOCOL_NAMES)}")
    if spec.multiple_of > 1:
        raise UsageError(
            f"{spec.name} takes no whole images, only sides that are multiples of {spec.multiple_of}: anti-aliasing "
            "and shortcuts differ by a row elsewhere; test it by single-crop or ten-crop"
        )
    scales = scales or (PAPER_SCALES if spec.family == "imagenet" else CIFAR_SCALES)
    average = average or "window-softmax"
    if average != "gap" and min(scales) < spec.min_dense_side:
        raise UsageError(
            f"scale {min(scales)} is too small for {spec.name}'s {spec.window}x{spec.window} window; "
            f"the dense head needs a shorter side of at least {spec.min_dense_side} pixels"
        )
    return multi_scale(scales, mirror=mirror is not False, average=average, interpolation=interpolation)


def protocol_of_head(
    head: Head, spec: ModelSpec, preprocessing: Preprocessing, scales: tuple[int, ...] | None = None
) -> Protocol:
    """What a file with this head is for: single crops if pooled, whole images at the scales if dense.

    A pooled head given scales takes whole images too, and averages over each. Raises what `protocol_for` does.
    """
    if head == "pooled" and scales is None:
        return protocol_for("single-crop", spec, preprocessing)
    average: Average = "gap" if head == "pooled" else "window-softmax"
    return protocol_for("multiscale", spec, preprocessing, scales=scales, average=average)
