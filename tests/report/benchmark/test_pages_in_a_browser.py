"""Benchmark pages opened in Chromium: nothing fetched, nothing cut off, all of it legible, in every size and scheme."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnet_infer.bench.rows import BenchRun
from resnet_infer.report.benchmark.diff import compare_runs
from resnet_infer.report.benchmark.diff_page import comparison_page
from resnet_infer.report.benchmark.page import benchmark_page
from resnet_infer.report.html import write_page

WIDTHS = (1280, 400)
SCHEMES = ("light", "dark")
LEAST_FONT = 9.0
"""Pixels, of a chart's text as shown."""

MEASURE = """() => {
  const all = selector => [...document.querySelectorAll(selector)];
  const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom] };
  const colour = value => {
    const probe = document.createElement('i'); probe.style.color = value; document.body.append(probe);
    const found = getComputedStyle(probe).color; probe.remove(); return found.match(/[\\d.]+/g).slice(0, 3).map(Number);
  };
  all('details').forEach(e => { e.open = true });
  const names = ['text', 'soft', 'blue', 'red', 'back', 'panel', ...[...Array(8).keys()].map(n => 's' + n)];
  return {
    inner: innerWidth, scroll: document.documentElement.scrollWidth,
    outside: all('body *').filter(e => !e.closest('.scroll') && !e.closest('svg') && box(e)[2] > innerWidth + 0.5)
      .map(e => e.outerHTML),
    cut: all('table.bars td').filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML),
    charts: all('svg[role=img]').map(e => ({
      box: box(e), said: e.getAttribute('aria-label'),
      texts: [...e.querySelectorAll('text')].map(t => ({ box: box(t), text: t.textContent })),
      font: 12 * e.getBoundingClientRect().width / e.viewBox.baseVal.width,
    })),
    unnamed: all('svg:not([role=img]):not([aria-hidden=true])').length,
    colours: Object.fromEntries(names.map(name => [name, colour('var(--' + name + ')')])),
    back: getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number),
  };
}"""


def luminance(rgb: list[float]) -> float:
    """WCAG 2.2's relative luminance."""
    parts = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a: list[float], b: list[float]) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def overlap(a: list[float], b: list[float]) -> bool:
    return min(a[2], b[2]) - max(a[0], b[0]) > 0.5 and min(a[3], b[3]) - max(a[1], b[1]) > 2


@pytest.fixture(params=["large", "single", "all_failed", "comparison"])
def shown(request: pytest.FixtureRequest, large: BenchRun, browser: Any, tmp_path: Path) -> Any:
    """The page opened from its file, with all that it asked for and complained of."""
    if request.param == "comparison":
        other = replace(large, rows=[replace(row, seconds=[s / 1.2 for s in row.seconds]) for row in large.rows[3:]])
        text = comparison_page("a.json", large, [compare_runs(large, "b <i>.json", other)])
    else:
        text = benchmark_page(request.getfixturevalue(request.param))
    write_page(tmp_path / "page.html", text)
    page = browser.new_page()
    page.requests, page.complaints = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    yield page
    page.close()


def test_a_page_reads_well_at_every_width_and_in_both_schemes(shown: Any) -> None:
    for width in WIDTHS:
        for scheme in SCHEMES:
            shown.set_viewport_size({"width": width, "height": 900})
            shown.emulate_media(color_scheme=scheme)
            seen = shown.evaluate(MEASURE)
            assert seen["scroll"] <= seen["inner"] == width
            assert seen["outside"] == []
            assert seen["cut"] == []
            assert seen["unnamed"] == 0
            check_charts(seen["charts"])
            check_colours(seen, scheme)
    assert shown.requests == [shown.url]
    assert shown.complaints == []


def check_charts(charts: list[dict[str, Any]]) -> None:
    """Every chart is described, and its words are large enough, inside it, and apart."""
    for chart in charts:
        assert len(chart["said"]) > 40
        assert chart["font"] >= LEAST_FONT
        left, top, right, bottom = chart["box"]
        for at, text in enumerate(chart["texts"]):
            box = text["box"]
            assert left - 0.5 <= box[0] <= box[2] <= right + 0.5, text
            assert top - 0.5 <= box[1] <= box[3] <= bottom + 0.5, text
            for other in chart["texts"][:at]:
                assert not overlap(box, other["box"]), (text, other)


