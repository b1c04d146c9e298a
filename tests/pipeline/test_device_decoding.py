"""JPEG files decoded on a device that is not there: who waits for whom, and files that the decoder refuses."""

import io
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import Gpu, fake_gpu
from PIL import Image
from torch import Tensor

from resnet_infer.pipeline import decode as decoding
from resnet_infer.pipeline.decode import decode_jpegs
from resnet_infer.pipeline.packing import How, ImageRecord, pack, prepare, unpack
from resnet_infer.pipeline.transfer import Upload
from resnet_infer.spec.protocols import single_crop

SIZES = ((240, 320), (300, 260))
DEVICE = torch.device("cuda", 0)


def jpeg(number: int) -> bytes:
    height, width = SIZES[number % len(SIZES)]
    pixels = np.random.default_rng(number).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(file, "JPEG")
    return file.getvalue()


def files(count: int) -> list[Tensor]:
    return [torch.frombuffer(bytearray(jpeg(number)), dtype=torch.uint8) for number in range(count)]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """With a decoder as torchvision's on nvJPEG: results lie in memory of the current stream, which may have been freed
    there a moment ago; it writes them on a stream of its own, at once, and the host waits for it."""
    with fake_gpu(monkeypatch) as device:

        def decode_jpeg(given: Sequence[Tensor], *, mode: Any, device: Any) -> list[Tensor]:
            current = torch.cuda.current_stream()
            if any(gpu_.host.get(stream, 0) < time for stream, time in current.clock.items()):  # type: ignore[attr-defined]
                gpu_.faults.append("memory that queued work still uses is written over")
            own = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            images = []
            for file in given:
                pixels = np.asarray(Image.open(io.BytesIO(file.numpy().tobytes()))).transpose(2, 0, 1)
                image = torch.empty(pixels.shape, dtype=torch.uint8)
                gpu_.launch(own.cuda_stream, [], [gpu_.know(image)], partial(np.copyto, image.numpy(), pixels))
                images.append(image)
            own.synchronize()
            return images

        gpu_ = device
        monkeypatch.setattr(decoding, "decode_jpeg", decode_jpeg)
        yield device


Packed = tuple[Tensor, list[ImageRecord]]


@pytest.fixture
def packed() -> list[Packed]:
    """Three chunks as workers send them, in memory of the host."""
    chunks = []
    for first in (0, 6, 12):
        some = [prepare(n, lambda n=n: jpeg(n), How((single_crop(),), "decoding")) for n in range(first, first + 6)]  # type: ignore[misc]
        assert all(image.record.form == "jpeg" for image in some)
        chunks.append(pack(some, lambda size: torch.empty(size, dtype=torch.uint8)))
    return chunks


def test_nothing_is_written_over_and_everything_is_waited_for(packed: list[Packed], gpu: Gpu) -> None:
    """Chunk after chunk, their tiles read late on the network's stream and dropped at once."""
    upload = Upload(DEVICE)
    sums = []
    for chunk in packed:
        found = unpack([chunk], (single_crop(),), upload)
        for group in found.groups:
            sums += [int(tile.sum()) for tile in group.tiles[0].long()]
        del found, group
        gpu.notice()
    assert gpu.faults == []
    assert len(set(sums)) == 18


def test_a_decoder_on_a_busy_stream_is_a_fault_that_is_seen(gpu: Gpu) -> None:
    given = files(1)
    busy = torch.ones(8)
    assert float((busy + 1).sum()) == 16
    decoding.decode_jpeg(given, mode=decoding.ImageReadMode.RGB, device=DEVICE)
    assert gpu.faults == ["memory that queued work still uses is written over"]


@pytest.mark.parametrize("bad", [0, 3, 6])
def test_a_file_that_is_refused_does_not_change_the_others(bad: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = files(7)
    real = decoding.decode_jpeg

    def refuses(some: Any, *, mode: Any, device: Any = None) -> Any:
        if not isinstance(some, list):
            return real(some, mode=mode)
        if any(file is given[bad] for file in some):
            raise RuntimeError("Error while decoding JPEG images: Failed to decode batch: 5")
        return [real(file, mode=mode) // 2 for file in some]  # other pixels than the CPU's, as nvJPEG's are

    monkeypatch.setattr(decoding, "decode_jpeg", refuses)
    found = decode_jpegs(given, torch.device("cpu"))
    for number, image in enumerate(found):
        assert isinstance(image, Tensor)
        expected = real(given[number], mode=decoding.ImageReadMode.RGB)
        assert torch.equal(image, expected if number == bad else expected // 2)


def test_a_decoder_that_is_missing_is_one_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = decoding.decode_jpeg

    def missing(some: Any, *, mode: Any, device: Any = None) -> Any:
        if isinstance(some, list):
            raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")
        return real(some, mode=mode)

    with fake_gpu(monkeypatch):
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        monkeypatch.setattr(decoding, "decode_jpeg", missing)
        monkeypatch.setattr(decoding, "_said", set())
        found = [decode_jpegs(files(5), DEVICE) for _ in range(2)]
    assert all(isinstance(image, Tensor) for images in found for image in images)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the CPU decodes JPEG files that cuda:0 does not (decode_jpegs_cuda: torchvision not compiled" in said
