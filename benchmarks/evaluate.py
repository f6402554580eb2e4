"""How much faster answers are in batches than one at a time, and that they are the same.

    python benchmarks/evaluate.py [--rows 200] [--batch 8] [--rounds 3]

The embedded model answers golden prompts greedily, as ftlab evaluate does: sorted by length, with a cache of keys and
values, in one thread and turn about: one at a time, then in batches. Printed are seconds of the answers alone, the
median of the rounds, and the ratio. It fails where an answer differs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=32)
    given = parser.parse_args()

    import torch

    from ftlab.base.libraries import quiet_libraries
    from ftlab.config.compose import read
    from ftlab.measure.generate import answer_batches
    from ftlab.policy.build import build_model
    from ftlab.policy.tokens import load_tokens

    quiet_libraries()
    torch.set_num_threads(1)
    run = read(["model=tiny_instruct"])
    tokens = load_tokens(run)
    model, _ = build_model(run, tokens)
    model.eval()
    assert tokens.template is not None
    rows = [json.loads(line) for line in (ROOT / "dataset/instructions/golden.jsonl").read_text().splitlines()]
    asked = ["\n".join(filter(None, [row["instruction"], row["input"]])) for row in rows[: given.rows]]
    texts = [tokens.template.prompt([{"role": "user", "content": text}]) for text in asked]
    prompts = tokens.tokenizer(texts, add_special_tokens=False)["input_ids"]
    references = tokens.tokenizer([row["output"] for row in rows[: given.rows]], add_special_tokens=False)
    expected = [len(ids) for ids in references["input_ids"]]

    def answer(size: int) -> tuple[float, list[str]]:
        began = time.perf_counter()
        answers = [""] * len(prompts)
        for batch, found in answer_batches(
            model, prompts, stop=tokens.stop, pad=tokens.tokenizer.pad_token_id, max_new_tokens=given.new_tokens,
            batch_size=size, expected=expected,
        ):  # fmt: skip
            for i, text in zip(batch, tokens.tokenizer.batch_decode(found, skip_special_tokens=True)):
                answers[i] = text
        return time.perf_counter() - began, answers

    answer(given.batch)  # what is compiled and cached once
    seconds: dict[int, list[float]] = {1: [], given.batch: []}
    for _ in range(given.rounds):
        found = {}
        for size in seconds:
            taken, found[size] = answer(size)
            seconds[size].append(taken)
        assert found[1] == found[given.batch], "answers in batches are not those of one at a time"
    one, many = (statistics.median(seconds[size]) for size in seconds)
    print(
        f"{len(prompts)} prompts, up to {given.new_tokens} new tokens, 1 thread, {given.rounds} rounds, equal answers"
    )
    print(f"one at a time   {one:8.2f} s   {len(prompts) / one:7.1f} answers/s")
    print(f"batches of {given.batch:<4} {many:8.2f} s   {len(prompts) / many:7.1f} answers/s")
    print(f"ratio           {one / many:8.2f}")


if __name__ == "__main__":
    main()
