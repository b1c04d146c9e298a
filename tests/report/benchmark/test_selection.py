"""What is picked from the rows, against picking it by hand from the same rows."""

import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest

from resnet_infer.bench.rows import BenchRow, BenchRun
from resnet_infer.report import quantities as q
from resnet_infer.report.benchmark import selection
from resnet_infer.report.benchmark.headline import headlines

ORDER = ["network", "transfer", "memory", "files"]


def rate(row: BenchRow) -> float:
    return statistics.median(row.images / seconds for seconds in row.seconds)


def rates(run: BenchRun, **wanted: str) -> list[float]:
    """The rates of all measured rows with these values."""
    return [rate(r) for r in run.rows if not r.error and all(getattr(r, name) == v for name, v in wanted.items())]


def test_the_cost_of_a_protocol_is_the_best_single_crop_over_its_own_best(large: BenchRun) -> None:
    found = selection.ladders(large.rows)
    assert len(found) == 5  # the resnet18 ran by one protocol only
    for subject, rungs in found.items():
        own = {"model": subject.model, "backend": subject.backend, "options": subject.options}
        assert [rung.protocol for rung in rungs] == ["single-crop", "ten-crop", "multiscale"]
        for rung, multiple in zip(rungs, (1, 10, 197.5 / 4.09), strict=True):
            assert rung.macs_multiple == pytest.approx(multiple)
            for name in ORDER:
                single = max(rates(large, **own, protocol="single-crop", measurement=name))
                assert rung.cost[name] == pytest.approx(  # type: ignore[index]
                    single / max(rates(large, **own, protocol=rung.protocol, measurement=name))
                )


def test_a_ladder_without_a_single_crop_has_no_costs(large: BenchRun) -> None:
    rows = [row for row in large.rows if row.protocol != "single-crop"]
    for rungs in selection.ladders(rows).values():
        assert all(rung.cost == {} and rung.macs_multiple == 0 for rung in rungs)


def test_a_waterfall_is_at_the_batch_size_with_the_most_measurements(large: BenchRun) -> None:
    found = selection.waterfalls(large.rows)
    assert len(found) == 15
    for each in found:
        assert each.batch_size == 256
        assert [row.measurement for row in each.steps] == ORDER
        assert {(row.protocol, row.batch_size) for row in each.steps} == {(each.protocol, 256)}


def test_the_headline_has_the_best_rate_of_every_protocol_and_the_hardware(large: BenchRun) -> None:
    first, second = headlines(large)
    assert first.startswith("resnet50 on NVIDIA H200 with AMD EPYC 9654 96-Core Processor, 16 cores: ")
    network, files = first.split("; ")
    for protocol in ("single-crop", "ten-crop", "multiscale"):
        for measurement, said in (("network", network), ("files", files)):
            best = max(rates(large, architecture="resnet50", protocol=protocol, measurement=measurement))
            assert f"{protocol} {q.rate(best)}" in said
    assert second.startswith("resnet18: single-crop ")


def test_the_headline_of_many_architectures_has_the_ranges(large: BenchRun) -> None:
    rows = [
        replace(row, architecture=name, images=factor * row.images, images_per_s=factor * row.images_per_s)
        for name, factor in (("resnet152", 1), ("resnet18", 4), ("resnet50", 2))
        for row in large.rows
        if row.protocol == "ten-crop" and row.measurement == "network" and not row.error
    ]
    (sentence,) = headlines(replace(large, rows=rows))
    best = max(rates(large, protocol="ten-crop", measurement="network"))
    assert sentence.startswith("3 architectures on NVIDIA H200")
    assert f": ten-crop {q.rate(best)} (resnet152) to {q.rate(4 * best)} (resnet18) images/s through" in sentence


def test_several_gpus_are_counted_and_a_cpu_run_names_none(large: BenchRun, single: BenchRun) -> None:
    gpus = [{"name": "NVIDIA H200"}] * 8
    assert selection.hardware(replace(large, environment={"gpus": gpus, "cpu": "X", "cores": 1})) == (
        "8 × NVIDIA H200 with X, 1 core"
    )
    on_cpu = replace(single, environment=dict(large.environment))
    assert selection.hardware(on_cpu) == "AMD EPYC 9654 96-Core Processor, 16 cores"
    assert selection.hardware(replace(single, environment={})) == "an unnamed processor"


def test_labels_say_what_is_needed_to_tell_subjects_apart(row: Callable[..., BenchRow]) -> None:
    def label(*rows: BenchRow) -> list[str]:
        return list(selection.labels(rows).values())

    one, two = (row((name, "torch", "fp32", ""), "single-crop", "network", 8, 100.0) for name in ("a.pt", "b.pt"))
    assert label(one) == ["torch fp32"]
    assert label(one, two) == ["a.pt, torch fp32", "b.pt, torch fp32"]
    assert label(one, replace(two, options="compile=default")) == ["torch fp32", "torch fp32 compile=default"]
    assert label(one, replace(one, device="cpu")) == ["torch fp32 on cuda:0", "torch fp32 on cpu"]
    assert label(one, replace(two, device="cpu")) == ["a.pt, torch fp32", "b.pt, torch fp32"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.04 s"), (9.94, "9.9 s"), (59.6, "60 s"), (61, "1 min 1 s"), (3600, "1 h"), (3661, "1 h 1 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert q.duration(seconds) == text


def test_numbers_are_as_fine_as_their_size() -> None:
    assert [q.rate(v) for v in (1.234, 12.34, 123.4, 12345.6)] == ["1.23", "12.3", "123.4", "12,346"]
    assert [q.three_digits(v) for v in (0.03456, 4.09, 40.93, 197.5)] == ["0.0346", "4.09", "40.9", "198"]
    assert [q.milliseconds(v) for v in (0.1234, 1.234, 12.34, 1234.5)] == ["0.123", "1.23", "12.3", "1,234"]
    assert [q.tick(v) for v in (0.30000000004, 1, 300, 2000, 20000)] == ["0.3", "1", "300", "2,000", "20k"]
    assert [q.percent(v) for v in (0.054, 0.823)] == ["5.4 %", "82 %"]
    assert [q.memory(v) for v in (512, 2048)] == ["512 MiB", "2.0 GiB"]
