"""ppo: the policy writes answers, a reward judges them, and the policy and a critic learn from that.

Where several processes train, each writes, judges and measures its share of a rollout's answers; then all have the
whole rollout, and each learns from its share of every mini-batch. Gradients are summed.

Shape suffixes: B answers of a rollout, b those of a mini-batch, T tokens of the longest answer, N answer tokens of
some rows, in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear
from transformers import TrainerCallback

from ftlab.data.packing.batches import batches_by_tokens
from ftlab.data.prompts import PromptRow, fingerprint
from ftlab.data.tokens.encoder import Counts
from ftlab.distributed.gradients import StepGradients
from ftlab.distributed.shares import own_share, sum_over_ranks
from ftlab.distributed.world import ALONE
from ftlab.errors import DivergedError
from ftlab.measure.sample import answer_seeds, sample
from ftlab.model.guests import GuestAdapters, has_adapter
from ftlab.model.roles import CRITIC, POLICY, REFERENCE, Roles
from ftlab.policy.tokens import load_tokens
from ftlab.rundir.phase_files import PhaseFiles
from ftlab.schema import PpoStage, Run
from ftlab.stages.losses import AdaptiveKL, masked_mean, policy_loss, value_loss
from ftlab.stages.ppo import order
from ftlab.stages.ppo.rollout import (
    Answers,
    Rollout,
    Sampled,
    answer_hidden,
    answer_places,
    logprobs_and_entropy,
    make_rollout,
    measure_all,
    on_device,
)
from ftlab.stages.ppo.samples import write_rollout
from ftlab.stages.rewards.judge import EVALUATED, RewardScorer
from ftlab.stages.trainer.batch_sizes import EVALUATION, GENERATION, MICRO_BATCH, BatchSizes, initial_sizes
from ftlab.stages.trainer.halving import StepStart
from ftlab.stages.trainer.shards import shard_loader
from ftlab.stages.trainer.stage_trainer import StageTrainer

_STATE = "ppo.pt"
_EVALUATION = 1 << 30  # a rollout number that no training reaches, for the seed of evaluations


class PpoTrainer(StageTrainer):
    """Proximal policy optimisation (https://arxiv.org/abs/1707.06347) on answers, with a KL penalty for each token
    (https://arxiv.org/abs/1909.08593).

    An optimizer step is a mini-batch of a rollout; ``ppo_epochs`` passes over a rollout of ``rollout_batch_size``
    prompts are ``ppo_epochs * rollout_batch_size / mini_batch_size`` steps, and an epoch is as many rollouts as the
    prompts are enough for. Which prompts, answers and mini-batches come is a function of the seed and the step. A
    forward takes as many answers as ``train.micro_batch_size`` rows of ``data.max_length`` tokens have room for.

    :raises ConfigError: a reward that does not exist.
    :raises NotReadyError: the reward model cannot be used.
    """

    uses_dropout = False
    has_sized_loss = False

    def __init__(
        self,
        run: Run,
        model: Any,
        tokenizer: Any,
        train_rows: list[PromptRow],
        validation_rows: list[PromptRow] | None,
        files: PhaseFiles,
        callbacks: Sequence[TrainerCallback] = (),
    ):
        assert isinstance(run.stage, PpoStage)
        self.stage = stage = run.stage
        assert stage.rollout_batch_size % stage.mini_batch_size == 0, "the rules have seen to this"
        self._prompts, self._held_out = train_rows, validation_rows
        self._steps_per_rollout = order.steps_of_rollout(stage)
        rollouts = math.ceil(len(train_rows) / stage.rollout_batch_size)  # the last takes up what the next epoch begins
        # One item of the data loader is one optimizer step; what a step takes is no business of the loader's, nor what
        # is clipped of it that of the loop or of DeepSpeed, which would clip everything by one norm.
        alone = {"micro_batch_size": 1, "gradient_accumulation_steps": 1, "max_grad_norm": 0.0}
        one = run.train.model_copy(update=alone)
        super().__init__(
            run.model_copy(update={"train": one}),
            model,
            tokenizer,
            range(rollouts * self._steps_per_rollout),  # type: ignore[arg-type]
            validation_rows,  # type: ignore[arg-type]
            files,
            callbacks,
        )
        self.run = run
        self.data_collator = lambda items: {"step": torch.tensor(items)}
        self.sizes = BatchSizes(initial_sizes(run))
        self._stop = load_tokens(run).stop
        self._kl = AdaptiveKL(stage.kl_coefficient, stage.kl_target)
        self._rollout: Rollout | None = None
        self._tokens_of_step = 0
        self._gradients: StepGradients
        self.place_early()
        guests = GuestAdapters(model) if has_adapter(model) else None
        self.judge = RewardScorer(run, files.phases, model, tokenizer, guests)
        self.roles = Roles(model, guests, self.args.activation_checkpointing_kwargs)

    # ----------------------------------------------------------------------------------------------------- one step

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One mini-batch, taken again in smaller groups of answers where memory runs out. A rollout is then made again
        too, as a run makes it that knows of the smaller groups: the same answers, measured in them."""
        begun, rollout, kl = StepStart(self), self._rollout, self._kl.state_dict()

        def go_back() -> None:
            begun.restore()
            self._rollout = rollout
            self._kl.load_state_dict(kl)

        return self.within_memory(self._learn, go_back, MICRO_BATCH, self._next_step)

    def _learn(self) -> Tensor:
        """A backward of the policy and one of the critic, each in its role."""
        for parameter in self.roles.module().parameters():
            parameter.grad = None  # the loop clears those of the policy's module alone
        self._gradients = self.sharding.step_gradients(self.accelerator, self.world, self.model_wrapped)
        number, step = divmod(self.state.global_step, self._steps_per_rollout)
        if self._rollout is None or self._rollout.number != number:
            self._rollout = self._make_rollout(number)
        rollout = self._rollout
        rows_b = self._mini_batch(number, step)
        shares = [rows_b[rank :: self.world.size] for rank in range(self.world.size)]
        if not self.rows_taken:
            prompts = self._prompts_of(number)
            self.rows_taken = [prompts[row] for row in shares[self.world.rank].tolist()]
        if rollout.stopped:
            return torch.zeros((), device=self.args.device)
        self.roles.train(True)
        self._tokens_of_step = int(rollout.bounds_B2[rows_b, 1].sum())
        tokens = rollout.learned_BT[on_device(rows_b, self.args.device)].sum().clamp(min=1)
        groups = self._groups(rollout, shares)
        with self.roles.acting(POLICY) as policy:
            found = [self._learn_policy(policy, rollout, *group, tokens) for group in groups]
        with self.roles.acting(CRITIC) as critic:
            losses = [self._learn_critic(critic, rollout, *group, tokens) for group in groups]
        self._gradients.end([*self.roles.parameters(POLICY).values(), *self.roles.parameters(CRITIC).values()])
        if self.stage.early_stop_kl is not None:  # what the next step is hangs on it
            kl = torch.stack([kl for _, kl in found]).sum()
            sum_over_ranks([kl], self.world)
            rollout.stopped = kl.item() > self.stage.early_stop_kl
        # What is logged is the mean over the processes.
        return torch.stack([loss for loss, _ in found] + losses).sum() * self.world.size

    def _groups(self, rollout: Rollout, shares: Sequence[Counts]) -> list[tuple[Counts, Tensor, Tensor]]:
        """Rows of each forward of this process, where their answer tokens stand in values of the rollout, shape (N,),
        and which of these are learned. All processes have as many: one that has none left takes a row of which nothing
        is.

        :param shares: rows of the mini-batch, by rank.
        """
        budget, mine = self._budget(self._next_step), shares[self.world.rank]
        parts = [batches_by_tokens(rollout.bounds_B2[share, 1].tolist(), budget) for share in shares]
        own = [mine[part] for part in parts[self.world.rank]]
        fillers = [shares[0][:1]] * (max(map(len, parts)) - len(own))
        groups = []
        for is_own, rows in [*((True, rows) for rows in own), *((False, rows) for rows in fillers)]:
            places_N = answer_places(rollout, rows, self.args.device)
            learned_N = rollout.learned_BT.flatten()[places_N]
            groups.append((rows, places_N, learned_N if is_own else torch.zeros_like(learned_N)))
        return groups

    def _learn_policy(
        self, policy: Any, rollout: Rollout, rows: Counts, places_N: Tensor, learned: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The backward of some rows, and their part of the mini-batch's mean loss and of its KL to the old policy."""
        with self.accelerator.autocast():
            logprobs_N, entropy_N = self._gradients.forward(
                lambda: logprobs_and_entropy(policy, rollout, rows, self.stage.temperature)
            )
        old_N, advantages_N = (values.flatten()[places_N] for values in (rollout.logprobs_BT, rollout.advantages_BT))
        found = policy_loss(logprobs_N, old_N, advantages_N, learned, self.stage.clip_range)
        losses_N = found.losses_BT
        if self.stage.entropy_coefficient:
            losses_N = losses_N - self.stage.entropy_coefficient * entropy_N.masked_fill(~learned, 0.0)
        loss = losses_N.sum() / tokens
        self._gradients.backward(loss)
        self._measure(
            learned, policy_loss=found.losses_BT, clip_fraction=found.clipped_BT, entropy=entropy_N,
            update_kl=found.kl_BT,
        )  # fmt: skip
        return loss.detach(), (found.kl_BT.sum() / tokens).detach()

    def _learn_critic(
        self, critic: Any, rollout: Rollout, rows: Counts, places_N: Tensor, learned: Tensor, tokens: Tensor
    ) -> Tensor:
        with self.accelerator.autocast():
            values_N = self._gradients.forward(lambda: self._values(critic, rollout, rows))
        old_N, returns_N = (values.flatten()[places_N] for values in (rollout.values_BT, rollout.returns_BT))
        found = value_loss(values_N, old_N, returns_N, learned, self.stage.value_clip_range)
        loss = self.stage.value_coefficient * found.losses_BT.sum() / tokens
        self._gradients.backward(loss)
        self._measure(learned, value_loss=found.losses_BT, value_clip_fraction=found.clipped_BT)
        return loss.detach()

    def _budget(self, step: int) -> int:
        """Tokens of one forward."""
        return self.sizes.at(MICRO_BATCH, step) * self.run.data.max_length

    def _values(self, critic: Any, answers: Answers, rows: Counts) -> Tensor:
        """What the critic expects before each answer token, shape (N,), fp32."""
        hidden_ND, _ = answer_hidden(critic, answers, rows)
        head: Any = self.roles.heads[CRITIC]
        with torch.autocast(hidden_ND.device.type, enabled=False):  # a value in bf16 has two or three digits
            return linear(hidden_ND.float(), head.weight.float())[:, 0]

    def _measure(self, learned_N: Tensor, **measures: Tensor) -> None:
        nothing = torch.full_like(learned_N, torch.nan, dtype=torch.float32)
        self._meter.add({name: values.detach().where(learned_N, nothing) for name, values in measures.items()})

    def _mini_batch(self, number: int, step: int) -> Counts:
        """Rows of a step of a rollout."""
        return order.mini_batch(number, step, self.stage, self.run.seed)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The policy's, and what has to be done before the optimizer's step, of which this is the last that the loop
        asks. Each role is clipped on its own: the critic's norm can be many times the policy's."""
        limit, gradients = self.run.train.max_grad_norm or math.inf, self._gradients
        gradients.unscale()
        norms = {role: gradients.clip([*self.roles.parameters(role).values()], limit) for role in (POLICY, CRITIC)}
        self._meter.add({"critic_grad_norm": norms[CRITIC][None]})
        gradients.step()
        return norms[POLICY]

    # ---------------------------------------------------------------------------------------------------- a rollout

    def rows_of_step(self, step: int) -> list[list[int]]:
        return order.prompts_of_ppo_step(step, self.stage, len(self._prompts), self.run.seed, self.world.size)

    def _prompts_of(self, number: int) -> list[int]:
        return order.prompts_of_rollout(number, self.stage.rollout_batch_size, len(self._prompts), self.run.seed)

    def _make_rollout(self, number: int) -> Rollout:
        """Sample a rollout, judge it, and work out what each of its tokens has to learn."""
        if not all(bool(p.isfinite().all()) for p in self.roles.parameters(POLICY).values()):
            raise DivergedError(
                f"The policy's weights are no longer numbers at step {self.state.global_step}: the run has diverged. "
                "Lower train.learning_rate, or set stage.early_stop_kl; checkpoints from before are in phases/."
            )
        asked = [self._prompts[row] for row in self._prompts_of(number)]
        name = f"rollout {number + 1}"
        found = self._sample_answers(asked, number, name)
        rollout, kl_B = make_rollout(found, number, self._kl.coefficient, self.stage, self._stop)
        if not found.scores_B.isnan().all():
            self._kl.update(rollout.measures["kl_of_answer"])
        if self.world.is_first:
            rows = list(zip(asked, found.texts, found.scores_B.tolist(), kl_B.tolist()))[: self.run.eval.samples]
            write_rollout(self.files.rollouts, number, self.state.global_step, rows)
        return rollout

    def _sample_answers(self, asked: Sequence[PromptRow], number: int, name: str) -> Sampled:
        """Answers with their scores, and of each of their tokens the log-probability of policy and reference and, in
        training, the critic's value. Each process does its share of that.

        :param number: of the rollout, for the random numbers. :param name: of the rollout, for the bars.
        """
        model: Any = self.model
        tokenizer: Any = self.processing_class
        was_training = model.training
        self.roles.train(False)
        is_evaluation = number == _EVALUATION
        step = self.state.global_step if is_evaluation else self._next_step
        mine = own_share(asked, self.world)
        seeds_B = answer_seeds([self.run.seed, number], len(asked))
        seeds_B = seeds_B[own_share(range(len(asked)), self.world)]
        prompts, pad = [one.ids for one in mine], tokenizer.pad_token_id
        with self.accelerator.autocast():
            sampled = self._draw(prompts, seeds_B, EVALUATION if is_evaluation else GENERATION, step, name)
            answers = Answers.from_lists(prompts, sampled, pad, self.args.device)
            budget = self._budget(step)
            measures = {role: self._logprobs(role, answers, budget, name) for role in (POLICY, REFERENCE)}
            if not is_evaluation:
                bar = self.bar(f"{name}: values", len(mine), "answers")
                with torch.no_grad(), self.roles.acting(CRITIC) as critic, bar:
                    value: Callable[[Counts], Tensor] = lambda rows: self._values(critic, answers, rows)  # noqa: E731
                    measures[CRITIC] = measure_all(answers, budget, value, self.advancing(bar))
            texts = tokenizer.batch_decode(sampled, skip_special_tokens=True)
            with self.bar(f"{name}: scoring", len(self.judge.rewards), "rewards") as bar:
                scores = self.judge(mine, texts, sampled, advance=self.advancing(bar))
        self.roles.train(was_training)
        # A part of the sum is no score: what a reward failed for is left out.
        known = [math.nan if failed else total for failed, total in zip(scores.failed, scores.totals)]
        found = Sampled(answers, texts, torch.tensor(known, device=self.args.device), measures)
        return found.joined([one.ids for one in asked], pad, self.world)

    def _draw(
        self, prompts: Sequence[Sequence[int]], seeds_B: NDArray[np.int64], key: str, step: int, name: str
    ) -> list[list[int]]:
        """The policy's answers. :param key: of the size of a batch, which is that of a step."""
        tokenizer: Any = self.processing_class
        with (
            self.sampling(),
            self.roles.acting(POLICY) as policy,
            self.bar(f"{name}: sampling", len(prompts), "answers") as bar,
        ):
            attempt: Callable[[], list[list[int]]] = lambda: sample(  # noqa: E731
                policy, prompts, seeds_B, stop=self._stop, pad=tokenizer.pad_token_id,
                temperature=self.stage.temperature, max_new_tokens=self.stage.max_new_tokens,
                batch_size=self.sizes.at(key, step), advance=self.advancing(bar),
            )  # fmt: skip
            return self.within_memory(attempt, lambda: None, key, step)

    def _logprobs(self, role: str, answers: Answers, budget: int, name: str) -> Tensor:
        bar = self.bar(f"{name}: {role} log-probs", len(answers.ids_BL), "answers")
        with self.roles.acting(role) as model, bar:
            measure: Callable[[Counts], Tensor] = lambda rows: logprobs_and_entropy(  # noqa: E731
                model, answers, rows, self.stage.temperature
            )[0]
            return measure_all(answers, budget, measure, self.advancing(bar))

    # --------------------------------------------------------------------------------------- measuring and the Trainer

    def fingerprint(self) -> str:
        return fingerprint(self._prompts)

    @property
    def trained_modules(self) -> Any:
        return self.roles.module()

    def measure(self, eval_dataset: Any = None) -> dict[str, float]:
        """Mean reward of some sampled answers to each validation prompt, the same draw every time, and their KL to the
        reference in nats per token. ``loss`` is minus the reward, so that lower is better as everywhere."""
        prompts = eval_dataset or self._held_out
        assert prompts, "there is nothing to evaluate on"
        asked = [one for one in prompts for _ in range(EVALUATED)]
        found = self._sample_answers(asked, _EVALUATION, "evaluation")
        answers, scores_B = found.answers, found.scores_B
        reward = masked_mean(scores_B, ~scores_B.isnan()).item()
        return {
            "loss": -reward,
            "reward": reward,
            "kl": masked_mean(found.measures[POLICY] - found.measures[REFERENCE], answers.mask_BT).item(),
            "answer_length": (answers.ends_B - answers.starts_B).float().mean().item(),
        }

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._rollout is not None:
            logs.update(self._rollout.measures, stopped_early=float(self._rollout.stopped))
        super().log(logs, start_time)

    def get_train_dataloader(self) -> Any:
        """Every process takes every step, in order."""
        return shard_loader(self.train_dataset, 1, ALONE, self.data_collator, None, self.args.device)[0]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        return None  # a step knows its own tokens, once there is a rollout

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # transformers counts those of one forward of known tokens; a step has several

    def create_optimizer(self, model: Any = None) -> Any:
        """One optimizer for what trains of the policy and of the critic."""
        self.roles.restore_flags()
        return super().create_optimizer(self.roles.module())

    def own_state(self) -> dict[str, Any]:
        """The critic and the rollout too."""
        found = super().own_state()
        if not self.args.should_save:  # all processes have the same
            return found
        state = {
            "critic": self.roles.critic_state(),
            "kl": self._kl.state_dict(),
            "rollout": None if self._rollout is None else self._rollout.state_dict(),
        }
        return {**found, _STATE: state}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.roles.restore_flags()
        state = torch.load(Path(resume_from_checkpoint) / _STATE, map_location="cpu", weights_only=True)
        self.roles.load_critic_state(state["critic"])
        self._kl.load_state_dict(state["kl"])
        if state["rollout"] is not None:
            self._rollout = Rollout.from_state(state["rollout"], self.args.device)
