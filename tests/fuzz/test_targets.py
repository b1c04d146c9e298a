"""Every reader of foreign files against hypothesis: any bytes, and well-formed files with accidents."""

import random
from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import TARGETS, seeds


@pytest.fixture(scope="module")
def wholes() -> Mapping[str, list[bytes]]:
    return seeds()


@pytest.mark.parametrize("name", TARGETS)
def test_well_formed_files_are_no_accident(name: str, wholes: Mapping[str, list[bytes]]) -> None:
    for data in wholes[name]:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=200))
def test_any_bytes_give_a_result_or_one_of_our_errors(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_damaged_files_give_a_result_or_one_of_our_errors(
    name: str, seed: int, wholes: Mapping[str, list[bytes]]
) -> None:
    chance = random.Random(seed)
    data = bytearray(chance.choice(wholes[name]))
    for _ in range(chance.randint(1, 6)):
        at, length = chance.randrange(len(data) + 1), chance.randint(1, 8)
        data[at : at + length] = chance.choice((b"", b"\0", b"\xff" * length, chance.randbytes(1), b"9" * 30))
    TARGETS[name](bytes(data))
