"""How a package is used: the code that loads it, the page of commands, and the packages of Python that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from ftlab.rundir.model_card import is_of_hub
from ftlab.use.package.archive import SUFFIX
from ftlab.use.package.choice import Choice
from ftlab.use.package.documents import METADATA, MODELFILE, REQUIREMENTS, SCRIPT, SUMS

_TORCH = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_QUESTION = "What is 3 plus 4?"


def base_placeholder(choice: Choice) -> str:
    """What stands for the base where a user has to say where it is."""
    return choice.base_name if is_of_hub(choice.base) else "BASE"


def use_section(choice: Choice, added_rows: bool) -> str:
    """What the model card says of how it is used."""
    if choice.form == "gguf":
        return f"```\nollama create {choice.name.lower()} -f {MODELFILE}\n```\n\nOr `llama-cli -m {choice.name}.gguf`."
    return f"```python\n{code(choice, added_rows)}```"


def code(choice: Choice, added_rows: bool, is_script: bool = False) -> str:
    """Python that loads the folder it is in, and does with it what the run trained for.

    :param added_rows: whether the embedding gets rows that the base has none of.
    :param is_script: whether it takes its question from the command line.
    """
    return "\n".join(_code(choice, added_rows, is_script)) + "\n"


def _code(choice: Choice, added_rows: bool, is_script: bool) -> Iterator[str]:
    is_adapter = choice.form == "peft"
    task = "SequenceClassification" if choice.is_reward_model else "CausalLM"
    quantization = quantization_config(choice) if is_adapter else None
    answers = is_adapter and not choice.is_reward_model
    transformers = [f"AutoModelFor{task}", "AutoTokenizer", *(["BitsAndBytesConfig"] if quantization else [])]
    transformers += ["GenerationConfig"] if answers else []
    yield from ("import sys", "from pathlib import Path", "") if is_script else ()
    if is_adapter:
        yield "import torch"
        yield "from peft import PeftModel"
    yield f"from transformers import {', '.join(transformers)}"
    yield ""
    folder = "Path(__file__).parent" if is_script else '"."'
    yield f"folder = {folder}" + ("" if is_script else "  # where this file is")
    more = ", num_labels=1" if choice.is_reward_model else ""
    yield "tokenizer = AutoTokenizer.from_pretrained(folder)"
    if is_adapter:
        hub = is_of_hub(choice.base)
        place = repr(base_placeholder(choice)).replace("'", '"')
        what = (
            "an id of the hub, or a folder" if hub else f"the folder of {choice.base_name}; {METADATA} has its hashes"
        )
        place = f"sys.argv[2] if len(sys.argv) > 2 else {place}" if is_script else place
        yield f"base = {place}  # {what}"
        options = f"dtype=torch.{_TORCH[choice.dtype]}{more}"
        if quantization:
            yield f"quantization = BitsAndBytesConfig({', '.join(f'{k}={v!r}' for k, v in quantization.items())})"
            options += ", quantization_config=quantization"
        yield f"model = AutoModelFor{task}.from_pretrained(base, {options})"
        if added_rows:
            yield "model.resize_token_embeddings(len(tokenizer))"
        if answers:
            yield "model.generation_config = GenerationConfig.from_pretrained(folder)  # what ends an answer"
        yield "model = PeftModel.from_pretrained(model, folder).eval()"
    else:
        yield f'model = AutoModelFor{task}.from_pretrained(folder, dtype="auto"{more}).eval()'
    yield ""
    yield from _ask(choice, is_script)


def _ask(choice: Choice, is_script: bool) -> Iterator[str]:
    asked = f'sys.argv[1] if len(sys.argv) > 1 else "{_QUESTION}"' if is_script else f'"{_QUESTION}"'
    if choice.is_reward_model:
        yield f'messages = [{{"role": "user", "content": "{_QUESTION}"}}, {{"role": "assistant", "content": "7"}}]'
        yield "text = tokenizer.apply_chat_template(messages, tokenize=False).rstrip()  # it is judged where it ends"
        yield 'inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)'
        yield "print(model(**inputs).logits[0, 0].item())"
        return
    if choice.config.stage.name == "pt":
        yield f'inputs = tokenizer({asked}, add_special_tokens=False, return_tensors="pt").to(model.device)'
    else:
        yield f'messages = [{{"role": "user", "content": {asked}}}]'
        yield "inputs = tokenizer.apply_chat_template("
        yield '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True'
        yield ").to(model.device)"
    yield f"answer = model.generate(**inputs, max_new_tokens={choice.config.eval.max_new_tokens}, do_sample=False)"
    yield 'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))'


def quantization_config(choice: Choice) -> dict[str, object] | None:
    """How the base of an adapter is quantized when it is loaded, as transformers' config takes it; None: it is not, or
    its own files say how."""
    from ftlab.model.unadapted import unquantized_layers

    quant = choice.config.quant
    if quant.name == "none":
        return None
    skipped = unquantized_layers(choice.config.model.architecture.family)
    skip: dict[str, object] = {"llm_int8_skip_modules": skipped} if skipped else {}
    if quant.name == "int8":
        return {"load_in_8bit": True, **skip}
    chosen = choice.dtype if quant.compute_dtype == "auto" else quant.compute_dtype
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": quant.name,
        "bnb_4bit_use_double_quant": quant.double_quantization,
        "bnb_4bit_compute_dtype": _TORCH[chosen],
        **skip,
    }


def requirements(choice: Choice) -> str:
    """What the code imports, in the versions that the check ran with."""
    names = [] if choice.form == "gguf" else ["torch", "transformers", "safetensors", "jinja2"]
    names += ["peft", "accelerate"] if choice.form == "peft" else []
    names += ["bitsandbytes"] if choice.form == "peft" and choice.config.quant.name != "none" else []
    return "".join(f"{name}=={version(name).partition('+')[0]}\n" for name in names) or "# none: it runs in llama.cpp\n"


def usage_page(choice: Choice, checked: str) -> str:
    """USAGE.md. :param checked: a sentence on what was compared with the run."""
    return "\n".join(_page(choice, checked)) + "\n"


def _page(choice: Choice, checked: str) -> Iterator[str]:
    name = choice.name
    yield f"# Using {name}\n"
    yield "Commands of a shell, in the folder that has the archive:\n"
    yield f"    tar -xzf {name}{SUFFIX}"
    yield f"    cd {name}"
    yield f"    sha256sum -c {SUMS}\n"
    yield f"`ftlab package verify {name}{SUFFIX}` checks the archive before it is unpacked, where ftlab is installed.\n"
    if choice.form == "gguf":
        yield "With Ollama:\n"
        yield f"    ollama create {name.lower()} -f {MODELFILE}"
        yield f"    ollama run {name.lower()}\n"
        yield "With llama.cpp, whose programs take the template and the end of an answer from the file:\n"
        yield f"    llama-cli -m {name}.gguf\n"
        yield checked
        return
    base = "" if choice.form != "peft" or is_of_hub(choice.base) else " BASE"
    yield "    python -m venv env"
    yield "    . env/bin/activate"
    yield f"    pip install -r {REQUIREMENTS}"
    question = "" if choice.is_reward_model else f' "{_QUESTION}"'
    yield f"    python {SCRIPT}{question or (' -' if base else '')}{base}\n"
    if choice.form == "peft":
        where = (
            f"comes from the hub as `{choice.base_name}`" if is_of_hub(choice.base) else "is the folder `BASE` above"
        )
        yield f"The base model, {choice.base_name}, {where}; `{METADATA}` has the hashes of its weights.\n"
    else:
        yield "Servers that read a model's folder (`transformers serve`, vLLM and others) take this one as it is.\n"
    yield checked
