"""The measurement of the host's work scores what it says, and knows one side's figures from the other's."""

import pytest

from benchmarks import host
from resnet_infer.pipeline import loader


@pytest.mark.parametrize("protocol", ["single-crop", "ten-crop", "multiscale"])
def test_a_case_runs_from_packed_chunks_to_counts(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader._Chunks, "make", None)  # put back afterwards
    assert host._prepared(host.Case(protocol, 32, 48))() > 0


def test_sides_are_timed_in_turns_and_compared_by_their_medians(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[str, str]] = []

    def side(name: str, seconds: list[float]) -> host.Run:
        left = iter(seconds)

        def run(case: str) -> float:
            asked.append((name, case))
            return next(left)

        return run

    sides = {"ours": side("ours", [9, 1e-5, 2e-5, 9e-5]), "old": side("old", [9, 5e-5, 6e-5, 7e-5])}
    found = host._compared("ten-crop/32", sides, 3, "old")
    assert asked == [("ours", "ten-crop/32"), ("old", "ten-crop/32")] * 4
    assert found["cpu_us_per_image"] == {"ours": 20, "old": 60}
    assert found["images_per_s"] == {"ours": 50_000, "old": round(1e6 / 60)}
    assert found["ratio"] == 3
    assert "ratio 3.00" in capsys.readouterr().out
