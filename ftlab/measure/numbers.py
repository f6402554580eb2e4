"""Numbers in answers."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3}(?![\d.]))?"
_NUMBERS = re.compile(rf"(?:(?<![\w)\]}}.])(-)\$?)?(?<![A-Za-z_\d])({_NUMBER})(?:/({_NUMBER}))?")
_DIGITS = 200  # a number has no more; a policy that writes one digit for ever gets no reward, and costs no time


def last_number(text: str) -> Fraction | None:
    """The last number in a text, exactly; None if there is none.

    Knows 1,234.50 (not 1.234,50), -5 (but 5 in 10-5), .5, 2e3, 3/4, ``\\frac{3}{4}``; $, % and units are passed over,
    and so are digits inside a word (H2O). If there is a ``\\boxed{}`` only the last one counts.

    >>> last_number("3 + 4 = 7.0, so the answer is $1,007.50.")
    Fraction(2015, 2)
    """
    if "\\boxed{" in text:
        text = _until_closing_brace(text.rpartition("\\boxed{")[2])
    text = text.replace("−", "-").replace("{,}", ",").replace("\\,", "").replace("\\!", "").replace("\\$", "$")
    text = re.sub(r"(\d)(?=\\[dt]?frac)", r"\1 ", text)
    text = re.sub(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", text)
    found = list(_NUMBERS.finditer(text))
    if not found or len(found[-1][0]) > _DIGITS:
        return None
    sign, *parts = found[-1].groups(default="")
    number, divisor = (Fraction(Decimal(part.replace(",", "") or 1)) for part in parts)
    return (-number if sign else number) / divisor if divisor else None


def _until_closing_brace(text: str) -> str:
    """What comes before the brace that closes one opened before the text."""
    depth = 1
    for end, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if not depth:
            return text[:end]
    return text
