"""The torch backend against the bare module, in every precision that the CPU has."""

import pytest
import torch

from resnet_infer.backends.pytorch import TorchBackend, torch_device
from resnet_infer.errors import BackendError, UsageError
from resnet_infer.manifest import Manifest
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.resnet import build
from resnet_infer.preprocessing import Preprocessing
from resnet_infer.specs import spec_from_name

PREPROCESSING = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), resize=32, crop=32)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(1)
    spec = spec_from_name("resnet20")
    return Checkpoint(
        name="random", manifest=Manifest(spec=spec, preprocessing=PREPROCESSING), state_dict=build(spec).state_dict()
    )


def images(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)


def by_hand(checkpoint: Checkpoint, x_BCHW: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (PREPROCESSING.mean, PREPROCESSING.std))
    with torch.inference_mode():
        return build(checkpoint.manifest.spec, dict(checkpoint.state_dict))((x_BCHW / 255 - mean) / std)


def test_scores_are_those_of_the_module_on_normalised_pixels(checkpoint: Checkpoint) -> None:
    x_BCHW = images(4, 32, 32)
    scores = TorchBackend(checkpoint, "cpu").run(x_BCHW, "pooled")
    assert scores.shape == (4, 10, 1, 1)
    torch.testing.assert_close(scores[:, :, 0, 0], by_hand(checkpoint, x_BCHW), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("precision", "bits"), [("bf16", 8), ("fp16", 11)])
def test_reduced_precision_is_near_fp32_but_is_not_fp32(checkpoint: Checkpoint, precision: str, bits: int) -> None:
    x_BCHW = images(4, 32, 32)
    expected = by_hand(checkpoint, x_BCHW)
    backend = TorchBackend(checkpoint, "cpu", precision)
    difference = (backend.run(x_BCHW, "pooled")[:, :, 0, 0] - expected).abs().max() / expected.abs().max()
    assert backend.info.precision == precision
    assert 2.0 ** -(bits + 6) < difference < 2.0 ** -(bits - 5)


def test_dense_map_has_one_score_a_window(checkpoint: Checkpoint) -> None:
    scores = TorchBackend(checkpoint, "cpu").run(images(2, 45, 61), "dense")
    assert scores.shape == (2, 10, 12 - 7, 16 - 7)


def test_memory_layout_of_the_input_does_not_matter(checkpoint: Checkpoint) -> None:
    backend = TorchBackend(checkpoint, "cpu")
    x_BCHW = images(3, 32, 40)
    channels_last = x_BCHW.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(backend.run(channels_last, "pooled"), backend.run(x_BCHW, "pooled"))


def test_a_device_that_is_not_there_is_an_error(checkpoint: Checkpoint) -> None:
    with pytest.raises(BackendError, match=r"cuda:99.*--device cpu"):
        TorchBackend(checkpoint, "cuda:99")
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        torch_device("gpu")
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        torch_device("meta")


def test_an_unknown_precision_is_an_error(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="fp32, tf32, bf16, fp16"):
        TorchBackend(checkpoint, "cpu", "int4")  # type: ignore[arg-type]
    with pytest.raises(BackendError, match=r"tf32 needs an NVIDIA GPU.*not cpu"):
        TorchBackend(checkpoint, "cpu", "tf32")


def test_the_checkpoint_is_left_as_it_was(checkpoint: Checkpoint) -> None:
    before = {name: tensor.clone() for name, tensor in checkpoint.state_dict.items()}
    TorchBackend(checkpoint, "cpu", "fp16").close()
    for name, tensor in checkpoint.state_dict.items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_fp32_is_fp32_and_agrees_with_the_cpu(checkpoint: Checkpoint) -> None:
    x_BCHW = images(8, 64, 48)
    expected = TorchBackend(checkpoint, "cpu").run(x_BCHW, "dense")
    actual = TorchBackend(checkpoint, "cuda").run(x_BCHW, "dense").cpu()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
