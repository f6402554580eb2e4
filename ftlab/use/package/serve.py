"""The other side of the check: a process of its own that loads a package as its users do, and answers.

It knows nothing of ftlab: ``python -P serve.py`` reads the name of a JSON file that says what to load and ask, and
writes what came of it beside that file.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def load_tokenizer(request: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(request["folder"], trust_remote_code=False)


def load_model(request: dict[str, Any], tokenizer: Any) -> Any:
    """The model of ``folder``, on ``base`` where it is an adapter, for answers or for scores."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if request["is_reward_model"] else AutoModelForCausalLM
    options: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}
    if request["is_reward_model"]:
        options["num_labels"] = 1
    if request["form"] != "peft":
        model = kind.from_pretrained(request["folder"], dtype="auto", **options)
        return model.to(request["device"]).eval()
    from peft import PeftModel

    if request["quantization"] is not None:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(**request["quantization"])
        options["device_map"] = {"": request["device"]}
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[request["dtype"]]
    model = kind.from_pretrained(request["base"], revision=request["revision"], dtype=dtype, **options)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    model = PeftModel.from_pretrained(model, request["folder"])
    return (model if request["quantization"] is not None else model.to(request["device"])).eval()


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is said, and the logits beside which it was said: of each prompt those that predict the tokens of
    ``answer_ids``, (A, V); of a reward model the score of the prompt's ids."""
    import torch
    from transformers import GenerationConfig

    tokenizer = load_tokenizer(request)
    model = load_model(request, tokenizer)
    config = GenerationConfig.from_pretrained(request["folder"])  # an adapter's base has one of its own
    stop = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    said: dict[str, Any] = {"template": tokenizer.chat_template, "stop": stop, "prompts": []}
    logits: dict[str, Any] = {}
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=request["max_new_tokens"], eos_token_id=stop, pad_token_id=config.pad_token_id
    )
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.generation_config = GenerationConfig()  # else what is not asked for comes from the model's own
    for place, prompt in enumerate(request["prompts"]):
        text = prompt["text"]
        if prompt["messages"] is not None:
            text = tokenizer.apply_chat_template(
                prompt["messages"], tokenize=False, add_generation_prompt=not request["is_reward_model"]
            )
            text = text.rstrip() if request["is_reward_model"] else text
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        given = torch.tensor([[*prompt["ids"], *prompt["answer_ids"]]], device=request["device"])
        with torch.no_grad():
            if request["is_reward_model"]:
                logits[str(place)] = model(input_ids=given).logits.float().reshape(1, 1).cpu()
                said["prompts"].append({"text": text, "ids": ids})
                continue
            first = len(prompt["ids"]) - 1
            logits[str(place)] = model(input_ids=given, use_cache=False).logits[0, first:-1].float().cpu()
            asked = torch.tensor([ids], device=request["device"])
            out = model.generate(input_ids=asked, attention_mask=torch.ones_like(asked), generation_config=greedy)
        new = out[0, len(ids) :].tolist()
        shown = tokenizer.decode(new, skip_special_tokens=True)
        said["prompts"].append({"text": text, "ids": ids, "answer_ids": new, "answer": shown})
    return said, logits


def main(path: Path) -> None:
    from safetensors.torch import save_file
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    said, logits = answer(json.loads(path.read_text(encoding="utf-8")))
    save_file({name: values.contiguous() for name, values in logits.items()}, path.with_name("logits.safetensors"))
    path.with_name("said.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.stdin.read()))
