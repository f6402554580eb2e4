"""Text that looks like a key to something. What is found is named by its kind, and never shown.

A secret too many costs a row; one too few is learned by heart. So there are no exceptions for keys known as examples.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

REDACTED = "<redacted>"
_LEFT, _RIGHT = r"(?<![A-Za-z0-9_])", r"(?![A-Za-z0-9_])"
# A kind, what every one of it contains (looked for first, which is fast), and its pattern.
_KINDS = [
    (kind, anchors, re.compile(pattern))
    for kind, anchors, pattern in (
        ("private key", ("PRIVATE KEY",), r"-----(?:BEGIN|END) (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
        ("AWS access key", ("AKIA", "ASIA", "ABIA"), r"(?<![A-Za-z0-9])A(?:K|S|B)IA[0-9A-Z]{16}(?![0-9A-Z])"),
        ("GitHub token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), _LEFT + r"gh[pousr]_[A-Za-z0-9]{30,}"),
        ("GitHub token", ("github_pat_",), r"github_pat_\w{22,}"),
        ("GitLab token", ("glpat-",), r"glpat-[\w-]{20,}"),
        ("Slack token", ("xox",), r"(?<![A-Za-z0-9])xox[abeoprs]-[A-Za-z0-9-]{10,}"),
        ("Slack webhook", ("hooks.slack.com",), r"hooks\.slack\.com/(?:services|workflows)/[\w/]{20,}"),
        ("Google API key", ("AIza",), r"AIza[\w-]{35}"),
        ("Hugging Face token", ("hf_",), _LEFT + r"hf_[A-Za-z0-9]{30,}"),
        ("API key", ("sk-",), r"(?<![A-Za-z0-9])sk-(?:[A-Za-z0-9]+-){0,3}(?=\w*\d)\w{16,}[\w-]*"),
        ("Weights & Biases key", ("wandb_v",), _LEFT + r"wandb_v\d+_[\w-]{16,}"),
        ("Stripe key", ("k_live_", "k_test_"), r"(?<![A-Za-z0-9])[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"),
        ("SendGrid key", ("SG.",), r"(?<![\w.])SG\.[\w-]{16,}\.[\w-]{16,}"),
        ("npm token", ("npm_",), _LEFT + r"npm_[A-Za-z0-9]{36}" + _RIGHT),
        ("PyPI token", ("pypi-",), r"pypi-[\w-]{50,}"),
        ("JSON web token", ("eyJ",), r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
    )
]  # fmt: skip
_NAME = r"(?:secret|token|passw(?:or)?d|passphrase|pwd|(?:api|access|private|auth)[_-]?key|credential)"
_VALUE = r"[A-Za-z0-9+/=_~.!@#$%^&*-]"
# NAME = "value", "name": "value", NAME=value, <name>value: of quoted ones 16 characters may do, of others it takes 20.
_ASSIGNED = re.compile(
    rf"(?i){_NAME}[\w.-]{{0,40}}[\"'\]]*(?:\s{{0,8}}(?::=|=>|[:=>])\s{{0,8}}(?:[bru]{{0,2}}[\"'`]({_VALUE}{{16,}})[\"'`]"
    rf"|([A-Za-z0-9+/=_-]{{20,}}+)(?![\w(.\[{{:])))"
)
_HEADER = re.compile(
    r"(?i)authorization[\"'\]]*\s{0,4}[:=,]\s{0,4}[bf]?[\"'`]?(?:bearer|basic|token)\s+([\w+/=.~-]{16,})"
)
_IN_URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}://[^\s/:@'\"<>]{1,80}:([^\s/@:'\"<>{}$]{8,})@")
# A path that was made of an address has lost one of its slashes.
_USER = re.compile(r"(://)[^\s/@'\"]+@|(?<=[a-z])(:/)[^\s/@'\":]+:[^\s/@'\"]+@")
_STAND_INS = re.compile(r"(?i)example|placeholder|change.?me|your|dummy|x{5}|\*{4}|\.{3}|1234567|abcdef")
# Bits in a letter: random letters of base 64 have more than 4 from about 20 letters on, of hexadecimal about 3.6.
_BITS = 3.0
_SECRET_VARIABLES = re.compile(r"(?i)(?:token|secret|password|passwd|api_?key|access_?key|credentials?)$")
_SHORTEST = 8  # characters of a value of the environment that is worth hiding


def secret_kind(text: str) -> str | None:
    """The kind of the first thing in ``text`` that looks like a secret."""
    for kind, anchors, pattern in _KINDS:
        if any(anchor in text for anchor in anchors) and pattern.search(text):
            return kind
    for found in _ASSIGNED.finditer(text):
        if _is_random(found[1] or found[2]):
            return "value of a secret's name"
    if "uthorization" in text and any(_is_random(found[1]) for found in _HEADER.finditer(text)):
        return "Authorization header"
    if "://" in text and any(_is_random(found[1]) for found in _IN_URL.finditer(text)):
        return "password in a URL"
    return None


def is_secret_variable(name: str) -> bool:
    """Whether a variable of this name holds a secret, whatever its value looks like."""
    return _SECRET_VARIABLES.search(name) is not None


def mask_secrets(text: str) -> str:
    """The same with ``<redacted>`` for every key that is known by its form, and for names and passwords in URLs."""
    for _, anchors, pattern in _KINDS:
        if any(anchor in text for anchor in anchors):
            text = pattern.sub(REDACTED, text)
    return _USER.sub(lambda found: f"{found[1] or found[2]}{REDACTED}@", text)


def redact(text: str) -> str:
    """``text`` as it may be sent elsewhere: without the values of the environment's secrets, and without what
    :func:`mask_secrets` knows."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_VARIABLES.search(name):
            text = text.replace(value, REDACTED)
    return mask_secrets(text)


def redact_values(value: Any) -> Any:
    """:func:`redact` in every string of a config or a document; one that looks like a secret in itself goes whole."""
    if isinstance(value, dict):
        return {redact_values(key): redact_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(inner) for inner in value]
    if isinstance(value, str):
        return REDACTED if secret_kind(value) else redact(value)
    return value


def redact_diff(lines: Iterable[str]) -> Iterator[str]:
    """The same lines of a diff, each one that holds a secret with its kind instead; its sign and its end stay."""
    in_key = False
    for line in lines:
        kind = secret_kind(line)
        hidden = "private key" if in_key else kind
        if kind == "private key":
            in_key = "BEGIN " in line and "END " not in line
        if hidden is None:
            yield line
        else:
            body = line.rstrip("\r\n")
            sign = body[:1] if body[:1] in "+- " else ""
            yield f"{sign}<redacted: {hidden}>{line[len(body) :]}"


def _is_random(value: str) -> bool:
    """Letters and digits in no order: no word, no name of a variable, no stand-in."""
    if _STAND_INS.search(value):
        return False
    digits = sum(letter.isdigit() for letter in value)
    if digits < 2 or digits == len(value):
        return False
    if digits < 4 and value.islower() and len(re.split("[_-]", value)) > 2:  # sha256_of_a_file
        return False
    return _entropy(value) >= _BITS


def _entropy(value: str) -> float:
    """Bits of a letter, by how often each occurs."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
