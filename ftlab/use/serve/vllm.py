"""The command that has vLLM serve runs: their base once, and an adapter by name for each (``--lora-modules``)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftlab.errors import NotReadyError
from ftlab.pretrained.files import ADAPTER, read_object
from ftlab.rundir.files import move_folder, temporary_folder

if TYPE_CHECKING:
    from ftlab.policy.from_run import Policy
    from ftlab.policy.tokens import Tokens

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM takes as the largest
_OWN = ("tokenizer", "chat_template", "generation_config", "special_tokens", "vocab", "merges", "added_tokens")
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def problems(policies: Sequence[Policy], tokens: Sequence[Tokens], names: Sequence[str]) -> list[str]:
    """Why vLLM cannot serve these runs as what they are; empty where it can."""
    found = [f"{name}: {reason}" for name, policy in zip(names, policies) for reason in _of_run(policy)]
    bases = {policy.config.model.path: name for name, policy in zip(names, policies)}
    if len(bases) > 1:
        found.append(f"{' and '.join(bases.values())} have different base models, and vLLM serves one")
    sources = {one.template.source if one.template else None: name for name, one in zip(names, tokens)}
    if len(sources) > 1:
        found.append(f"{' and '.join(sources.values())} have different chat templates, and vLLM takes one for all")
    stops = {tuple(one.stop): name for name, one in zip(names, tokens)}
    if len(stops) > 1:
        found.append(f"{' and '.join(stops.values())} end answers with different tokens, and vLLM takes one set")
    return found


def _of_run(policy: Policy) -> Iterator[str]:
    adapter = policy.config.model.adapter
    if policy.config.method.name != "lora" or adapter is None:
        yield "is no adapter on a base but a model of its own"
        return
    saved = read_object(Path(adapter) / ADAPTER)
    if saved.get("use_dora"):
        yield "is a DoRA adapter, which vLLM does not take"
    if str(saved.get("init_lora_weights")).startswith("pissa"):
        yield "is a PiSSA adapter, which belongs to what is left of the weights, and vLLM does not take those"
    for key in ("modules_to_save", "trainable_token_indices", "target_parameters"):
        if saved.get(key):
            yield f"has trained more than LoRA ({key}), which vLLM does not take"
    if saved.get("r", 0) > _RANKS[-1]:
        yield f"has rank {saved['r']}, and vLLM takes {_RANKS[-1]} at most"
    if policy.config.quant.name in ("fp4", "int8"):
        yield f"was trained on quant={policy.config.quant.name}, which vLLM does not load; quant=none or nf4"


def write_base(policy: Policy, tokens: Tokens, folder: Path) -> None:
    """A folder of the base's weights, as links, with the run's own tokenizer, template and stop tokens beside them:
    what vLLM reads these from.

    :raises NotReadyError: the base is in no folder of this machine.
    """
    from transformers import GenerationConfig

    base = Path(policy.config.model.path)
    if not base.is_dir():
        raise NotReadyError(
            f"model.path={base}: engine=vllm needs the base in a folder. Download it and give its folder as model.path "
            "in the run, or use engine=transformers."
        )
    writing = temporary_folder(folder)
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    for file in sorted(base.iterdir()):
        if file.is_file() and not file.name.startswith(_OWN):
            (writing / file.name).symlink_to(file.absolute())
    tokens.tokenizer.save_pretrained(writing)
    GenerationConfig(eos_token_id=list(tokens.stop), pad_token_id=tokens.tokenizer.pad_token_id).save_pretrained(
        writing
    )
    shutil.rmtree(folder, ignore_errors=True)
    move_folder(writing, folder)


def command(
    policies: Sequence[Policy], names: Sequence[str], base: Path, host: str, port: int, serves_base: bool
) -> list[str]:
    """:param base: the folder that :func:`write_base` wrote. :param serves_base: whether it is a model too."""
    from ftlab.model.load import compute_dtype

    config = policies[0].config
    adapters = [str(policy.config.model.adapter) for policy in policies]
    rank = max(read_object(Path(adapter) / ADAPTER)["r"] for adapter in adapters)
    modules = [json.dumps({"name": name, "path": str(Path(path).absolute())}) for name, path in zip(names, adapters)]
    dtype = str(compute_dtype(config)).removeprefix("torch.")
    words = ["vllm", "serve", str(base), "--host", host, "--port", str(port)]
    words += ["--served-model-name", "base" if serves_base else "base-of-the-runs"]
    words += ["--enable-lora", "--max-lora-rank", str(next(one for one in _RANKS if one >= rank))]
    words += ["--max-loras", str(len(names)), "--lora-modules", *modules]
    words += ["--dtype", dtype, "--max-model-len", str(config.model.architecture.max_positions)]
    return [*words, *(["--quantization", "bitsandbytes"] if config.quant.name == "nf4" else [])]
