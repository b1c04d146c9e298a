"""The paper's tests by name, completed by each model's own preprocessing."""

from collections.abc import Sequence
from dataclasses import dataclass

from resnet_infer.backends.load import Model
from resnet_infer.errors import UsageError
from resnet_infer.spec.protocols import Average, Protocol, protocol_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """A protocol's name and what is asked of it; None is what the model's checkpoint is tested with."""

    __test__ = False  # pytest takes classes of this name for tests
    name: str
    resize: int | None = None
    crop: int | None = None
    scales: tuple[int, ...] | None = None
    mirror: bool | None = None
    average: Average | None = None

    def for_model(self, model: Model) -> Protocol:
        """The protocol in this model's preprocessing; raises UsageError if it cannot be."""
        return protocol_for(
            self.name,
            model.manifest.spec,
            model.manifest.preprocessing,
            resize=self.resize,
            crop=self.crop,
            scales=self.scales,
            mirror=self.mirror,
            average=self.average,
        )


AsProtocol = str | Test | Protocol
"""single-crop, ten-crop or multiscale; or one of these with its settings."""


def single_crop(*, resize: int | None = None, crop: int | None = None) -> Test:
    """The centre crop of `crop` pixels of the image with its shorter side at `resize`."""
    return Test(name="single-crop", resize=resize, crop=crop)


def ten_crop(*, resize: int | None = None, crop: int | None = None, mirror: bool | None = None) -> Test:
    """Corners and centre of the image and of its mirror, softmax averaged (the paper's section 3.4, Tables 2 and 3)."""
    return Test(name="ten-crop", resize=resize, crop=crop, mirror=mirror)


def multi_scale(
    *, scales: Sequence[int] | None = None, mirror: bool | None = None, average: Average | None = None
) -> Test:
    """The whole image and its mirror at shorter sides `scales`, fully convolutional (section 3.4, Table 4)."""
    return Test(name="multiscale", scales=None if scales is None else tuple(scales), mirror=mirror, average=average)


def protocols_of(asked: AsProtocol | Sequence[AsProtocol], model: Model) -> tuple[Protocol, ...]:
    """What is asked for, as this model is tested; raises UsageError for an unknown name or impossible settings."""
    several = [asked] if isinstance(asked, (str, Test, Protocol)) else list(asked)
    if not several:
        raise UsageError("there are no protocols in the list; give single-crop, ten-crop or multiscale")
    tests = [Test(name=each) if isinstance(each, str) else each for each in several]
    return tuple(each.for_model(model) if isinstance(each, Test) else each for each in tests)
