"""How images are brought to the network: what every pass over a source is given as one value."""

from dataclasses import dataclass, replace

from resnet_infer.pipeline.packing import Offload

IMAGE_TIMEOUT_S = 60.0
"""For one image in a worker process, from its first byte read to its last tile; the largest allowed take seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """How images get to the network.

    No score depends on any of these, but that `offload` may change pixels by a level or some, and that `strict_decode`
    leaves images without one.
    """

    batch_size: int | None = None
    """Tiles of the native size in a batch, which bounds every batch by the same number of pixels; it is halved when
    the device runs out of memory. None is what suits the device."""
    workers: int | None = None
    """Decoding worker processes; 0 decodes in this process, None is what suits the machine."""
    offload: Offload = "nothing"
    """What of preparing the images the device does: nothing, rendering, or decoding JPEG too."""
    image_timeout_s: float | None = None
    """For one image in a worker process. A value has images decoded in worker processes, where one that crashes or
    hangs costs itself alone; None guards nothing unless there are workers."""

    def guarded(self) -> "Loading":
        """The same with every image decoded in a worker process, as it may be broken."""
        return self if self.image_timeout_s else replace(self, image_timeout_s=IMAGE_TIMEOUT_S)

    strict_decode: bool = False
    """Whether a JPEG file that its decoder warns of, as damaged, is unreadable; else it is scored and named."""

    @property
    def limit_s(self) -> float:
        """Seconds for one image, wherever there are workers."""
        return self.image_timeout_s or IMAGE_TIMEOUT_S


DEFAULT = Loading()
