"""The repository keeps its own rules: layers, short files, a README whose commands exist."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from resnet_infer.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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
    texts = "\n".join(page.read_text("utf-8") for page in PAGES)
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", texts, re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("resnet-infer ")]


def test_every_readme_command_exists_with_its_flags() -> None:
    group = typer.main.get_command(app)
    commands = readme_commands()
    assert {"predict", "eval", "export"} <= {words[0] for words in commands}
    for words in commands:
        command = group.commands[words[0]]  # type: ignore[attr-defined]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        given = {word for word in words[1:] if word.startswith("-") and word != "-"}
        assert given <= known, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_link_to_files_that_exist(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_is_about_one_screen_and_links_to_every_page() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 80
    assert all(f"(docs/{page.name})" in text for page in PAGES[1:])


def test_the_root_of_the_package_has_few_modules() -> None:
    modules = {path.name for path in (ROOT / "resnet_infer").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert modules == {
        "allocator.py",
        "console.py",
        "demo.py",
        "environment.py",
        "errors.py",
        "files.py",
        "locks.py",
        "verify.py",
    }


def test_functions_take_few_parameters() -> None:
    many = [
        f"{path.name}: {node.name}"
        for path in (ROOT / "resnet_infer").rglob("*.py")
        if not path.name.endswith("_kernels.py")  # a kernel's parameters are Triton's
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) > 12
    ]
    assert not many
