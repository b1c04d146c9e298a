"""What several test modules need: shared data, pictures, a small model, and scoring by its plain definition."""

import io
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread each: threads that wait for a busy core cost more than they give
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from resnet_infer.backends.base import Backend
from resnet_infer.backends.load import Model
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.resnet import ResNet, build
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

torch.set_num_threads(1)  # small networks gain nothing from more, and on a busy machine threads wait for each other
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    """Have pytest-xdist keep the order of files; by itself it begins with those of most tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process is left with one at the end while the others are idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


Picture = NDArray[np.uint8]
"""(height, width, 3), RGB."""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data sets and checkpoints beside the repository."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the folder shared/, with the data sets, is not beside the repository")
    return folder


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where the tests run as a shell's background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def picture() -> Callable[..., Picture]:
    """picture(height, width, seed): large soft shapes with a little grain, as in a photograph."""

    def draw(height: int, width: int, seed: int = 0) -> Picture:
        rng = np.random.default_rng(seed)
        coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 5, 5)))
        smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
        drawn: Picture = np.clip(smooth.numpy() + rng.normal(0, 5, (height, width, 3)), 0, 255).astype(np.uint8)
        return drawn

    return draw


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """encode(picture or Pillow image, format, **options): the bytes that Pillow writes."""

    def encoded(image: Picture | Image.Image, format: str = "PNG", **options: Any) -> bytes:
        file = io.BytesIO()
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **options)
        return file.getvalue()

    return encoded


@pytest.fixture(scope="session")
def random_net(picture: Callable[..., Picture]) -> Callable[..., ResNet]:
    """random_net(architecture): random weights whose batch norms have seen pictures, so that outputs differ."""

    def made(name: str = "resnet20", classes: int = 10) -> ResNet:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = build(spec_from_name(name, classes)).train()
        side = net.spec.native_size
        seen = torch.stack([torch.from_numpy(picture(side, side, seed)).permute(2, 0, 1) for seed in range(16)])
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = None  # the plain mean of what it sees
            net(tv.normalize(seen / 255, list(IMAGENET_MEAN), list(IMAGENET_STD)))
            net.fc.weight *= 4
        return net.eval()

    return made


@pytest.fixture(scope="session")
def small_net(random_net: Callable[..., ResNet]) -> ResNet:
    """A random resnet20 of ten classes."""
    return random_net("resnet20", 10)


@pytest.fixture(scope="session")
def model_of() -> Callable[..., Model]:
    """model_of(net, labels, **changed tensors): the model on torch on the CPU; it resizes to 40 and crops 32."""

    def made(net: ResNet, labels: Labels | None = None, **changed: Tensor) -> Model:
        state = {key: value.clone() for key, value in net.state_dict().items()}
        state |= {key.replace("__", "."): value for key, value in changed.items()}
        manifest = Manifest(spec=net.spec, preprocessing=Preprocessing(resize=40, crop=32), labels=labels)
        checkpoint = Checkpoint(name="random", manifest=manifest, state_dict=state)
        return Model(name="random", manifest=manifest, backend=TorchBackend(checkpoint, "cpu"))

    return made


@pytest.fixture(scope="session")
def in_turns() -> Callable[..., None]:
    """in_turns(backend, reference, x_BCHW, head, **tolerances): the backend gives the reference's scores.

    Of a batch and its mirror image in reverse order, in turns, twice, and read when all have run: a recorded run that
    reads or writes another's buffers has the scores of another image at every place.
    """

    def check(backend: Backend, reference: Backend, x_BCHW: Tensor, head: Head, **tolerances: Any) -> None:
        turns = [x_BCHW, x_BCHW.flip(0, 3)] * 2
        expected = [reference.run(x_BCHW, head).cpu() for x_BCHW in turns[:2]] * 2
        assert not torch.allclose(*expected[:2], **{end: 10 * value for end, value in tolerances.items()})
        scores = [backend.run(x_BCHW, head) for x_BCHW in turns]
        for actual, wanted in zip(scores, expected, strict=True):
            torch.testing.assert_close(actual.cpu(), wanted, **tolerances)

    return check


class Naive:
    """The protocols by their definition: one view at a time, torchvision's transforms, no batches, no buckets."""

    def __init__(self, net: ResNet) -> None:
        self.net = net

    def single_crop(self, image: Picture, resize: int, crop: int) -> Tensor:
        """(K,) probabilities of the centre crop."""
        return self._gap(tv.center_crop(self._resized(image, resize), [crop, crop]))

    def ten_crop(self, image: Picture, resize: int, crop: int, mirror: bool = True) -> Tensor:
        """(K,) mean softmax of torchvision's ten crops, or of five without the mirror."""
        resized_CHW = self._resized(image, resize)
        crops = tv.ten_crop(resized_CHW, [crop, crop]) if mirror else tv.five_crop(resized_CHW, [crop, crop])
        return torch.stack([self._gap(crop_CHW) for crop_CHW in crops]).mean(0)

    def multi_scale(self, image: Picture, scales: Sequence[int], average: str, mirror: bool = True) -> Tensor:
        """(K,) mean over scales of the mean over the whole image and its mirror."""
        return torch.stack([torch.stack(list(self._whole(image, s, average, mirror))).mean(0) for s in scales]).mean(0)

    def _whole(self, image: Picture, scale: int, average: str, mirror: bool) -> Iterator[Tensor]:
        resized_CHW = self._resized(image, scale)
        for view_CHW in (resized_CHW, tv.horizontal_flip(resized_CHW))[: 2 if mirror else 1]:
            if average == "gap":
                yield self._gap(view_CHW)
                continue
            logits_NK = self._windows(view_CHW)
            yield logits_NK.softmax(1).mean(0) if average == "window-softmax" else logits_NK.mean(0).softmax(0)

    @torch.inference_mode()
    def _gap(self, view_CHW: Tensor) -> Tensor:
        probs_K: Tensor = self.net(self._input(view_CHW))[0].softmax(0)
        return probs_K

    @torch.inference_mode()
    def _windows(self, view_CHW: Tensor) -> Tensor:
        map_CHW, side = self.net.features(self._input(view_CHW))[0], self.net.spec.window
        height, width = map_CHW.shape[1:]
        return torch.stack(
            [
                self.net.fc(map_CHW[:, top : top + side, left : left + side].mean((1, 2)))
                for top in range(height - side + 1)
                for left in range(width - side + 1)
            ]
        )

    @staticmethod
    def _resized(image: Picture, scale: int) -> Tensor:
        x_CHW = torch.from_numpy(image).permute(2, 0, 1)
        resized_CHW: Tensor = tv.resize(x_CHW, [scale], tv.InterpolationMode.BILINEAR, antialias=True)
        return resized_CHW

    @staticmethod
    def _input(view_CHW: Tensor) -> Tensor:
        x_CHW: Tensor = tv.normalize(view_CHW.contiguous() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
        return x_CHW[None]


@pytest.fixture(scope="session")
def naive() -> type[Naive]:
    """Naive(net): scoring one view at a time."""
    return Naive
