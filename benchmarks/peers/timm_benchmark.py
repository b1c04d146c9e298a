"""timm's benchmark.py: its network alone on random input, the loop of its inference benchmark.

Source: huggingface/pytorch-image-models, benchmark.py: `create_model`, random normal input that is there already, and
a number of steps under `torch.no_grad`. Its warm-up is ours too: the check and a first timing that does not count.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.eager import finish, laid_out, ready
from benchmarks.peers.materials import BATCH, normalized, whole_batches
from benchmarks.peers.ours import network_sides
from benchmarks.peers.sides import Claim, Contest, Running, Side

IMAGES = 64


def start(
    folder: Path,
    *,
    arch: str,
    images: int,
    batch: int,
    channels_last: bool = False,
    compile: str | None = None,
    device: str = "cpu",
    autocast: str | None = None,
) -> Running:
    """The script up to its steps."""
    import timm
    from timm.data import resolve_data_config

    net = timm.create_model(f"{arch}.tv_in1k", pretrained=False, checkpoint_path=str(folder / f"{arch}.pth"))
    size = resolve_data_config({}, model=net)["input_size"]
    net = ready(net, channels_last=channels_last, compile=compile, device=device, autocast=autocast)
    torch.manual_seed(2015)
    x_BCHW = laid_out(torch.randn(batch, *size), channels_last, device)

    @torch.no_grad()
    def outputs() -> Tensor:
        photos_BCHW = laid_out(normalized(folder, max(batch, BATCH)), channels_last, device)  # shapes as timed
        return torch.cat([net(part) for part in torch.split(photos_BCHW, batch)])[:BATCH].cpu()

    @torch.no_grad()
    def work() -> Mapping[str, Any]:
        for _ in range(images // batch):
            net(x_BCHW)
        finish(device)
        return {}

    return Running(outputs=outputs, work=work, versions={"timm": timm.__version__, "torch": torch.__version__})


def contests(images: int | None) -> list[Contest]:
    """resnet50 and its batch of 8; other batches for timm's best."""
    arch, count = "resnet50", whole_batches(images, IMAGES)
    tried: list[tuple[str, dict[str, Any]]] = [
        ("eager NCHW, batch 8", {"batch": 8}),
        ("compile freezing, channels_last, batch 8", {"batch": 8, "channels_last": True, "compile": "freezing"}),
        ("eager channels_last, batch 8", {"batch": 8, "channels_last": True}),
        ("eager channels_last, batch 8, allocator", {"batch": 8, "channels_last": True}),
        ("eager channels_last, batch 32", {"batch": 32, "channels_last": True}),
        ("eager channels_last, batch 1", {"batch": 1, "channels_last": True}),
        ("compile default, channels_last, batch 8", {"batch": 8, "channels_last": True, "compile": "default"}),
    ]
    theirs = [
        Side(
            name=name,
            start=start,
            settings={"arch": arch, "images": count, **settings},
            keep_freed_memory=name.endswith("allocator"),
            compiled="compile" in settings,
        )
        for name, settings in tried
        if count % settings["batch"] == 0
    ]
    return [
        Contest(
            peer="timm_benchmark",
            what=f"{arch}, network only, fp32",
            theirs=theirs,
            ours=network_sides(arch, count),
            claims=[
                Claim(name="torch eager NCHW, batch 8", among=[theirs[0].name], target=1.6),
                Claim(name="best settings", target=1.0),
            ],
            images=count,
            tolerance=1e-4,
            files=["tiles.npy", f"{arch}.pth", f"{arch}-pooled-fp32.onnx"],
            packages=["timm"],
            weight=2,
        )
    ]
