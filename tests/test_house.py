"""The rules of the house: which way imports go, what stays light, and that conf/ and the schema agree."""

from __future__ import annotations

import ast
import copy
import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
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

# An import goes to a floor below its own. Parts of one floor know nothing of each other, without exception: the last
# one that was needed, of __main__, has a floor for itself.
FLOORS = {
    "errors": 0,
    "base": 1, "schema": 1,
    "distributed": 2,
    "rundir": 3,
    "pretrained": 4, "slurm": 4,
    "config": 5, "planning": 5,
    "model": 6, "data": 6,
    "measure": 7, "policy": 7,
    "stages": 8,
    "preflight": 9,
    "engine": 10, "use": 10,
    "main": 11, "launchers": 11,
    "__main__": 12,
}  # fmt: skip
# The same within a part: its folders from below, those of one tuple without knowledge of each other. "" are the files
# beside the folders.
FOLDERS = {
    "data": (("formats",), ("sources",), ("tokens",), ("ledger",), ("packing",), ("",)),
    "stages": (("losses",), ("trainer",), ("rewards",), ("ppo", "grpo"), ("",)),
    "engine": (("trackers",), ("",)),
    "use": (
        ("models",),
        ("chat", "evaluate", "inspect", "mine", "package", "report"),
        ("init", "serve"),
        ("importing",),
        ("",),
    ),
}
MAY_IMPORT_HYDRA = {"main", "config", "errors", "launchers"}
_TARGET = re.compile(r"^ftlab(\.\w+)+(:\w+)?$")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}
PACKAGE_MODULES = {module for module, path in MODULES.items() if path.name == "__init__.py"}


def part_of(module: str) -> str | None:
    """``ftlab.data.sources.blocks`` -> ``data``; None for the bare package and for anything that is not ours."""
    top, _, rest = module.partition(".")
    if top in ("launchers", "hydra_plugins"):
        return "launchers"
    return (rest.split(".")[0] or None) if top == "ftlab" else None


def folder_of(module: str) -> str:
    """The folder that a module lies in; a file beside the folders of ftlab counts as one."""
    return module if module in PACKAGE_MODULES or module.count(".") == 1 else module.rpartition(".")[0]


def level_of(module: str) -> int | None:
    """The level of a module's folder within its part; None where the part has no order of folders."""
    part = part_of(module)
    if part not in FOLDERS:
        return None
    inside = folder_of(module).split(".")[2:]
    name = inside[0] if inside else ""
    return next((level for level, names in enumerate(FOLDERS[part]) if name in names), -1)


@functools.cache
def nodes_of(source: str) -> tuple[ast.AST, ...]:
    """The nodes of a source, its module first, read once for all rules."""
    return tuple(ast.walk(ast.parse(source)))


@pytest.fixture(scope="module", autouse=True)
def _nodes_are_forgotten() -> Iterator[None]:
    """Whatever collects garbage in the tests behind these would look at half a million of them."""
    yield
    nodes_of.cache_clear()


def last_name(node: ast.AST) -> str | None:
    """The last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def imported(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and name of every module that ``source`` imports, at the top, in a function, or by a name in a string."""
    for node in nodes_of(source):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield node.lineno, name if base == "ftlab" or name in MODULES else base
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _TARGET.match(node.value):
            yield node.lineno, node.value.partition(":")[0]


def wrong_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    own, level = part_of(module), level_of(module)
    found = []
    for line, name in imported(source, module, is_package):
        where = f"{module}:{line}"
        if name.split(".")[0] == "hydra" and own not in MAY_IMPORT_HYDRA:
            found.append(f"{where} imports hydra")
        part = part_of(name)
        if part is None or part.startswith("__version"):
            continue
        if part not in FLOORS:
            found.append(f"{where} imports {name}, which has no floor")
        elif own is None:
            found.append(f"{where} (the package itself) imports {name}")
        elif part != own:
            if FLOORS[part] >= FLOORS[own]:
                found.append(f"{where} imports {name}: {own} may not import {part}")
        elif level is not None and folder_of(name) != folder_of(module):
            other = level_of(name)
            assert other is not None
            if level < 0 or other < 0:
                found.append(f"{where} imports {name}: a folder of {own} has no place in FOLDERS")
            elif other >= level:
                found.append(f"{where} imports {name}: {folder_of(module)} may not import {folder_of(name)}")
    return found


