"""Will it run: what this build has, the data, the model. Loads no weights and no torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ftlab.data.prepare import check_first_rows
from ftlab.data.sources import resolve
from ftlab.data.tokens.shipped_templates import template_problem
from ftlab.distributed.world import current_world, planned_devices
from ftlab.errors import ConfigError, DataError, FtlabError, NotReadyError
from ftlab.measure import scores
from ftlab.model import prequantized, remote_code, saved_adapter
from ftlab.model.module_names import NO_SUCH_LAYER, last_names, unknown_module_mistakes
from ftlab.preflight.devices import device_problems
from ftlab.preflight.packages import compiler_problems, deepspeed_problems, missing_fp8, missing_trackers
from ftlab.preflight.reachable import cached_folder, unreachable
from ftlab.pretrained.files import CONFIG
from ftlab.pretrained.folder import not_a_model
from ftlab.pretrained.tokenizer_files import read_chat_template
from ftlab.pretrained.whole import folder_problems, linear_names
from ftlab.rundir.directory import RunDir
from ftlab.rundir.plan import Phase, Plan
from ftlab.schema import DpoStage, PpoStage, Run
from ftlab.stages.grpo import generations
from ftlab.stages.rewards import find
from ftlab.stages.rewards import resolve as reward_names
from ftlab.stages.trainer import optimizers


def check_plan(plan: Plan, is_here: bool = True) -> None:
    """Check that every phase of the plan can run.

    :param is_here: on this machine; else what devices and packages it has says nothing.
    :raises NotReadyError, ConfigError, DataError: as :func:`check` does; of a curriculum what every phase lacks.
    """
    current_world()  # what a launcher has set wrongly is told before anything is loaded
    chosen = plan.phases[0].config.run.phases
    phases = [phase for phase in plan.phases if chosen is None or phase.name in chosen]
    given = {line.partition("=")[0].lstrip("+") for line in plan.overrides}
    lacking = []
    for phase in phases:
        try:
            check(phase.config, _phase_adapter_mistakes(plan, phase, given), is_here)
        except FtlabError as error:
            if len(plan.phases) == 1:
                raise
            lacking.append(f"Phase {phase.name}: {error}")
    if lacking:
        raise NotReadyError("\n".join(lacking))


def check(run: Run, adapter: Collection[str] | None = None, is_here: bool = True) -> None:
    """:param is_here: as in :func:`check_plan`.
    :param adapter: what is wrong with the adapter that a run starts from; None to look at ``model.adapter``.
    :raises NotReadyError: everything that is missing, at once.
    :raises ConfigError, DataError: the data does not exist or does not fit.
    """
    missing: list[str] = []
    if mistakes := scores.check(run.eval.metrics):
        raise ConfigError(mistakes)
    if isinstance(run.stage, PpoStage) and (mistakes := reward_names.check_stage(run.stage)):
        raise ConfigError(mistakes)
    if run.stage.name == "grpo":
        generations.check(run, planned_devices(run.hardware))
        missing += filter(None, [generations.missing_vllm(run) if is_here else None])
    try:
        sources = resolve.resolve(run.data, run.stage.name)
        check_first_rows(sources, run.data)
    except DataError as error:
        missing.append(str(error))
    if is_here:
        missing += filter(None, [optimizers.missing_package(run)])
        missing += missing_trackers(run)
        missing += missing_fp8(run)
        missing += compiler_problems(run)
        missing += deepspeed_problems(run)
        missing += device_problems(run)
        missing += scores.missing_packages(run.eval.metrics)
    missing += (
        _unreachable_model(run)
        or list(filter(None, [remote_code.refusal(run.model), prequantized.unsupported_reason(run)]))
        or _folder_problems(run)
        or _template_problems(run)
    )
    missing += _unreachable_reference(run)
    missing += adapter_mistakes(run, ()) if adapter is None else adapter
    if missing:
        raise NotReadyError("\n".join(["This run cannot start here:", *(f"  - {line}" for line in missing)]))


def _phase_adapter_mistakes(plan: Plan, phase: Phase, given: Collection[str]) -> list[str]:
    """What is wrong with the adapter that a phase starts from, where that is there already.

    An earlier phase's is not, and the plan has compared what the two phases want of it.
    """
    if phase.source is None:
        return adapter_mistakes(phase.config, given)
    folder = RunDir(Path(phase.source)).final
    is_phase = any(other.name == phase.source for other in plan.phases)
    if is_phase or phase.start == "merge" or not (folder / saved_adapter.CONFIG).is_file():
        return []
    instead = f"begin a new one with phases.{phase.name}.start=merge"
    return saved_adapter.adapter_mistakes(phase.config, folder, f"the adapter of {phase.source}", instead, given)


def adapter_mistakes(run: Run, given: Collection[str]) -> list[str]:
    """Return why ``model.adapter`` cannot be started from, with what would do; empty when it can.

    :param given: keys of the command line.
    """
    path = run.model.adapter
    if path is None:
        return []
    if lacking := unreachable("model.adapter", path, "main", saved_adapter.CONFIG):
        return lacking
    folder = Path(path) if Path(path).is_dir() else cached_folder(path, saved_adapter.CONFIG)
    instead = "begin a new one with model.adapter=null"
    return saved_adapter.adapter_mistakes(run, folder, f"model.adapter={path}", instead, given)


def _unreachable_model(run: Run) -> list[str]:
    """Why the model cannot be trained, with what would do; empty when it can."""
    path = run.model.path
    if Path(path).exists() and (problem := not_a_model(path)):
        return [problem]
    if lacking := unreachable("model.path", path, run.model.revision, CONFIG):
        return lacking
    if not Path(path).is_dir():
        return []
    if find.reward_model_problem(path) is None:
        return [
            f"model.path={path} is a reward model: it has a {find.HEAD}. stage={run.stage.name} starts from a "
            "language model; a reward model goes into stage.reward_model of stage=ppo, or stage.rewards=[model:RUN] "
            "of stage=grpo"
        ]
    return []


def _folder_problems(run: Run) -> list[str]:
    """What of the model's files keeps it from being loaded, and what the run asks of modules that it has not."""
    folder = Path(run.model.path)
    if not folder.is_dir():
        return []  # what the hub's cache lacks is downloaded
    if problems := folder_problems(folder, needs_weights=run.model.init == "pretrained"):
        return problems
    names = run.lora.target_modules
    if run.method.name != "lora" or run.model.adapter is not None or isinstance(names, str):
        return []
    if not (paths := linear_names(folder)):
        return []
    mistakes = unknown_module_mistakes(
        "lora.target_modules", names, [*paths, "lm_head"], NO_SUCH_LAYER, last_names(paths)
    )
    return [str(mistake) for mistake in mistakes]


def _template_problems(run: Run) -> list[str]:
    """What keeps the chat template of the model's folder, where it is used, from being rendered."""
    folder = Path(run.model.path)
    if run.stage.name == "pt" or run.model.template is not None or not folder.is_dir():
        return []
    found = read_chat_template(folder)
    return list(filter(None, [template_problem(found[1], str(folder), found[0])])) if found is not None else []


def _unreachable_reference(run: Run) -> list[str]:
    path = run.stage.reference_model if isinstance(run.stage, DpoStage) else None
    if path is None:
        return []
    key, files = "stage.reference_model", ("config.json", saved_adapter.CONFIG)
    if lacking := unreachable(key, path, "main", files[0]):
        return lacking
    if Path(path).is_dir() and not any((Path(path) / name).is_file() for name in files):
        return [f"{key}={path} has neither {' nor '.join(files)}; it must be a model or an adapter on the run's own"]
    if not Path(path).is_dir():
        return []
    is_adapter = (Path(path) / saved_adapter.CONFIG).is_file()
    problems = saved_adapter.file_problems(Path(path)) if is_adapter else folder_problems(Path(path), True)
    return [f"{key}={path}: {problem}" for problem in problems]
