"""Whether a run fits the memory of its device, and what would make it: pure, over :mod:`ftlab.preflight.memory`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from ftlab.config.rules import cross_group_mistakes
from ftlab.distributed.world import planned_devices
from ftlab.errors import ConfigError, Mistake, NotReadyError
from ftlab.preflight.memory import Device, Host, Prediction, device_of, predict, predict_host
from ftlab.preflight.memory.device import GIB
from ftlab.rundir.claim import begun_phases
from ftlab.rundir.plan import Plan
from ftlab.schema import GrpoStage, PpoStage, Run
from ftlab.stages.trainer.remedies import Remedy, remedies

Verdict = Literal["fits", "tight", "does not fit", "unknown"]
TIGHT = 0.9  # share of the device's memory above which little is left for what nobody foresees

_SHOWN = 3
_MOST_ROWS = 4096  # of a micro-batch


def verdict(found: Prediction) -> Verdict:
    """Whether a device has the memory."""
    return _verdict(found.needed, found.device.memory)


def host_verdict(host: Host) -> Verdict:
    """Whether the main memory of a machine suffices."""
    return _verdict(host.needed, host.memory)


def worse(of_device: Verdict, of_host: Verdict) -> Verdict:
    """Of both. Of a machine whose memory nobody knows nothing is expected."""
    order: tuple[Verdict, ...] = ("fits", "unknown", "tight", "does not fit")
    return max(of_device, "fits" if of_host == "unknown" else of_host, key=order.index)


def _verdict(needed: float, memory: float | None) -> Verdict:
    if memory is None:
        return "unknown"
    share = needed / memory
    return "fits" if share <= TIGHT else "tight" if share <= 1 else "does not fit"


@dataclass(frozen=True)
class Change:
    """:param overrides: as they would be typed. :param needed: bytes of one device with them."""

    overrides: tuple[str, ...]
    needed: float


def cheapest_changes(run: Run, device: Device, is_here: bool = False) -> list[Change]:
    """The three cheapest changes after which the run fits, the one that costs least time or quality first; several at
    once where none alone is enough. Each changes other keys than those before it; only where there are not three such,
    the same keys by more. Fewer where there are no more."""
    options = remedies(run)
    found: list[tuple[float, frozenset[str], Change]] = []
    spare: list[tuple[float, frozenset[str], Change]] = []
    sets = [chosen for many in range(1, 5) for chosen in combinations(options, many)]
    for chosen in sorted(sets, key=cost):
        keys = frozenset(key for one in chosen for key in one.values)
        names = frozenset(one.override for one in chosen)
        if any(names >= set(one.overrides) for _, _, one in (*found, *spare)):
            continue
        is_another = not any(earlier <= keys for _, earlier, _ in found)
        if (not is_another and len(spare) == _SHOWN) or (other := changed(run, chosen)) is None:
            continue
        predicted = predict(other, _same_memory(other, device, is_here))
        told = {verdict(predicted), host_verdict(predict_host(other, predicted, is_here))}
        if told <= {"fits", "unknown"}:
            change = Change(tuple(one.override for one in chosen), predicted.needed)
            (found if is_another else spare).append((cost(chosen), keys, change))
            if len(found) == _SHOWN:
                break
    shown = sorted([*found, *spare[: _SHOWN - len(found)]], key=lambda one: one[0])
    return [change for _, _, change in shown]


def cost(chosen: Sequence[Remedy]) -> float:
    return sum(one.cost for one in chosen)


def changed(run: Run, chosen: Sequence[Remedy]) -> Run | None:
    """The run with some changes; None where two of them are to one key, or it would be refused."""
    keys = [key for one in chosen for key in one.values]
    if len(keys) != len(set(keys)):
        return None
    found = run.with_values({key: value for one in chosen for key, value in one.values.items()})
    return None if cross_group_mistakes(found) else found


def _same_memory(run: Run, device: Device, is_here: bool) -> Device:
    found = device_of(run, is_here)
    return Device(device.kind, device.memory, device.is_given, found.count, device.precision)


@dataclass(frozen=True)
class Solution:
    """:param value: the largest that fits; None where not even the smallest does. :param needed: bytes with it.
    :param limit: what the value may be at most, whatever the memory."""

    key: str
    value: int | None
    needed: float
    limit: int


def solve(run: Run, key: str, device: Device) -> Solution:
    """The largest value of ``data.max_length``, ``train.micro_batch_size`` or ``lora.r`` with which the run fits the
    whole device.

    :raises NotReadyError: nobody knows how much memory there is. :raises ConfigError: the run has no adapter to solve
        for.
    """
    if key == "lora.r" and run.method.name != "lora":
        reason = f"method={run.method.name} has no adapter. Use method=lora or qlora, or solve for another key"
        raise ConfigError([Mistake("task.solve", reason, key)])
    if device.memory is None:
        raise NotReadyError(
            "Nobody has said how much memory there is: give hardware.memory_gb=N, or a hardware=NAME that has it."
        )
    values = _candidates(run, key)

    def needed(place: int) -> float:
        return predict(_with_one(run, key, values[place]), device).needed

    if needed(0) > device.memory:
        return Solution(key, None, needed(0), values[-1])
    low, high = 0, len(values)  # low fits; high does not, or is too much
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= device.memory else (low, middle)
    return Solution(key, values[low], needed(low), values[-1])


def _candidates(run: Run, key: str) -> Sequence[int]:
    """The values that a key may have, the smallest first; with each of them more memory is needed than before."""
    shape, train, stage = run.model.architecture, run.train, run.stage
    if key == "lora.r":
        return range(1, shape.hidden_size + 1)
    if key == "data.max_length":
        answer = stage.max_new_tokens if isinstance(stage, PpoStage | GrpoStage) else 0
        return range(8, max(shape.max_positions - answer, 8) + 1)
    if train.global_batch_size is not None:  # of which each device takes whole micro-batches
        share = train.global_batch_size // planned_devices(run.hardware)
        return [rows for rows in range(1, share + 1) if share % rows == 0]
    if isinstance(stage, GrpoStage):  # whole groups of completions, without more of them for that
        alone = [n for n in range(1, stage.num_generations + 1) if stage.num_generations % n == 0]
        many = [*alone, *range(2 * stage.num_generations, _MOST_ROWS + 1, stage.num_generations)]
        return [rows for rows in many if _makes_groups(_with_one(run, key, rows), stage)] or alone
    return range(1, _MOST_ROWS + 1)


def _makes_groups(run: Run, stage: GrpoStage) -> bool:
    steps = stage.steps_per_generation or run.train.gradient_accumulation_steps
    return run.train.micro_batch_size * planned_devices(run.hardware) * steps % stage.num_generations == 0


def _with_one(run: Run, key: str, value: int) -> Run:
    """The run with a value at a key, and with the accumulation that follows from it under a global batch size."""
    train, values = run.train, {key: value}
    if key == "train.micro_batch_size" and train.global_batch_size is not None:
        share = train.global_batch_size // planned_devices(run.hardware)
        values["train.gradient_accumulation_steps"] = share // value
    return run.with_values(values)


def check_fits(plan: Plan, is_here: bool = True) -> None:
    """Refuse what cannot fit where the config itself says how much memory a device has: nothing is refused on a guess.

    :param is_here: whether the run starts on this machine.
    :raises NotReadyError: a phase does not fit, with what would do.
    """
    chosen = plan.phases[0].config.run.phases
    begun = begun_phases(plan.phases[0].config.run)
    lines, keys, have_begun = list[str](), set[str](), False
    for phase in plan.phases:
        run = phase.config
        device = device_of(run, is_here)
        if chosen is not None and phase.name not in chosen:
            continue
        found = predict(run, device)
        host = predict_host(run, found, is_here)
        too_much = []
        if device.is_given and verdict(found) == "does not fit":
            keys.add("hardware.memory_gb")
            given = f"hardware.memory_gb={run.hardware.memory_gb:g}"
            too_much.append(f"about {size(found.needed)} of one device, and {given}")
        if host.is_given and host_verdict(host) == "does not fit":
            keys.add("hardware.host_memory_gb")
            given = f"hardware.host_memory_gb={run.hardware.host_memory_gb:g}"
            too_much.append(f"about {size(host.needed)} of a machine's main memory {host.moment}, and {given}")
        if too_much:
            where = f"Phase {phase.name}" if len(plan.phases) > 1 else "This run"
            lines.append(f"{where} needs {'; and '.join(too_much)}. It would fit with:")
            lines += [
                f"  - {' '.join(change.overrides)}  ({size(change.needed)})"
                for change in cheapest_changes(run, device, is_here)
            ] or ["  - a smaller model, or a larger device or machine"]
            have_begun |= phase.name in begun
    if have_begun:
        lines.append(
            "What has begun goes on where there is as much memory as it began with; with these changes, and "
            "run.if_exists=new, another run begins."
        )
    if lines:
        tries = " ".join(f"{key}=null" for key in sorted(keys))
        more = f"`ftlab plan` before the same words shows where it goes; {tries} tries it anyway."
        raise NotReadyError("\n".join([*lines, more]))


def forecast(run: Run) -> tuple[str, bool]:
    """What to say of memory as a phase begins, and whether it is a warning."""
    found = predict(run, device_of(run, is_here=True))
    about = f"memory: about {size(found.needed)} at its peak"
    host = predict_host(run, found, is_here=True)
    if (of_host := host_verdict(host)) not in ("fits", verdict(found)) and host.memory is not None:
        ending = "that is tight" if of_host == "tight" else "that does not fit"
        about += (
            f"; and {size(host.needed)} of the machine's own {size(host.memory)} {host.moment}, in {host.processes} "
            f"process{'es' * (host.processes > 1)}: {ending}. ftlab plan says what would make it fit"
        )
        return about, True
    if found.device.memory is None:
        return f"{about}, as predicted", False
    told = verdict(found)
    about += f" of the {size(found.device.memory)} that {_holder(found.device)} has"
    if told == "fits":
        return f"{about}, as predicted", False
    ending = "that is tight" if told == "tight" else "that does not fit"
    return f"{about}: {ending}. ftlab plan says what would make it fit", True


def _holder(device: Device) -> str:
    return "the machine" if device.kind == "cpu" else "one device"


def size(count: float) -> str:
    """Bytes with three significant digits, in MiB below one GiB.

    >>> size(5 * 2**20), size(8 * 2**30), size(141.25 * 2**30)
    ('5.00 MiB', '8.00 GiB', '141 GiB')
    """
    value, unit = (count / GIB, "GiB") if count >= GIB else (count / 2**20, "MiB")
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"