def offenders(rule: Callable[..., list[str]]) -> list[str]:
    """What a rule says of all sources; it takes a source and the name of its module."""
    return [line for module, path in MODULES.items() for line in rule(path.read_text(encoding="utf-8"), module)]


def test_imports_only_go_down():
    assert [module for module in MODULES if module != "ftlab" and part_of(module) not in FLOORS] == []
    assert offenders(lambda source, module: wrong_imports(source, module, module in PACKAGE_MODULES)) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("ftlab.data.sources.blocks", "from ftlab.engine.run import execute", "data may not import engine"),
        ("ftlab.data.sources.blocks", "def f():\n    import ftlab.model.load", "data may not import model"),
        ("ftlab.data.sources.blocks", "from ftlab.data.packing import store", "may not import ftlab.data.packing"),
        ("ftlab.data.sources.blocks", "from ftlab.data import prepare", "ftlab.data.sources may not import ftlab.data"),
        ("ftlab.stages.ppo.trainer", "from ftlab.stages.grpo import order", "may not import ftlab.stages.grpo"),
        ("ftlab.stages.rewards.models", "from ftlab.stages.ppo.order import x", "may not import ftlab.stages.ppo"),
        ("ftlab.engine.trackers.hub", "from ..run import execute", "trackers may not import ftlab.engine"),
        ("ftlab.model.load", "from ftlab.data.sources import read", "model may not import data"),
        (
            "ftlab.model.load",
            "if TYPE_CHECKING:\n    from ftlab.stages.trainer.stage_trainer import X",
            "model may not import stages",
        ),
        ("ftlab.use.ls", "from ftlab import engine", "use may not import engine"),
        ("ftlab.use.ls", "from ftlab import main", "use may not import main"),
        ("ftlab.use.ls", "from ..engine import train", "use may not import engine"),
        ("ftlab.engine.run", "from ftlab.use.ls import ls", "engine may not import use"),
        ("ftlab.data", "from .. import stages", "data may not import stages"),
        ("ftlab.preflight.check", "from ftlab.engine.tasks import train", "preflight may not import engine"),
        ("ftlab.schema.base", "from ftlab.rundir.plan import Plan", "schema may not import rundir"),
        ("ftlab.base.machine", "from ftlab.schema import Run", "base may not import schema"),
        ("ftlab.config.check", "from ftlab import planning", "config may not import planning"),
        ("ftlab.stages", 'TRAINERS = {"sft": "ftlab.engine.run:execute"}', "stages may not import engine"),
        ("ftlab.rundir.plan", "from hydra.utils import instantiate", "imports hydra"),
        ("ftlab", "from ftlab.schema import Run", "the package itself"),
        ("ftlab.use.ls", "from ftlab.attic import x", "has no floor"),
    ],
)
def test_a_wrong_import_is_caught(module, source, complaint):
    found = wrong_imports(source, module, module in PACKAGE_MODULES)
    assert len(found) == 1 and complaint in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ftlab.data.prepare", "from ftlab import __version__\nfrom ftlab.data.ledger.ledger import Ledger"),
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
    assert wrong_imports(source, module) == []


# --------------------------------------------------------------------------------------------------------- circles

Graph = dict[str, set[str]]


def circles(graph: Graph) -> list[list[str]]:
    """The sets of nodes of which each reaches every other, by name."""
    reached: Graph = {}
    for node in graph:
        seen: set[str] = set()
        ahead = [*graph[node]]
        while ahead:
            if (other := ahead.pop()) not in seen:
                seen.add(other)
                ahead += graph.get(other, ())
        reached[node] = seen
    rings = {tuple(sorted({b for b in reached[a] if a in reached.get(b, ())} | {a})) for a in graph if a in reached[a]}
    return sorted(map(list, rings))


