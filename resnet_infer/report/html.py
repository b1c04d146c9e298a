"""HTML pages that need no other file and no network: escaped text, tables, light and dark by the reader's setting.

Whatever is not `Html` is escaped, so that a file's or a class's name is shown as it is and never read as markup. A page
also forbids itself scripts and every address by its Content-Security-Policy.
"""

from collections.abc import Iterable, Sequence
from html import escape as escaped
from pathlib import Path

from resnet_infer.errors import UsageError
from resnet_infer.files import replacing

STYLE = """
:root { color-scheme: light dark; --text: #1d2129; --soft: #5b6470; --back: #fff; --line: #d8dde4; --panel: #f4f6f9;
  --blue: #1f5fa8; --red: #b3402e; --on: #fff }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7ec; --soft: #9aa4b1; --back: #14171c; --line: #333a44; --panel: #1d222a;
    --blue: #7fb3ee; --red: #ef8c7a; --on: #14171c }
}
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 64rem;
  margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; padding-top: .8rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem }
p { margin: .4rem 0; max-width: 46rem }
.soft, figcaption, summary { color: var(--soft) }
.scroll { overflow-x: auto; margin: .6rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; white-space: nowrap }
th:first-child, td:first-child { padding-left: 0 }
td { overflow-wrap: normal }
td.name { overflow-wrap: anywhere; min-width: 8rem }
th.number, td.number { text-align: right }
td.number { white-space: nowrap }
@media (max-width: 40rem) {
  table { font-size: 13px }
  th, td { padding: .2rem .35rem }
  th { white-space: normal; overflow-wrap: normal; vertical-align: bottom }
  td.name { min-width: 5.5rem }
}
summary { cursor: pointer; margin: .6rem 0 }
figure { margin: .8rem 0; max-width: 24rem }
svg { width: 100%; height: auto; display: block }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft) }
"""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def html(value: object) -> Html:
    """Any value as markup: itself if it is, else its text escaped."""
    return value if isinstance(value, Html) else Html(escaped(str(value)))


def join(parts: Iterable[object], between: str = "\n") -> Html:
    """Parts one after another, each escaped unless it is markup."""
    return Html(between.join(html(part) for part in parts))


def element(tag: str, *parts: object, kind: str = "") -> Html:
    """An element around its parts, with a class where `kind` names one."""
    opening = f'<{tag} class="{escaped(kind)}">' if kind else f"<{tag}>"
    return Html(f"{opening}{join(parts)}</{tag}>")


def section(heading: object, *parts: object, level: int = 2) -> Html:
    """A heading and what stands under it."""
    return join([element(f"h{level}", heading), *parts])


def table(header: Sequence[object], rows: Iterable[Sequence[object]], *, numbers: Sequence[int] = ()) -> Html:
    """A table that scrolls by itself where the window is narrow; the columns of `numbers` are set to the right."""

    def line(tag: str, cells: Sequence[object]) -> Html:
        kinds = ["number" if at in numbers else "name" for at in range(len(cells))]
        return element("tr", *(element(tag, cell, kind=kind) for cell, kind in zip(cells, kinds, strict=True)))

    head = element("thead", line("th", header))
    body = element("tbody", *(line("td", cells) for cells in rows))
    return element("div", element("table", head, body), kind="scroll")


def details(summary: object, *parts: object) -> Html:
    """Parts that the reader opens."""
    return element("details", element("summary", summary), *parts)


def page(title: str, *parts: object, style: str = "") -> str:
    """The whole document; `style` is added to the common one."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<h1>{escaped(title)}</h1>
{join(parts)}
</body>
</html>
"""


def check_page(path: Path) -> None:
    """Raise UsageError if a page cannot be written there: better before the work than after it."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--page {path}: a page is an HTML file; give a name that ends in .html")
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = "is a folder" if path.is_dir() else "its folder does not exist"
        raise UsageError(f"--page {path}: {what}; give a file in a folder that exists")


def write_page(path: Path, text: str) -> None:
    """Write a page whole or not at all. What is no text in a file's name is shown by its escape."""
    with replacing(path) as partial:
        partial.write_text(text, "utf-8", errors="backslashreplace")
