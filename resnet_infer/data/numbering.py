"""Which class a numbered folder is, where that can be read in two ways.

torchvision's ImageFolder numbers folders in the sorted order of their names as text, in which '10' comes before '2';
others take the folder's number for the class index. Where the two differ, and where folders may count from 1, nothing
in the files decides, so the user does.
"""

from collections.abc import Sequence
from pathlib import Path

from resnet_infer.errors import DataError, UsageError

NUMERIC, SORTED = "numeric", "sorted"
MAX_BYTES = 2**26
REMEDY = "say which with --class-order numeric, --class-order sorted, or --class-order FILE (their names in order)"


def by_order(names: Sequence[str], order: str, classes: int, where: str) -> dict[str, int]:
    """The class index of every folder name as `--class-order` says.

    Raises DataError if the folders do not fit the order, UsageError if a file of names cannot be used.
    """
    if order == NUMERIC:
        if len(names) == classes and all(name.isdecimal() for name in names):
            order_of = {name: index for index, name in enumerate(sorted(names, key=int))}
            return _each_once(order_of, names, where)
        bad = [name for name in names if not name.isdecimal() or int(name) >= classes]
        if bad:
            raise DataError(
                f"{where}: --class-order numeric, but '{bad[0]}' is no class number from 0 to {classes - 1}"
            )
        return _each_once({name: int(name) for name in names}, names, where)
    if order == SORTED:
        if len(names) != classes:
            raise DataError(
                f"{where}: --class-order sorted needs a folder for every class; it has {len(names)}, and the model "
                f"{classes} classes"
            )
        return {name: index for index, name in enumerate(sorted(names))}
    listed = names_in(order)
    index = {name: at for at, name in enumerate(listed)}
    if len(index) != len(listed) or len(listed) > classes:
        what = "names a folder twice" if len(index) != len(listed) else f"has {len(listed)} names"
        raise UsageError(f"{order}: {what}; --class-order takes one folder name a line, for {classes} classes")
    if missing := [name for name in names if name not in index]:
        raise DataError(f"{where}: folder '{missing[0]}' is not in {order} ({len(missing)} are not)")
    return {name: index[name] for name in names}


def names_in(path: str) -> list[str]:
    """The folder names of a file, one a line; raises UsageError."""
    try:
        data = Path(path).read_bytes()[: MAX_BYTES + 1]
        names = [line.strip() for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UsageError(
            f"{path}: cannot be read ({reason}); --class-order takes numeric, sorted, or a file of folder names"
        ) from error
    if len(data) > MAX_BYTES or not names:
        raise UsageError(f"{path}: has no folder names, or over {MAX_BYTES:,} bytes; give one name a line")
    return names


def check_folders(names: Sequence[str], classes: int, where: str, *, named: bool) -> None:
    """Raise DataError where numbered folders of a model's classes can be read in two ways.

    `named`: the model knows its classes' names, so that it was not trained on folders sorted as text as far as we know.
    """
    numbers = sorted(map(int, names))
    if numbers[0] == 1 and numbers[-1] < classes and 2 * len(numbers) >= classes:
        raise DataError(
            f"{where}: its {len(numbers)} folders are numbered from 1 to {numbers[-1]}, and the model has {classes} "
            f"classes: '1' is class 1 if they count from 0 and class 0 is missing, or class 0 if they count from 1 and "
            f"class {numbers[-1] + 1} is missing; {REMEDY}"
        )
    in_text, by_number = sorted(names), sorted(names, key=int)
    if not named and len(names) == classes and in_text != by_number:
        at = next(at for at, name in enumerate(in_text) if name != by_number[at])
        raise DataError(
            f"{where}: folder '{in_text[at]}' is class {by_number.index(in_text[at])} in the order of the numbers, or "
            f"class {at} in sorted order (torchvision's ImageFolder), and the model does not say its class names; "
            f"{REMEDY}"
        )


def check_indices(names: Sequence[str], classes: int, where: str) -> None:
    """Raise DataError if labels that are class indices count from 1."""
    numbers = sorted(map(int, names))
    if numbers[0] == 1 and (numbers[-1] == classes or (numbers[-1] == classes - 1 and len(numbers) == classes - 1)):
        raise DataError(
            f"{where}: its labels are numbers from 1 to {numbers[-1]}, and class indices count from 0 to "
            f"{classes - 1}; subtract 1, or, if class 0 is missing, say --class-order numeric"
        )
    if numbers[-1] >= classes:
        raise DataError(f"{where}: label {numbers[-1]} is no class index of a model of {classes} classes")


def _each_once(index: dict[str, int], names: Sequence[str], where: str) -> dict[str, int]:
    if len({int(name) for name in names}) != len(names):
        raise DataError(f"{where}: several folders are one number, as '1' and '01'; merge or rename them")
    return index
