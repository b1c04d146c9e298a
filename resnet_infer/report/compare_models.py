"""The page of a comparison: errors, flips each way, classes, and pictures of the images on which the two disagree."""

from collections.abc import Mapping, Sequence

from resnet_infer.evaluation.comparison_rows import ClassDifference, Comparison, Disagreement, Outcome, Side
from resnet_infer.report.html import Html, details, element, html, join, page, section, table

SHOWN = 20
"""Classes listed before the reader opens the rest."""
GROUPS: Sequence[tuple[Outcome, str]] = (
    ("only A right", "Only A is right"),
    ("only B right", "Only B is right"),
    ("both wrong", "Both wrong, in different ways"),
    ("", "Other best classes"),
)

STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .7rem; margin: .6rem 0 }
.card { background: var(--panel); border-radius: 6px; padding: .6rem; font-size: 13px; line-height: 1.35 }
.card img { display: block; width: 100%; height: 7rem; object-fit: contain; margin-bottom: .4rem }
.card div { margin-top: .1rem }
.good { color: var(--blue) }
.bad { color: var(--red) }
"""


def chosen(comparison: Comparison, most: int) -> list[Disagreement]:
    """The disagreements to show, up to `most` of each kind: those in which the wrong side was surest come first."""

    def sureness(image: Disagreement) -> float:
        if image.outcome == "only A right":
            return image.b_prob
        return image.a_prob if image.outcome == "only B right" else max(image.a_prob, image.b_prob)

    found = []
    for outcome, _ in GROUPS:
        group = [image for image in comparison.disagreements if image.outcome == outcome]
        found += sorted(group, key=lambda image: (-sureness(image), image.index))[:most]
    return found


def compare_page(comparisons: Sequence[Comparison], most: int, pictures: Mapping[int, str]) -> str:
    """The page; `pictures` are base64 JPEG files by index, and up to `most` images of a kind are shown."""
    first = comparisons[0]
    left_out = f", {len(first.unreadable)} left out as unreadable" if first.unreadable else ""
    sides = table(
        ["", "model", "architecture", "runs on"],
        [[name, of.model, of.architecture, _ran(of)] for name, of in (("A", first.a), ("B", first.b))],
    )
    return page(
        f"{first.a.model} and {first.b.model}",
        element("p", f"On {first.data}: {first.images:,} images{left_out}."),
        sides,
        *(_section(comparison, most, pictures) for comparison in comparisons),
        style=STYLE,
    )


def _ran(side: Side) -> str:
    return f"{side.backend} {side.precision} on {side.device}"


def _section(comparison: Comparison, most: int, pictures: Mapping[int, str]) -> Html:
    c = comparison
    parts: list[object] = [element("p", f"A: {c.a.views}. B: {c.b.views}.", kind="soft")]
    if c.mcnemar_p is not None:
        parts += [
            table(
                ["", "top-1 err %", "95 % interval", "top-5 err %", "top-1 errors"],
                [_errors("A", c.a), _errors("B", c.b)],
                numbers=(1, 2, 3, 4),
            ),
            table(
                ["images", "B right", "B wrong"],
                [
                    ["A right", f"{c.both_right:,}", f"{c.only_a_right:,}"],
                    ["A wrong", f"{c.only_b_right:,}", f"{c.both_wrong:,}"],
                ],
                numbers=(1, 2),
            ),
            element("p", f"McNemar's exact test, two-sided: p = {p_value(c.mcnemar_p)}. {verdict(c)}"),
        ]
    parts.append(table(["measure", "value"], measures(c)))
    if c.classes:
        parts.append(section("Classes", _classes(c), level=3))
    shown = chosen(c, most)
    for outcome, heading in GROUPS:
        total = sum(image.outcome == outcome for image in c.disagreements)
        cards = [_card(image, pictures.get(image.index)) for image in shown if image.outcome == outcome]
        if cards:
            which = f" Shown: the {len(cards)} in which the wrong side was surest." if len(cards) < total else ""
            said = element("p", f"{total:,} images.{which}", kind="soft")
            parts.append(section(heading, said, element("div", *cards, kind="cards"), level=3))
    return section(c.protocol, *parts)


def _errors(name: str, side: Side) -> list[object]:
    low, high = side.top1_err_ci95 or (0.0, 0.0)
    return [name, f"{side.top1_err:.2f}", f"{low:.2f} .. {high:.2f}", f"{side.top5_err:.2f}", f"{side.top1_errors:,}"]


def p_value(p: float) -> str:
    """Short, and no zero where it is none."""
    return f"{p:.4f}" if p >= 0.001 else f"{p:.1e}" if p > 0 else "below 1e-300"


def verdict(c: Comparison) -> str:
    """What the test says, in a sentence."""
    if c.mcnemar_p is None or c.only_a_right is None or c.only_b_right is None:
        return ""
    if c.only_a_right == c.only_b_right == 0:
        return "No difference is shown: both are right and wrong on the same images."
    if c.mcnemar_p >= 0.05:
        return "No difference is shown: chance alone often splits the flips this unevenly."
    better = "A" if c.only_a_right > c.only_b_right else "B"
    return f"{better} is better, beyond what chance makes one time in twenty."


def measures(c: Comparison) -> list[tuple[str, str]]:
    """The agreement of the two in words and figures."""
    m = c.agreement
    found = [
        ("best class agrees", f"{100 * m['top1_agreement']:.2f} %"),
        ("best five in common", f"{100 * m['top5_overlap']:.2f} %"),
    ]
    if "kl_divergence" in m:
        found += [
            ("cosine of logits", f"{m['logit_cosine']:.6f}"),
            ("KL divergence", f"{m['kl_divergence']:.2e}"),
            ("difference of a logit", f"max {m['max_diff']:.3g}, p99 {m['p99_diff']:.3g}, mean {m['mean_diff']:.3g}"),
        ]
    return found


def _classes(c: Comparison) -> Html:
    ordered = by_difference(c.classes)
    header = ["class", "images", "A errors", "B errors", "only A right", "only B right"]
    lines = [
        [label(k.label, k.index), f"{k.images:,}", k.a_errors, k.b_errors, k.only_a_right, k.only_b_right]
        for k in ordered
    ]
    parts = [table(header, lines[:SHOWN], numbers=range(1, 6))]
    if len(lines) > SHOWN:
        parts.append(details(f"{len(lines) - SHOWN:,} more classes", table(header, lines[SHOWN:], numbers=range(1, 6))))
    return join([element("p", "The largest differences first.", kind="soft"), *parts])


def by_difference(classes: Sequence[ClassDifference]) -> list[ClassDifference]:
    """Those on which the two differ most come first."""
    return sorted(
        classes, key=lambda k: (-abs(k.only_a_right - k.only_b_right), -k.only_a_right - k.only_b_right, k.index)
    )


def _card(image: Disagreement, picture: str | None) -> Html:
    drawn = Html(f'<img alt="" loading="lazy" src="data:image/jpeg;base64,{html(picture)}">') if picture else ""
    a_kind, b_kind = {"only A right": ("good", "bad"), "only B right": ("bad", "good")}.get(image.outcome, ("", ""))
    lines = [
        element("div", f"A: {label(image.a_label, image.a_class)} {100 * image.a_prob:.1f} %", kind=a_kind),
        element("div", f"B: {label(image.b_label, image.b_class)} {100 * image.b_prob:.1f} %", kind=b_kind),
    ]
    if image.truth is not None:
        lines.append(element("div", f"true: {label(image.truth_label, image.truth)}"))
    lines.append(element("div", image.path, kind="soft"))
    return element("div", drawn, *lines, kind="card")


def label(name: str | None, index: int) -> str:
    """A class's name, or its number where it has none."""
    return name or f"class {index}"
