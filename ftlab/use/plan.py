"""``ftlab plan``: what a run will do, what memory and disk it needs and which of that is here. Starts nothing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftlab.base.terminal import echo, echo_json
from ftlab.distributed.world import planned_devices
from ftlab.errors import ConfigError, DataError, NotReadyError, RunDirError
from ftlab.preflight import check, fit
from ftlab.preflight.choices import make_fitting_plan
from ftlab.preflight.directory import Continuation, continuation
from ftlab.preflight.fit import size
from ftlab.preflight.memory import (
    Device,
    Prediction,
    bytes_of_choices,
    checkpoint_copy_bytes,
    device_of,
    foreseen_attention,
    foreseen_layers,
    offloads,
    predict,
    predict_host,
)
from ftlab.preflight.memory.device import CONTEXT
from ftlab.rundir.checkpoints import step_of
from ftlab.rundir.claim import named_folder
from ftlab.rundir.names import OUTPUTS
from ftlab.rundir.plan import Phase, Plan
from ftlab.rundir.records import read_ledger
from ftlab.schema import PlanTask, PpoStage, Run
from ftlab.stages.order import step_order
from ftlab.stages.trainer.optimizers import bytes_of_states

_CHOSEN = "            without which it would not fit; keys that you give stay (hardware.fits_by)"
_COLUMN = 44  # where the figures of a table end


def plan(run: Run, overrides: Sequence[str]) -> None:
    """Print what the run of the command line would do and need.

    :raises NotReadyError: it does not fit, or nothing that was to be found does, which has been printed in full; or
        what is in its directory refuses it.
    :raises ConfigError: phases that do not follow from each other, or have nothing of what is to be found.
    """
    assert isinstance(run.task, PlanTask)
    planned = make_fitting_plan(run, overrides)
    if run.task.solve is not None:
        _solve(planned, run.task)
        return
    facts = describe(planned, run.run.checkpoint)
    echo_json(facts) if run.task.format == "json" else echo("\n".join(report_lines(facts)))
    wrong = [phase for phase in facts["phases"] if phase["verdict"] == "does not fit"]
    lines = [_does_not_fit(phase, len(facts["phases"]) > 1) for phase in wrong]
    if (directory := facts["directory"]) is not None and directory["does"] == "refuse":
        lines += directory["said"]
    if lines:
        raise NotReadyError("\n".join(lines))


def _does_not_fit(phase: dict[str, Any], has_others: bool) -> str:
    places = {"": phase["memory"]["needed"], " of a machine's main memory": phase["host"]["needed"]}
    there = (phase["device"]["memory"], phase["host"]["memory"])
    told = (phase["device_verdict"], phase["host"]["verdict"])
    too_much = [
        f"{size(needed)} of {size(memory)}{place}"
        for (place, needed), memory, verdict in zip(places.items(), there, told)
        if verdict == "does not fit"
    ]
    return f"{'Phase ' + phase['name'] if has_others else 'This run'} does not fit: {' and '.join(too_much)}."


def describe(planned: Plan, checkpoint: int | None = None) -> dict[str, Any]:
    """Everything that is told, as plain values; sizes are bytes. :param checkpoint: the step that is asked for."""
    then = refusal = None
    try:
        then = continuation(planned, checkpoint)
    except RunDirError as error:
        refusal = str(error)
    phases = [_phase(phase, then) for phase in planned.phases]
    order = ("does not fit", "tight", "unknown", "fits")
    verdict = next(one for one in order if any(phase["verdict"] == one for phase in phases))
    disk = sum(phase["disk"] for phase in phases)
    place = Path(planned.phases[0].config.run.dir or OUTPUTS).expanduser()
    there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())
    return {
        "verdict": verdict, "title": planned.title, "overrides": _words(planned), "phases": phases,
        "disk": {"needed": disk, "free": shutil.disk_usage(there).free, "folder": str(place)},
        "directory": _directory(planned, then, refusal),
        "missing": _missing(planned),
    }  # fmt: skip


def _phase(phase: Phase, then: Continuation | None) -> dict[str, Any]:
    run = phase.config
    device = device_of(run)
    found = predict(run, device)
    host = predict_host(run, found)
    told = fit.worse(fit.verdict(found), fit.host_verdict(host))
    changes = [] if told in ("fits", "unknown") else fit.cheapest_changes(run, device)
    return {
        "name": phase.name, "stage": run.stage.name, "model": run.model.name, "method": _method(run),
        "attention": foreseen_attention(run), "layers": foreseen_layers(run, device), "fp8": run.train.fp8,
        "compile": run.train.compile,
        "optimizer": run.train.optimizer,
        "checkpointing": run.train.gradient_checkpointing, "offload": offloads(run, device),
        "choices": {name: round(count) for name, count in bytes_of_choices(run, device).items()},
        "chosen": list(phase.chosen),
        "from": phase.source, "trainable": found.trainable, "parameters": found.parameters, **_work(phase, then),
        "device": {"kind": device.kind, "count": device.count, "memory": device.memory, "given": device.is_given},
        "memory": {**found.as_dict(), "outside": CONTEXT, "needed": round(found.needed), "host": round(found.host),
                   "checkpoint": round(checkpoint_copy_bytes(run, found))},
        "host": {
            "moment": host.moment, "processes": host.processes, "each": round(host.each), "once": round(host.once),
            "needed": round(host.needed), "memory": host.memory, "given": host.is_given,
            "verdict": fit.host_verdict(host),
        },
        "device_verdict": fit.verdict(found), "verdict": told,
        "changes": [{"overrides": list(one.overrides), "needed": round(one.needed)} for one in changes],
        "disk": round(_disk(run, found)),
    }  # fmt: skip


def _method(run: Run) -> str:
    return run.method.name + (f" on {run.quant.name}" if run.quant.name != "none" else "")


def _work(phase: Phase, then: Continuation | None) -> dict[str, Any]:
    """The batch of an optimizer step, and steps and tokens where a ledger of the run's directory has counted them."""
    run, train, count = phase.config, phase.config.train, planned_devices(phase.config.hardware)
    batch = train.micro_batch_size * train.gradient_accumulation_steps * count
    work: dict[str, Any] = {
        "micro_batch_size": train.micro_batch_size, "accumulation": train.gradient_accumulation_steps,
        "global_batch_size": run.stage.mini_batch_size if isinstance(run.stage, PpoStage) else batch,
        "max_length": run.data.max_length, "epochs": train.epochs, "steps": train.max_steps, "tokens": None,
    }  # fmt: skip
    is_there = then is not None and phase.name in then.kept
    ledger = read_ledger(then.run_dir.ledger(phase.name)) if then is not None and is_there else None
    if ledger is None or run.stage.name in ("ppo", "grpo"):
        return work
    split = ledger["splits"]["train"]
    work["tokens"] = sum(split["tokens"][name] for name in ("trained", "masked", "repeated"))  # of one epoch
    if work["steps"] is None:
        work["steps"] = step_order(run, split["packing"]["rows"]).steps
    return work


