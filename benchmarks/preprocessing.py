"""Images from memory to the network on one core against PIL, and resnet50 on ONNX Runtime against eager PyTorch.

Preprocessing, one core. Every side starts from the encoded photos in memory and takes them one after another:

- PIL: open, convert to RGB, resize the shorter side (bilinear) once a scale, and make a normalised float tensor of
  every view, the mirrored ones too; all by torchvision.transforms on PIL images, with its own ten_crop. An image is
  decoded once. It ends with a float32 tensor (3, H, W) for each view, not stacked into a batch.
- ours: `decode` and `render` of the protocol's distinct tiles. It ends with uint8 tiles (H, W, 3), as they travel to
  the device. Mirroring is a flip there, so a mirrored view has a tile of its own only where its pixels differ.
- ours, normalised: the same, then what `score` and a backend do on the device, here on this core: stack tiles of one
  size into batches, flip for the mirrored views, normalise. It ends with float32 batches (B, 3, H, W), channels
  innermost in memory, of every view that PIL's side has.

Network, all cores. resnet50 with random weights on 8 photos at 224x224: plain eager PyTorch (contiguous NCHW,
inference mode, handed normalised float32), our torch backend and our ONNX file on our ONNX Runtime backend (both handed
uint8 and normalising it within the time measured). Their logits are compared before anything is timed.

The sides take turns within every repeat, so that what else the machine does hits all of them. Figures are medians.
`cpu_seconds` of the result leave out the time that other programs took.
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
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

from resnet_infer.backends.base import Normalize
from resnet_infer.backends.ort import OrtBackend
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.data.batches import Buckets
from resnet_infer.data.decode import decode
from resnet_infer.data.loader import distinct_tiles
from resnet_infer.data.render import render
from resnet_infer.data.sources import open_source
from resnet_infer.export.parity import TOLERANCE
from resnet_infer.export.to_onnx import export_onnx
from resnet_infer.manifest import Manifest
from resnet_infer.model.checkpoints import Checkpoint, replacing
from resnet_infer.model.heads import with_head
from resnet_infer.model.resnet import build
from resnet_infer.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from resnet_infer.protocols import PAPER_SCALES, Protocol, multi_scale, single_crop, ten_crop
from resnet_infer.report.environment import environment
from resnet_infer.score import DEFAULT_BATCH, Runs, plan
from resnet_infer.specs import spec_from_name

PROTOCOLS = {"single crop": single_crop(), "ten crops": ten_crop(), "five scales, mirror": multi_scale(PAPER_SCALES)}
TARGETS = {"single crop": 1.8, "ten crops": 3.5, "five scales, mirror": 5.0, "onnxruntime": 1.5}
"""How many times as fast as PIL's pipeline the uint8 tiles, as plain eager PyTorch the ONNX file, should be."""
BATCH = 8
PASSES = 4
"""Batches in one timing of a network."""


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
    with one_core():
        result["preprocessing"] = {
            name: measure_preprocessing(name, protocol, photos, args.repeats) for name, protocol in PROTOCOLS.items()
        }
    print_preprocessing(result["preprocessing"], len(photos))
    result["network"] = measure_network(photos, args.repeats)
    print_network(result["network"])
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
    return (height, width), render(x_CHW, distinct_tiles((protocol,), height, width), protocol.interpolation)


def our_batches(photos: Sequence[bytes], protocol: Protocol, normalize: Normalize) -> Iterator[Tensor]:
    """Every view of every photo normalised, float32 (B, 3, H, W), batched as `score` does on a CPU."""
    buckets: Buckets[tuple[int, int, Runs], Tensor] = Buckets(DEFAULT_BATCH["cpu", "imagenet"] * 224 * 224)

    def normalised(runs: Runs, tiles: list[Tensor]) -> Iterator[Tensor]:
        x_BCHW = torch.stack(tiles).permute(0, 3, 1, 2)
        for run in runs:
            yield normalize(x_BCHW.flip(3) if run.mirrored else x_BCHW)

    for data in photos:
        size, tiles = our_tiles(data, protocol)
        for tile_HWC, runs in zip(tiles, plan((protocol,), *size), strict=True):
            height, width = tile_HWC.shape[:2]
            for due, entries in buckets.add((height, width, runs), height * width, tile_HWC):
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


def measure_preprocessing(name: str, protocol: Protocol, photos: Sequence[bytes], repeats: int) -> dict[str, Any]:
    """Time the three sides and compare their pixels."""
    normalize = Normalize(Preprocessing(), "cpu")
    largest, share = pixel_difference(photos, protocol)
    sides = {
        "pil": lambda: drain(pil_floats(data, protocol) for data in photos),
        "ours": lambda: drain(our_tiles(data, protocol) for data in photos),
        "ours_normalised": lambda: drain(our_batches(photos, protocol, normalize)),
    }
    return compare(sides, repeats, images=len(photos), reference="pil", target=TARGETS[name]) | {
        "protocol": protocol.describe(),
        "largest_pixel_difference": largest,
        "share_of_values_that_differ": share,
    }


