"""Numbers for people to read."""

from __future__ import annotations

_DIGITS = 5
_SHARES = ("golden exact match", "golden_exact_match")  # of some prompts: three decimals tell any two apart


def readable(value: float, measure: str = "") -> str:
    """A measured value: five significant digits, at most four decimals, thousands separated; of golden answers the
    share that is right, with three decimals.

    >>> readable(73454.0443), readable(-100.7708), readable(1.13551), readable(0.00004)
    ('73,454', '-100.77', '1.1355', '4.0000e-05')
    >>> readable(0.75, "golden exact match")
    '0.750'
    """
    if measure in _SHARES:
        return f"{value:.3f}"
    size = abs(value)
    if value != value or size == float("inf"):
        return f"{value:.4f}"
    if size >= 1e9 or 0 < size < 1e-4:
        return f"{value:.{_DIGITS - 1}e}"
    whole = len(str(int(size)))
    return f"{value:,.{max(_DIGITS - whole, 0)}f}"
