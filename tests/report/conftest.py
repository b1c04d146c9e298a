"""Reading a page as a browser would, and names that try to be markup."""

from collections.abc import Callable
from html.parser import HTMLParser

import pytest

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&lt;b", "' onload='x", "</title><b>", "\n"]


class Read(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def check_harmless(text: str) -> None:
    """No script, no handler, and nothing that a browser would fetch."""
    for tag, attributes in Read(text).tags:
        assert tag not in ("script", "iframe", "object", "embed", "link", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("href", "src", "action", "xlink:href") or str(value).startswith(
                "data:image/jpeg;base64,"
            )
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


@pytest.fixture
def read() -> type[Read]:
    """read(text): its elements and its text."""
    return Read


@pytest.fixture
def assert_harmless() -> Callable[[str], None]:
    return check_harmless


@pytest.fixture(params=HOSTILE)
def hostile(request: pytest.FixtureRequest) -> str:
    """A name that would be markup if it were not escaped."""
    return str(request.param)