def import_graph() -> Graph:
    """Which module imports which. One that names itself does so for processes that it starts."""
    return {
        module: {
            name
            for _, name in imported(path.read_text(encoding="utf-8"), module, module in PACKAGE_MODULES)
            if name in MODULES and name != module
        }
        for module, path in MODULES.items()
    }


def folders_of(graph: Graph) -> Graph:
    found: Graph = {}
    for module, names in graph.items():
        folder = folder_of(module)
        found.setdefault(folder, set()).update({folder_of(name) for name in names} - {folder})
    return found


def test_no_circle_of_modules_and_none_of_folders():
    graph = import_graph()
    assert circles(graph) == []
    assert circles(folders_of(graph)) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"e"}}) == [["a", "b", "c"], ["e"]]
    graph = {"ftlab.use.ls": {"ftlab.config.keys"}, "ftlab.config.check": {"ftlab.use.help"}}
    assert circles(graph) == [] and circles(folders_of(graph)) == [["ftlab.config", "ftlab.use"]]


# ------------------------------------------------------------------------------------- what is known in one place

RUN_FILES = {
    "run.yaml", "manifest.json", "metrics.jsonl", "log.txt", "checkpoint.json", "trainer_state.json", ".lock",
    "trackers.json", "git.diff", ".final.tmp", ".base.tmp",
}  # fmt: skip
# Plain words: names of a run where they are part of a path.
RUN_FOLDERS = {"phases", "final", "samples", "base", "tensorboard"}
PATH_CALLS = {"Path", "joinpath", "with_name", "glob", "rglob"}
RANKS = {
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "world_size", "process_index", "local_process_index", "num_processes",
    "is_world_process_zero", "is_local_process_zero", "is_main_process", "get_rank", "get_world_size", "n_gpu",
    "_n_gpu", "device_count",
}  # fmt: skip


