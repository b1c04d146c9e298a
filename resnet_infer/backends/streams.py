"""A CUDA stream of an engine's own beside torch's current one, ordered with it on the device, not by the host."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class OwnStream:
    """Where one engine runs. Never the default stream, which ONNX Runtime takes for none and TensorRT synchronises."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def handle(self) -> int:
        """The cudaStream_t."""
        return int(self.stream.cuda_stream)

    @contextmanager
    def turn(self) -> Iterator[torch.cuda.Stream]:
        """Work queued inside runs here: after what the current stream, which is yielded, has been given, and before
        what it is given next.

        An error leaves the stream idle, since memory of the failed run is given back while the error travels.
        """
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                yield current
        except BaseException:
            self.stream.synchronize()
            raise
        current.wait_stream(self.stream)

    def synchronize(self) -> None:
        """Wait until all that was queued here has run."""
        self.stream.synchronize()
