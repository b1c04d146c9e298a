"""Step `levers`: which way runs the network fastest, each with its parity; and what nvJPEG does and how fast.

Each way is timed on the device, from uint8 tiles to float32 logits, and its logits are compared with fp32 eager ones.
levers.json has every layer of the network under every tiling of our own kernels, and under cuDNN's.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.gpu.context import Context
from benchmarks.gpu.pictures import ready, spread
from benchmarks.peers.materials import checkpoint, tiles
from resnet_infer.backends.base import Normalize
from resnet_infer.backends.pytorch import PRECISIONS
from resnet_infer.bench.roofline import roof
from resnet_infer.data.decode import jpeg_header
from resnet_infer.export.parity import TOLERANCE
from resnet_infer.model.fold import fold_batch_norm
from resnet_infer.model.resnet import ResNet, build

FILE = "levers.json"
aten = torch.ops.aten
Forward = Callable[[Tensor], Tensor]
COMPILING_S = 45.0
GEMM = {
    "max_autotune_gemm": True, "max_autotune_conv_backends": "ATEN", "max_autotune_gemm_backends": "ATEN,TRITON",
}  # fmt: skip
ROUNDS = 20


@torch.inference_mode()
def levers(context: Context) -> None:
    """nvJPEG first, then the ways in the order of what they are expected to tell."""
    ready(context)
    nvjpeg(context)
    found: dict[str, Any] = {"ways": {}, "layers": []}
    path = context.results.folder / FILE
    plan, device = context.plan, context.device
    own = checkpoint(context.scratch, plan.network)
    base = fold_batch_norm(build(own.manifest.spec, dict(own.state_dict)))
    normalize = Normalize(own.manifest.preprocessing, device)
    some = tiles(context.scratch).permute(0, 3, 1, 2).to(device)
    x_BCHW = some.repeat(-(-plan.batch // len(some)), 1, 1, 1)[: plan.batch]
    x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
    torch.backends.cudnn.allow_tf32 = False
    with cudnn_benchmark(False):
        exact = build(own.manifest.spec, dict(own.state_dict)).to(device, memory_format=torch.channels_last)
        reference = torch.cat([exact(normalize(part)) for part in some.split(16)])
    del exact
    net = base.to(device, PRECISIONS[plan.precision], memory_format=torch.channels_last)  # type: ignore[call-overload]
    for name, tries, needs_s, make in ways(context, net, normalize):
        if name == "compiled" and context.cuda:
            around_the_stem(context, net, normalize, x_BCHW)
            for entry in layers(context, net):
                found["layers"].append(entry)
                path.write_text(json.dumps(found, indent=1))
        if not context.has(needs_s, name):
            continue
        torch._dynamo.reset()
        begun = time.perf_counter()
        try:
            with cudnn_benchmark(tries):
                found["ways"][name] = entry = way(context, name, make(), x_BCHW, some, reference)
        except Exception as error:  # a way that this version lacks says so, and the next one is tried
            context.check(f"lever, {name}", error=" ".join(f"{type(error).__name__}: {error}".split())[:300])
            continue
        entry["first_s"] = time.perf_counter() - begun
        path.write_text(json.dumps(found, indent=1))


def around_the_stem(context: Context, net: ResNet, normalize: Normalize, x_BCHW: Tensor) -> None:
    """Milliseconds of what comes before the blocks, and after."""
    from resnet_infer.backends import conv_kernels, fused

    stem = conv_kernels.Stem(net.conv1, normalize.scale, normalize.shift)
    for tiling in fused.TILINGS:
        if stem.channels % tiling.channels == 0:
            ms = fused.milliseconds(lambda how: stem(x_BCHW, how), tiling)
            context.results.log(f"  stem with squares, {tiling}: {ms:.3f} ms")
    tiling = fused.TILINGS[6]
    y = stem(x_BCHW, tiling)
    context.results.log(f"  max pool: {fused.milliseconds(lambda how: conv_kernels.max_pool(y), tiling):.3f} ms")
    nchw = y.permute(0, 3, 1, 2)
    context.results.log(f"  max pool, PyTorch: {fused.milliseconds(lambda how: net.maxpool(nchw), tiling):.3f} ms")
    def usual(how: Any) -> Tensor:
        return normalize(x_BCHW).to(y.dtype, memory_format=torch.channels_last)
    context.results.log(f"  normalise, PyTorch: {fused.milliseconds(usual, tiling):.3f} ms")
    last = torch.randn(len(x_BCHW), net.fc.in_features, 7, 7, device=y.device, dtype=y.dtype)
    last = last.contiguous(memory_format=torch.channels_last)
    context.results.log(f"  head: {fused.milliseconds(lambda how: net.fc(last.mean((2, 3))), tiling):.3f} ms")


@contextmanager
def cudnn_benchmark(on: bool) -> Iterator[None]:
    """Kernels chosen by trial, or not."""
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


def ways(
    context: Context, net: ResNet, normalize: Normalize
) -> Sequence[tuple[str, bool, float, Callable[[], Forward]]]:
    """(name, cuDNN by trial, seconds needed, maker of the forward pass)."""
    dtype = PRECISIONS[context.plan.precision]

    def whole(forward: Forward) -> Forward:
        return lambda x: forward(normalize(x).to(dtype, memory_format=torch.channels_last)).float()

    def own_kernels() -> Forward:
        from resnet_infer.backends.fused import FusedResNet

        fused = FusedResNet(net, normalize)
        return lambda x: fused(x).float()

    def compiled(**how: Any) -> Callable[[], Forward]:
        return lambda: torch.compile(whole(net), **how)

    return [
        ("eager", False, 3, lambda: whole(net)),
        ("own kernels", False, 30, own_kernels),
        ("own kernels, recorded", False, 10, lambda: recorded(own_kernels())),
        ("cuDNN fused, by trial", True, 20, lambda: whole(cudnn_fused(net))),
        ("cuDNN fused", False, 5, lambda: whole(cudnn_fused(net))),
        ("eager, by trial", True, 10, lambda: whole(net)),
        ("compiled", False, COMPILING_S, compiled()),
        ("compiled, by trial", True, COMPILING_S, compiled()),
        ("compiled, 1x1 as products", True, 2 * COMPILING_S, compiled(options=GEMM)),
    ]


def way(
    context: Context, name: str, forward: Forward, x_BCHW: Tensor, some: Tensor, reference: Tensor
) -> dict[str, Any]:
    """Parity, then time."""
    plan = context.plan
    for _ in range(2):  # the second: what a first one left behind
        for given, expected in ((x_BCHW, reference), (x_BCHW.flip(0), None)):
            out = forward(given)
            if expected is not None:
                said = out[: len(reference)].clone()
    count = min(len(said), len(reference))
    said, expected = said[:count].float(), reference[:count]
    off = float((said - expected).abs().max() / expected.abs().max())
    same = float((said.argmax(1) == expected.argmax(1)).double().mean())
    seconds = timed(context, lambda: forward(x_BCHW))
    rate = len(x_BCHW) / seconds
    bound = TOLERANCE[plan.precision]  # type: ignore[index]
    note = f"{rate:.0f} images/s at batch {len(x_BCHW)}, same best class {same:.3f}"
    context.check(f"lever, {name}: largest difference over largest logit", off, bound, at_most=True, note=note)
    return {"images_per_s": rate, "batch": len(x_BCHW), "off": off, "same": same}


def timed(context: Context, run: Callable[[], object], least_s: float = 0.4) -> float:
    """Seconds of one run, the median of several groups; clocks have risen before."""
    if not context.cuda:
        begun = time.perf_counter()
        run()
        return time.perf_counter() - begun
    device = context.device
    end = time.perf_counter() + least_s
    runs = 0
    begun = time.perf_counter()
    while time.perf_counter() < end:
        run()
        torch.cuda.synchronize(device)
        runs += 1
    count = max(1, int(runs * least_s / (time.perf_counter() - begun) / 4))
    groups = []
    for _ in range(5):
        a, b = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        a.record()
        for _ in range(count):
            run()
        b.record()
        torch.cuda.synchronize(device)
        groups.append(a.elapsed_time(b) / count / 1000)
    return sorted(groups)[2]


def recorded(forward: Forward) -> Forward:
    """The launches of one shape in a CUDA graph."""
    held: dict[str, Any] = {}

    def run(x: Tensor) -> Tensor:
        if not held:
            held["x"] = x.clone()
            for _ in range(2):
                forward(held["x"])
            torch.cuda.synchronize()
            held["graph"] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(held["graph"]):
                held["out"] = forward(held["x"])
        held["x"].copy_(x)
        held["graph"].replay()
        out: Tensor = held["out"]
        return out

    return run


def _conv_relu(conv: nn.Conv2d, x: Tensor) -> Tensor:
    if x.device.type == "cpu":
        return F.relu(conv(x))
    args = (conv.stride, conv.padding, conv.dilation, conv.groups)
    out: Tensor = aten.cudnn_convolution_relu(x, conv.weight, conv.bias, *args)
    return out


def _conv_add_relu(conv: nn.Conv2d, x: Tensor, z: Tensor) -> Tensor:
    if x.device.type == "cpu":
        return F.relu(conv(x) + z)
    args = (conv.stride, conv.padding, conv.dilation, conv.groups)
    out: Tensor = aten.cudnn_convolution_add_relu(x, conv.weight, z, 1.0, conv.bias, *args)
    return out


def cudnn_fused(net: ResNet) -> Forward:
    """cuDNN's convolutions with bias, addition and ReLU; the stem apart."""

    def forward(x: Tensor) -> Tensor:
        x = net.maxpool(F.relu(net.conv1(x)))
        for stage in net.stages:
            for block in net.get_submodule(stage).children():
                z = x if block.downsample is None else block.downsample(x)
                y = _conv_relu(block.conv1, x)  # type: ignore[arg-type]
                if block.bottleneck:
                    x = _conv_add_relu(block.conv3, _conv_relu(block.conv2, y), z)  # type: ignore[arg-type]
                else:
                    x = _conv_add_relu(block.conv2, y, z)  # type: ignore[arg-type]
        logits: Tensor = net.fc(x.mean((2, 3)))
        return logits

    return forward


