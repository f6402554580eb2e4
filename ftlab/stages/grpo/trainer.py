"""grpo: TRL's GRPOTrainer on the run's prompts.

What differs from TRL's own: prompts go in as the token ids that the data made; the reference is the policy as it stood
at the start, whatever the method; a checkpoint holds the generation that is in use, so that a run stopped in the middle
of one continues to the bit; each epoch has its own order, also after a resume; an evaluation disturbs no random state;
completions are drawn and dealt out by seed, so that several processes train on what one would.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import pad

from ftlab.data.prompts import PromptRow, fingerprint
from ftlab.distributed.shares import join_shares, own_share, sum_over_ranks
from ftlab.distributed.world import current_world
from ftlab.errors import NotReadyError
from ftlab.measure.sample import answer_seeds, sample
from ftlab.model.guests import GuestAdapters, has_adapter
from ftlab.policy.tokens import load_tokens
from ftlab.rundir.phase_files import PhaseFiles
from ftlab.schema import GrpoStage, Run
from ftlab.stages.grpo import order
from ftlab.stages.grpo.families import check_family, counts_padding
from ftlab.stages.grpo.generations import check, missing_vllm, plan_generations
from ftlab.stages.grpo.joined import OF_COMPLETIONS, join_generation
from ftlab.stages.grpo.policies import CountedPositions, StartPolicy
from ftlab.stages.grpo.prompts import Prompts, check_count, check_rows, dataset
from ftlab.stages.rewards.judge import EVALUATED, RewardScorer
from ftlab.stages.rewards.scoring import Reward, Scores
from ftlab.stages.trainer.arguments import training_arguments
from ftlab.stages.trainer.checkpoints import WholeCheckpoints
from ftlab.stages.trainer.router_loss import router_coefficient
from ftlab.stages.trainer.shards import REMEMBERED

_GENERATION = "generation.pt"
_EVALUATION = 1 << 30  # a generation that no training reaches, for the seed of evaluations


class GrpoTrainer(WholeCheckpoints, GRPOTrainer):
    """TRL with the constructor of a :class:`ftlab.stages.trainer.stage_trainer.StageTrainer`, over prompts.

    :raises NotReadyError: vLLM is asked for and not there.
    :raises ConfigError: rewards that do not exist; numbers that do not divide; too few prompts for one generation.
    """

    has_sized_loss = False
    _buffered_inputs: list[dict[str, Any]] | None  # of TRL's

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
        stage = run.stage
        assert isinstance(stage, GrpoStage)
        lacking = missing_vllm(run)
        if lacking is not None:
            raise NotReadyError(f"{lacking}.")
        check_family(model)
        devices = current_world().size
        check(run, devices)
        self.run, self.files, self._stage = run, files, stage
        self._train_rows, self._validation_rows = train_rows, validation_rows
        self.rows_taken: list[int] = []  # prompts that this process has read since its start
        self._counts_padding = counts_padding(run.model.architecture)
        self._planned = planned = plan_generations(run, devices)
        check_rows(run, [*train_rows, *(validation_rows or [])])
        check_count(run, len(train_rows), planned.prompts)
        args = training_arguments(
            run,
            str(files.folder),
            GRPOConfig,
            num_generations=stage.num_generations,
            num_generations_eval=1,  # evaluations are ours; TRL would want their batches to divide too
            steps_per_generation=planned.steps,
            max_completion_length=stage.max_new_tokens,
            temperature=stage.temperature,
            num_iterations=stage.num_iterations,
            epsilon=stage.epsilon,
            beta=0.0,  # with more TRL adds a second adapter, which it saves too; see Start
            use_bias_correction_kl=False,  # the published penalty, as in ftlab.stages.losses.grpo
            loss_type="dapo",
            scale_rewards="group",
            reward_weights=None if stage.reward_weights is None else list(stage.reward_weights),
            use_vllm=stage.vllm,
            router_aux_loss_coef=router_coefficient(run, model),
            disable_dropout=True,  # the loss compares passes, which dropout would tell apart
        )
        if validation_rows is None:
            args.eval_strategy = "no"
        logging.getLogger("trl").setLevel(logging.ERROR)  # its warnings name our prompts by their numbers
        model.generation_config.eos_token_id = load_tokens(run).stop  # what TRL ends completions and their masks at
        with _keep_precision(model):
            super().__init__(
                model=model,
                reward_funcs=[_RewardCallable(index, name, self) for index, name in enumerate(stage.rewards)],
                args=args,
                train_dataset=dataset(train_rows),
                eval_dataset=None if validation_rows is None else dataset(validation_rows),
                processing_class=tokenizer,
                callbacks=list(callbacks),
            )
        self.place_early()
        guests = GuestAdapters(self.model) if has_adapter(self.model) else None
        self._judge = RewardScorer(run, files.phases, self.model, tokenizer, guests)
        # For a LoRA it costs a copy of the adapter, and evaluations can tell how far the policy has gone.
        self._start = StartPolicy(self.model) if stage.beta or run.method.name == "lora" else None
        self.beta = args.beta = stage.beta
        self.ref_model: Any = cast(Any, self._start if stage.beta else None)

    # ------------------------------------------------------------------------------------------------ prompts, rewards

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """The ids that the data made: nothing is rendered or tokenized a second time."""
        return [self._train_rows[int(prompt)].ids for prompt in prompts], None, {}

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **more: Any) -> Any:
        """TRL leaves it to the family to find out that padding stands before the prompts."""
        called = CountedPositions(model) if self._counts_padding else model
        return super()._get_per_token_logps_and_entropies(called, *args, **more)

    def _generate_single_turn(self, prompt_ids: list[list[int]], *more: Any) -> tuple[list[list[int]], Any]:
        if self.use_vllm:
            with self.sampling():
                return super()._generate_single_turn(prompt_ids, *more)
        count, rank = len(prompt_ids), self.world.rank
        seeds_B = answer_seeds([self.run.seed, self._generation], count * self.world.size)
        return self._sample(prompt_ids, seeds_B[rank * count : (rank + 1) * count]), None

    def _sample(self, prompts: list[list[int]], seeds_B: NDArray[np.int64]) -> list[list[int]]:
        model: Any = self.model
        was_training = model.training
        model.eval()
        with self.sampling(), self.accelerator.autocast():
            found = sample(
                model, prompts, seeds_B, stop=self.eos_token_ids, pad=self._tokenizer.pad_token_id,
                temperature=self._stage.temperature, max_new_tokens=self._stage.max_new_tokens,
                batch_size=len(prompts), advance=self.is_alive,
            )  # fmt: skip
        model.train(was_training)
        return found

    def _scores(
        self,
        rows: Sequence[PromptRow],
        completions: Sequence[str],
        ids: Sequence[Sequence[int]],
        only: Reward | None = None,
    ) -> Scores:
        with self.accelerator.autocast():  # of reward models
            return self._judge(rows, completions, ids, only)

    # --------------------------------------------------------------------------------------------------- steps, epochs

    def rows_of_step(self, step: int) -> list[list[int]]:
        """The prompts that the step's micro-batches have completions of."""
        args: Any = self.args
        return order.prompts_of_grpo_step(
            step, len(self._train_rows), self._planned, self._stage, args.gradient_accumulation_steps, self.world.size,
            args.seed,
        )  # fmt: skip

    def fingerprint(self) -> str:
        return fingerprint(self._train_rows)

    @property
    def _generation(self) -> int:
        """The number of the generation in use, from 0."""
        return int(self._step // (self._planned.steps * self._stage.num_iterations))

    def _get_train_sampler(self, dataset: Any = None) -> Prompts:
        args: Any = self.args
        rows: Any = self.train_dataset if dataset is None else dataset
        return Prompts(
            data_source=rows,
            mini_repeat_count=self._stage.num_generations,
            batch_size=args.generation_batch_size // self._stage.num_generations,
            repeat_count=self._stage.num_iterations * args.steps_per_generation,
            seed=args.seed,
        )

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """The completions of a micro-batch. TRL deals out those that a process has generated itself, as its random
        state has it, and pads every micro-batch to the longest completion of the generation: one that never ends costs
        all of them its length. What is cut here are columns that hold nothing but padding."""
        if self._step % (self._planned.steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            rows = torch.tensor([int(one["prompt"]) for one in generation_batch], device=self.args.device)
            own = {**self._generate_and_score_completions(generation_batch), "prompt_rows": rows}
            whole = join_generation(own, self._tokenizer.pad_token_id, self.world, self.accelerator)
            dealt = order.deal(self.run.seed, self._generation, len(whole["prompt_rows"]), self._micro_batches)
            mine = dealt[self.world.rank :: self.world.size]
            self._buffered_inputs = [
                {name: value[members] if value.ndim else value for name, value in whole.items()} for members in mine
            ]
        inputs = self._buffered_inputs[self._step % self._planned.steps]
        if len(self.rows_taken) < REMEMBERED:
            self.rows_taken += dict.fromkeys(inputs["prompt_rows"].tolist())
        width = max(int(inputs["completion_mask"].sum(1).max()), 1)
        cut = {name: inputs[name][:, :width] for name in OF_COMPLETIONS if name in inputs}
        return {**inputs, **cut}

    @property
    def _micro_batches(self) -> int:
        """Micro-batches of a generation, of all processes."""
        return self._planned.steps * self.world.size

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs["tokens"] = self.state.num_input_tokens_seen
        for name in ("step_time", "num_tokens"):  # the first no continued run could repeat; the second is "tokens"
            self._metrics["train"].pop(name, None)
        super().log(logs, None)  # the start time would add rates that count from the last resume

    @torch.no_grad()
    def measure(self, eval_dataset: Any = None) -> dict[str, float]:
        """What the policy's own completions of the validation prompts are worth, the same random numbers every time.

        :return: ``reward``, each reward by its name, ``completion_length``, ``ended`` (the share that stopped by
            itself), ``kl`` from the policy at the start in nats per token, where there is one to compare with, and
            ``loss``, which is minus the reward: what training lowers.
        """
        rows = self._validation_rows
        assert rows is not None, "the engine asks for no evaluation without a validation split"
        model: Any = self.model
        was_training = model.training
        model.eval()
        seeds = answer_seeds([self.run.seed, _EVALUATION], len(rows) * EVALUATED).reshape(len(rows), EVALUATED)
        mine = own_share(range(len(rows)), self.world)
        mine.sort(key=lambda index: len(rows[index].ids))  # little padding
        size = self.run.eval.batch_size
        found: list[dict[str, tuple[float, float]]] = []
        with (
            _separate_random_state(self.args.seed, self.args.device),
            self.evaluation_bar(len(mine), "prompts") as bar,
        ):
            for start in range(0, len(mine), size):
                members = mine[start : start + size]
                batch = [rows[index] for index in members for _ in range(EVALUATED)]
                found.append(self._evaluate_batch(batch, seeds[members].reshape(-1)))
                bar.advance(len(members))
        parts = join_shares([_sums(found)], self.world.size, self.world)[: len(rows)]
        means = {name: total / count if count else math.nan for name, (total, count) in _sums(parts).items()}
        means["loss"] = -means["reward"]
        model.train(was_training)
        return means

    def _evaluate_batch(self, batch: list[PromptRow], seeds_B: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
        """Sum and count of each measure over one completion of each row."""
        prompts = [row.ids for row in batch]
        if self.use_vllm:
            ids, _ = self._generate_single_turn(prompts, None, {}, EVALUATED)
        else:
            ids = self._sample(prompts, seeds_B)
        found = self._scores(batch, self._tokenizer.batch_decode(ids, skip_special_tokens=True), ids)
        ended = [1.0 if completion and completion[-1] in self.eos_token_ids else 0.0 for completion in ids]
        measures: dict[str, Sequence[float | None]] = {
            "reward": [None if total != total else total for total in found.totals],
            **{f"rewards/{name}": values for name, values in found.values.items()},
            "completion_length": [float(len(completion)) for completion in ids],
            "ended": ended,
        }
        known = {name: [value for value in values if value is not None] for name, values in measures.items()}
        sums = {name: (float(sum(values)), float(len(values))) for name, values in known.items()}
        if self._start is not None:
            sums["kl"] = self._divergence([row.ids for row in batch], ids)
        return sums

    def _divergence(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> tuple[float, float]:
        """Sum over the completions' tokens of an unbiased estimate of the KL divergence from the start, and how many
        (http://joschu.net/blog/kl-approx.html, k3)."""
        assert self._start is not None
        padding: Any = {"padding_value": self._tokenizer.pad_token_id}
        prompts_BP = pad([torch.tensor(p) for p in prompts], padding_side="left", **padding)
        before_BP = pad([torch.ones(len(p), dtype=torch.long) for p in prompts], 0, padding_side="left")
        completions_BT = pad([torch.tensor(c) for c in completions], padding_side="right", **padding)
        mask_BT = pad([torch.ones(len(c), dtype=torch.long) for c in completions], 0, padding_side="right")
        device = self.args.device
        ids_BL = torch.cat([prompts_BP, completions_BT], 1).to(device)
        mask_BL = torch.cat([before_BP, mask_BT], 1).to(device)
        policy_BT, reference_BT = (
            self._get_per_token_logps_and_entropies(model, ids_BL, mask_BL, completions_BT.shape[1])[0]
            for model in (self.model, self._start)
        )
        log_ratio_BT = reference_BT - policy_BT
        kl_BT = (log_ratio_BT.exp() - log_ratio_BT - 1) * mask_BT.to(device)
        return kl_BT.double().sum().item(), float(mask_BT.sum())

    # ----------------------------------------------------------------------------------------------------- checkpoints

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL would write a README into the run directory with each checkpoint."""

    def own_state(self) -> dict[str, Any]:
        """The generation in use too."""
        args: Any = self.args
        in_use = self._step % (args.steps_per_generation * self.num_iterations) != 0
        state = {
            "step": self._step,
            "buffer": self._buffered_inputs if in_use else None,
            "metrics": dict(self._metrics["train"]),  # since the last log
        }
        return {**super().own_state(), self.world.file_name(_GENERATION): state}

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            file = Path(checkpoint) / self.world.file_name(_GENERATION)
            state = torch.load(file, map_location=self.args.device.type, weights_only=True)
            self._step, self._buffered_inputs = state["step"], state["buffer"]
            self._metrics["train"].update(state["metrics"])


def _sums(parts: Iterable[Mapping[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """Sums and counts of several batches, by name."""
    found: dict[str, tuple[float, float]] = {}
    for part in parts:
        for name, (total, count) in part.items():
            before = found.get(name, (0.0, 0.0))
            found[name] = before[0] + total, before[1] + count
    return found


class _RewardCallable:
    """A reward as TRL calls it; what the function itself gets are the rows that the prompts stand for."""

    def __init__(self, index: int, name: str, trainer: GrpoTrainer):
        self._index, self._trainer = index, trainer
        self.__name__ = name

    def __call__(
        self, prompts: list[str], completions: list[str], completion_ids: list[list[int]], log_metric: Any, **_: Any
    ) -> list[float | None]:
        rows = [self._trainer._train_rows[int(prompt)] for prompt in prompts]
        reward = self._trainer._judge.rewards[self._index]
        found = self._trainer._scores(rows, completions, completion_ids, reward)
        failed = torch.tensor([sum(found.failed), len(rows)], device=self._trainer.args.device)
        sum_over_ranks([failed], self._trainer.world)
        if failed[0]:
            log_metric(f"rewards/{reward.name}/failed", float(failed[0] / failed[1]))
        return found.values[reward.name]


@contextmanager
def _keep_precision(model: Any) -> Iterator[None]:
    """What trains keeps its precision. TRL rounds it to bf16 where the base is quantized: the policy would not start as
    its reference, nor resume as it was saved."""
    before: list[tuple[Any, Tensor]] = [(p, p.data) for p in model.parameters() if p.requires_grad]
    yield
    for parameter, data in before:
        if parameter.dtype != data.dtype:
            parameter.data = data.to(parameter.device)


@contextmanager
def _separate_random_state(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
