"""Runs become models that answer: those that were trained on one base, over one copy of it in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab.errors import DataError, NotReadyError
from ftlab.policy.given import Given
from ftlab.preflight.reachable import check_base
from ftlab.rundir.start_folder import started_from
from ftlab.schema import Run
from ftlab.use.models.opening import labels, latest_run, run_folder

if TYPE_CHECKING:
    from ftlab.policy.from_run import Policy
    from ftlab.use.models.speaker import Speaker


class Models:
    """Loads what runs have trained.

    :param given: what the command line says of their configs. :param phase, step: whose weights are taken.
    :ivar folders: of the runs, in their order. :ivar names: of the runs. :ivar base_count: base models in memory.
    """

    def __init__(self, runs: Sequence[str], given: Given, phase: str | None, step: int | None):
        """:raises RunDirError: one of them is no run, or none is named and there is none."""
        from ftlab.model.shared_base import SharedBases

        folders = [run_folder(name) for name in runs] if runs else [latest_run()]
        self.folders = list(dict.fromkeys(folders))
        self.names = labels(self.folders)
        self._given, self._phase, self._step = given, phase, step
        self._bases = SharedBases()
        self.base_count = 1

    def policies(self) -> list[Policy]:
        """What each run has trained, not loaded.

        :raises RunDirError: a run has no weights. :raises NotReadyError: a base is missing. :raises DataError: a run
            trained a reward model.
        """
        found = []
        for folder in self.folders:
            with started_from(folder) as named:
                policy = self._policy(named, self._step)
                check_answers(policy, str(folder))
                check_base(policy.config)
                found.append(policy)
        return found

    def load(self) -> list[Speaker]:
        """A model for each run. :raises FtlabError: as :meth:`policies`; or there is no memory for all of them."""
        policies = self.policies()
        self._check_fit([policy.config for policy in policies])
        return [self.load_run(place, self._step) for place in range(len(policies))]

    def load_run(self, place: int, step: int | None) -> Speaker:
        """The model of one run. :param place: of the run. :param step: of a checkpoint; None: the final weights, or
        the best of a run that is not finished."""
        return self._load(place, step, is_base=False)

    def load_bases(self) -> list[Speaker]:
        """What the runs began with, each model once, called after the first run that began with it."""
        found: dict[Any, Speaker] = {}
        for place in range(len(self.folders)):
            with started_from(self.folders[place]) as named:
                policy = _located(self._policy(named, self._step).base)
                model = policy.config.model
                template = policy.tokens().template
            key = (model.path, model.revision, model.adapter, model.init, template and template.source)
            if key not in found:
                found[key] = self._load(place, self._step, is_base=True)
        if len(found) > 1:
            for speaker in found.values():
                speaker.name = f"{speaker.name} of {speaker.run}"
        return list(found.values())

    def _policy(self, folder: Path, step: int | None) -> Policy:
        from ftlab.policy.from_run import find_policy

        return _located(find_policy(folder, self._phase, step, self._given.merged))

    def _load(self, place: int, step: int | None, is_base: bool) -> Speaker:
        from ftlab.model.base_key import base_key
        from ftlab.use.models.speaker import BASE, Speaker

        folder, name = self.folders[place], self.names[place]
        with started_from(folder) as named:
            policy = self._policy(named, step)
            policy = _located(policy.base) if is_base else policy
            check_base(policy.config)
            if (key := base_key(policy.config)) is not None:
                self._bases.shared |= {key}
            tokens = policy.tokens()
            model = policy.load(tokens, self._bases.load)
        return Speaker(BASE if is_base else name, name, policy, tokens, model, is_base)

    def _check_fit(self, configs: Sequence[Run]) -> None:
        """:raises NotReadyError: several base models are more than the device has memory for."""
        from ftlab.model.base_key import base_key
        from ftlab.preflight.fit import size
        from ftlab.preflight.memory.device import device_of
        from ftlab.preflight.memory.states import weight_bytes

        bases: dict[Any, tuple[str, float]] = {}
        for name, config in zip(self.names, configs):
            key = base_key(config)
            weights = sum(weight_bytes(config, device_of(config, is_here=True)).values())
            bases.setdefault(name if key is None else key, (name, weights))
        self.base_count = len(bases)
        memory = device_of(configs[0], is_here=True).memory
        needed = sum(weights for _, weights in bases.values())
        if len(bases) > 1 and memory is not None and needed > memory:
            each = "\n".join(f"  - {name}: {size(weights)}" for name, weights in bases.values())
            raise NotReadyError(
                f"These runs have {len(bases)} base models, which together need {size(needed)} of the {size(memory)} "
                f"that there are:\n{each}\nName runs of one base, or quantize them: quant=nf4."
            )


def _located(policy: Policy) -> Policy:
    """The same with folders as they are from anywhere: runs of several folders may call different ones the same."""
    model = policy.config.model
    folders = {"path": model.path, "adapter": model.adapter}
    there = {
        key: str(Path(path).absolute()) for key, path in folders.items() if path is not None and Path(path).exists()
    }
    return replace(policy, config=policy.config.model_copy(update={"model": model.model_copy(update=there)}))


def check_answers(policy: Policy, run: str) -> None:
    """:raises DataError: the run trained a reward model."""
    if policy.config.stage.name == "rm":
        raise DataError(f"{run} trained a reward model, which scores answers and writes none: ftlab evaluate {run}")