def layers(context: Context, net: ResNet) -> Iterator[dict[str, Any]]:
    """Every distinct convolution under every tiling, and by cuDNN: milliseconds at the plan's batch."""
    from resnet_infer.backends import fused

    fit = fused.FusedResNet(net, Normalize_like(net))
    seen: set[Any] = set()
    x_BHWC = torch.randn(context.plan.batch, 56, 56, fit._stem.channels, device=context.device).relu()
    x_BHWC = x_BHWC.to(net.fc.weight.dtype)
    out: list[dict[str, Any]] = []

    def run(conv: Any, x: Tensor, *, added: Tensor | None = None, second: Tensor | None = None) -> Tensor:
        key = (conv.kernel, conv.stride, conv.depth, conv.channels, added is not None, second is not None, x.shape)
        times: dict[str, float] = {}
        best: Tensor | None = None
        for tiling in fused.TILINGS:
            if conv.channels % tiling.channels == 0 and (key not in seen or best is None):
                times[str(tiling)] = fused.milliseconds(
                    lambda how: conv(x, how, added=added, second=second), tiling
                )
                best = conv(x, tiling, added=added, second=second)
        assert best is not None
        if key not in seen:
            seen.add(key)
            moved = x.numel() if conv.kernel > 1 or conv.stride == 1 else best.numel() // conv.channels * conv.depth
            moved += best.numel() * (2 if added is not None else 1)
            if second is not None:
                moved += best.numel() // conv.channels * conv.second_depth
            flops = 2 * best.numel() * (conv.depth * conv.kernel**2 + conv.second_depth * (second is not None))
            fastest = min(times.values())
            with cudnn_benchmark(True):
                theirs = _cudnn_ms(conv, x, added)
            out.append({
                "kernel": conv.kernel, "stride": conv.stride, "in": conv.depth, "out": conv.channels,
                "size": list(best.shape[1:3]), "added": added is not None, "second": conv.second_depth,
                "ms": times, "cudnn_ms": theirs, "best": min(times, key=lambda name: times[name]), "best_ms": fastest,
                "gb_per_s": 2 * moved / fastest / 1e6, "tflop_per_s": flops / fastest / 1e9,
            })  # fmt: skip
        return best

    for block in fit._blocks:
        if context.left() < 5:
            return
        x_BHWC = block(x_BHWC, run)
        yield from out
        out.clear()


