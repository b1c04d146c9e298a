"""Images from memory to the network on one core against PIL, and resnet50 on ONNX Runtime against eager PyTorch.

Preprocessing, one core. Every side has a process of its own, ours with the allocator setting that resnet-infer's
processes have, PIL's with the usual one. Each starts from the encoded photos in memory, one after another:

- PIL: open, convert to RGB, resize the shorter side (bilinear) once a scale, and make a normalised float tensor of
  every view, the mirrored ones too; all by torchvision.transforms on PIL images, with its own ten_crop. An image is
  decoded once. It ends with a float32 tensor (3, H, W) for each view, not stacked into a batch.
- ours: `decode` and `render` of the protocol's distinct tiles. It ends with uint8 tiles (H, W, 3), not stacked into a
  batch. Mirroring is a flip on the device, so a mirrored view has a tile of its own only where its pixels differ.
- ours, normalised: the same, then what `score` and a backend do on the device, here on this core: stack tiles of one
  size into batches, flip for the mirrored views, normalise. It ends with float32 batches (B, 3, H, W), channels
  innermost in memory, of every view that PIL's side has.

Then the network on all cores: see network.py.

The sides take turns within every repeat, so that what else the machine does hits all of them. Figures are medians.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as tv

from benchmarks import network
from benchmarks.timing import compare, drain, processes
from resnet_infer.allocator import keep_freed_memory
from resnet_infer.backends.base import Normalize
from resnet_infer.data.open import open_source
from resnet_infer.environment import environment
from resnet_infer.files import replacing
from resnet_infer.pipeline.batching import Runs, plan
from resnet_infer.pipeline.buckets import Buckets
from resnet_infer.pipeline.decode import decode
from resnet_infer.pipeline.render import distinct_tiles, render
from resnet_infer.pipeline.score import DEFAULT_BATCH
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from resnet_infer.spec.protocols import PAPER_SCALES, Protocol, multi_scale, single_crop, ten_crop

PROTOCOLS = {"single crop": single_crop(), "ten crops": ten_crop(), "five scales, mirror": multi_scale(PAPER_SCALES)}
TARGETS = {"single crop": 1.8, "ten crops": 3.5, "five scales, mirror": 5.0}
"""How many times as fast as PIL's pipeline the uint8 tiles should be."""
BATCH = 8


def main() -> None:
    """Measure, print the tables, write the result."""
    parser = argparse.ArgumentParser(description="Preprocessing against PIL, ONNX Runtime against eager PyTorch.")
    parser.add_argument("--photos", type=Path, required=True, help="zip file of photos")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each side (default 7)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error("--repeats must be at least 1")

    source = open_source(args.photos)
    photos = [bytes(source.read(sample)) for sample in source.samples]
    if len(photos) < BATCH:
        parser.error(f"{args.photos.name} has {len(photos)} photos; at least {BATCH} are needed")
    result: dict[str, Any] = {
        "what": "preprocessing on one core; resnet50 on all cores",
        "command": f"python -m benchmarks.preprocessing --photos {args.photos.name} --repeats {args.repeats}",
        "environment": environment(),
        "photos": {"file": args.photos.name, "images": len(photos), "bytes": sum(map(len, photos))},
    }
    result["preprocessing"] = {name: measure_preprocessing(name, photos, args.repeats) for name in PROTOCOLS}
    print_preprocessing(result["preprocessing"], len(photos))
    tiles = [our_tiles(data, single_crop())[1][0] for data in photos[:BATCH]]
    result["network"] = network.measure(torch.stack(tiles), args.repeats)
    network.print_table(result["network"])
    if args.output:
        with replacing(args.output) as unfinished:
            unfinished.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


# Preprocessing


def pil_views(data: bytes, protocol: Protocol) -> list[Image.Image]:
    """Every view as a PIL image, in the order of `Protocol.views`."""
    image = Image.open(BytesIO(data)).convert("RGB")
    views: list[Image.Image] = []
    for scale in protocol.scales:
        resized = tv.resize(image, [scale], tv.InterpolationMode.BILINEAR)
        if protocol.crops == "center":
            views.append(tv.center_crop(resized, [protocol.crop]))
        elif protocol.crops == "five":
            views += tv.ten_crop(resized, [protocol.crop])
        else:
            views += [resized, tv.hflip(resized)]
    return views


def pil_floats(data: bytes, protocol: Protocol) -> list[Tensor]:
    """Every view normalised, float32 (3, H, W)."""
    return [tv.normalize(tv.to_tensor(view), IMAGENET_MEAN, IMAGENET_STD) for view in pil_views(data, protocol)]