# Network


def measure_network(photos: Sequence[bytes], repeats: int) -> dict[str, Any]:
    """Time resnet50 in plain eager PyTorch, on our torch backend and as our ONNX file; raise if logits disagree."""
    torch.manual_seed(2015)
    net = build(spec_from_name("resnet50"))
    state_dict = {key: value.detach() for key, value in net.state_dict().items()}
    manifest = Manifest(spec=net.spec, preprocessing=Preprocessing())
    checkpoint = Checkpoint(name="resnet50 with random weights", manifest=manifest, state_dict=state_dict)
    plain = with_head(net, "pooled")
    x_BCHW = torch.stack([our_tiles(data, single_crop())[1][0] for data in photos[:BATCH]]).permute(0, 3, 1, 2)
    normalised_BCHW = Normalize(manifest.preprocessing, "cpu")(x_BCHW).contiguous()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "resnet50.onnx")
        manifest = export_onnx(checkpoint, path)
        ours, ort = TorchBackend(checkpoint, "cpu"), OrtBackend(path, manifest, "cpu")

        @torch.inference_mode()
        def eager() -> Tensor:
            logits: Tensor = plain(normalised_BCHW)
            return logits

        runs: dict[str, Callable[[], Tensor]] = {
            "torch_eager_nchw": eager,
            "torch_backend": lambda: ours.run(x_BCHW, "pooled"),
            "onnxruntime": lambda: ort.run(x_BCHW, "pooled"),
        }
        difference = logit_difference({name: run().flatten(1) for name, run in runs.items()})
        sides = {name: partial(several, run) for name, run in runs.items()}
        measured = compare(
            sides, repeats, images=BATCH * PASSES, reference="torch_eager_nchw", target=TARGETS["onnxruntime"]
        )
        ort.close()
    return measured | {
        "batch": [BATCH, 3, 224, 224],
        "threads": torch.get_num_threads(),
        "largest_logit_difference": difference,
    }


def logit_difference(logits: Mapping[str, Tensor]) -> float:
    """The largest difference from eager PyTorch over the largest logit; raises RuntimeError if it is too large."""
    reference, *others = logits.values()
    difference = max(float((other - reference).abs().max()) for other in others) / float(reference.abs().max())
    if not difference <= TOLERANCE["fp32"]:
        raise RuntimeError(f"logits differ by {difference:.1e} of the largest; allowed are {TOLERANCE['fp32']:.0e}")
    return difference


def several(run: Callable[[], Tensor]) -> None:
    """Run it PASSES times."""
    drain(run() for _ in range(PASSES))


# Timing and printing


def drain(results: Iterable[object]) -> None:
    """Have every result made, and let go of it."""
    for _ in results:
        pass


def compare(
    sides: Mapping[str, Callable[[], None]], repeats: int, *, images: int, reference: str, target: float
) -> dict[str, Any]:
    """Time the sides in turns, after one run of each that does not count; raw seconds, medians and ratios."""
    for run in sides.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            run()
            cpu_seconds[name].append(time.process_time() - cpu_started)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "images": images,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "median_seconds": medians,
        "median_cpu_seconds": {name: statistics.median(values) for name, values in cpu_seconds.items()},
        "images_per_s": {name: images / median for name, median in medians.items()},
        "ratio": {name: medians[reference] / median for name, median in medians.items()},
        "target_ratio": target,
    }


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this process to one thread on one core, where the system can."""
    threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    torch.set_num_threads(1)
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def print_preprocessing(measured: Mapping[str, Mapping[str, Any]], photos: int) -> None:
    """A line for each protocol; at most 80 columns."""
    print(f"preprocessing, one core, {photos} photos from memory: images/s (times PIL's)")
    print(f"{'':20}{'PIL':>6}{'uint8 tiles':>16}{'target':>8}{'incl. normalise':>17}{'pixels':>8}")
    for name, row in measured.items():
        rate, ratio = row["images_per_s"], row["ratio"]
        ours, floats = (f"{rate[side]:.0f} ({ratio[side]:.2f}x)" for side in ("ours", "ours_normalised"))
        pixels = f"<= {row['largest_pixel_difference']}"
        print(f"{name:20}{rate['pil']:6.0f}{ours:>16}{row['target_ratio']:>7.1f}x{floats:>17}{pixels:>8}")


def print_network(measured: Mapping[str, Any]) -> None:
    """A line for each way to run it; at most 80 columns."""
    print(f"\nresnet50, batch {BATCH} at 224x224, {measured['threads']} threads: images/s (times eager's)")
    for name, rate in measured["images_per_s"].items():
        target = f"  target {measured['target_ratio']:.1f}x" if name == "onnxruntime" else ""
        print(f"{name:20}{rate:8.1f}{measured['ratio'][name]:8.2f}x{target}")
    print(f"logits agree to {measured['largest_logit_difference']:.0e} of the largest")


if __name__ == "__main__":
    main()