def _words(planned: Plan) -> list[str]:
    """The command line of the run itself."""
    return [word for word in planned.overrides if not word.startswith("task")]


def _directory(planned: Plan, then: Continuation | None, refusal: str | None) -> dict[str, Any] | None:
    """What the run would do with what is in its directory; None where nothing is there yet."""
    if then is None and refusal is None:
        return None
    place = named_folder(planned.phases[0].config.run)
    return {
        "path": None if place is None else str(place),
        "does": "refuse" if then is None else then.does,
        "phase": None if then is None else then.phase,
        "step": None if then is None or then.checkpoint is None else step_of(then.checkpoint),
        "said": (refusal or "").splitlines() if then is None else list(then.lines),
    }


def _disk(run: Run, found: Prediction) -> float:
    """Of checkpoints that are kept, one being written, and the final weights: what trains, in fp32, and its states."""
    weights = 4.0 * found.trainable
    each = weights + bytes_of_states(run.train.optimizer, found.trainable)
    kept = run.train.save_total_limit or 10
    final = weights if run.method.name == "lora" else 4.0 * found.parameters
    return each * (kept + 1 + run.train.keeps_best) + final


def _missing(planned: Plan) -> list[str]:
    """What keeps the run from starting on this machine."""
    try:
        check.check_plan(planned)
    except (ConfigError, DataError, NotReadyError) as error:
        lines = str(error).splitlines()
        return [line.strip().removeprefix("- ") for line in lines if line != "This run cannot start here:"]
    return []