def docstrings(source: str) -> set[ast.AST]:
    nodes = [node for node in nodes_of(source) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    first = [node.body[0] for node in nodes if node.body]
    return {statement.value for statement in first if isinstance(statement, ast.Expr)}


def text_of(node: ast.AST) -> str | None:
    """The text of a string, with {} for what an f-string fills in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def file_names(source: str, module: str) -> list[str]:
    """Names of a run's files and folders, spelled outside ftlab/rundir/. What has a space in it is a message."""
    if part_of(module) == "rundir":
        return []
    skipped = docstrings(source)
    in_paths: set[ast.AST] = set()
    for node in nodes_of(source):
        if isinstance(node, ast.JoinedStr):
            skipped.update(node.values)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            in_paths |= {node.left, node.right}
        elif isinstance(node, ast.Call) and last_name(node.func) in PATH_CALLS:
            in_paths.update(node.args)
        elif isinstance(node, ast.Compare) and last_name(node.left) == "name":
            is_of_parent = ast.unparse(node.left).endswith(".parent.name")
            in_paths.update(node.comparators if is_of_parent else ())
    found = []
    for node in nodes_of(source):
        text = None if node in skipped else text_of(node)
        if text is None or " " in text:
            continue
        names = text.split("/")
        is_file = any(name in RUN_FILES or name.startswith("checkpoint-") for name in names)
        if is_file or (node in in_paths and any(name in RUN_FOLDERS for name in names)):
            found.append(f"{module}:{getattr(node, 'lineno', 0)} spells {text}")
    return found


def ranks(source: str, module: str) -> list[str]:
    """Readings of rank, world size or devices outside ftlab/distributed/; other tools' keys may be called so."""
    if part_of(module) == "distributed" or module.startswith("ftlab.config.foreign_names"):
        return []
    found = []
    for node in nodes_of(source):
        if isinstance(node, ast.Attribute):
            of_hardware = node.attr in ("devices", "nodes") and last_name(node.value) == "hardware"
            name = f"hardware.{node.attr}" if of_hardware else node.attr if node.attr in RANKS else None
        else:
            name = text_of(node) if text_of(node) in RANKS else None
        if name is not None:
            found.append(f"{module}:{getattr(node, 'lineno', 0)} reads {name}")
    return found


def command_lines(source: str, module: str) -> list[str]:
    """Readings of the process's command line outside ftlab/main.py: a job of a sweep is not what it tells of."""
    if module == "ftlab.main":
        return []
    found = []
    for node in nodes_of(source):
        is_attribute = last_name(node) == "argv" and ast.unparse(node) == "sys.argv"
        is_import = isinstance(node, ast.ImportFrom) and node.module == "sys"
        if is_attribute or (is_import and any(alias.name == "argv" for alias in node.names)):
            found.append(f"{module}:{node.lineno} reads sys.argv")
    return found


def test_file_names_of_a_run_are_spelled_in_rundir_alone():
    assert offenders(file_names) == []


def test_rank_world_size_and_devices_are_read_in_distributed_alone():
    assert offenders(ranks) == []


def test_the_command_line_is_read_in_main_alone():
    assert offenders(command_lines) == []


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (file_names, 'path = folder / "run.yaml"'),
        (file_names, 'names = ["a.txt", "metrics.jsonl"]'),
        (file_names, 'path = folder / "phases" / name'),
        (file_names, 'path = folder / f"samples/{step}.json"'),
        (file_names, 'path = Path("outputs", "final")'),
        (file_names, 'sorted(phases.glob(f"*-{name}/final"))'),
        (file_names, 'base = folder.with_name("base")'),
        (file_names, 'folder.glob("checkpoint-*")'),
        (file_names, 'in_run = folder.parent.name == "phases"'),
        (file_names, 'path = f"{folder}/checkpoint-{step}"'),
        (ranks, "size = trainer.args.world_size"),
        (ranks, 'rank = os.environ.get("RANK")'),
        (ranks, "if run.hardware.nodes > 1: pass"),
        (ranks, "torch.distributed.get_rank()"),
        (command_lines, "import sys\nwords = sys.argv[1:]"),
        (command_lines, "def f():\n    from sys import argv"),
    ],
)
def test_what_is_known_elsewhere_is_caught(rule, source):
    assert len(rule(source, "ftlab.use.chat")) == 1


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (file_names, "ftlab.rundir.names", 'RUN_YAML = "run.yaml"'),
        (file_names, "ftlab.use.chat", '"""run.yaml"""\ndef f():\n    """metrics.jsonl"""'),
        (file_names, "ftlab.use.chat", 'raise RunDirError(f"{folder} has no run.yaml")'),
        (file_names, "ftlab.use.chat", 'phases = manifest["phases"]; final = names["final"]'),
        (ranks, "ftlab.distributed.world", 'rank = os.environ["RANK"]'),
        (ranks, "ftlab.use.chat", "current_world().rank"),
        (command_lines, "ftlab.main", "import sys\nwords = sys.argv[1:]"),
    ],
)
def test_what_is_right_is_not(rule, module, source):
    assert rule(source, module) == []


def without_sentence(folders: Mapping[str, str | None]) -> list[str]:
    """Folders whose ``__init__.py`` is missing or does not begin with a sentence. :param folders: path -> its text."""
    found = []
    for folder, source in folders.items():
        told = ast.get_docstring(ast.parse(source)) if source is not None else None
        if told is None or len(told.split()) < 3 or not told.endswith("."):
            found.append(folder)
    return found


def test_every_folder_says_in_a_sentence_what_it_is():
    folders = {path.parent for path in SOURCES if path.is_relative_to(ROOT / "ftlab")}
    texts = {}
    for folder in sorted(folders):
        file = folder / "__init__.py"
        texts[str(folder)] = file.read_text(encoding="utf-8") if file.is_file() else None
    assert without_sentence(texts) == []


