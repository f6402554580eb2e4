"""Each argument of a file as keys of an experiment, and those that must be decided together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from ftlab.config import foreign_names
from ftlab.config.foreign_names.defaults import defaults
from ftlab.config.foreign_names.lines import Absent, NotNeeded, UnknownValueError, is_off, overrides
from ftlab.config.foreign_names.others import PROCESSES
from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.schema import Stage, StageName
from ftlab.use.importing.source import STAGES, Argument, Source, show

# Of two values of a key, the one that says more: (what it is said to be besides, what it then is).
_WINS = {
    ("method", "lora", "qlora"), ("stage", "dpo", "orpo"), ("data.packing", False, True),
    ("data.packing", True, "wrapped"), ("data.packing", "wrapped", False), ("data.train_on", "all", "assistant"),
    ("hardware.precision", "fp32", "bf16"), ("hardware.precision", "fp32", "fp16"), ("quant", "nf4", "int8"),
    ("quant", "fp4", "int8"), ("train.save_steps", "*", "epoch"),
}  # fmt: skip
# Names that only one of TRL's trainers has.
_TRAINERS = {
    "grpo": ("num_generations", "reward_funcs", "max_completion_length", "num_iterations", "scale_rewards"),
    "kto": ("desirable_weight", "undesirable_weight"),
    "sft": ("assistant_only_loss", "completion_only_loss", "dataset_text_field", "packing", "neftune_noise_alpha"),
    "rm": ("center_rewards_coefficient",),
    "dpo": ("rpo_alpha", "f_divergence_type", "precompute_ref_log_probs", "use_weighting", "discopop_tau"),
}
# Keys that are set only together with others: a file may have them without.
_NEEDS: dict[str, tuple[str, Collection[str]]] = {
    "lora": ("method", ("lora", "qlora")), "quant.double_quantization": ("method", ("qlora",)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """A key or group of ours. :param arguments: that say so. :param note: where more is to be said than that."""

    key: str
    value: Any
    arguments: tuple[Argument, ...] = ()
    note: str = ""

    @property
    def override(self) -> str:
        return f"{self.key}={show(self.value)}"


@dataclass(frozen=True, slots=True)
class Unused:
    """An argument that becomes nothing. :param is_lost: whether something is not as it was there."""

    argument: Argument
    reason: str
    is_lost: bool


@dataclass
class Translation:
    """:param decisions: what was decided of several arguments together, or without being told."""

    source: Source
    stage: str
    settings: dict[str, Setting] = field(default_factory=dict)
    unused: list[Unused] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)

    def value(self, key: str) -> Any:
        return self.settings[key].value if key in self.settings else None

    def drop(self, key: str, reason: str, is_lost: bool = False) -> None:
        """Leave a key out; tool's defaults are not spoken of."""
        setting = self.settings.pop(key)
        self.unused += [Unused(argument, reason, is_lost) for argument in setting.arguments if not argument.is_default]

    def change(self, key: str, value: Any, note: str, beside: tuple[Argument, ...] = ()) -> None:
        arguments = self.settings[key].arguments if key in self.settings else ()
        self.settings[key] = Setting(key, value, (*arguments, *beside), note)


