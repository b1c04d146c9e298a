"""What an ensemble costs beyond its networks: one pass over the images against the members' network time alone.

Sides, which take turns within every repeat:

- network of each member: its backend runs the images' tiles, which lie in memory, in the batches of `score`. No
  decoding, no softmax, no counting.
- one pass: `evaluate` from the zip file to every row's errors: decoding, both networks, both members' rows and
  the ensemble's.
- one by one: `evaluate` of each member, after each other; images are decoded once for each.

Wall time and the CPU time of this process are noted. With `--workers 1` decoding is another process's, on another core,
and not in the CPU time; with 0 it is in both. Figures are medians; the ratio is to the sum of the network times.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from resnet_infer.backends.load import open_model
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Subset
from resnet_infer.environment import environment
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.files import replacing
from resnet_infer.model.checkpoints import Overrides
from resnet_infer.pipeline.loader import load
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import DEFAULT_BATCH, Member
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from resnet_infer.spec.protocols import protocol_for

TARGET = 1.05
"""One pass may cost so many times the sum of its members' network times."""


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description="An ensemble's pass against its members' network times.")
    parser.add_argument("--data", type=Path, required=True, help="images, as for eval")
    parser.add_argument("-m", "--model", action="append", required=True, help="checkpoint; several times")
    parser.add_argument("--images", type=int, default=2000, help="of the data, evenly spread (default 2000)")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each side (default 5)")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="of the network (default 1)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    overrides = Overrides(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    members = []
    for name in args.model:
        model = open_model(name, device="cpu", overrides=overrides)
        protocol = protocol_for("single-crop", model.manifest.spec, model.manifest.preprocessing)
        members.append(Member(model, (protocol,)))
    whole = open_source(args.data)
    source = Subset(whole.name, whole, range(0, len(whole.samples), max(1, len(whole.samples) // args.images)))
    sides: dict[str, Callable[[], object]] = {}
    for member in members:
        sides[f"network {member.model.name}"] = network_only(member, source)
    sides["one pass"] = lambda: evaluate(members, source, loading=Loading(workers=args.workers))
    sides["one by one"] = lambda: [
        evaluate([Member(m.model, tuple(m.protocols))], source, loading=Loading(workers=args.workers)) for m in members
    ]
    timed = in_turns(sides, args.repeats)
    names = " ".join(f"-m {Path(name).name}" for name in args.model)
    result: dict[str, Any] = {
        "what": "an ensemble's pass against its members' network times",
        "command": f"python -m benchmarks.ensemble --data {args.data.name} {names} --images {args.images} "
        f"--repeats {args.repeats} --workers {args.workers} --threads {args.threads}",
        "environment": environment(),
        "images": len(source.samples),
        "target_ratio": TARGET,
        "sides": timed,
    }
    for clock in ("wall", "cpu"):
        network = sum(timed[f"network {member.model.name}"][f"median_{clock}_s"] for member in members)
        result[f"network_{clock}_s"] = network
        for side in ("one pass", "one by one"):
            result[f"{side.replace(' ', '_')}_ratio_{clock}"] = timed[side][f"median_{clock}_s"] / network
    print(f"{len(source.samples)} images, medians of {args.repeats}")
    for name, values in timed.items():
        print(f"  {name:32} {values['median_wall_s']:7.2f} s wall  {values['median_cpu_s']:7.2f} s CPU")
    for side in ("one_pass", "one_by_one"):
        print(f"{side}: {result[side + '_ratio_wall']:.3f} of the networks' time by wall, "
              f"{result[side + '_ratio_cpu']:.3f} by CPU (target {TARGET})")  # fmt: skip
    if args.output:
        with replacing(args.output) as unfinished:
            unfinished.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def network_only(member: Member, source: Subset) -> Callable[[], None]:
    """A run of the member's network over the images' tiles, rendered beforehand."""
    spec = member.model.manifest.spec
    tiles = [image.tiles[0] for image in load(source, member.protocols, range(len(source.samples)), 0)]
    size = DEFAULT_BATCH["cpu", spec.family]
    batches: Sequence[list[torch.Tensor]] = [tiles[at : at + size] for at in range(0, len(tiles), size)]

    def run() -> None:
        for batch in batches:
            member.model.backend.run(torch.stack(batch).permute(0, 3, 1, 2), member.protocols[0].head)

    return run


def in_turns(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, Any]]:
    """Wall and CPU seconds of every side, after one run of each that does not count."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, run in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if turn:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: {
            "wall_s": [wall for wall, _ in values],
            "cpu_s": [cpu for _, cpu in values],
            "median_wall_s": statistics.median(wall for wall, _ in values),
            "median_cpu_s": statistics.median(cpu for _, cpu in values),
        }
        for name, values in seconds.items()
    }


if __name__ == "__main__":
    main()
