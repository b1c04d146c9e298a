"""The torch backend against the bare module, in every precision that the CPU has."""

from collections.abc import Callable

import pytest
import torch

from resnet_infer.backends.base import Compile
from resnet_infer.backends.devices import torch_device
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.errors import BackendError, OutOfMemory, UsageError
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.resnet import build
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing

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


@pytest.mark.parametrize("head", ["pooled", "dense"])
def test_folding_changes_rounding_only(checkpoint: Checkpoint, head: Head) -> None:
    seen = Checkpoint(
        name="seen",
        manifest=checkpoint.manifest,
        state_dict={
            name: torch.rand_like(tensor) + 0.5 if "bn" in name and tensor.is_floating_point() else tensor
            for name, tensor in checkpoint.state_dict.items()
        },
    )
    x_BCHW = images(3, 32, 40)
    folded, plain = (TorchBackend(seen, "cpu", fold=fold).run(x_BCHW, head) for fold in (True, False))
    torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))
    assert not torch.equal(folded, plain)


@pytest.mark.slow
def test_compiled_scores_are_the_eager_ones_for_any_batch_and_size(checkpoint: Checkpoint) -> None:
    eager, compiled = TorchBackend(checkpoint, "cpu"), TorchBackend(checkpoint, "cpu", compile="default")
    graphs = torch._dynamo.utils.counters["stats"]
    crops = [(batch, 32, 32) for batch in (4, 1, 3, 4)]
    whole = [(2, 48 + 4 * step, 64 + 8 * step) for step in range(6)]
    shapes: dict[Head, list[tuple[int, int, int]]] = {"pooled": crops, "dense": whole}
    for head, most in (("pooled", 1), ("dense", 3)):
        before = graphs["unique_graphs"]
        for shape in shapes[head]:
            x_BCHW = images(*shape)
            torch.testing.assert_close(compiled.run(x_BCHW, head), eager.run(x_BCHW, head), rtol=1e-4, atol=1e-4)
        assert 1 <= graphs["unique_graphs"] - before <= most


def test_autocast_runs_in_the_type_it_is_given(checkpoint: Checkpoint) -> None:
    x_BCHW = images(4, 32, 32)
    expected = by_hand(checkpoint, x_BCHW)
    scores = TorchBackend(checkpoint, "cpu", "bf16", autocast=True).run(x_BCHW, "pooled")[:, :, 0, 0]
    difference = (scores - expected).abs().max() / expected.abs().max()
    assert 2.0**-14 < difference < 2.0**-3


def test_ways_to_run_that_cannot_be_are_usage_errors(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="--compile 'fast' is not one of default"):
        TorchBackend(checkpoint, "cpu", compile="fast")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--autocast is for --precision bf16 or fp16, not for fp32"):
        TorchBackend(checkpoint, "cpu", autocast=True)
    with pytest.raises(UsageError, match="cuda-graphs is for CUDA"):
        TorchBackend(checkpoint, "cpu", compile="cuda-graphs")


def limited(backend: TorchBackend, most: int) -> list[int]:
    """Have the backend's passes run out of memory above `most` tiles; the list fills with the sizes that are tried."""
    tried: list[int] = []
    for head, forward in list(backend._forward.items()):

        def run(x_BCHW: torch.Tensor, forward: Callable[[torch.Tensor], torch.Tensor] = forward) -> torch.Tensor:
            tried.append(len(x_BCHW))
            if len(x_BCHW) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return forward(x_BCHW)

        backend._forward[head] = run
    return tried


def test_a_compiled_network_recovers_from_running_out_of_memory(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **how: forward)
    backend = TorchBackend(checkpoint, "cpu", compile="default")
    tried = limited(backend, 4)
    x_BCHW = images(8, 32, 32)
    with pytest.raises(OutOfMemory, match="a batch of 8 at 32x32"):
        backend.run(x_BCHW, "pooled")
    halves = torch.cat([backend.run(x_BCHW[:4], "pooled"), backend.run(x_BCHW[4:7], "pooled")])
    assert tried == [8, 4, 4]
    torch.testing.assert_close(halves[:, :, 0, 0], by_hand(checkpoint, x_BCHW[:7]), rtol=1e-4, atol=1e-4)


def test_a_lone_whole_image_is_run_as_two(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **how: forward)
    backend = TorchBackend(checkpoint, "cpu", compile="default")
    tried = limited(backend, 99)
    x_BCHW = images(3, 40, 56)
    alone = backend.run(x_BCHW[:1], "dense")
    assert tried == [2]
    assert len(alone) == 1
    torch.testing.assert_close(alone, backend.run(x_BCHW, "dense")[:1], rtol=1e-4, atol=1e-4)


def test_too_many_compilations_are_a_line(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(x_BCHW: torch.Tensor) -> torch.Tensor:
        raise torch._dynamo.exc.FailOnRecompileLimitHit("recompile_limit reached")

    monkeypatch.setattr(torch, "compile", lambda forward, **how: refuses)
    with pytest.raises(BackendError, match=r"random: torch\.compile has .* the last 40x32; leave out --compile"):
        TorchBackend(checkpoint, "cpu", compile="default").run(images(2, 32, 40), "pooled")


def test_a_backend_says_what_it_fuses(checkpoint: Checkpoint) -> None:
    assert TorchBackend(checkpoint, "cpu").info.fusion == "eager"
    assert TorchBackend(checkpoint, "cpu", compile="default").info.fusion == "compiled"


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
@pytest.mark.parametrize(("compile", "head"), [(None, "pooled"), (None, "dense"), ("cuda-graphs", "pooled")])
def test_cuda_fp32_is_fp32_and_agrees_with_the_cpu(
    checkpoint: Checkpoint, in_turns: Callable[..., None], compile: Compile | None, head: Head
) -> None:
    height, width = (32, 32) if head == "pooled" else (64, 48)
    own, reference = TorchBackend(checkpoint, "cuda", compile=compile), TorchBackend(checkpoint, "cpu")
    for batch in (8, 3):
        x_BCHW = images(batch, height, width)
        largest = float(reference.run(x_BCHW, head).abs().max())
        in_turns(own, reference, x_BCHW, head, rtol=1e-4, atol=1e-4 * largest)
