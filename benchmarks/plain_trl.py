"""The main job as a user of TRL writes it: what ``python -m ftlab`` does by itself, with SFTTrainer and nothing else.

    python benchmarks/plain_trl.py OUTPUT [--max-steps 1] [--no-answers]

The embedded model and data, LoRA, packed rows, the same numbers; the losses of the validation rows and the answers to
the golden prompts before and after; checkpoints, tensorboard. ``startup.py`` times it beside ftlab.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

ROOT = Path(__file__).resolve().parents[1]
ANSWERS_AT_ONCE, NEW_TOKENS = 16, 48


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (ROOT / "dataset/instructions" / name).read_text("utf-8").splitlines()]


def question(row: dict) -> list[dict]:
    return [{"role": "user", "content": "\n".join(filter(None, [row["instruction"], row["input"]]))}]


def chats(name: str) -> Dataset:
    return Dataset.from_list(
        [{"messages": [*question(row), {"role": "assistant", "content": row["output"]}]} for row in rows(name)]
    )


def exact_match(model, tokenizer, golden: list[dict]) -> float:
    """The share of golden prompts that are answered as they should be, greedily."""
    golden = sorted(golden, key=lambda row: len(question(row)[0]["content"]))
    right = 0
    model.eval()
    for start in range(0, len(golden), ANSWERS_AT_ONCE):
        batch = golden[start : start + ANSWERS_AT_ONCE]
        inputs = tokenizer.apply_chat_template(
            [question(row) for row in batch], add_generation_prompt=True, tokenize=True, padding=True,
            padding_side="left", return_dict=True, return_tensors="pt",
        )  # fmt: skip
        written = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        texts = tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += sum(text.strip() == row["output"].strip() for text, row in zip(texts, batch))
    return right / len(golden)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--no-answers", action="store_true", help="no golden prompts and no validation")
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models/tiny")
    model = AutoModelForCausalLM.from_pretrained(ROOT / "models/tiny")
    trainer = SFTTrainer(
        model,
        SFTConfig(
            output_dir=options.output, seed=42, use_cpu=True, bf16=False, gradient_checkpointing=False,
            learning_rate=1e-3, lr_scheduler_type="cosine", warmup_steps=0.03, num_train_epochs=4,
            max_steps=options.max_steps, per_device_train_batch_size=2, per_device_eval_batch_size=2, max_length=256,
            packing=True, assistant_only_loss=True, logging_steps=5, save_steps=50, save_total_limit=2,
            eval_strategy="no" if options.no_answers else "steps", eval_steps=50, report_to="tensorboard",
        ),
        train_dataset=chats("train.jsonl"),
        eval_dataset=None if options.no_answers else chats("validation.jsonl"),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear"),
    )  # fmt: skip
    golden = [] if options.no_answers else rows("golden.jsonl")
    if golden:
        print("before", trainer.evaluate()["eval_loss"], exact_match(trainer.model, tokenizer, golden))
    trainer.train()
    if golden:
        print("after", trainer.evaluate()["eval_loss"], exact_match(trainer.model, tokenizer, golden))
    trainer.save_model(f"{options.output}/final")


if __name__ == "__main__":
    main()
