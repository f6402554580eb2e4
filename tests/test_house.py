"""The rules of the house: which way imports go, what stays light, and that conf/ and the schema agree."""

from __future__ import annotations

import ast
import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel

from ftlab import main, schema
from ftlab.config import compose
from ftlab.stages import TRAINERS
from ftlab.use.help import TRY
from tests.conftest import HEAVY

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
PACKAGES = [path for path in (ROOT / "ftlab", ROOT / "launchers") if path.is_dir()]
SOURCES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))

# ---------------------------------------------------------------------------------------------------------- floors

FLOORS = {
    "errors": 0,
    "schema": 1, "secrets": 1, "terminal": 1, "documents": 1,
    "plan": 2, "rundir": 2, "lock": 2, "compare": 2, "config": 2,
    "model": 3, "data": 3,
    "measure": 4,
    "stages": 5,
    "engine": 6, "use": 6, "preflight": 6,
    "main": 7, "__main__": 7, "launchers": 7,
}  # fmt: skip
# Parts of one floor that may still import each other: the engine asks preflight before it starts.
NEIGHBOURS = {("engine", "preflight"), ("__main__", "main"), ("compare", "rundir"), ("rundir", "lock")} | {
    (a, b) for a in ("plan", "rundir", "config") for b in ("plan", "rundir", "config")
}
MAY_IMPORT_HYDRA = {"main", "config", "errors", "launchers"}
_TARGET = re.compile(r"^ftlab(\.\w+)+(:\w+)?$")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str | None:
    """``ftlab.data.sources.blocks`` -> ``data``; None for the bare package and for anything that is not ours."""
    top, _, rest = module.partition(".")
    if top in ("launchers", "hydra_plugins"):
        return "launchers"
    return (rest.split(".")[0] or None) if top == "ftlab" else None


def imported(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and name of every module that ``source`` imports, at the top, in a function, or by a name in a string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}" if base == "ftlab" else base) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _TARGET.match(node.value):
            yield node.lineno, node.value.partition(":")[0]


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    own = part_of(module)
    found = []
    for line, name in imported(source, module, is_package):
        where = f"{module}:{line}"
        if name.split(".")[0] == "hydra" and own not in MAY_IMPORT_HYDRA:
            found.append(f"{where} imports hydra")
        part = part_of(name)
        if part is None or part.startswith("__version") or part == own:
            continue
        if part not in FLOORS:
            found.append(f"{where} imports {name}, which has no floor")
        elif own is None:
            found.append(f"{where} (the package itself) imports {name}")
        elif FLOORS[part] >= FLOORS[own] and (own, part) not in NEIGHBOURS:
            found.append(f"{where} imports {name}: {own} may not import {part}")
    return found


def test_imports_only_go_down():
    without_a_floor, wrong = [], []
    for path in SOURCES:
        module = module_name(path)
        if module != "ftlab" and part_of(module) not in FLOORS:
            without_a_floor.append(module)
        else:
            wrong += violations(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    assert without_a_floor == [], "a new part of the house needs a floor"
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("ftlab.data.sources.blocks", "from ftlab.engine.run import execute", "data may not import engine"),
        ("ftlab.data.sources.blocks", "def f():\n    import ftlab.model.load", "data may not import model"),
        ("ftlab.model.load", "from ftlab.data import read", "model may not import data"),
        (
            "ftlab.model.load",
            "if TYPE_CHECKING:\n    from ftlab.stages.trainer.stage_trainer import X",
            "model may not import stages",
        ),
        ("ftlab.use.chat", "from ftlab import engine", "use may not import engine"),
        ("ftlab.use.chat", "from ftlab import main", "use may not import main"),
        ("ftlab.use.chat", "from ..engine import train", "use may not import engine"),
        ("ftlab.data", "from .. import stages", "data may not import stages"),
        ("ftlab.preflight.check", "from ftlab.engine import start", "preflight may not import engine"),
        ("ftlab.schema", "from ftlab.rundir.plan import Plan", "schema may not import plan"),
        ("ftlab.stages", 'TRAINERS = {"sft": "ftlab.engine.run:execute"}', "stages may not import engine"),
        ("ftlab.rundir.plan", "from hydra.utils import instantiate", "imports hydra"),
        ("ftlab", "from ftlab.schema import Run", "the package itself"),
        ("ftlab.use.chat", "from ftlab.attic import x", "has no floor"),
    ],
)
def test_a_wrong_import_is_caught(module, source, complaint):
    found = violations(source, module, is_package=module in ("ftlab", "ftlab.data", "ftlab.stages"))
    assert len(found) == 1 and complaint in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ftlab.data.sources.blocks", "from ftlab import __version__\nfrom ftlab.data.ledger.ledger import Ledger"),
        ("ftlab.rundir.directory", "from ftlab.rundir.plan import Plan\nfrom ftlab.errors import RunDirError"),
        ("ftlab.main", 'import hydra\nTASKS = {"train": "ftlab.engine.tasks:train"}'),
        (
            "ftlab.stages.trainer.stage_trainer",
            "from ftlab.data.packing.best_fit import pack\nfrom ftlab.model import load\nimport torch",
        ),
        ("launchers.hydra_plugins.ftlab_launchers.shards", "import hydra\nfrom ftlab.engine import turns"),
    ],
)
def test_a_right_import_is_not(module, source):
    assert violations(source, module) == []


