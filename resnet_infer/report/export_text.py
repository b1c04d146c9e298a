"""What a user should know of an export: what was made, how it was checked, and what the gate measured."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_infer.backends.onnx_file import load_graph
from resnet_infer.backends.onnx_layers import read_layers
from resnet_infer.console import visible
from resnet_infer.exporters.to_tensorrt import Built
from resnet_infer.report.text import as_table
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.precisions import Layer, summary


def search_table(record: Mapping[str, Any]) -> str:
    """The calibration's search, the kept candidate marked."""
    lines = []
    for row in record["table"]:
        kept = (row["method"], row["images"]) == (record["method"], record["images"])
        wrong = "" if row["held_out_errors"] is None else str(row["held_out_errors"])
        lines.append(
            [
                row["method"],
                str(row["images"]),
                f"{100 * row['agreement']:.2f} %",
                f"{row['kl_divergence']:.1e}",
                wrong,
                "kept" if kept else "",
            ]
        )
    header = ["method", "images", "agrees with fp32", "KL", "errors", ""]
    fp32 = record["reference_held_out_errors"]
    head = f"calibration on {record['data']}, judged on {record['held_out']} other images"
    if fp32 is not None:
        head += f" (fp32: {fp32} errors)"
    return f"{head}\n{as_table(header, lines, right=(1, 2, 3, 4))}"


def describe(manifest: Manifest, path: Path) -> Iterator[str]:
    """What a user should know of an ONNX file just written: what it is, and how it was checked."""
    taken = "" if manifest.input == "normalized" else f", takes {manifest.input}"
    taken += "" if manifest.output == "logits" else f", gives {manifest.output}"
    size, manifest = path.stat().st_size / 2**20, visible(manifest)
    made = f"{manifest.spec.name}, {manifest.head} head, {manifest.precision}{taken}"
    yield f"{visible(str(path))}: {made}, {size:.1f} MiB"
    yield _layer_line(read_layers(load_graph(path)))
    yield from checks(manifest)


def checks(manifest: Manifest) -> Iterator[str]:
    """How an ONNX file was checked."""
    if manifest.quantization:
        yield "\n" + search_table(manifest.quantization)
    elif manifest.parity:
        reference = manifest.parity.get("reference", "PyTorch")
        yield (
            f"checked against {reference}: largest difference {manifest.parity['relative_diff']:.1e} of the largest "
            f"logit (tolerance {manifest.parity['tolerance']:g})"
        )
    if "assumed" in (how := str(manifest.extra.get("architecture", ""))):
        yield f"as what: a {manifest.spec.name}, {how}"
    if manifest.gate:
        yield "\n" + describe_gate(manifest.gate)


def describe_engine(built: Built, path: Path) -> Iterator[str]:
    """What a user should know of an engine: what it is, what it takes, where it runs, whether it was built anew."""
    record = built.record
    manifest = visible(record.manifest)
    size = record.size_bytes / 2**20
    yield f"{visible(str(path))}: {manifest.spec.name}, {manifest.head} head, {manifest.precision}, {size:.1f} MiB"
    yield _layer_line(record.layers)
    for number, profile in enumerate(record.profiles):
        yield f"profile {number}: {profile.describe()}, tuned for {' x '.join(map(str, profile.opt))}"
    where = ", ".join(f"{major}.{minor}" for major, minor in record.capabilities)
    yield f"runs on: {record.flavour.replace('_', '-')} {record.version}, compute capability {where}"
    yield f"engine cache: {'hit' if built.cache_hit else 'miss, built anew'} ({built.key[:16]})"
    if manifest.gate:
        yield "\n" + describe_gate(manifest.gate)


def describe_gate(report: Mapping[str, Any]) -> str:
    """The report of a gate as a small table."""
    errors = report["reference_errors"]
    lines = [
        ["best class agrees", f"{100 * report['top1_agreement']:.2f} %", f">= {100 * report['min_agreement']:.2f} %"],
        ["best five in common", f"{100 * report['top5_overlap']:.2f} %", ""],
        ["cosine of logits", f"{report['logit_cosine']:.6f}", ""],
        ["KL divergence", f"{report['kl_divergence']:.2e}", ""],
        [
            "difference of a logit",
            f"max {report['max_diff']:.3g}, p99 {report['p99_diff']:.3g}, mean {report['mean_diff']:.3g}",
            "",
        ],
    ]
    if errors is not None:
        change = f"{errors} -> {report['candidate_errors']} ({report['top1_drop']:+.2f} points)"
        lines.append(["top-1 errors", change, f"<= +{report['max_top1_drop']:.2f} points"])
    head = f"gate on {report['data']}, {report['images']} images, {report['protocol']}"
    sides = f"reference: {report['reference']}\ncandidate: {report['candidate']}"
    return f"{head}\n{sides}\n{as_table(['measure', 'value', 'needed'], lines)}"


def _layer_line(layers: Sequence[Layer]) -> str:
    return "layers: " + ", ".join(f"{row['layers']} {row['operator']} in {row['type']}" for row in summary(layers))
