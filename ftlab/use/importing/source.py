"""What a file says: the arguments of another tool, from YAML, JSON or a command line."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ftlab.config import foreign_names
from ftlab.errors import ConfigError, Mistake, NotReadyError, first_line

TOOLS = ("LLaMA-Factory", "TRL")  # whose files are imported
SUPPORTED = (
    "ftlab import reads the training arguments of LLaMA-Factory and of TRL, as YAML, as JSON or as a command line"
)
# TRL's trainers, by the word of its command or the name of its script.
STAGES = {
    "sft": "sft", "dpo": "dpo", "kto": "kto", "grpo": "grpo", "reward": "rm", "reward_modeling": "rm", "orpo": "orpo",
    "dpo_online": None, "rloo": None, "cpo": None,
}  # fmt: skip
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)e[+-]?\d+", re.IGNORECASE)  # which YAML 1.1 takes for a word
_STARTS = ("trl", "llamafactory-cli", "lmf", "accelerate", "torchrun", "deepspeed", "python", "python3")
_ASSIGNED = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(.*)")


@dataclass(frozen=True, slots=True)
class Argument:
    """:param name: as the other tool spells it. :param line: of the file, from 1; None of a command line.
    :param tool: whose name it is. :param is_default: whether it is not in the file, but what the tool takes."""

    name: str
    value: Any
    line: int | None
    tool: str = ""
    is_default: bool = False

    @property
    def where(self) -> str:
        if self.is_default:
            return f"{self.name}={show(self.value)}, {self.tool}'s default"
        return self.name if self.line is None else f"{self.name}, line {self.line}"


@dataclass(frozen=True, slots=True)
class Source:
    """:param tool: one of ``TOOLS``. :param trainer: the word of TRL's command; None where none is there."""

    file: Path
    tool: str
    arguments: tuple[Argument, ...]
    trainer: str | None

    def get(self, name: str) -> Any:
        return next((argument.value for argument in self.arguments if argument.name == name), None)


def show(value: Any) -> str:
    """A value as YAML would have it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "null"
    if isinstance(value, list):
        return f"[{', '.join(map(show, value))}]"
    return str(value)


def read(file: str, skip: Collection[str]) -> Source:
    """:param skip: names that need not be known.
    :raises NotReadyError: there is no such file. :raises ConfigError: it is nothing that can be imported; every mistake
    at once, with its line.
    """
    path = Path(file).expanduser()
    text = _text(path)
    kind = path.suffix.lower()
    if kind in (".yaml", ".yml", ".json"):
        arguments, tool, trainer = _mapping(path, text), None, None
    else:
        arguments, tool, trainer = _command(path, text)
    if not arguments:
        raise ConfigError([Mistake(str(path), f"says nothing. {SUPPORTED}.")])
    tool = tool or _tool(path, arguments)
    switched = [_switched_off(tool, argument) for argument in arguments]
    placed = [replace(argument, tool=_tool_of(tool, argument.name)) for argument in switched]
    _refuse_unknown(path, tool, [one for one in placed if one.name not in skip])
    return Source(path, tool, tuple(placed), trainer)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([Mistake(str(path), f"is not UTF-8 at byte {error.start}. {SUPPORTED}.")]) from None
    except FileNotFoundError:
        raise NotReadyError(f"{path} does not exist.") from None
    except OSError as error:
        raise NotReadyError(f"{path} cannot be read: {error.strerror}.") from None


# --- YAML and JSON ---------------------------------------------------------------------------------------------------


def _mapping(path: Path, text: str) -> list[Argument]:
    """The keys of a file, with their lines; JSON is read as the YAML that it is."""
    try:
        pairs = _pairs(text.replace("\t", "  ") if path.suffix.lower() == ".json" else text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError([Mistake(str(path), f"is not YAML: {error.problem}{where}.")]) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError([Mistake(str(path), f"is not YAML: {first_line(error)}.")]) from None
    if not pairs:
        kind = "holds no keys with values" if pairs is None else "is empty"
        raise ConfigError([Mistake(str(path), f"{kind}. {SUPPORTED}.")])
    arguments = [Argument(str(key.value), _typed(value), key.start_mark.line + 1) for key, value in pairs]
    twice = [name for name, count in Counter(one.name for one in arguments).items() if count > 1]
    if twice:
        found = {name: [one.line for one in arguments if one.name == name] for name in twice}
        raise ConfigError([
            Mistake(name, f"stands twice, in lines {lines[0]} and {lines[1]}; the last would win. Take one out.")
            for name, lines in found.items()
        ])  # fmt: skip
    return arguments


def _pairs(text: str) -> list[tuple[yaml.Node, Any]] | None:
    """Keys as nodes, with their values; None of what is no mapping. :raises yaml.YAMLError: it is no YAML."""
    loader = yaml.SafeLoader(text)
    node = loader.get_single_node()
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        return None
    loader.flatten_mapping(node)
    return [(key, loader.construct_object(value, deep=True)) for key, value in node.value]


def _typed(value: Any) -> Any:
    """Numbers that YAML 1.1 takes for words, as the tools do that read these files."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