def Normalize_like(net: ResNet) -> Normalize:
    """Any: the layers are timed without pixels."""
    from resnet_infer.preprocessing import Preprocessing

    return Normalize(Preprocessing(), net.fc.weight.device)


def _cudnn_ms(conv: Any, x_BHWC: Tensor, added: Tensor | None) -> dict[str, float]:
    """cuDNN's convolution alone, with bias and ReLU, and with the addition."""
    from resnet_infer.backends import fused

    x = x_BHWC.permute(0, 3, 1, 2)
    weight, bias = conv.weight.permute(0, 3, 1, 2), conv.bias.to(x.dtype)
    args = ([conv.stride] * 2, [conv.pad] * 2, [1, 1], 1)
    runs: dict[str, Callable[[Any], Tensor]] = {
        "plain": lambda how: F.conv2d(x, weight, None, *args),
        "relu": lambda how: aten.cudnn_convolution_relu(x, weight, bias, *args),
    }
    if added is not None:
        z = added.permute(0, 3, 1, 2)
        runs["add relu"] = lambda how: aten.cudnn_convolution_add_relu(x, weight, z, 1.0, bias, *args)
    found = {}
    for name, run in runs.items():
        try:
            run(None)
            found[name] = fused.milliseconds(run, fused.TILINGS[0])
        except RuntimeError as error:
            found[name] = float("nan")
            print(name, str(error)[:200], flush=True)
    return found


