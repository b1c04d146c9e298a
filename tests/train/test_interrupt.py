"""Signals leave a mark the first time and end the process the second time."""

import signal

import pytest

from resnet_infer.errors import Stopped
from resnet_infer.train.interrupt import interruptible


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_the_second_ctrl_c_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptible() as asked:
        assert asked.signal == 0
        signal.raise_signal(signal.SIGINT)
        assert asked.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_exit_codes_are_the_shells() -> None:
    assert Stopped("", signal.SIGINT).exit_code == 130
    assert Stopped("", signal.SIGTERM).exit_code == 143