def test_every_task_and_trainer_of_the_tables_exists():
    """The tables name modules by string; each name has a file that defines it."""
    for target in [*main.TASKS.values(), *TRAINERS.values()]:
        module, name = target.split(":")
        tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}, target


def test_every_task_has_a_file_a_class_and_an_entry():
    files = {path.stem for path in (CONF / "task").glob("*.yaml")}
    assert files == names_in_the_schema("task") == set(main.TASKS)


def names_in_the_schema(group: str) -> set[str]:
    """The values of a group's ``name``, over all the members of its union."""
    annotation = schema.Run.model_fields[group].annotation
    members = get_args(annotation) or (annotation,)
    return {name for member in members for name in get_args(member.model_fields["name"].annotation)}


def test_no_default_in_code_and_no_endless_file():
    """A default has its home in YAML; a file that passes 400 lines is asking to be two."""
    endless, defaults = [], []
    for path in SOURCES:
        source, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        if source.count("\n") > 400:
            endless.append(f"{name}: {source.count(chr(10))} lines")
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and len(node.args) > 1]
        gets = [node for node in calls if ast.unparse(node.func) in ("cfg.get", "config.get", "run.get")]
        defaults += [f"{name}:{node.lineno}: {ast.unparse(node)}" for node in gets]
    assert endless == []
    assert defaults == []


def test_main_is_a_table_of_contents():
    assert (ROOT / "ftlab" / "main.py").read_text(encoding="utf-8").count("\n") < 80


# ------------------------------------------------------------------------------------------------------ light start

AS_LIBRARY = f"""
import sys
import ftlab.main
from ftlab.config import arguments, check, compose
check.check(arguments.read(["stage=dpo", "model=llama3_8b"]))
run = compose.validate(compose.compose(["stage=dpo", "model=llama3_8b"]))
assert run.stage.name == "dpo"
print([name for name in {HEAVY} if name in sys.modules])
"""
# What a line of the command ends with, and what it says.
LIGHT = {
    "--help": (0, "Groups and their choices"),
    "explain --help": (0, "ftlab explain <key>"),
    "--cfg job model=llama3_8b": (0, "meta-llama/Meta-Llama-3-8B"),
    "train.learing_rate=1": (1, "Did you mean train.learning_rate?"),
    "-m lora.r=8,x": (1, "lora.r=x: must be a valid integer"),
    "version": (0, "ftlab "),
    "explain lora.r": (0, "lora.r = 16"),
    "ls .": (0, "No run in ."),
    "diff nowhere elsewhere": (1, "nowhere is no run directory"),
    "data.path=nope.json data.format=alpaca": (1, "nope.json does not exist"),
}


def test_no_heavy_import_on_the_way_to_what_needs_none(each):
    ended = each([*LIGHT])
    assert {line: done.heavy for line, done in ended.items() if done.heavy} == {}
    assert {line: done.returncode for line, done in ended.items()} == {line: code for line, (code, _) in LIGHT.items()}
    output = {line: done.stdout + done.stderr for line, done in ended.items()}
    assert {line: output[line] for line, (_, message) in LIGHT.items() if message not in output[line]} == {}


def test_composing_and_validating_imports_nothing_heavy(tmp_path, env):
    done = subprocess.run([sys.executable, "-c", AS_LIBRARY], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


# ------------------------------------------------------------------------------------------------------ conf/

FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent != CONF)
CHOICES = [path for path in FILES if not path.stem.startswith("_")]
COMMAND = re.compile(r"python -m ftlab.*$")


def group_of(path: Path) -> str:
    return path.parent.relative_to(CONF).as_posix()


