"""timm's validate.py: its own network, data set and loader, and the loop that its script runs over them.

The script is not in timm's package, so the loop stands here, in its order: a warm-up batch, then for every batch of the
loader the network, the loss, top-1 and top-5, and three averages, each read from the device. What it takes from
timm: `create_model`, `load_checkpoint`, `create_dataset`, `create_loader`, `resolve_data_config`, `accuracy`.
Its name for the network is `ARCH.tv_in1k`, which is tested as we do: 224 of 256 pixels, bilinear.
Source: huggingface/pytorch-image-models, validate.py.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.eager import laid_out, ready
from benchmarks.peers.materials import class_map, photos
from benchmarks.peers.ours import evaluation_sides
from benchmarks.peers.sides import Claim, Contest, Running, Side

IMAGES = 252


def start(
    folder: Path,
    *,
    arch: str,
    images: int,
    batch: int,
    workers: int,
    channels_last: bool = False,
    compile: str | None = None,
    device: str = "cpu",
    autocast: str | None = None,
) -> Running:
    """The script up to its loop."""
    import timm
    from timm.data import create_dataset, create_loader, resolve_data_config
    from timm.models import load_checkpoint
    from timm.utils import AverageMeter, accuracy

    net = timm.create_model(f"{arch}.tv_in1k", pretrained=False)
    load_checkpoint(net, str(folder / f"{arch}.pth"), use_ema=False)
    config = resolve_data_config({}, model=net, use_test_size=True)
    net = ready(net, channels_last=channels_last, compile=compile, device=device, autocast=autocast)
    criterion = torch.nn.CrossEntropyLoss()
    data = create_dataset(name="", root=str(photos(folder, images)), class_map=class_map())
    loader = create_loader(
        data,
        input_size=config["input_size"],
        batch_size=batch,
        use_prefetcher=True,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        num_workers=workers,
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        pin_memory=device != "cpu",
        device=torch.device(device),
        persistent_workers=workers > 0,  # they stay for the next timing; the script itself starts them every time
    )
    with torch.inference_mode():
        net(laid_out(torch.randn(batch, *config["input_size"]), channels_last, device))

    @torch.inference_mode()
    def loop(seen: Callable[[Tensor], None]) -> float:
        losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
        for x_BCHW, target_B in loader:
            scores_BK = net(laid_out(x_BCHW, channels_last, device))
            loss = criterion(scores_BK, target_B)
            first, fifth = accuracy(scores_BK.detach(), target_B, topk=(1, 5))
            losses.update(loss.item(), len(scores_BK))
            top1.update(first.item(), len(scores_BK))
            top5.update(fifth.item(), len(scores_BK))
            seen(scores_BK)
        return float(top1.avg)

    def outputs() -> Tensor:
        said: list[Tensor] = []
        loop(said.append)
        names = data.filenames()
        return torch.cat(said).softmax(1).cpu()[sorted(range(len(names)), key=lambda index: names[index])]

    def work() -> Mapping[str, Any]:
        return {"top1_errors": round(images * (1 - loop(lambda scores_BK: None) / 100))}

    return Running(outputs=outputs, work=work, versions={"timm": timm.__version__, "torch": torch.__version__})


def side(name: str, arch: str, images: int, *, keep_freed_memory: bool = False, **settings: Any) -> Side:
    """The script with these flags."""
    return Side(
        name=name,
        start=start,
        settings={"arch": arch, "images": images, **settings},
        keep_freed_memory=keep_freed_memory,
        compiled=bool(settings.get("compile")),
    )


def contests(images: int | None) -> list[Contest]:
    """resnet18, single crop, from files."""
    arch, count = "resnet18", images or IMAGES
    layout = {"channels_last": True}
    theirs = [
        side("defaults: batch 256, workers 4", arch, count, batch=256, workers=4),
        side("compile freezing, batch 32, workers 1", arch, count, batch=32, workers=1, compile="freezing", **layout),
        side("channels_last, batch 8, workers 1", arch, count, batch=8, workers=1, **layout),
        side("channels_last, batch 32, workers 1", arch, count, batch=32, workers=1, **layout),
        side("channels_last, batch 8, workers 0", arch, count, batch=8, workers=0, **layout),
        side(
            "channels_last, batch 8, workers 1, allocator", arch, count,
            batch=8, workers=1, keep_freed_memory=True, **layout,
        ),
        side("channels_last, batch 32, workers 2", arch, count, batch=32, workers=2, **layout),
        side("compile freezing, batch 8, workers 1", arch, count, batch=8, workers=1, compile="freezing", **layout),
        side("channels_last, batch 256, workers 2", arch, count, batch=256, workers=2, **layout),
    ]  # fmt: skip
    return [
        Contest(
            peer="timm_validate",
            what=f"{arch}, single-crop, fp32, {count} files",
            theirs=theirs,
            ours=evaluation_sides(arch, "single-crop", count),
            claims=[
                Claim(name="defaults", among=[theirs[0].name], target=1.3),
                Claim(name="best settings", target=1.0),
            ],
            images=count,
            tolerance=0.05,
            files=[f"photos-{count}", f"{arch}.pth", f"{arch}-pooled-fp32.onnx"],
            packages=["timm"],
            weight=4,
        )
    ]
