"""What writing answers costs in reinforcement learning: seconds of a rollout, tokens per second, and whole steps.

    python benchmarks/rollout.py                     # 4 layers, hidden 512, vocabulary 32k; LoRA in fp32
    python benchmarks/rollout.py --cases grpo --new-tokens 128

``grpo`` is ftlab's beside TRL's GRPOTrainer as its users call it: the same prompts, reward, KL penalty and numbers of
completions. Random weights end an answer themselves in one of thousands, so both sides write nearly equally many
tokens. A rollout is one call of what writes a step's answers; a step is that and all that is learned from it. ``ppo``
has no peer in TRL any more: what its rollouts are compared with is ``generate`` of transformers on the same prompts,
padded on the left, as many at once.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import workload
from harness import Case, Figures, Ratio

WARM_UP = 1
COMPLETIONS, GENERATIONS = 16, 8  # of a step, and of them for one prompt
TEMPERATURE, BETA = 1.0, 0.04


def main() -> None:
    parser = harness.parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=3, help="timed steps, and timed rollouts, of each measurement")
    parser.add_argument("--new-tokens", type=int, default=64, help="of an answer")
    harness.main("rollout", parser.parse_args(), cases, measure)


def cases(options: Any) -> list[Case]:
    shape, steps, new = ("small", 1, 8) if options.small else ("step", options.steps, options.new_tokens)
    work = {"shape": shape, "steps": steps, "new_tokens": new}
    rates = (Ratio("tokens/s", better="higher"), Ratio("CPU s/rollout", better="lower"))
    steps_too = (*rates, Ratio("steps/s", better="higher"), Ratio("CPU s/step", better="lower"))
    return [
        Case("grpo", {side: {"side": side, "stage": "grpo", **work} for side in ("ftlab", "trl")}, steps_too,
             equal=("tokens",), tolerance=0.02),
        Case("ppo", {side: {"side": side, "stage": "ppo", **work} for side in ("ftlab", "generate")}, rates,
             equal=("tokens",), tolerance=0.02),
    ]  # fmt: skip


def measure(side: str, stage: str, shape: str, steps: int, new_tokens: int) -> Figures:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = workload.read_run(
            *workload.PLAIN, f"stage={stage}", f"model.path={workload.model_folder(folder, shape)}",
            "model.init=random", "model.adapter=null", "method=lora", "lora.dropout=0", "hardware=cpu",
            "hardware.precision=fp32", f"stage.max_new_tokens={new_tokens}", f"stage.temperature={TEMPERATURE}",
            f"train.max_steps={WARM_UP + steps}", "data.max_length=256", "train.gradient_accumulation_steps=1",
            *{
                "grpo": [f"stage.num_generations={GENERATIONS}", f"stage.beta={BETA}",
                         f"train.micro_batch_size={COMPLETIONS}"],
                "ppo": [f"stage.rollout_batch_size={COMPLETIONS}", f"stage.mini_batch_size={COMPLETIONS}"],
            }[stage],
        )  # fmt: skip
        if stage == "ppo":
            return rollouts(run, side, steps)
        trainer, rows = workload.make_trainer(run, folder)
        if side == "trl":
            trainer = trl_grpo(run, trainer, rows, folder)
        written = count_rollouts(trainer)
        figures = workload.train_timed(trainer, WARM_UP)
        timed = written[WARM_UP:]
        return {**figures, **of_rollouts(timed)}


def of_rollouts(timed: list[Figures]) -> Figures:
    wall, cpu, tokens = (sum(one[key] for one in timed) for key in ("wall", "cpu", "tokens"))
    count = len(timed)
    return {
        "wall s/rollout": wall / count, "CPU s/rollout": cpu / count, "tokens/s": tokens / wall, "tokens": tokens,
    }  # fmt: skip


def count_rollouts(trainer: Any) -> list[Figures]:
    """Time and tokens of every call of what writes answers, which has one name in TRL's trainer and in ours."""
    found: list[Figures] = []
    write = trainer._generate_single_turn

    def timed(*arguments: Any, **more: Any) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        completions, *others = write(*arguments, **more)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        found.append({"wall": wall, "cpu": cpu, "tokens": float(sum(map(len, completions)))})
        return (completions, *others)

    trainer._generate_single_turn = timed
    return found


def trl_grpo(run: Any, ours: Any, rows: Any, folder: Path) -> Any:
    """TRL's trainer as its users call it, on a model made as ours was."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    from ftlab.policy.build import build_model
    from ftlab.policy.tokens import load_tokens
    from ftlab.stages.trainer.arguments import training_arguments

    def exact_match(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        return [float(written.strip() == right) for written, right in zip(completions, answer)]

    tokens = load_tokens(run)
    assert tokens.template is not None
    model, _ = build_model(run, tokens, workload.random_weights)
    arguments = training_arguments(
        run, str(folder / "trl"), GRPOConfig, num_generations=GENERATIONS,
        max_completion_length=run.stage.max_new_tokens, temperature=TEMPERATURE,
        beta=BETA, epsilon=run.stage.epsilon, steps_per_generation=1, disable_dropout=True,
    )  # fmt: skip
    arguments.eval_strategy = "no"
    prompts = [{"prompt": tokens.template.prompt(row.messages), "answer": row.answer or ""} for row in rows]
    trainer = GRPOTrainer(
        model=model, reward_funcs=exact_match, args=arguments, train_dataset=Dataset.from_list(prompts),
        processing_class=tokens.tokenizer,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def rollouts(run: Any, side: str, count: int) -> Figures:
    """Answers to the same prompts, as ppo has them written, or by transformers' generate."""
    import torch

    from ftlab.measure.sample import answer_seeds, sample
    from ftlab.policy.build import build_model
    from ftlab.policy.tokens import load_tokens

    tokens = load_tokens(run)
    model, _ = build_model(run, tokens, workload.random_weights)
    model.eval()
    prompts = [row.ids for row in workload.rows_of(run, tokens)]
    pad, new = tokens.tokenizer.pad_token_id, run.stage.max_new_tokens

    def ours(batch: list[list[int]], number: int) -> list[list[int]]:
        return sample(
            model, batch, answer_seeds([run.seed, number], len(batch)), stop=tokens.stop, pad=pad,
            temperature=TEMPERATURE, max_new_tokens=new, batch_size=len(batch),
        )  # fmt: skip

    def theirs(batch: list[list[int]], number: int) -> list[list[int]]:
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        torch.manual_seed(number)
        with torch.no_grad():
            found = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0,
                max_new_tokens=new, eos_token_id=tokens.stop, pad_token_id=pad,
            )  # fmt: skip
        return [row[row != pad].tolist() for row in found[:, width:]]

    write = ours if side == "ftlab" else theirs
    timed: list[Figures] = []
    harness.reset_peak()
    for number in range(WARM_UP + count):
        batch = [prompts[(number * COMPLETIONS + i) % len(prompts)] for i in range(COMPLETIONS)]
        cpu, wall = time.process_time(), time.perf_counter()
        answers = write(batch, number)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        timed.append({"wall": wall, "cpu": cpu, "tokens": float(sum(map(len, answers)))})
    return {**of_rollouts(timed[WARM_UP:]), "peak MiB": harness.peak_mib()}


if __name__ == "__main__":
    main()
