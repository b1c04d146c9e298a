"""The fused network against the plain one: its blocks on the CPU, its kernels interpreted, all of it on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resnet_infer.backends import fused
from resnet_infer.backends.base import Normalize
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.bench.opener import random_checkpoint
from resnet_infer.errors import UsageError
from resnet_infer.model.fold import fold_batch_norm
from resnet_infer.model.heads import with_head
from resnet_infer.model.resnet import build
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.catalogue import spec_from_name

NAMES = ("resnet18.random", "resnet50.random", "resnet50-v1.random", "plain18.random", "resnet20.random")
"""Both blocks, both strides, all shortcuts, none, both stems."""
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def pixels(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("head", ["pooled", "dense"])
@pytest.mark.parametrize("name", NAMES)
def test_fused_blocks_compute_what_the_plain_ones_do(name: str, head: Head) -> None:
    checkpoint = random_checkpoint(name)
    net = fold_batch_norm(build(checkpoint.manifest.spec, dict(checkpoint.state_dict)))
    normalize = Normalize(checkpoint.manifest.preprocessing, "cpu")
    x_BCHW = pixels(2, 225, 240) if not net.spec.small else pixels(2, 33, 40)
    with torch.inference_mode():
        expected = with_head(net, head)(normalize(x_BCHW))
        actual = with_head(fused.FusedResNet(net, normalize, torch.float32, 224, kernels=False), head)(x_BCHW)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def said_by(script: str, **surroundings: str) -> list[str]:
    """What a script beside this file prints, in words."""
    path = Path(__file__).with_name(script)
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=False, env=os.environ | surroundings
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout.split()


def test_kernels_compute_what_their_formulas_say() -> None:
    pytest.importorskip("triton", "3.7", reason="the interpreter of earlier ones cannot count loops with NumPy 2.4")
    said = said_by("interpreted_kernels.py", TRITON_INTERPRET="1")
    assert said == ["6", "stems", "10", "networks", "2", "kernels"]


def test_a_new_size_compiles_nothing(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    first, then = " ".join(said_by("jitted_kernels.py", TRITON_CACHE_DIR=str(tmp_path))).split(" then ")
    assert first == then
    assert [int(count) for count in first.split()] == [8, 1, 1]


def test_what_disagrees_with_pytorch_is_noticed() -> None:
    checkpoint = random_checkpoint("resnet18.random")
    net = fold_batch_norm(build(checkpoint.manifest.spec, dict(checkpoint.state_dict)))
    normalize = Normalize(checkpoint.manifest.preprocessing, "cpu")
    right = fused.FusedResNet(net, normalize, torch.bfloat16, 64, kernels=False)
    assert fused.agrees(right, net, normalize)
    right.blocks[5].last.half_bias_N += 10
    assert not fused.agrees(right, net, normalize)


def test_only_half_precision_on_a_gpu_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = random_checkpoint("resnet18.random")
    net = fold_batch_norm(build(checkpoint.manifest.spec, dict(checkpoint.state_dict)))
    assert fused.fused_resnet(net, Normalize(checkpoint.manifest.preprocessing, "cpu"), torch.bfloat16, 224) is None
    device = torch.device("cuda", 0)
    for capability, expected in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert fused.has_kernels(net.spec, device) is expected
    assert not fused.has_kernels(spec_from_name("resnet20"), device)


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_fused_scores_are_as_near_to_fp32_as_plain_ones(name: str, precision: str) -> None:
    checkpoint = random_checkpoint(name)
    heads: tuple[Head, ...] = ("pooled", "dense")
    exact = TorchBackend(checkpoint, "cpu")
    plain = TorchBackend(checkpoint, "cuda", precision, fused=False)  # type: ignore[arg-type]
    ours = TorchBackend(checkpoint, "cuda", precision)  # type: ignore[arg-type]
    assert (plain.info.fusion, ours.info.fusion) == ("eager", "fused")
    side = exact.shapes[0].opt[1]
    for head, height, width in (*((head, side + 1, side + 26) for head in heads), ("pooled", side, side)):
        x_BCHW = pixels(3, height, width)
        for given in (x_BCHW, x_BCHW.flip(0, 3), x_BCHW.contiguous(memory_format=torch.channels_last)):
            expected = exact.run(given, head)  # type: ignore[arg-type]
            off, theirs = (float((b.run(given, head).cpu() - expected).abs().max()) for b in (ours, plain))  # type: ignore[arg-type]
            assert off <= 2 * theirs + 1e-3 * float(expected.abs().max())


@pytest.mark.gpu
@gpu
def test_fused_convolutions_read_no_memory_that_nobody_wrote() -> None:
    """PyTorch hands cuDNN the unwritten output as the addend, times zero: were it read, NaN or zero would come out."""
    conv = torch.nn.Conv2d(64, 128, 3, padding=1).cuda()
    with torch.inference_mode():
        run = fused.Convolution(conv, torch.bfloat16)
        x_BCHW = torch.randn(8, 64, 56, 56, device="cuda", dtype=torch.bfloat16)
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        expected = conv(x_BCHW.float()).relu()
        for _ in range(3):
            poison = torch.full((8, 128, 56, 56), float("nan"), device="cuda", dtype=torch.bfloat16)
            del poison  # the result is given this block
            torch.testing.assert_close(run(x_BCHW).float(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("weights", ["conv1.weight", "layer2.0.conv2.weight", "layer4.1.conv3.weight"])
@pytest.mark.parametrize("side", [224, 240])
def test_damaged_weights_give_no_numbers_on_a_gpu_either(weights: str, side: int) -> None:
    checkpoint = random_checkpoint("resnet50.random")
    checkpoint.state_dict[weights][0] = float("nan")  # type: ignore[index]
    ours = TorchBackend(checkpoint, "cuda", "bf16")
    assert not bool(torch.isfinite(ours.run(pixels(2, side, side), "pooled")).any())


@pytest.mark.gpu
@gpu
def test_recorded_launches_give_each_batch_its_own_scores() -> None:
    checkpoint = random_checkpoint("resnet18.random")
    recorded = TorchBackend(checkpoint, "cuda", "bf16", compile="cuda-graphs")
    launched = TorchBackend(checkpoint, "cuda", "bf16")
    x_BCHW = pixels(4, 224, 224)
    for given in (x_BCHW, x_BCHW.flip(0, 3), x_BCHW, x_BCHW.flip(3), x_BCHW[:3]):
        torch.testing.assert_close(recorded.run(given, "pooled"), launched.run(given, "pooled"), rtol=1e-2, atol=1e-2)
    with pytest.raises(UsageError, match="records one size"):
        recorded.run(x_BCHW, "dense")