# --- command lines ---------------------------------------------------------------------------------------------------


def _command(path: Path, text: str) -> tuple[list[Argument], str | None, str | None]:
    """The arguments of the one training that a script starts; the tool and TRL's trainer where the command has them."""
    found = [words for words in _commands(path, text) if _starts_training(words)]
    if len(found) != 1:
        how = f"starts {len(found)} trainings; leave one" if found else "starts no training"
        raise ConfigError([Mistake(str(path), f"{how}. {SUPPORTED}.")])
    words = found[0]
    script = next((i for i, word in enumerate(words) if _is_script(word)), -1)
    before, rest = [word for word in words[:script] if script > 0], words[script + 1 :]
    name = Path(words[script]).stem if script >= 0 else ""
    tool = "LLaMA-Factory" if name in ("llamafactory-cli", "lmf", "train_bash") else "TRL" if name == "trl" else None
    bare = list(_leading(rest))
    trainer = next((word for word in [*bare, name] if word in STAGES), None)
    tool = tool or ("TRL" if trainer is not None else None)
    files = [word for word in bare if word.endswith((".yaml", ".yml", ".json"))]
    arguments = [*_arguments(path, rest[len(bare) :])]
    pairs = [word.partition("=") for word in bare if "=" in word and not word.startswith("-")]
    arguments += [Argument(key, _typed(yaml.safe_load(value)), None) for key, _, value in pairs]
    config = next((one for one in arguments if one.name == "config"), None)
    if config is not None:
        arguments.remove(config)
        files.append(str(config.value))
    for one in files:
        inner = _beside(path, one)
        given = {argument.name for argument in arguments}
        arguments = [a for a in _mapping(inner, _text(inner)) if a.name not in given] + arguments
    names = {argument.name for argument in arguments}
    return arguments + [a for a in _arguments(path, before) if a.name not in names], tool, trainer


def _beside(path: Path, name: str) -> Path:
    """A file that a script names: from the folder that it is started in, or beside it."""
    return Path(name) if Path(name).is_file() or not (path.parent / name).is_file() else path.parent / name


def _commands(path: Path, text: str) -> Iterator[list[str]]:
    variables: dict[str, str] = {}
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        stripped = line.strip()
        assigned = _ASSIGNED.fullmatch(stripped)
        try:
            words = shlex.split(stripped, comments=True)
        except ValueError as error:
            raise ConfigError([Mistake(str(path), f"is no command line: {first_line(error)}: {stripped}")]) from None
        if assigned and len(words) == 1 + stripped.startswith("export "):
            variables[assigned[1]] = words[-1].partition("=")[2]
        elif words:
            yield [_with_variables(path, word, variables) for word in words]


def _with_variables(path: Path, word: str, variables: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in variables:
            raise ConfigError([Mistake(word, f"{path} gives ${name} no value; put the value in its place")])
        return variables[name]

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, word) if word.startswith(("-", "$")) or "=$" in word else word