def translate(source: Source, given: Mapping[str, str], skip: Collection[str]) -> Translation:
    """:param given: keys and groups that the command line sets, which win. :param skip: names to leave out.
    :raises ConfigError: values that the tool does not have, keys that contradict each other, no stage; all at once.
    """
    mistakes = _unknown_skips(source, skip)
    wanted, unused = list[Setting](), list[Unused]()
    for argument in source.arguments:
        if argument.name in skip:
            unused.append(Unused(argument, "left out by skip", True))
            continue
        try:
            found = _answered(argument)
        except UnknownValueError as error:
            mistakes.append(mistake_of(argument, str(error), nearest(show(argument.value), error.allowed)))
            continue
        if isinstance(found, Unused):
            unused.append(found)
        else:
            wanted += found
    settings = _merged(wanted, unused, mistakes)
    stage = _stage(source, settings, given, mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    translation = Translation(source, stage, settings, unused)
    translation.settings.setdefault("stage", Setting("stage", stage, (), f"the trainer of {source.file.name}"))
    _add_defaults(translation)
    _decide(translation)
    return translation


def mistake_of(argument: Argument, reason: str, near: Collection[str] = ()) -> Mistake:
    where = "" if argument.line is None else f" (line {argument.line})"
    return Mistake(f"{argument.name}{where}", reason, show(argument.value), tuple(near))


def _unknown_skips(source: Source, skip: Collection[str]) -> list[Mistake]:
    names = [argument.name for argument in source.arguments]
    return [
        Mistake("task.skip", "is no key of the file", name, nearest(name, names)) for name in skip if name not in names
    ]


def _answered(argument: Argument) -> list[Setting] | Unused:
    """What becomes of one argument. :raises UnknownValueError: it has a value that the tool does not know."""
    if argument.value is None:
        return Unused(argument, "null leaves it as it is", False)
    found = foreign_names.lookup(argument.tool, argument.name, argument.value)
    assert found is not None, "names are checked before"
    if isinstance(found, NotNeeded | Absent):
        if isinstance(found, Absent) and not is_off(argument.value):
            return Unused(argument, str(found), True)
        reason = str(found) if isinstance(found, NotNeeded) else "off there, and there is no such thing here"
        return Unused(argument, reason, False)
    template, note = found if isinstance(found, tuple) else (found, "")
    return [Setting(key, value, (argument,), note) for key, value in overrides(template, argument.value)]


def _merged(wanted: list[Setting], unused: list[Unused], mistakes: list[Mistake]) -> dict[str, Setting]:
    """One setting for each key."""
    settings: dict[str, Setting] = {}
    for setting in wanted:
        before = settings.get(setting.key)
        both = (*(before.arguments if before else ()), *setting.arguments)
        if before is None or setting.value == before.value:
            note = setting.note or (before.note if before else "")
            settings[setting.key] = replace(setting, arguments=both, note=note)
        elif setting.key == "train.adam_betas":
            names = {argument.name: argument.value for argument in both}
            settings[setting.key] = replace(setting, value=[names["adam_beta1"], names["adam_beta2"]], arguments=both)
        elif setting.key == "seed":
            main = setting if before.arguments[0].name == "data_seed" else before
            other = before if main is setting else setting
            settings["seed"] = main
            unused += [Unused(argument, "seed draws the order of rows, too", True) for argument in other.arguments]
        elif _wins(setting, before):
            settings[setting.key] = replace(setting, arguments=both)
        elif _wins(before, setting):
            settings[setting.key] = replace(before, arguments=both)
        else:
            first, second = before.arguments[0], setting.arguments[0]
            reason = f"contradicts {first.where}: that is {before.override} here, and this {setting.override}"
            mistakes.append(mistake_of(second, reason))
    return settings


def _wins(one: Setting, other: Setting) -> bool:
    key, value = one.key, one.value
    return not {(key, "*", value), (key, other.value, value)}.isdisjoint(_WINS)


def _stage(source: Source, settings: Mapping[str, Setting], given: Mapping[str, str], mistakes: list[Mistake]) -> str:
    """The stage by our name: of the command line, the file, the trainer that it names, or names that only one has."""
    known = get_args(StageName)
    if "stage" in given:
        return given["stage"]
    if "stage" in settings:
        setting = settings["stage"]
        if setting.value not in known:
            reason = f"must be one of: {', '.join(known)}."
            mistakes.append(mistake_of(setting.arguments[0], reason, nearest(show(setting.value), known)))
        return str(setting.value)
    if source.tool == "LLaMA-Factory":
        return "sft"
    if source.trainer is not None:
        found = STAGES[source.trainer]
        if found is None:
            mistakes.append(Mistake(source.trainer, f"is no stage here: {', '.join(known)}"))
        return str(found)
    names = {argument.name for argument in source.arguments}
    fits = [stage for stage, own in _TRAINERS.items() if names & {*own}]
    if len(fits) != 1:
        reason = "says not which of TRL's trainers it is for; add stage=sft, dpo, kto, rm, orpo or grpo"
        mistakes.append(Mistake(str(source.file), reason))
    return fits[0] if fits else "sft"


def _add_defaults(translation: Translation) -> None:
    """What the tool takes where the file says nothing."""
    tool = translation.source.tool
    said = {argument.name for argument in translation.source.arguments if argument.value is not None}
    trains_adapter = translation.value("method") in ("lora", "qlora") or (
        tool == "LLaMA-Factory" and "method" not in translation.settings
    )
    groups = {key.partition(".")[0] for key in translation.settings}
    for name, value in defaults(tool, translation.stage, trains_adapter).items():
        if name in said:
            continue
        found = _answered(Argument(name, value, None, tool, is_default=True))
        for setting in found if isinstance(found, list) else []:
            taken = {setting.key, *_SAME.get(setting.key, ())}
            if not taken & translation.settings.keys() and not (setting.key == "method" and "method" in groups):
                translation.settings[setting.key] = setting


# Keys that say the same otherwise: a default of one is none beside the other.
_SAME = {
    "train.warmup_steps": ("train.warmup_ratio",), "train.epochs": ("train.max_steps",),
    "data.split.validation": ("data.split.fraction",),
}  # fmt: skip


# --- together --------------------------------------------------------------------------------------------------------


def _decide(translation: Translation) -> None:
    for rule in (_quantization, _adapters, _freeze, _stage_keys, _names, _validation, _packing, _batch):
        rule(translation)


def _quantization(t: Translation) -> None:
    is_quantized = t.value("method") == "qlora" or t.value("quant") == "int8"
    if "quant" in t.settings and not is_quantized:
        t.drop("quant", "nothing is quantized: no 4 or 8 bits are asked for")
    if t.value("method") == "qlora" and t.value("quant") == "nf4":
        setting = t.settings.pop("quant")
        t.settings["method"] = replace(
            t.settings["method"], arguments=(*t.settings["method"].arguments, *setting.arguments)
        )
    if "quant.double_quantization" in t.settings and t.value("method") != "qlora":
        t.drop("quant.double_quantization", "of 4 bits, which are not asked for")
    if t.source.tool == "TRL" and t.value("method") == "qlora" and "quant.double_quantization" not in t.settings:
        default = Argument("use_bnb_nested_quant", False, None, "TRL", is_default=True)
        t.settings["quant.double_quantization"] = Setting("quant.double_quantization", False, (default,))


def _adapters(t: Translation) -> None:
    """Rank and so on are of adapters; of alpha LLaMA-Factory's default is twice the rank."""
    if t.value("method") not in ("lora", "qlora"):
        for key in [key for key in t.settings if key == "lora" or key.startswith("lora.")]:
            t.drop(key, f"of adapters, and method={t.value('method')} has none")
        return
    if t.source.tool == "LLaMA-Factory" and "lora.alpha" not in t.settings and isinstance(t.value("lora.r"), int):
        alpha = Argument("lora_alpha", 2 * t.value("lora.r"), None, t.source.tool, is_default=True)
        t.settings["lora.alpha"] = Setting("lora.alpha", alpha.value, (alpha,), "twice the rank")
    if t.source.tool == "TRL" and "lora.target_modules" not in t.settings:
        default = Argument("lora_target_modules", None, None, "TRL", is_default=True)
        t.settings["lora.target_modules"] = Setting(
            "lora.target_modules", "default", (default,), "those that PEFT takes of the family"
        )


def _freeze(t: Translation) -> None:
    if t.value("method") != "freeze":
        for key in [key for key in t.settings if key.startswith("method.")]:
            t.drop(key, f"of method=freeze, and this is {t.value('method')}")


def _stage_keys(t: Translation) -> None:
    """Keys of a stage that this one does not have."""
    known = _fields(t.stage)
    for key in [key for key in t.settings if key.startswith("stage.")]:
        name = key.removeprefix("stage.")
        if name in known:
            continue
        if name == "max_new_tokens":
            setting = t.settings.pop(key)
            t.settings["eval.max_new_tokens"] = replace(setting, key="eval.max_new_tokens")
        else:
            t.drop(key, f"stage={t.stage} has no {name}", is_lost=name != "loss_type")
    if "train.label_smoothing" in t.settings and t.stage not in ("pt", "sft"):
        is_lost = bool(t.value("train.label_smoothing"))
        t.drop("train.label_smoothing", "smooths the cross-entropy of pt and sft", is_lost)
    if "stage.reward_model" in t.settings:
        t.change("stage.reward_model", t.value("stage.reward_model"), "a run of stage=rm: train one with ftlab first")
        t.decisions.append(
            f"reward_model={t.value('stage.reward_model')} must be a run directory of stage=rm. Import the reward "
            "model's config, train it, and give stage.reward_model=outputs/ITS_RUN."
        )


def _fields(stage: str) -> set[str]:
    members = get_args(get_args(Stage)[0])
    return next(
        ({*one.model_fields} for one in members if stage in get_args(one.model_fields["name"].annotation)), set()
    )


def _names(t: Translation) -> None:
    if "run.dir" in t.settings and "run.name" in t.settings:
        t.drop("run.name", f"run.dir={t.value('run.dir')} names the run, also for trackers", is_lost=True)


def _validation(t: Translation) -> None:
    """A share that is held out is evaluated, whatever the strategy says; without one, only a file is."""
    none, fraction = t.settings.get("data.split.validation"), t.settings.get("data.split.fraction")
    if none is not None and fraction is not None and none.value == "none":
        t.drop("data.split.validation", "rows that are held out are evaluated every eval.steps=N steps", is_lost=True)
    if t.value("data.split.validation") == "none" and "eval.steps" in t.settings:
        t.drop("eval.steps", "nothing is held out, so nothing is evaluated")


def _packing(t: Translation) -> None:
    """Texts end to end are what LLaMA-Factory packs under pt; of conversations ours see only themselves."""
    setting = t.settings.get("data.packing")
    if setting is None:
        return
    if t.stage in ("ppo", "grpo"):
        t.drop("data.packing", "prompts and answers are not packed")
        return
    if setting.value is True and t.stage == "pt" and t.source.tool == "LLaMA-Factory":
        t.change("data.packing", "wrapped", "texts end to end, cut every max_length")
        t.settings["data.reset_positions"] = Setting(
            "data.reset_positions", False, setting.arguments, "as there: a row is read as one text"
        )
    elif setting.value is True and t.source.tool == "LLaMA-Factory":
        t.change("data.packing", True, "no sample sees another, as under neat_packing")
    elif setting.value is False:
        t.change("data.packing", False, "a row is one sample, so a batch is as large as there; true is faster")
    if setting.value == "wrapped" and t.stage != "pt":
        t.change("data.packing", True, "wrapped is for stage=pt; packed by best fit, nothing is cut")


def _batch(t: Translation) -> None:
    """Rows of a step: on a device, times devices."""
    micro, accumulation = t.value("train.micro_batch_size"), t.value("train.gradient_accumulation_steps")
    if not isinstance(micro, int) or not isinstance(accumulation, int):
        return  # what they must be is told when the experiment is checked
    devices, nodes = t.value("hardware.devices"), t.value("hardware.nodes") or 1
    if isinstance(devices, int) and isinstance(nodes, int) and nodes > 1 and devices % nodes == 0:
        name = t.settings["hardware.devices"].arguments[0].name
        if name == PROCESSES:
            devices //= nodes
            t.change("hardware.devices", devices, f"on each of {nodes} machines")
    rows = micro * accumulation
    if t.stage == "ppo":
        arguments = (
            *t.settings["train.micro_batch_size"].arguments,
            *t.settings["train.gradient_accumulation_steps"].arguments,
        )
        buffer = t.value("stage.rollout_batch_size") or 1
        t.change("stage.mini_batch_size", rows, "answers of an optimizer step", arguments)
        t.change("stage.rollout_batch_size", rows * int(buffer), f"{buffer} of these steps", arguments)
        t.settings.pop("train.gradient_accumulation_steps")
        t.decisions.append(
            f"{micro} answers on a device x {accumulation} accumulated: an optimizer step takes "
            f"stage.mini_batch_size={rows} answers, a rollout stage.rollout_batch_size={rows * int(buffer)}, on "
            "however many devices. There each device adds as many: multiply both by your devices."
        )
        return
    unit = "completions" if t.stage == "grpo" else "pairs" if t.stage in ("rm", "dpo", "orpo") else "rows"
    total = f"{rows * devices * nodes} on {devices * nodes}" if isinstance(devices, int) else (
        f"{rows} times the number that there is (hardware.devices=auto)"
    )  # fmt: skip
    t.decisions.append(
        f"{micro} x {accumulation} = {rows} {unit} of a step on each device, as there: {total}. "
        "train.global_batch_size=N in the place of the accumulation keeps a step's size on any number of devices."
    )