# --- for people ------------------------------------------------------------------------------------------------------


def report_lines(facts: dict[str, Any]) -> list[str]:
    """The lines of :func:`describe`."""
    lines = [" ".join(["ftlab plan", *facts["overrides"]]), ""]
    lines += [line for phase in facts["phases"] for line in [*_phase_lines(phase), ""]]
    disk = facts["disk"]
    if (directory := facts["directory"]) is not None:
        is_refused = directory["does"] == "refuse"
        said = [f"{directory['path']} refuses this run"] if is_refused else directory["said"]
        lines += [f"directory   {said[0]}", *(f"            {line}" for line in said[1:])]
    tight = "" if disk["needed"] < disk["free"] else ": NOT ENOUGH"
    lines.append(
        f"disk        about {size(disk['needed'])} for checkpoints and weights, {size(disk['free'])} free{tight}"
    )
    missing = facts["missing"]
    lines += ["missing     nothing" if not missing else "missing     this run cannot start here yet:"]
    lines += [f"  - {line}" for line in missing]
    return lines


def _phase_lines(phase: dict[str, Any]) -> list[str]:
    share = phase["trainable"] / phase["parameters"]
    lines = [
        f"{phase['name']}: stage {phase['stage']}, {phase['method']}, {phase['model']}",
        f"trains      {phase['trainable']:,} of {phase['parameters']:,} parameters ({share:.2%})",
        f"batch       {_batch(phase)}",
        f"length      {_length(phase)}",
        f"attention   {phase['attention']}{_takes(phase, 'attention')}",
        *([f"layers      {phase['layers']}"] if phase["layers"] else []),
        *([f"fp8         {phase['fp8']}{_takes(phase, 'fp8')}"] if phase["fp8"] != "none" else []),
        *([f"compiled    {phase['compile']}"] if phase["compile"] != "none" else []),
        f"optimizer   {phase['optimizer']}{_takes(phase, 'optimizer')}",
        f"activations {_activations(phase)}{_takes(phase, 'activations')}",
        f"device      {_device(phase['device'])}",
        *([f"chosen      {' '.join(phase['chosen'])}", _CHOSEN] if phase["chosen"] else []),
        "",
        f"Peak memory of one device, at {phase['memory']['moment']}:",
    ]
    memory, device = phase["memory"], phase["device"]
    for name, count in sorted(memory["bytes"].items(), key=lambda one: -one[1]):
        lines.append(_row(name, count))
    outside = "Python and PyTorch themselves" if device["kind"] == "cpu" else "driver and PyTorch themselves"
    lines += [_row(outside, memory["outside"]), _row("in all", memory["needed"]) + _of(device, phase["device_verdict"])]
    if memory["host"]:
        lines.append(f"  and {size(memory['host'])} in the host's memory for each device, of what is offloaded")
    if memory["checkpoint"]:
        lines.append(f"  and {size(memory['checkpoint'])} of main memory, if free, while a checkpoint is being written")
    lines += _host_lines(phase["host"], bool(memory["host"]))
    if phase["changes"]:
        lines += ["", "It fits with one of:"]
        lines += [f"  {' '.join(one['overrides'])}  ({size(one['needed'])})" for one in phase["changes"]]
    elif phase["verdict"] == "does not fit":
        lines += ["", "No change of batch, length, rank or method makes it fit: take a smaller model,"]
        lines += ["a larger device, or more of them with deepspeed=z3."]
    return lines


