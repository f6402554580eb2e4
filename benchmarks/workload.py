"""Models, rows and trainers that the benchmarks measure both sides on.

Models have random weights and real shapes; what is written to a folder is their config and the embedded model's
tokenizer, whose ids are below those of every vocabulary here. Texts are the sources of Python's standard library, which
every machine has.
"""

from __future__ import annotations

import json
import math
import random
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import MIB, Figures, peak_mib, reset_peak

# In the words of transformers' LlamaConfig.
SHAPES: dict[str, dict[str, Any]] = {
    "small": {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": 2304},
    "step": {"num_hidden_layers": 4, "hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8,
             "num_key_value_heads": 8, "vocab_size": 32000},
    "Llama-3.2-1B": {"num_hidden_layers": 16, "hidden_size": 2048, "intermediate_size": 8192,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
                     "tie_word_embeddings": True},
    "Llama-3.2-3B": {"num_hidden_layers": 28, "hidden_size": 3072, "intermediate_size": 8192,
                     "num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 128256,
                     "tie_word_embeddings": True},
    "Llama-3.1-8B": {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
}  # fmt: skip
# Nothing but steps: no splits, no files on the way, no cache.
PLAIN = (
    "model=local", "data.cache=null", "data.split.validation=none", "data.split.golden=none", "tracker=none",
    "train.save_steps=1000000",
)  # fmt: skip


def model_folder(folder: Path, shape: str) -> Path:
    """Config and tokenizer of one of :data:`SHAPES`; no weights."""
    from transformers import AutoTokenizer, LlamaConfig

    from ftlab.config.paths import shipped

    to = folder / shape
    tokenizer = AutoTokenizer.from_pretrained(shipped("models/tiny"))
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    LlamaConfig(**SHAPES[shape], max_position_embeddings=131072, **ends).save_pretrained(to)
    tokenizer.save_pretrained(to)
    return to


def random_weights(run: Any) -> Any:
    """A base model for a run, drawn on its device as loading would place it, and quantized where the run says so."""
    import torch
    from transformers import BitsAndBytesConfig

    from ftlab.model.load import compute_dtype, load_model, uses_cpu

    device = "cpu" if uses_cpu(run) else "cuda"
    drawn = run.model_copy(update={
        "model": run.model.model_copy(update={"init": "random"}),
        "quant": run.quant.model_copy(update={"name": "none"}),
    })  # fmt: skip
    with torch.device(device):
        model = load_model(drawn)
    if run.quant.name == "none":
        return model
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=run.quant.name, bnb_4bit_compute_dtype=compute_dtype(run),
        bnb_4bit_use_double_quant=run.quant.double_quantization,
    )  # fmt: skip
    return type(model).from_pretrained(
        None, config=model.config, state_dict=model.state_dict(),
        dtype=compute_dtype(run), quantization_config=four_bits, device_map={"": device},
        attn_implementation=model.config._attn_implementation,
    )  # fmt: skip


def read_run(*overrides: str) -> Any:
    from ftlab.base.libraries import quiet_libraries
    from ftlab.config import command_line
    from ftlab.config.compose import read

    quiet_libraries()
    return read(command_line.read(overrides).overrides)


def make_trainer(run: Any, folder: Path) -> tuple[Any, Any]:
    """What the engine makes of a run, without its run directory, and its rows: packed ones, or prompts. Attention,
    layers and shared prompts are chosen as it chooses them."""
    from ftlab.base.heap import keep_freed_memory
    from ftlab.distributed.world import current_world
    from ftlab.engine.kernels import choose_kernels
    from ftlab.engine.output import Output
    from ftlab.engine.packing import choose_isolation
    from ftlab.engine.shared_prompts import share_prompts
    from ftlab.model.fp8 import convert_linears
    from ftlab.model.load import uses_cpu
    from ftlab.policy.build import build_model
    from ftlab.policy.tokens import load_tokens
    from ftlab.rundir.directory import RunDir
    from ftlab.rundir.manifest import Manifest
    from ftlab.rundir.phase_files import PhaseFiles
    from ftlab.stages import trainer_class

    tokens = load_tokens(run)
    prepared, parts = prepare_rows(run, tokens)
    if run.train.engine == "ftlab" and uses_cpu(run):
        keep_freed_memory()  # as the engine does; TRL's users have it as the C library has it
    model, _ = build_model(run, tokens, random_weights)
    rows = trained_rows(run, prepared, parts)
    with Output(folder / "log.txt", has_terminal=False) as output:
        records = (output, Manifest(RunDir(folder)), run.stage.name)
        given = (*records, run, model, tokens.tokenizer.pad_token_id, prepared)
        isolation = choose_isolation(*given, current_world())
        choose_kernels(*given, current_world(), isolation)
        share_prompts(*given, isolation)
        if run.train.fp8 != "none":
            convert_linears(model, run)
    more = ([], isolation) if rows is prepared.train else ()
    trainer = trainer_class(run)(run, model, tokens.tokenizer, rows, None, PhaseFiles.in_folder(folder), *more)
    _quiet(trainer)
    return trainer, rows


def rows_of(run: Any, tokens: Any) -> Any:
    """The rows that train: packed, or, of ppo and grpo, prompts."""
    return trained_rows(run, *prepare_rows(run, tokens))


def trained_rows(run: Any, prepared: Any, parts: Any) -> Any:
    from ftlab.data.prompts import prompt_rows

    generates = run.stage.name in ("ppo", "grpo")
    return prompt_rows(parts["train"], prepared.train) if generates else prepared.train


def prepare_rows(run: Any, tokens: Any) -> tuple[Any, Any]:
    """The rows of every split, and where each split comes from."""
    from ftlab.data.prepare import prepare, split_parts
    from ftlab.data.sources import resolve

    found = resolve.resolve(run.data, run.stage.name)
    parts = split_parts(found, run.data, run.seed)
    return prepare(found, parts, run.data, run.seed, tokens.template, tokens.tokenizer), parts


def _quiet(trainer: Any) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def begin(trainer: Any) -> None:
    """What a trainer of ftlab does before its first step; TRL's have no such part."""
    from ftlab.base.progress import NoBar

    if hasattr(trainer, "begin"):
        trainer.begin(NoBar)


def train_timed(trainer: Any, warm_up: int) -> Figures:
    """Train, and time the steps after the first ``warm_up``: from the end of one to the end of the next, so that
    collation and logging count. The peak of memory is that of all of it, on a GPU what its allocator gave."""
    from transformers import TrainerCallback

    ends: list[tuple[float, float]] = []
    tokens: list[int] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if len(ends) in (warm_up - 1, state.max_steps - 1):  # otherwise no device is waited for
                wait_for_device()
            ends.append((time.perf_counter(), time.process_time()))
            tokens.append(int(state.num_input_tokens_seen))

    trainer.add_callback(Clock())
    reset_memory()
    begin(trainer)
    trainer.train()
    steps = len(ends) - warm_up
    wall, cpu = ((after - before) / steps for before, after in zip(ends[warm_up - 1], ends[-1]))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    rate = (tokens[-1] - tokens[warm_up - 1]) / steps / wall
    return {
        "wall s/step": wall, "CPU s/step": cpu, "steps/s": 1 / wall, "tokens/s": rate, "peak MiB": peak_memory(),
        "loss": losses[0],
    }  # fmt: skip


def timed(work: Callable[[], Any]) -> Figures:
    """Wall and CPU seconds and the peak of memory of something, without what a device still has to do."""
    wait_for_device()
    reset_memory()
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    wait_for_device()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall s": wall, "CPU s": cpu, "peak MiB": peak_memory()}


def wait_for_device() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_memory() -> None:
    import torch

    reset_peak()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> float:
    """In MiB since :func:`reset_memory`: of a GPU's allocator, or of this process."""
    import torch

    return torch.cuda.max_memory_allocated() / MIB if torch.cuda.is_available() else peak_mib()


# ------------------------------------------------------------------------------------------------------------- texts


def sources() -> Iterator[str]:
    """The standard library's modules, in order."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" not in path.parts:
            text = path.read_bytes().decode("utf-8", errors="ignore")
            if "\0" not in text:
                yield text


class Said:
    """Lines of the standard library, as many as people's messages have: log-normal. The same for a seed."""

    def __init__(self, seed: int = 0, modules: int = 60):
        self._random = random.Random(seed)
        texts = [text for text, _ in zip(sources(), range(modules))]
        self._lines = [line.strip() for text in texts for line in text.splitlines() if len(line.strip()) > 20]

    def __call__(self, mean: float, at_most: int = 60, spread: float = 0.9) -> str:
        """:param mean: median number of lines, of about 15 tokens of the embedded tokenizer each."""
        count = max(1, min(round(self._random.lognormvariate(math.log(mean), spread)), at_most))
        return "\n".join(self._random.choices(self._lines, k=count))


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_chats(path: Path, count: int, asked: float, answered: float) -> Path:
    """Chats of one turn. :param asked: median lines of a question. :param answered: of an answer."""
    said = Said()
    return write_rows(
        path,
        [
            {"messages": [{"role": "user", "content": said(asked)}, {"role": "assistant", "content": said(answered)}]}
            for _ in range(count)
        ],
    )


def write_pairs(path: Path, count: int, asked: float, answered: float, spread: float = 0.9) -> Path:
    """Preference pairs, in the words of the registry's format ``preference``."""
    said = Said()
    return write_rows(
        path,
        [
            {"instruction": said(asked, spread=spread), "chosen": said(answered), "rejected": said(answered)}
            for _ in range(count)
        ],
    )


def write_labels(path: Path, count: int, asked: float, answered: float) -> Path:
    """Labelled answers, every other one good."""
    said = Said()

    def chat() -> list[dict[str, str]]:
        return [{"role": "user", "content": said(asked)}, {"role": "assistant", "content": said(answered)}]

    return write_rows(path, [{"messages": chat(), "label": number % 2 == 0} for number in range(count)])
