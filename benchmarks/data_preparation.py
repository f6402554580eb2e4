"""What preparing data costs beside TRL's SFTTrainer: the same rows, tokenizer and template, one side after the other.

    python benchmarks/data_preparation.py chats            # 50,000 chats, assistant masks, packed to 2,048
    python benchmarks/data_preparation.py texts            # 80 MB of the standard library's sources, 32,768 to a row
    python benchmarks/data_preparation.py chats --workers 2
    python benchmarks/data_preparation.py chats --parts      # where ftlab's own CPU time goes, and nothing beside it

Every repeat of either side is a process of its own, taken from one pool, in turns; what is timed begins with the JSON
Lines file and ends with packed rows, after imports and after the tokenizer is loaded. First it shows that both find
the same ids and masks. Prints medians of wall and CPU seconds (of all processes), their ratios, and the peak of memory
above what was in use before. Run it on a machine that does nothing else; the shares of ``--parts`` need none.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import signal
import statistics
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

CHATS, TEXT_BYTES, VOCABULARY = 50_000, 80_000_000, 32_000
LENGTHS = {"chats": 2048, "texts": 32_768}
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("chats", "texts"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="processes that each side may use")
    parser.add_argument("--share", type=float, default=1.0, help="of the data, for a quick look")
    parser.add_argument("--parts", action="store_true", help="shares of CPU time, sampled; one process")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tokenizer(folder)
        make_chats(folder, int(CHATS * options.share))
        make_texts(folder, int(TEXT_BYTES * options.share))
        if options.parts:
            print(shares(ready_ftlab(options.what, folder, 1, packing=True)))
            return
        # One pool, a fresh process for every repeat: nothing is warm, and each has a peak of memory of its own.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
            print(pool.submit(compare, options.what, folder).result())
            found: dict[str, list[dict[str, float]]] = {"ftlab": [], "trl": []}
            for _ in range(options.repeats):
                for side, results in found.items():
                    results.append(pool.submit(measure, side, options.what, folder, options.workers).result())
    print(report(found, options.workers))


def report(found: dict[str, list[dict[str, float]]], workers: int) -> str:
    medians = {
        side: {k: statistics.median(r[k] for r in results) for k in results[0]} for side, results in found.items()
    }
    lines = [
        f"{'':<10}{'wall s':>9}{'CPU s':>9}{'peak MiB':>10}{'tokens':>13}{'rows':>8}{'fill':>9}   workers {workers}"
    ]
    for side, m in medians.items():
        lines.append(
            f"{side:<10}{m['wall']:>9.2f}{m['cpu']:>9.2f}{m['peak']:>10.0f}{m['tokens']:>13,.0f}{m['rows']:>8,.0f}"
            f"{m['fill']:>9.4f}"
        )
    ratios = (medians["trl"][key] / medians["ftlab"][key] for key in ("wall", "cpu", "peak"))
    wall, cpu, peak = ratios
    return "\n".join([*lines, f"{'trl/ftlab':<10}{wall:>8.2f}x{cpu:>8.2f}x{peak:>9.2f}x"])


def measure(side: str, what: str, folder: Path, workers: int) -> dict[str, float]:
    """One preparation, timed."""
    sides: dict[str, Callable[..., Any]] = {"ftlab": ready_ftlab, "trl": ready_trl}
    prepare = sides[side](what, folder, workers, packing=True)
    with peak_memory() as peak:
        cpu, wall = cpu_seconds(), time.perf_counter()
        tokens, rows = prepare()[:2]
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    fill = tokens / (rows * LENGTHS[what])
    return {"wall": wall, "cpu": cpu, "peak": peak[0], "tokens": tokens, "rows": rows, "fill": fill}


# Of what a moment of work is for, by the innermost of these files that is at work.
PARTS = {
    "read and parse": ("sources/", "row_cache.py"),
    "rows to conversations": ("formats/", "duplicates.py"),
    "template, special tokens": ("templates.py", "left_out.py", "literals.py", "<template>"),
    "tokens and labels": ("encoder.py", "tiktoken_core.py", "ledger/"),
    "packing": ("packing/",),
    "hashes of what was written": ("seals.py", "rundir/files.py"),
}


def shares(prepare: Callable[[], Any]) -> str:
    """What part of the CPU time of ``prepare`` each of ``PARTS`` takes: looked at every two milliseconds of it."""
    counts: Counter[str] = Counter()

    def look(_: int, frame: FrameType | None) -> None:
        while frame is not None:
            file = frame.f_code.co_filename
            for part, files in PARTS.items():
                if any(name in file for name in files):
                    counts[part] += 1
                    return
            frame = frame.f_back
        counts["the rest"] += 1

    signal.signal(signal.SIGPROF, look)
    before = cpu_seconds()
    signal.setitimer(signal.ITIMER_PROF, 0.002, 0.002)
    prepare()
    signal.setitimer(signal.ITIMER_PROF, 0)
    spent = cpu_seconds() - before
    lines = [f"{part:<28}{count / counts.total():>7.1%}" for part, count in counts.most_common()]
    return "\n".join([f"{'CPU seconds':<28}{spent:>7.2f}", *lines])


def compare(what: str, folder: Path) -> str:
    """Ids and masks of both sides, unpacked, row by row."""
    import numpy as np

    ours = ready_ftlab(what, folder, 1, packing=False)()[2]
    theirs = ready_trl(what, folder, 1, packing=False)()[2]
    if what == "texts":  # chunks of a text against the whole text: TRL does not chunk
        ours_ids = np.concatenate([s.input_ids for i in range(len(ours)) for s in ours[i].samples])
        theirs_ids = np.concatenate([np.asarray(row, dtype=np.int32) for row in theirs["input_ids"]])
        assert np.array_equal(ours_ids, theirs_ids), "the ids differ"
        return f"{len(ours_ids):,} tokens of {len(theirs):,} texts: the same ids in the same order, none lost"
    assert len(ours) == len(theirs)
    for i, row in enumerate(theirs):
        (sample,) = ours[i].samples
        assert sample.input_ids.tolist() == row["input_ids"], f"row {i}: the ids differ"
        assert sample.labels.tolist() == row["labels"], f"row {i}: the masks differ"
    return f"{len(ours):,} chats: the same ids and the same masks"


def ready_ftlab(what: str, folder: Path, workers: int, packing: bool) -> Callable[[], tuple[int, int, Any]]:
    """A function that prepares the rows with ftlab."""
    from transformers import AutoTokenizer
    from transformers.utils import chat_template_utils  # noqa: F401  # imports are not timed

    from ftlab.config.compose import compose, validate
    from ftlab.data import prepare
    from ftlab.data.sources import resolve
    from ftlab.data.tokens import templates

    kind = {"chats": ["data.format=messages"], "texts": ["stage=pt", "data.format=text"]}[what]
    length = LENGTHS[what]
    # Unpacked chats are compared row by row; unpacked texts, chunk by chunk.
    overrides = [
        *kind, f"data.path={folder / what}.jsonl", f"data.max_length={length}", f"data.packing={str(packing).lower()}",
        f"model.architecture.max_positions={length}", "data.split.validation=none", "data.on_invalid=error",
        f"data.workers={workers}", "data.cache=null",
    ]  # fmt: skip
    run = validate(compose(overrides))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = templates.Template.for_tokenizer(tokenizer) if what == "chats" else None

    def go() -> tuple[int, int, Any]:
        sources = resolve.resolve(run.data, run.stage.name)
        parts = prepare.split_parts(sources, run.data, run.seed)
        found = prepare.prepare(sources, parts, run.data, run.seed, template, tokenizer)
        split = found.ledger.splits["train"]
        assert split.tokens_cut == 0
        go.kept = found  # type: ignore[attr-defined]  # its folder goes with it
        return split.tokens_held, split.packed_rows, found.train

    return go


def ready_trl(what: str, folder: Path, workers: int, packing: bool) -> Callable[[], tuple[int, int, Any]]:
    """A function that prepares the rows with TRL's own trainer."""
    import datasets
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from ftlab.config.paths import shipped

    datasets.disable_caching()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    shape = AutoConfig.from_pretrained(shipped("models/tiny"))
    args = SFTConfig(
        output_dir=str(folder / "trl"), report_to="none", bf16=False, use_cpu=True, max_length=LENGTHS[what],
        assistant_only_loss=what == "chats", packing=packing, dataset_num_proc=workers if workers > 1 else None,
        packing_strategy="bfd" if what == "chats" else "bfd_split", eos_token=tokenizer.eos_token,
    )  # fmt: skip
    small = datasets.Dataset.from_list([json.loads((folder / f"{what}.jsonl").open().readline())])
    trainer = SFTTrainer(AutoModelForCausalLM.from_config(shape), args, train_dataset=small, processing_class=tokenizer)

    def go() -> tuple[int, int, Any]:
        with tempfile.TemporaryDirectory() as cache:
            rows = datasets.load_dataset(
                "json", data_files=str(folder / f"{what}.jsonl"), split="train", cache_dir=cache
            )
            if not packing:
                args.max_length = None
            found = trainer._prepare_dataset(rows, tokenizer, args, packing, None, "train")
            tokens = int(sum(map(len, found.with_format("arrow")["input_ids"]))) if not packing else _tokens(found)
            return tokens, len(found), found

    return go


