"""The page of a comparison: its figures, a bounded number of pictures, and names that stay text."""

from collections.abc import Callable
from typing import Any

from resnet_infer.evaluation.comparison_rows import ClassDifference, Comparison, Disagreement, Outcome, Side
from resnet_infer.report.compare_models import SHOWN, chosen, compare_page, p_value, verdict

PICTURE = "QUJD"


def side(name: str, errors: int | None) -> Side:
    return Side(
        model=name, architecture="resnet20", backend="torch", device="cpu", precision="fp32", views="centre crop",
        top1_errors=errors, top5_errors=errors, top1_err=errors, top5_err=errors,
        top1_err_ci95=None if errors is None else (1.25, 9.75),
    )  # fmt: skip


def comparison(name: str = "net", *, flips: tuple[int, int, int] = (3, 5, 2), known: bool = True) -> Comparison:
    outcomes: list[Outcome] = []
    for outcome, count in zip(("only A right", "only B right", "both wrong"), flips, strict=True):
        outcomes += [outcome if known else ""] * count  # type: ignore[list-item]
    images = [
        Disagreement(
            index=index, path=f"{name}{index}", outcome=outcome, truth=0 if known else None,
            truth_label=name if known else None, a_class=1, a_label=name, a_prob=0.5 + index / 100, b_class=2,
            b_label=None, b_prob=0.9 - index / 100,
        )
        for index, outcome in enumerate(outcomes)
    ]  # fmt: skip
    return Comparison(
        protocol="single-crop", data=name, images=100, a=side(name, 7 if known else None),
        b=side(name, 5 if known else None), both_right=90 if known else None, only_a_right=flips[0] if known else None,
        only_b_right=flips[1] if known else None, both_wrong=2 if known else None, mcnemar_p=0.7265 if known else None,
        agreement={"top1_agreement": 0.9125, "top5_overlap": 0.75}, disagreements=images, seconds=1.0,
        classes=[ClassDifference(index=n, label=name, images=9, a_errors=n, b_errors=0, only_a_right=0, only_b_right=n)
                 for n in range(SHOWN + 7)] if known else [],
        unreadable=[{"path": name, "error": name}],
    )  # fmt: skip


def test_the_figures_are_on_the_page(read: Any, assert_harmless: Callable[[str], None]) -> None:
    text = compare_page([comparison()], 24, {0: PICTURE, 9: PICTURE})
    assert_harmless(text)
    found = read(text)
    shown = "".join(found.text)
    for words in ("7.00", "5.00", "1.25 .. 9.75", "p = 0.7265", "91.25 %", "Only A is right", "Only B is right",
                  "Both wrong", "class 2", "7 more classes", "No difference is shown"):  # fmt: skip
        assert words in shown
    assert sum(tag == "img" for tag, _ in found.tags) == 2


def test_each_kind_is_bounded_and_begins_with_the_surest_mistake(read: Any) -> None:
    c = comparison(flips=(10, 10, 10))
    picked = chosen(c, 4)
    assert [image.index for image in picked] == [0, 1, 2, 3, 19, 18, 17, 16, 29, 28, 27, 26]
    found = read(compare_page([c], 4, dict.fromkeys(range(30), PICTURE)))
    assert sum(tag == "img" for tag, _ in found.tags) == 12
    assert "10 images. Shown: the 4 in which the wrong side was surest." in "".join(found.text)


def test_images_without_classes_have_a_page_too(read: Any) -> None:
    shown = "".join(read(compare_page([comparison(known=False)], 24, {})).text)
    assert "Other best classes" in shown
    assert "McNemar" not in shown


def test_names_of_all_kinds_are_escaped(hostile: str, assert_harmless: Callable[[str], None]) -> None:
    assert_harmless(compare_page([comparison(hostile), comparison(hostile)], 24, {0: PICTURE}))


def test_a_small_p_is_no_zero() -> None:
    assert [p_value(p) for p in (1.0, 0.05, 0.0002, 1e-200, 0.0)] == [
        "1.0000",
        "0.0500",
        "2.0e-04",
        "1.0e-200",
        "below 1e-300",
    ]


def test_what_the_flips_say_is_a_sentence() -> None:
    assert verdict(comparison()) == "No difference is shown: chance alone often splits the flips this unevenly."
    assert (
        verdict(comparison(flips=(0, 0, 2))) == "No difference is shown: both are right and wrong on the same images."
    )
    assert verdict(comparison(known=False)) == ""
