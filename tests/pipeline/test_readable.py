"""What can be read is found before anything is used, the rest is named, and a killed process costs one image."""

import os
from typing import Any

import numpy as np
import pytest

from resnet_infer.data.samples import Sample
from resnet_infer.data.source import Memory
from resnet_infer.errors import DataError
from resnet_infer.pipeline.readable import readable

GOOD = np.zeros((4, 4, 3), np.uint8)


class Fatal(Memory):
    """The third image ends the process that reads it."""

    def read(self, sample: Sample) -> Any:
        if sample.key == 2:
            os._exit(1)
        return super().read(sample)


def test_images_that_cannot_be_read_are_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    source = Fatal("data", [("a", GOOD), ("b", b"broken"), ("c", GOOD), ("d", GOOD)])
    advanced: list[float] = []
    found = readable(source, advance=advanced.append)
    assert [sample.name for sample in found.samples] == ["a", "d"]
    assert all((found.read(sample) == GOOD).all() for sample in found.samples)
    assert found.name == "data"
    assert len(advanced) == 4
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert [line.split(":")[1].strip() for line in lines] == ["b", "c"]


def test_a_source_without_fault_stays_as_it_is() -> None:
    source = Memory("data", [("a", GOOD), ("b", GOOD)])
    assert readable(source, workers=0) is source


def test_a_source_of_nothing_readable_is_an_error() -> None:
    with pytest.raises(DataError, match="none of its 2 images"):
        readable(Memory("data", [("a", b""), ("b", b"x")]), workers=0)