def _tokens(rows: Any) -> int:
    """Tokens of a packed Arrow table, without turning them into Python lists."""
    import pyarrow.compute

    return sum(
        pyarrow.compute.sum(pyarrow.compute.list_value_length(chunk)).as_py()
        for chunk in rows.with_format("arrow")[:]["input_ids"].chunks
    )


def make_tokenizer(folder: Path) -> None:
    """A byte-level BPE of 32,000 tokens, trained on the same sources, with the ChatML template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from ftlab.data.tokens.shipped_templates import read_template

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(_sources(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=special[1], pad_token=special[0])
    tokenizer.chat_template = read_template("chatml")
    tokenizer.save_pretrained(folder)


def _sources() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" not in path.parts:
            text = path.read_bytes().decode("utf-8", errors="ignore")
            if "\0" not in text:
                yield text


def make_chats(folder: Path, count: int) -> None:
    """Chats of lines from the standard library's sources: one to five turns, lengths spread as people's are, about 320
    tokens each."""
    random_ = random.Random(0)
    lines = [line.strip() for text in _sources() for line in text.splitlines() if len(line.strip()) > 20]

    def said(mean: float) -> str:
        return "\n".join(random_.choices(lines, k=max(1, min(round(random_.lognormvariate(math.log(mean), 0.9)), 60))))

    with (folder / "chats.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(count):
            messages: list[dict[str, str]] = []
            # TRL cuts what is longer than a row, in silence: nothing here is.
            while not messages or sum(len(message["content"]) for message in messages) > 4000:
                messages = []
                for _ in range(random_.randint(1, 5)):
                    messages.append({"role": "user", "content": said(1.5)})
                    messages.append({"role": "assistant", "content": said(4.2)})
            file.write(json.dumps({"messages": messages}) + "\n")


def make_texts(folder: Path, size: int) -> None:
    """The standard library's sources, again and again, each time under another first line."""
    written = times = 0
    texts = list(_sources())
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as file:
        while written < size:
            times += 1
            for text in texts:
                if written >= size:
                    break
                file.write(json.dumps({"text": f"# copy {times}\n{text}"}) + "\n")
                written += len(text)


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """The peak of resident memory, of this process and its children together, above what this one had, in MiB."""
    found, done = [0.0], threading.Event()
    before = _resident(os.getpid())

    def watch() -> None:
        while not done.wait(0.05):
            tree = [os.getpid(), *_descendants(os.getpid())]
            found[0] = max(found[0], sum(map(_resident, tree)) - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def _resident(pid: int) -> float:
    """Anonymous and shared memory, without pages of files, which the system takes back when it needs them."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return sum(int(fields[key].split()[0]) for key in ("RssAnon", "RssShmem") if key in fields) / 1024


def _descendants(pid: int) -> list[int]:
    try:
        children = [int(c) for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
    except OSError:
        return []
    return [found for child in children for found in (child, *_descendants(child))]


if __name__ == "__main__":
    main()
