"""Flags that several commands share are the same everywhere, and what is wrong with one is a line."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import typer
from PIL import Image

from resnet_infer.cli.app import app
from resnet_infer.cli.groups import with_flags

Command = Callable[..., Any]
MODEL = "resnet20.cifar10"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("flags")
    for index, name in enumerate(("bird", "cat")):
        (folder / name).mkdir()
        Image.fromarray(picture(40, 44, index)).save(folder / name / "0.png")
    return folder


def protocols_run(command: Command, name: str, images: Path, *flags: str) -> list[str]:
    """The protocols that a command says it ran."""
    arguments = {
        "predict": ("predict", images / "bird/0.png", "-m", MODEL),
        "eval": ("eval", images, "-m", MODEL),
        "compare": ("compare", MODEL, MODEL, "--data", images),
    }[name]
    answer = command(*arguments, "--format", "json", "--device", "cpu", "--workers", "0", *flags)
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    return [row["protocol"] for row in (found["rows"] if isinstance(found, dict) else found)]


@pytest.mark.parametrize("name", ["predict", "eval", "compare"])
def test_protocols_are_asked_for_alike_in_every_command(command: Command, images: Path, name: str) -> None:
    assert protocols_run(command, name, images) == ["single-crop"]
    for protocol in ("single-crop", "ten-crop", "multiscale"):
        assert protocols_run(command, name, images, "--protocol", protocol) == [protocol]
        assert protocols_run(command, name, images, f"--{protocol}") == [protocol]
    both = ("--ten-crop", "--protocol", "single-crop", "--single-crop")
    if name != "predict":
        assert protocols_run(command, name, images, *both) == ["single-crop", "ten-crop"]
        return
    refused = command("predict", images / "bird/0.png", "-m", MODEL, *both)
    assert "predict uses one protocol; got single-crop, ten-crop" in refused.line_of_error(2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("eval", "x", "-m", "y", "--format", "jsn"), "'jsn' is not one of table, json, jsonl, csv. Nearest: json."),
        (("predict", "x", "--protocol", "tencrop"), "one of single-crop, ten-crop, multiscale. Nearest: ten-crop"),
        (("predict", "x", "--backend", "onnx"), "'onnx' is not one of torch, onnxruntime, tensorrt, auto."),
        (("eval", "x", "-m", "y", "--decode", "gpu"), "'--decode': 'gpu' is not one of workers, device"),
        (("export", "x", "--input-layout", "chw"), "Nearest: nchw"),
        (("predict", "x", "--top-k", "0"), "'--top-k'"),
        (("eval",), "Missing argument 'DATA'. See `resnet-infer eval --help`"),
        (("eval", "x", "--modle", "y"), "No such option: --modle"),
        (("evla",), "evla"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_one_line_and_exit_code_2(command: Command, arguments: tuple[str, ...], words: str) -> None:
    answer = command(*arguments)
    assert words in answer.line_of_error(2)
    assert len(answer.err.splitlines()) == 1


def test_help_shows_panels_with_their_flags_and_choices(command: Command) -> None:
    answer = command("eval", "--help")
    assert answer.code == 0
    panels = ["Arguments:", "Options:", "Model:", "Protocol:", "Loading:", "Evaluation:", "Output:"]
    lines = answer.out.splitlines()
    assert [line for line in lines if line in panels] == panels
    assert (
        lines.index("Loading:")
        < lines.index(next(line for line in lines if "--workers" in line))
        < lines.index("Output:")
    )
    assert "<workers|device>" in answer.out
    assert max(map(len, lines)) <= 80


def test_no_command_has_a_flag_twice() -> None:
    group: Any = typer.main.get_command(app)
    for name, found in group.commands.items():
        flags = [flag for parameter in found.params for flag in (*parameter.opts, *parameter.secondary_opts)]
        assert len(flags) == len(set(flags)), name


def test_a_group_reaches_its_command_with_defaults_and_values() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Sizes:
        PANEL: ClassVar = "Sizes"
        height: Annotated[int, typer.Option()]
        width: Annotated[int, typer.Option()] = 7

    seen: list[Any] = []

    @with_flags
    def area(name: Annotated[str, typer.Argument()], sizes: Sizes, loud: bool = False) -> None:
        seen.append((name, sizes, loud))

    own = typer.Typer()
    own.command()(area)
    own(["field", "--height", "3"], standalone_mode=False)
    own(["field", "--height", "3", "--width", "4", "--loud"], standalone_mode=False)
    assert seen == [("field", Sizes(height=3, width=7), False), ("field", Sizes(height=3, width=4), True)]
