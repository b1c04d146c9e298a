"""Sides' processes: errors come back, and a process that is gone or silent is an error, not a hang."""

import math
import multiprocessing
import os
import time

import pytest

from benchmarks.timing import SideFailed, compare, processes


def test_calls_give_what_their_functions_give_or_raise() -> None:
    started = time.monotonic()
    with processes(["sound", "dead", "silent"], str) as calls:
        assert calls["sound"](math.sqrt, 9) == 3
        with pytest.raises(ZeroDivisionError):
            calls["sound"](divmod, 1, 0)
        with pytest.raises(SideFailed, match="dead: its process ended"):
            calls["dead"](os._exit, 1)
        with pytest.raises(SideFailed, match="dead"):
            calls["dead"](math.sqrt, 9)
        assert calls["silent"](math.sqrt, 9) == 3  # it is up: the next call's time is the function's
        with pytest.raises(SideFailed, match="silent: no answer within 1 s"):
            calls["silent"](time.sleep, 3600, timeout_s=1)
        assert calls["sound"](math.sqrt, 4) == 2
    assert time.monotonic() - started < 1800


def test_compare_takes_turns_and_medians() -> None:
    order: list[str] = []
    seconds = {"a": iter([99.0, 1.0, 2.0, 6.0]), "b": iter([99.0, 4.0, 4.0, 1.0])}

    def side(name: str) -> float:
        order.append(name)
        return next(seconds[name])

    sides = {name: lambda name=name: side(name) for name in seconds}
    measured = compare(sides, 3, images=8, reference="b", target=None)
    assert "".join(order) == "abababab"
    assert measured["seconds"] == {"a": [1, 2, 6], "b": [4, 4, 1]}
    assert measured["images_per_s"] == {"a": 4, "b": 2}
    assert measured["ratio"] == {"a": 2, "b": 1}


def test_a_sides_own_processes_start_as_they_do_elsewhere() -> None:
    with processes(["side"], str) as calls:
        assert calls["side"](multiprocessing.get_start_method) == multiprocessing.get_start_method()


def test_a_start_is_waited_for_and_is_not_in_any_calls_time() -> None:
    with processes(["slow", "slow too"], _slow) as calls:
        for call in calls.values():
            assert call(math.sqrt, 9, timeout_s=3) == 3
        with pytest.raises(SideFailed, match="slow too: no answer within 1 s"):
            calls["slow too"](time.sleep, 3600, timeout_s=1)
    with processes(["cannot"], os._exit) as calls, pytest.raises(SideFailed, match="cannot: its process ended"):
        calls["cannot"](math.sqrt, 9)


def _slow(side: str) -> None:
    time.sleep(4)