def our_tiles(data: bytes, protocol: Protocol) -> tuple[tuple[int, int], list[Tensor]]:
    """The image's (height, width) and its distinct tiles, uint8 (H, W, 3)."""
    x_CHW = decode(data)
    height, width = x_CHW.shape[1:]
    return (height, width), render(x_CHW, distinct_tiles((protocol,), height, width))


def our_batches(photos: Sequence[bytes], protocol: Protocol, normalize: Normalize) -> Iterator[Tensor]:
    """Every view of every photo normalised, float32 (B, 3, H, W), batched as `score` does on a CPU."""
    buckets: Buckets[tuple[int, int, Runs], Tensor] = Buckets(DEFAULT_BATCH["cpu", "imagenet"] * 224 * 224)

    def normalised(runs: Runs, tiles: list[Tensor]) -> Iterator[Tensor]:
        x_BCHW = torch.cat(tiles).permute(0, 3, 1, 2)
        for run in runs:
            yield normalize(x_BCHW.flip(3) if run.mirrored else x_BCHW)

    for data in photos:
        size, tiles = our_tiles(data, protocol)
        for tile_HWC, runs in zip(tiles, plan((protocol,), *size), strict=True):
            height, width = tile_HWC.shape[:2]
            for due, entries in buckets.add((height, width, runs), height * width, tile_HWC[None]):
                yield from normalised(due[2], entries)
    for due, entries in buckets.rest():
        yield from normalised(due[2], entries)


def pixel_difference(photos: Sequence[bytes], protocol: Protocol) -> tuple[int, float]:
    """Our views against PIL's, all photos: the largest difference in levels of 255, and the share that differs."""
    largest = differing = values = 0
    for data in photos:
        (height, width), tiles = our_tiles(data, protocol)
        tile_of = dict(zip(distinct_tiles((protocol,), height, width), tiles, strict=True))
        for view, theirs in zip(protocol.views(height, width), pil_views(data, protocol), strict=True):
            tile_HWC = tile_of[view.tile].flip(1) if view.mirrored else tile_of[view.tile]
            apart = np.abs(tile_HWC.numpy().astype(np.int16) - np.asarray(theirs))
            largest = max(largest, int(apart.max()))
            differing += int(np.count_nonzero(apart))
            values += apart.size
    return largest, differing / values


SIDES: Mapping[str, Callable[[Sequence[bytes], Protocol], Iterable[object]]] = {
    "pil": lambda photos, protocol: (pil_floats(data, protocol) for data in photos),
    "ours": lambda photos, protocol: (our_tiles(data, protocol) for data in photos),
    "ours_normalised": lambda photos, protocol: our_batches(photos, protocol, Normalize(Preprocessing(), "cpu")),
}


def start_side(side: str) -> None:
    """In a process of its own: one thread, one core, and the allocator that this side's users have."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if side != "pil":
        keep_freed_memory()


def run_side(side: str, protocol: str, photos: Sequence[bytes]) -> float:
    """Seconds for all photos."""
    started = time.perf_counter()
    drain(SIDES[side](photos, PROTOCOLS[protocol]))
    return time.perf_counter() - started


def measure_preprocessing(name: str, photos: Sequence[bytes], repeats: int) -> dict[str, Any]:
    """Time the three sides and compare their pixels."""
    largest, share = pixel_difference(photos, PROTOCOLS[name])
    with processes(SIDES, start_side) as calls:
        sides = {side: partial(call, run_side, side, name, photos) for side, call in calls.items()}
        measured = compare(sides, repeats, images=len(photos), reference="pil", target=TARGETS[name])
    return measured | {
        "protocol": PROTOCOLS[name].describe(),
        "largest_pixel_difference": largest,
        "share_of_values_that_differ": share,
    }


def print_preprocessing(measured: Mapping[str, Mapping[str, Any]], photos: int) -> None:
    """A line for each protocol; at most 80 columns."""
    print(f"preprocessing, one core, {photos} photos from memory: images/s (times PIL's)")
    print(f"{'':20}{'PIL':>6}{'uint8 tiles':>16}{'target':>8}{'incl. normalise':>17}{'pixels':>8}")
    for name, row in measured.items():
        rate, ratio = row["images_per_s"], row["ratio"]
        ours, floats = (f"{rate[side]:.0f} ({ratio[side]:.2f}x)" for side in ("ours", "ours_normalised"))
        pixels = f"<= {row['largest_pixel_difference']}"
        print(f"{name:20}{rate['pil']:6.0f}{ours:>16}{row['target_ratio']:>7.1f}x{floats:>17}{pixels:>8}")


if __name__ == "__main__":
    main()