def nvjpeg(context: Context) -> None:
    """Whether torchvision's decoder overwrites what queued kernels still read, and its rate by files a call."""
    if not context.cuda:
        context.check("nvJPEG", skipped="needs a GPU")
        return
    source = spread(ready(context), 256)
    read = [source.read(sample) for sample in source.samples]
    files = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in read if isinstance(file, bytes) and jpeg_header(file)]
    try:
        for drained in (False, True):
            wrong = overwritten(context, files[:16], drained)
            words = "drained first" if drained else "busy"
            context.check(f"nvJPEG, stream {words}: rounds of {ROUNDS} that overwrote memory", wrong)
        for count in (1, 16, 64, 128, 256):
            some = files[:count]
            decode_jpeg(some, mode=ImageReadMode.RGB, device=context.device)
            torch.cuda.synchronize()
            begun, done = time.perf_counter(), 0
            while time.perf_counter() - begun < 0.5:
                decode_jpeg(some, mode=ImageReadMode.RGB, device=context.device)
                done += len(some)
            torch.cuda.synchronize()
            context.check(f"nvJPEG, {count} files a call: images/s", done / (time.perf_counter() - begun))
    except RuntimeError as error:
        context.check("nvJPEG", error=" ".join(str(error).split())[:300])


def overwritten(context: Context, files: Sequence[Tensor], drained: bool) -> int:
    """Rounds in which the sum of freed tensors, queued behind other work, came out wrong after a decode."""
    busy = torch.randn(8192, 8192, device=context.device, dtype=torch.bfloat16)
    wrong = 0
    for _ in range(ROUNDS):
        shapes = [jpeg_header(bytes(file.numpy())) for file in files]
        held = [torch.full((3, *shape), 7, dtype=torch.uint8, device=context.device) for shape in shapes if shape]
        expected = [7 * each.numel() for each in held]
        torch.cuda.synchronize()
        for _ in range(10):
            busy = (busy @ busy).clamp(-1, 1)
        sums = [each.sum(dtype=torch.int64) for each in held]
        del held
        if drained:
            torch.cuda.current_stream().synchronize()
        decode_jpeg(list(files), mode=ImageReadMode.RGB, device=context.device)
        wrong += any(int(each) != right for each, right in zip(sums, expected, strict=True))
    return wrong


def describe_roof(context: Context) -> None:
    """The roof of each fusion, for the log."""
    ceilings = context.results.run.ceilings
    if ceilings is None:
        return
    spec = checkpoint(context.scratch, context.plan.network).manifest.spec
    peak = ceilings.matmul_tflop_per_s[context.plan.precision]
    for fusion in ("eager", "compiled", "fused"):
        least = roof(spec, 224, 224, fusion, "bf16", tflop_per_s=peak, gb_per_s=ceilings.copy_gb_per_s, tensor_cores=True)  # type: ignore[arg-type]
        context.results.log(f"  roof, {fusion}: {1 / least.seconds:.0f} images/s")


def write(path: Path, text: str) -> None:
    """Unused."""
    path.write_text(text)