def check_colours(seen: dict[str, Any], scheme: str) -> None:
    """WCAG: 4.5 for text, 3 for what is drawn."""
    back, colours = seen["back"], seen["colours"]
    assert (luminance(back) > 0.5) == (scheme == "light")
    for name in ("text", "soft", "blue", "red"):
        assert contrast(colours[name], back) >= 4.5, name
        assert contrast(colours[name], colours["panel"]) >= 4.5, name
    for number in range(8):
        assert contrast(colours[f"s{number}"], back) >= 3, number


def test_a_full_run_has_every_chart(large: BenchRun, opened: Callable[[str], Any]) -> None:
    page = opened(benchmark_page(large))
    for name in ("throughput", "latency", "protocols", "roofline", "end-to-end", "failures", "rows", "environment"):
        assert page.locator(f"nav a[href='#{name}']").count() == 1
        assert page.locator(f"section#{name} h2").is_visible()
    assert page.locator("#throughput svg[role=img]").count() == 4  # three protocols of resnet50, one of resnet18
    assert page.locator("#throughput svg[role=img]").nth(0).locator(".mark").count() == 5 * 5
    assert page.locator("#protocols svg[role=img]").count() == 2
    assert page.locator("#roofline table.roof").nth(0).locator("svg.bar").count() == 16
    assert page.locator("#end-to-end figure").count() == 15
    assert page.locator("table.rows tbody tr").count() == len(large.rows)


def test_rows_sort_without_a_script(large: BenchRun, opened: Callable[[str], Any]) -> None:
    page = opened(benchmark_page(large))
    assert page.locator("script").count() == 0

    def column(header: str) -> list[str]:
        """The cells from the top of the screen downwards."""
        found: list[str] = page.evaluate(
            """header => {
              const table = document.querySelector('table.rows');
              const at = [...table.querySelectorAll('th')].findIndex(th => th.textContent === header);
              const rows = [...table.querySelectorAll('tbody tr')];
              rows.sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top);
              return rows.map(row => row.children[at].textContent);
            }""",
            header,
        )
        return found

    failed = sum(bool(row.error) for row in large.rows)
    measured_order = column("images/s")
    page.get_by_label("images/s", exact=True).check()
    rates = [float(text.replace(",", "")) for text in column("images/s")[:-failed]]
    assert rates == sorted(rates, reverse=True)
    assert column("images/s")[-failed:] == [""] * failed
    assert sorted(column("images/s")) == sorted(measured_order)
    page.get_by_label("batch", exact=True).check()
    batches = [int(text.split()[0]) for text in column("batch")]
    assert batches == sorted(batches)
    page.get_by_label("as measured").check()
    assert column("images/s") == measured_order


def test_a_page_prints_dark_on_white_with_nothing_folded(large: BenchRun, opened: Callable[[str], Any]) -> None:
    page = opened(benchmark_page(large))
    page.emulate_media(media="print", color_scheme="dark")
    text, back = (
        page.evaluate(f"getComputedStyle(document.body).{name}.match(/[\\d.]+/g).slice(0, 3).map(Number)")
        for name in ("color", "backgroundColor")
    )
    assert luminance(back) > 0.9
    assert contrast(text, back) > 7
    assert not page.locator("fieldset.sort").is_visible()
    assert page.locator("#roofline details table").nth(0).bounding_box()["height"] > 100


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Any:
    """opened(text): the page in a window of 1280 pixels."""
    pages = []

    def open_page(text: str) -> Any:
        write_page(tmp_path / "page.html", text)
        pages.append(browser.new_page())
        pages[-1].set_viewport_size({"width": 1280, "height": 900})
        pages[-1].goto((tmp_path / "page.html").as_uri())
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()