def test_a_folder_that_does_not_is_found():
    good, silent, curt = '"""Losses as pure functions."""', "import os", '"""Losses."""'
    assert without_sentence({"a": good, "b": silent, "c": curt, "d": None}) == ["b", "c", "d"]


# ---------------------------------------------------------------------------------------------------------- tables


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
        calls = [node for node in nodes_of(source) if isinstance(node, ast.Call) and len(node.args) > 1]
        named = [node for node in calls if last_name(node.func) == "get"]
        gets = [node for node in named if ast.unparse(node.func) in ("cfg.get", "config.get", "run.get")]
        defaults += [f"{name}:{node.lineno}: {ast.unparse(node)}" for node in gets]
    assert endless == []
    assert defaults == []


def test_main_is_a_table_of_contents():
    assert (ROOT / "ftlab" / "main.py").read_text(encoding="utf-8").count("\n") < 80


# ------------------------------------------------------------------------------------------------------ light start

AS_LIBRARY = f"""
import sys
import ftlab.main
from ftlab.config import check, command_line, compose
check.check(command_line.read(["stage=dpo", "model=llama3_8b"]))
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
    "report nowhere": (1, "task.runs=nowhere: is no folder of a sweep or a run"),
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
    if choice_id(path) == "model=local":
        return [f"model.path={ROOT / 'models' / 'tiny'}"]
    if group_of(path) == "data":
        # The three sets of the curriculum have rows for models with a long context.
        return ["model=kat_dev_32b"] if "max_length" in path.read_text(encoding="utf-8") else []
    if group_of(path) == "hydra/sweeper/sampler":
        return ["hydra/sweeper=optuna"]
    return ["method=lora"] if group_of(path) == "quant" else []


def test_the_glob_finds_every_group():
    root = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    entries = [name for entry in root["defaults"] if isinstance(entry, dict) for name in entry]
    listed = {name for name in entries if not name.startswith("override ")}
    of_hydra = {"hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler"}
    assert {group_of(path) for path in CHOICES} - of_hydra == listed


@pytest.fixture(scope="module")
def composed(loader) -> Callable[[Path], DictConfig]:
    """Each choice, composed once for all the tests that look at it."""
    plain = compose.compose([], loader)

    def composed(path: Path) -> DictConfig:
        alone = group_of(path) == "model" and not needed_beside(path)
        if not alone or "# @package _global_" in path.read_text(encoding="utf-8"):
            return compose.compose([choice_id(path), *needed_beside(path)], loader)
        # Such a file sets nothing outside of its group, and composing that alone takes half the time.
        config = copy.deepcopy(plain)
        config.model = compose.compose([], loader, choice_id(path).replace("=", "/")).model
        return config

    return functools.cache(composed)


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
        is_named = group in schema.Run.model_fields and isinstance(values.get("name"), str)
        is_named &= group != "data" and choice_id(path) != "model=local"  # which have the names of what they hold
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


# ------------------------------------------------------------------------------------------------------- terminal


def raw_output(source: str, module: str) -> list[str]:
    """Where text goes out beside ``ftlab.base.terminal``, which keeps it from steering the terminal."""
    if module == "ftlab.base.terminal":
        return []
    ways = {"print", "Console", "rich.print", "sys.stdout.write", "sys.stderr.write", "Console.print"}
    ends = {way.rpartition(".")[2] for way in ways}
    calls = [node for node in nodes_of(source) if isinstance(node, ast.Call) and last_name(node.func) in ends]
    names = [(node.lineno, ast.unparse(node.func)) for node in calls]
    return [f"{module}:{line} {name}" for line, name in names if name in ways]


def test_all_output_goes_through_the_terminal():
    assert offenders(raw_output) == []
    assert raw_output("print(1)\nConsole().log(2)", "ftlab.use.ls") == [
        "ftlab.use.ls:1 print",
        "ftlab.use.ls:2 Console",
    ]