def comments(path: Path) -> list[str]:
    """The comment lines that open a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    stop = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line for line in lines[:stop] if not line.startswith("# @package")]


def commands(path: Path) -> list[str]:
    return [found.group() for line in comments(path) for found in [COMMAND.search(line)] if found]


def choice_id(path: Path) -> str:
    return f"{group_of(path)}={path.stem}"


def needed_beside(path: Path) -> list[str]:
    """What a choice cannot do without."""
    if choice_id(path) == "phase=codebase":
        return ["model=kat_dev_32b"]
    if group_of(path) == "data":
        # The three sets of the curriculum have rows for models with a long context.
        return ["model=kat_dev_32b"] if "max_length" in path.read_text(encoding="utf-8") else []
    return ["method=lora"] if group_of(path) == "quant" else []


def test_the_glob_finds_every_group():
    root = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    entries = [name for entry in root["defaults"] if isinstance(entry, dict) for name in entry]
    listed = {name for name in entries if not name.startswith("override ")}
    assert {group_of(path) for path in CHOICES} - {"hydra/launcher"} == listed


@pytest.fixture(scope="module")
def composed(loader) -> Callable[[Path], DictConfig]:
    """Each choice, composed once for all the tests that look at it."""
    return functools.cache(lambda path: compose.compose([choice_id(path), *needed_beside(path)], loader))


def test_every_choice_composes_and_validates(composed):
    refused: dict[str, str] = {}
    for path in CHOICES:
        try:
            run = compose.validate(composed(path), [choice_id(path), *needed_beside(path)])
        except Exception as error:  # whatever it is, the other choices are looked at too
            refused[choice_id(path)] = repr(error)
            continue
        group = group_of(path)
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        is_named = group in schema.Run.model_fields and isinstance(values.get("name"), str) and group != "data"
        if is_named and getattr(run, group).name != path.stem:
            refused[choice_id(path)] = f"its name is {getattr(run, group).name}"
    assert refused == {}


def test_every_file_opens_with_what_it_is():
    silent, command_first = [], []
    for path in FILES:
        opening = [line.removeprefix("# ") for line in comments(path)]
        if not opening or len(opening[0].split()) < 2:
            silent.append(str(path.relative_to(CONF)))
        elif opening[0].startswith(("python", "ftlab")):
            command_first.append(str(path.relative_to(CONF)))
    assert silent == [], "no comment says what this file is"
    assert command_first == [], "the command comes after what it is about"


def test_every_experiment_and_stage_opens_with_its_command():
    paths = [path for path in FILES if group_of(path) in ("experiment", "stage")]
    lacking = [
        choice_id(path)
        for path in paths
        if not any(choice_id(path) in shlex.split(command) for command in commands(path))
    ]
    assert lacking == []


def test_every_command_in_a_comment_and_in_the_help_is_a_good_one(mistakes):
    """Those of the models only choose the model, which the choices above do already."""
    lines = {command for path in FILES if group_of(path) != "model" for command in commands(path)}
    lines |= {command for command, _ in TRY}
    told = {line: mistakes(line.removeprefix("python -m ").removeprefix("ftlab")) for line in sorted(lines)}
    assert {line: wrong for line, wrong in told.items() if wrong} == {}


def model_of(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The pydantic model that ``value`` is validated with; of a union, the member whose ``name`` it bears."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) not in (Union, UnionType):
        return None
    members = [member for member in get_args(annotation) if isinstance(member, type) and issubclass(member, BaseModel)]
    return next((m for m in members if value["name"] in get_args(m.model_fields["name"].annotation)), None)


def differences(values: dict[str, Any], model: type[BaseModel], prefix: str = "") -> list[str]:
    """Keys on one side only, YAML or schema, at any depth."""
    found = [f"{prefix}{key} only in YAML" for key in values.keys() - model.model_fields.keys()]
    found += [f"{prefix}{key} only in the schema" for key in model.model_fields.keys() - values.keys()]
    for key in values.keys() & model.model_fields.keys():
        if isinstance(values[key], dict):
            inner = model_of(model.model_fields[key].annotation, values[key])
            found += differences(values[key], inner, f"{prefix}{key}.") if inner else []
    return sorted(found)


def test_keys_of_yaml_and_schema_are_the_same(composed):
    """Both ways, in every choice, and so in every member of the unions (stage, task)."""
    different: dict[str, list[str]] = {}
    for path in CHOICES:
        values = OmegaConf.to_container(composed(path))
        del values["hydra"]
        different[choice_id(path)] = differences(values, schema.Run)
    assert {choice: keys for choice, keys in different.items() if keys} == {}


def test_a_key_on_one_side_only_is_found(loader):
    values = OmegaConf.to_container(compose.compose(["stage=dpo"], loader))
    values.pop("hydra")
    del values["stage"]["beta"], values["model"]["architecture"]["heads"], values["data"]["split"]["golden"]
    values["model"]["recommended"]["lora"]["alfa"] = 1
    values["extra"] = 2
    assert differences(values, schema.Run) == [
        "data.split.golden only in the schema",
        "extra only in YAML",
        "model.architecture.heads only in the schema",
        "model.recommended.lora.alfa only in YAML",
        "stage.beta only in the schema",
    ]


def test_no_field_of_the_schema_has_a_default():
    groups = [cls for cls in vars(schema).values() if isinstance(cls, type) and issubclass(cls, schema.Group)]
    assert len(groups) > 20
    given = [f"{cls.__name__}.{name}" for cls in groups for name, f in cls.model_fields.items() if not f.is_required()]
    assert given == []


def test_every_value_that_the_schema_lists_for_a_group_is_a_file(loader):
    """A choice named in an enumeration without a file could only be reached by half: its other keys would be wrong."""
    for group in ("stage", "task", "quant", "deepspeed", "tracker"):
        assert names_in_the_schema(group) == {path.stem for path in (CONF / group).glob("[!_]*.yaml")}, group