def _host_lines(host: dict[str, Any], is_offloaded: bool) -> list[str]:
    """Where it is more than one process that does not offload anything, and there is room for it."""
    if host["processes"] == 1 and not is_offloaded and host["verdict"] in ("fits", "unknown"):
        return []
    row = _row(f"{host['processes']} x {size(host['each'])}", host["needed"])
    return ["", f"Main memory of a machine, {host['moment']}:", row + _of(host, host["verdict"])]


def _batch(phase: dict[str, Any]) -> str:
    if phase["stage"] == "ppo":
        return f"{phase['global_batch_size']} answers an optimizer step"
    what = "completions" if phase["stage"] == "grpo" else "rows"
    parts = f"{phase['micro_batch_size']} x {phase['accumulation']} accumulated"
    return f"{phase['global_batch_size']} {what} a step: {parts} x {phase['device']['count']} device(s)"


def _takes(phase: dict[str, Any], choice: str) -> str:
    """What a choice takes at its most."""
    return f" ({size(phase['choices'][choice])})" if phase["choices"][choice] else ""


def _activations(phase: dict[str, Any]) -> str:
    """What the backward pass finds, and what it computes once more."""
    where = "in the host's memory" if phase["offload"] else "kept"
    if phase["checkpointing"] == "selective":
        return f"layers' inputs {where}, attention and the products around it kept, all else computed again"
    if phase["checkpointing"]:
        return f"layers' inputs {where}, all else computed again"
    return "kept for the backward pass"


def _length(phase: dict[str, Any]) -> str:
    until = f"{phase['max_length']:,} tokens at most; "
    if phase["steps"] is None:
        return f"{until}steps are known once the data is prepared"
    tokens = "" if phase["tokens"] is None else f", {phase['tokens']:,} tokens an epoch"
    return f"{until}{phase['steps']:,} steps{tokens}"


def _device(device: dict[str, Any]) -> str:
    many = f"{device['count']} x " if device["count"] > 1 else ""
    kind = {"cpu": "CPU", "gpu": "GPU"}[device["kind"]]
    if device["memory"] is None:
        return f"{many}{kind}; how much memory it has is not known: give hardware.memory_gb"
    whose = "hardware.memory_gb" if device["given"] else "this machine's"
    return f"{many}{kind} with {size(device['memory'])} ({whose})"


def _row(name: str, count: float) -> str:
    return f"  {name:<{_COLUMN - 10}}{size(count):>12}"


def _of(place: dict[str, Any], verdict: str) -> str:
    return "" if place["memory"] is None else f" of {size(place['memory'])}: {verdict}"


# --- solving ---------------------------------------------------------------------------------------------------------


def _solve(planned: Plan, task: PlanTask) -> None:
    """Print the largest value of a key that fits, for each phase.

    :raises NotReadyError: for one of them there is none. :raises ConfigError: one of them has no such thing.
    """
    assert task.solve is not None
    found: list[tuple[Phase, Device, fit.Solution]] = []
    for phase in planned.phases:
        device = device_of(phase.config)
        found.append((phase, device, fit.solve(phase.config, task.solve, device)))
    if task.format == "json":
        echo_json([
            {"phase": phase.name, "overrides": _words(planned), "key": one.key, "value": one.value,
             "needed": round(one.needed), "memory": device.memory} for phase, device, one in found
        ])  # fmt: skip
    lacking = []
    for phase, device, one in found:
        where = f"{phase.name}: " if len(planned.phases) > 1 else ""
        memory = f"{size(one.needed)} of {size(device.memory or 0)}"
        if one.value is None:
            lacking.append(f"{where}no {one.key} fits: the smallest needs {memory}.")
        elif task.format == "table":
            most = " (the most that there can be)" if one.value == one.limit else ""
            echo(f"{where}{one.key}={one.value}{most}  {memory}")
    if lacking:
        raise NotReadyError("\n".join([*lacking, "ftlab plan without solve says what would do."]))
