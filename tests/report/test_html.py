"""Pages: names are text whatever they hold, nothing is fetched, and a file is whole or not there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.errors import UsageError
from resnet_infer.report.html import Html, check_page, details, element, html, page, section, table, write_page


def test_a_name_is_shown_and_never_read_as_markup(
    hostile: str, read: Any, assert_harmless: Callable[[str], None]
) -> None:
    name = hostile
    plain = read(page("t", table(["h", "n"], [["x", 1]], numbers=[1]), section("s", "p"), details("d", "e")))
    text = page(name, table([name, "n"], [[name, 1]], numbers=[1]), section(name, name), details(name, name))
    assert_harmless(text)
    assert [tag for tag, _ in read(text).tags] == [tag for tag, _ in plain.tags]
    assert "".join(read(text).text).count(name) >= 8


def test_any_text_is_read_back_as_it_was(read: Any) -> None:
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=40))
    def read_back(name: str) -> None:
        found = read(element("p", name))
        assert "".join(found.text) == name
        assert len(found.tags) == 1

    read_back()


def test_markup_is_not_escaped_twice() -> None:
    assert html(html("<b>")) == "&lt;b&gt;"
    assert element("p", Html("<b>x</b>"), "<i>") == "<p><b>x</b>\n&lt;i&gt;</p>"


def test_a_page_is_written_whole_with_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, page("caf\udce9", "naïve"))
    assert "caf\\udce9" in path.read_text("utf-8")
    assert "naïve" in path.read_text("utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    for path, words in (
        (tmp_path / "page.txt", "ends in .html"),
        (tmp_path / "absent" / "page.html", "does not exist"),
        (tmp_path / "folder.html", "is a folder"),
    ):
        with pytest.raises(UsageError, match=words):
            check_page(path)
    check_page(tmp_path / "page.html")
