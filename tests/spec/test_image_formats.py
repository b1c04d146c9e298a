"""The table of formats in the docs is the one that is read by; `python tests/spec/test_image_formats.py` prints it."""

from pathlib import Path

from PIL import Image

from resnet_infer.spec.image_formats import FORMATS, IMAGE_SUFFIXES, PILLOW_FORMATS

PAGE = Path(__file__).parents[2] / "docs/evaluation.md"


def table() -> str:
    """Markdown, a row a format."""
    rows = [(each.name, " ".join(f"`{suffix}`" for suffix in each.suffixes), each.notes) for each in FORMATS]
    return "\n".join(f"| {' | '.join(row)} |" for row in [("format", "suffixes", ""), ("---",) * 3, *rows])


def test_the_table_in_the_docs() -> None:
    assert table() in PAGE.read_text("utf-8")


def test_pillow_knows_every_format_and_gives_no_suffix_to_another() -> None:
    Image.init()
    assert set(PILLOW_FORMATS) <= set(Image.OPEN)
    known = Image.registered_extensions()
    own = {suffix: name for each in FORMATS for suffix in each.suffixes for name in each.pillow}
    for suffix in IMAGE_SUFFIXES & set(known):
        formats = next(each.pillow for each in FORMATS if suffix in each.suffixes)
        assert known[suffix] in formats, (suffix, own[suffix])


if __name__ == "__main__":
    print(table())
