"""Numbers as people read them: about three significant digits, thousands with commas, the same on every page."""


def rate(images_per_s: float) -> str:
    """Images per second."""
    if images_per_s >= 1000:
        return f"{images_per_s:,.0f}"
    return f"{images_per_s:.1f}" if images_per_s >= 10 else f"{images_per_s:.2f}"


def tick(value: float) -> str:
    """A round number at an axis: no more digits than it has, thousands as k from ten thousand upwards."""
    if value >= 10_000:
        return f"{value / 1000:,g}k"
    return f"{value:,.0f}" if value >= 1000 else f"{round(value, 6):g}"


def three_digits(value: float) -> str:
    """Three significant digits, whole numbers from 100 upwards."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def milliseconds(ms: float) -> str:
    """A duration in milliseconds."""
    if ms >= 100:
        return f"{ms:,.0f}"
    return f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}" if ms >= 1 else f"{ms:.3f}"


def duration(seconds: float) -> str:
    """A duration in the largest units that fit: 0.04 s, 1.2 s, 3 min 20 s, 1 h 5 min."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def memory(mib: float) -> str:
    """Memory in MiB, or GiB from one upwards."""
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"


def percent(fraction: float) -> str:
    """A fraction in 0..1 as percent, finer where it is small."""
    return f"{100 * fraction:.0f} %" if fraction >= 0.1 else f"{100 * fraction:.1f} %"


def multiple(ratio: float) -> str:
    """How many times."""
    return f"{ratio:.1f}×" if ratio >= 10 else f"{ratio:.2f}×"


def counted(number: int, thing: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
