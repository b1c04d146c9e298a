"""The repository keeps its own rules: layers, short files, a README whose commands exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from resnet_infer.cli.app import app

ROOT = Path(__file__).parents[1]
PYTHON_FILES = sorted(p for folder in ("resnet_infer", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py"))


def test_imports_run_downward_only() -> None:
    pytest.importorskip("importlinter", reason="needs import-linter")
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_files_are_short() -> None:
    long = {str(p.relative_to(ROOT)): n for p in PYTHON_FILES if (n := len(p.read_text("utf-8").splitlines())) > 300}
    assert len(PYTHON_FILES) > 50
    assert not long


def test_modules_say_what_they_are() -> None:
    assert [p.name for p in PYTHON_FILES if not p.read_text("utf-8").startswith('"""')] == []


def readme_commands() -> list[list[str]]:
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("resnet-infer ")]


def test_every_readme_command_exists_with_its_flags() -> None:
    group = typer.main.get_command(app)
    commands = readme_commands()
    assert {"predict", "eval", "export"} <= {words[0] for words in commands}
    for words in commands:
        command = group.commands[words[0]]  # type: ignore[attr-defined]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        given = {word for word in words[1:] if word.startswith("-") and word != "-"}
        assert given <= known, words


def test_readme_names_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
