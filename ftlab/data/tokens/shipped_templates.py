"""The templates that ship: Jinja files of the ``templates`` folder, which open with their front matter; and what to do
about one that does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ftlab.config.paths import shipped
from ftlab.data.tokens.template_trial import trial_problem
from ftlab.errors import NotReadyError
from ftlab.pretrained.tokenizer_files import read_chat_template

_FRONT_MATTER = re.compile(r"\A\{#-?\n(.*?)\n-?#\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FrontMatter:
    """The metadata in the first comment of a shipped template.

    :param source: where its text was published.
    :param tokens: special tokens that it writes, besides ``bos_token`` and ``eos_token``; a tokenizer must have them.
    :param stop: the token that ends every trained turn; ``"eos_token"`` for the tokenizer's own.
    :param tools: whether it can write tools and their calls.
    """

    source: str
    tokens: tuple[str, ...]
    stop: str
    tools: bool


def template_names() -> list[str]:
    """Return the names of the shipped templates, which ``model.template`` can take."""
    return sorted(path.stem for path in Path(shipped("templates")).glob("*.jinja"))


def read_template(name: str) -> str:
    """Return the source of a shipped template.

    :raises NotReadyError: there is none of that name.
    """
    path = Path(shipped("templates")) / f"{name}.jinja"
    if not path.is_file():
        raise NotReadyError(f"There is no template {name!r}. Known: {', '.join(template_names())}.")
    return path.read_text(encoding="utf-8")


def front_matter(source: str) -> FrontMatter | None:
    """Return the metadata in the first comment of a template, or None where that is no front matter."""
    import yaml

    found = _FRONT_MATTER.match(source)
    if found is None:
        return None
    try:
        said = yaml.safe_load(found[1])
    except yaml.YAMLError:
        return None  # a comment of someone's own template
    if not isinstance(said, dict) or not {"source", "tokens", "stop", "tools"} <= said.keys():
        return None
    return FrontMatter(str(said["source"]), tuple(said["tokens"]), str(said["stop"]), bool(said["tools"]))


def template_problem(source: str, where: str, file: Path | None = None) -> str | None:
    """Why a template must not be rendered in this process, and what to do, as a sentence without its full stop; None
    if it may be. One that ships is known.

    :param where: whose template it is. :param file: that it is in; None to look for it there.
    """
    known = (*Path(shipped("templates")).glob("*.jinja"), *Path(shipped("models")).glob("*/chat_template.jinja"))
    if any(path.read_text(encoding="utf-8") == source for path in known) or not (problem := trial_problem(source)):
        return None
    if file is None and (found := read_chat_template(Path(where))):
        file = found[0]
    return f"The chat template of {where if file is None else file} {problem}. {mend(source, where)}"


def mend(source: str, where: str) -> str:
    """Return what to do about a template, without its full stop. :param where: whose it is."""
    return f"Mend it, or name a shipped one: model.template=NAME ({nearest(source, where)} is the nearest)"


def nearest(source: str, where: str) -> str:
    """Return the shipped template with the most words in common, above all one whose name ``where`` has."""
    mine, family = set(re.findall(r"\w+", source)), re.sub(r"\W", "_", where.lower())

    def likeness(name: str) -> float:
        words = set(re.findall(r"\w+", _FRONT_MATTER.sub("", read_template(name))))
        return len(mine & words) / len(mine | words) + (name in family)

    return max(template_names(), key=likeness)
