"""The command line called in this process."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from resnet_infer.cli.app import main


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    def line_of_error(self, code: int) -> str:
        """The one line that a user sees of a failure, with nothing on stdout."""
        assert self.code == code, self.err
        assert self.out == ""
        assert "Traceback" not in self.err
        line = self.err.splitlines()[-1]
        assert line.startswith("resnet-infer: error: ")
        return line


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """command("eval", data, ...): what `resnet-infer eval data ...` answers."""

    def called(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["resnet-infer", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return Answer(int(caught.value.code or 0), out, err)

    return called