def _starts_training(words: Sequence[str]) -> bool:
    first = next((word for word in words if not re.fullmatch(r"[A-Za-z_]\w*=.*", word)), "")
    return first.rpartition("/")[2] in _STARTS or first.startswith("--") or _is_script(first)


def _is_script(word: str) -> bool:
    return word.endswith(".py") or word.rpartition("/")[2] in ("trl", "llamafactory-cli", "lmf")


def _leading(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        if word.startswith("-"):
            return
        yield word


def _arguments(path: Path, words: Sequence[str]) -> Iterator[Argument]:
    """``--name value``, ``--name=value``, ``--name`` for a switch, ``--name a b`` for a list."""
    place = 0
    while place < len(words):
        flag, has_value, value = words[place].partition("=")
        place += 1
        if not flag.startswith("-"):
            continue  # a word of the launcher's own, as in accelerate launch
        values = [value] if has_value else []
        while not has_value and place < len(words) and not re.match(r"--?[A-Za-z]", words[place]):
            values.append(words[place])
            place += 1
        typed = [_typed(_loaded(one)) for one in values]
        name = flag.lstrip("-").replace("-", "_")
        yield Argument(name, True if not typed else typed[0] if len(typed) == 1 else typed, None)


def _loaded(word: str) -> Any:
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word


# --- whose file it is ------------------------------------------------------------------------------------------------


def _tool(path: Path, arguments: Sequence[Argument]) -> str:
    """The tool that alone knows most of the names; TRL where all of them are transformers'."""
    names = {argument.name for argument in arguments}
    tools = [*TOOLS, "axolotl", "ms-swift"]
    known = {tool: names & foreign_names.TOOLS[tool].keys() for tool in tools}
    if not any(known.values()):
        raise ConfigError(
            [Mistake(str(path), f"has no key of either tool ({', '.join(sorted(names)[:5])}). {SUPPORTED}.")]
        )
    own = {tool: known[tool] - set().union(*(known[other] for other in tools if other != tool)) for tool in tools}
    best = max(tools, key=lambda tool: len(own[tool]))
    if best not in TOOLS:
        said = [
            f"{argument.name}: {line}"
            for argument in arguments
            if argument.name in own[best] and (line := foreign_names.translation(argument.name, show(argument.value)))
        ]
        raise ConfigError([Mistake(str(path), f"is a config of {best}. {SUPPORTED}. Of its keys, {'; '.join(said)}.")])
    return best if own[best] else "TRL"


def _switched_off(tool: str, argument: Argument) -> Argument:
    """``--no_NAME`` of a switch that is on by itself."""
    name = argument.name.removeprefix("no_")
    known = foreign_names.TOOLS[tool]
    is_negated = argument.value is True and argument.name not in known and name in known
    return replace(argument, name=name, value=False) if is_negated else argument


def _tool_of(tool: str, name: str) -> str:
    """Whose name it is: the tool's, or that of what starts it."""
    is_launchers = name not in foreign_names.TOOLS[tool] and name in foreign_names.TOOLS["launchers"]
    return "launchers" if is_launchers else tool


def _refuse_unknown(path: Path, tool: str, arguments: Sequence[Argument]) -> None:
    """:raises ConfigError: every name that the tool does not know, with what is near."""
    mistakes = []
    for argument in arguments:
        if argument.name not in foreign_names.TOOLS[argument.tool]:
            where = "" if argument.line is None else f" in line {argument.line}"
            reason = f"{tool} knows no such key ({path}{where})"
            others = [one for one, names in foreign_names.TOOLS.items() if argument.name in names]
            reason += f"; it is one of {' and '.join(others)}" if others else ""
            reason += f". Take it out, or leave it out here: skip=[{argument.name}]."
            mistakes.append(
                Mistake(argument.name, reason, show(argument.value), foreign_names.near(tool, argument.name))
            )
    if mistakes:
        raise ConfigError(mistakes)
