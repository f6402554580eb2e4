"""A template whose tokens the tokenizer lacks: they are added, learned, saved, and served."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from tests.runs import FEW, train_run

SHORT = ("train.max_steps=6", "train.save_steps=3", "eval.golden_rows=2", "eval.samples=1", "data.max_samples=64")
ADDED = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def served(final):
    """The model as anyone loads it from the run's folder."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(final)
    if not (final / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32), tokenizer
    base = json.loads((final / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer))
    return PeftModel.from_pretrained(model, final), tokenizer


def validation_loss(model, tokenizer, rows):
    """Mean loss over the answers, one row at a time, by transformers and the saved template alone."""
    total = count = 0.0
    for row in rows:
        prompt = row["instruction"] + ("\n" + row["input"] if row.get("input") else "")
        question = [{"role": "user", "content": prompt}]
        whole = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": row["output"]}])["input_ids"]
        asked = tokenizer.apply_chat_template(question, add_generation_prompt=True)["input_ids"]
        ids = torch.tensor([whole])
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        found = logprobs[range(len(whole) - 1), ids[0, 1:]][len(asked) - 1 :]
        total -= found.double().sum().item()
        count += len(found)
    return total / count


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(name, marks=pytest.mark.matrix) for name in ("full", "freeze", "qlora"))]
)
def test_added_tokens_are_trained_saved_and_served(method, tmp_path):
    layers = ["method.trainable_layers=2"] if method == "freeze" else []
    run = train_run(tmp_path / "run", "model.template=llama3", f"method={method}", *SHORT, FEW, *layers)
    final = run.path / "final"
    model, tokenizer = served(final)
    assert [token for token in ADDED if token in tokenizer.get_vocab()] == ADDED
    assert tokenizer.chat_template.startswith("{#-")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    said = (run.path / "log.txt").read_text()
    assert f"new tokens of the template: {', '.join(ADDED)}; 3 embeddings added" in said
    generation = json.loads((final / "generation_config.json").read_text())
    assert generation["eos_token_id"][0] == tokenizer.convert_tokens_to_ids("<|eot_id|>")
    if method == "qlora":
        return  # its base was quantized; the loss of the unquantized one is another
    rows = [json.loads(line) for line in Path(FEW.partition("=")[2]).read_text().splitlines()]
    (result,) = run.manifest()["phases"].values()
    assert validation_loss(model, tokenizer, rows) == pytest.approx(result["after"]["validation loss"], abs=1e-4)
    assert not math.isclose(result["before"]["validation loss"], result["after"]["validation loss"], abs_tol=0.05)
    # They moved: the rows of the tokens that stand in every conversation are no longer what they were drawn as.
    assert final_rows_moved(run, tokenizer)


def final_rows_moved(run, tokenizer):
    from safetensors.torch import load_file

    ids = tokenizer.convert_tokens_to_ids(ADDED)
    weights = {}
    for folder in (run.path / "phases").glob("*/checkpoint-3"), (run.path / "phases").glob("*/final"):
        (found,) = folder
        (file,) = [path for path in found.glob("*.safetensors") if "model" in path.name]
        tensors = load_file(file)
        rows = [v for k, v in tensors.items() if k.endswith("trainable_tokens_delta") and "embed" in k]
        embed = [v[ids] for k, v in tensors.items() if k.endswith("embed_tokens.weight")]
        weights[found.name] = (rows or embed)[0]
    before, after = weights.values()
    return all(not torch.equal(a, b) for a, b in zip(before, after))
