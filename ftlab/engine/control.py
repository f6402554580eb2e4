"""What a run does about the commands in its journal (:mod:`ftlab.rundir.control`), between two steps."""

from __future__ import annotations

import shlex
from functools import partial
from typing import Any

from rich.markup import escape

from ftlab.engine.session import Session
from ftlab.rundir.control import Command, ControlJournal, state_after, value_of
from ftlab.rundir.files import link_folder
from ftlab.rundir.records import Obeyed
from ftlab.schema import Run
from ftlab.stages.trainer.rate_changes import RateChange, Rates

_LAST_WORDS = {
    "paused": "Paused after step {step}. Go on with: ftlab resume {path}",
    "stopped": "Stopped after step {step}, as ftlab control asked. ftlab resume {path} trains it to the end after all",
}


def check_state(session: Session) -> None:
    """:raises KeyboardInterrupt: the run is paused or stopped, and is not to go on."""
    if (state := ControlJournal(session.run_dir.path).state()) is not None:
        path = shlex.quote(str(session.run_dir.path))
        session.interruption.end(state, f"{session.run_dir.path} is {state}. Go on with: ftlab resume {path}")
        raise KeyboardInterrupt


class Control:
    """Reads the journal of a run and obeys it. All processes of the run do, each for itself, at the same step.

    :param phase: the name of the phase at work. :param config: its.
    """

    def __init__(self, session: Session, phase: str, config: Run):
        self._session, self._phase, self._config = session, phase, config
        self._journal = ControlJournal(session.run_dir.path)
        self._commands: list[Command | None] = []
        self._size = self._looked_at = 0  # bytes of the journal that were read; lines of it that were obeyed
        self._obeyed = [Obeyed.model_validate(one) for one in session.manifest.values.get("control", [])]
        # The schedule of a clone that goes on with its parent's is made for its parent's learning rate.
        clone = session.manifest.values.get("clone") or {}
        self._made_for: float = clone.get("learning_rate") or config.train.learning_rate
        self._to_clone: list[tuple[int, Command]] = []
        self._rates: Rates | None = None

    @property
    def lines(self) -> int:
        """How many lines the journal has. Of a journal that has not grown, its size is all that is looked at."""
        if (size := self._journal.size) != self._size:
            self._commands, self._size = self._journal.read(), size
        return len(self._commands)

    def begin(self, args: Any, state: Any, scheduler: Any, optimizer: Any) -> None:
        """Have what was set before, where a run goes on. :param args, state: of the trainer."""
        train = self._config.train
        # What accelerate and DeepSpeed wrap around it counts nothing by itself.
        self._rates = Rates(getattr(scheduler, "scheduler", scheduler), train.warmup_count(state.max_steps))
        self._optimizer = optimizer
        for done in self._of_phase():
            if done.step <= state.global_step:
                self._set(done, args, state)

    def obey(self, lines: int, args: Any, state: Any, control: Any) -> bool:
        """Obey what was asked for since the last step. :param lines: as many of the journal are obeyed.

        :return: whether the run is to stop.
        """
        step = state.global_step
        for done in self._of_phase():
            if done.step == step:  # as at the first time
                self._set(done, args, state)
        if lines == self._looked_at:
            return False
        while self.lines < lines:  # a file system that several machines share is late
            self._size = -1
        self._looked_at = lines
        known = {done.line for done in self._obeyed}
        commands = enumerate(self._commands[:lines])
        new = [(line, command) for line, command in commands if command is not None and line not in known]
        for line, command in new:
            if command.verb == "set":
                done = self._record(line, command, step)
                self._set(done, args, state)
                for key, value in done.values.items():
                    told = f"{key} is {value:g} after step {step}, and was {done.before[key]:g}"
                    self._session.output.say(escape(told))
            elif command.verb == "clone" and command.weights == "parent":
                self._to_clone.append((line, command))
                control.should_save = True
            else:
                self._record(line, command, step)
        if (ending := state_after([command for _, command in new])) is not None:
            path = shlex.quote(str(self._session.run_dir.path))
            self._session.interruption.end(ending, _LAST_WORDS[ending].format(step=step, path=path))
        return ending is not None

    @property
    def reads_checkpoint(self) -> bool:
        """Whether something is to be done with the checkpoint of this step."""
        return bool(self._to_clone)

    def saved(self, state: Any) -> None:
        """A checkpoint is whole: put aside what a clone begins with, before it makes room for a newer one."""
        step, files = state.global_step, self._session.run_dir.phase_files(self._phase_folder)
        for line, command in self._to_clone:
            target = self._journal.clone_folder(line) / files.checkpoint(step).name
            self._session.once(partial(link_folder, files.checkpoint(step), target))
            self._record(line, command, step)
        self._to_clone = []

    @property
    def _phase_folder(self) -> str:
        return next(phase.folder for phase in self._session.plan.phases if phase.name == self._phase)

    def _of_phase(self) -> list[Obeyed]:
        return [done for done in self._obeyed if done.phase == self._phase and done.verb == "set"]

    def _record(self, line: int, command: Command, step: int) -> Obeyed:
        # Those of a clone are its own.
        values = command.values if command.verb == "set" else {}
        before = {key: self._value(key) for key in values}
        done = Obeyed(line=line, verb=command.verb, phase=self._phase, step=step, values=values, before=before)
        self._obeyed.append(done)
        written = [one.model_dump(exclude_defaults=True) for one in self._obeyed]
        self._session.manifest.record(control=written)
        return done

    def _value(self, key: str) -> float:
        """What a key is now: as it was set last, or as the config has it."""
        last = [done.values[key] for done in self._of_phase() if key in done.values]
        return last[-1] if last else value_of(self._config, key)

    def _set(self, done: Obeyed, args: Any, state: Any) -> None:
        for key, value in done.values.items():
            name = key.partition(".")[2]
            if key == "train.learning_rate":
                assert self._rates is not None, "training has begun"
                self._rates.change(RateChange(done.step, value / self._made_for))
            elif key == "train.weight_decay":
                for group in self._optimizer.param_groups:
                    if group["weight_decay"]:  # biases and norms have none
                        group["weight_decay"] = value
            elif key == "train.max_grad_norm":
                args.max_grad_norm = value
            else:
                name = "eval_steps" if key == "eval.steps" else name
                setattr(args, name, int(value))
                setattr(state, name, int(value))
