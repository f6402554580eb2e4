"""Generate the data of this folder and the tokenizer of ``models/tiny``; all of it follows from seeds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from generator.corpus import documents, lexicon
from generator.curriculum import write_curriculum
from generator.files import write_jsonl
from generator.sets import write_sets

HERE = Path(__file__).resolve().parent
DEFAULT_SEED = 1
DEFAULT_DOCUMENTS = 64_000
TOKENIZER_DOCUMENTS = 20_000
LEXICON_REPEATS = 200
PROGRESS_EVERY = 10_000


def write_corpus(seed: int, count: int, path: Path) -> None:
    """Write ``count`` documents as JSONL with one field ``text``."""

    def rows() -> Iterator[dict[str, str]]:
        for number, text in enumerate(documents(seed, count), 1):
            yield {"text": text}
            if number % PROGRESS_EVERY == 0:
                print(f"{number:,} of {count:,} documents", flush=True)

    write_jsonl(path, rows())
    print(f"wrote {path}: {count:,} documents, {path.stat().st_size / 1e6:.1f} MB")


def write_samples(folder: Path) -> None:
    """Rewrite every shipped data set into ``folder``."""
    for path, rows in chain(write_sets(folder), write_curriculum(folder)):
        print(f"wrote {path}: {rows:,} rows")


def write_tokenizer(seed: int, count: int, folder: Path) -> None:
    """Train the tokenizer on the corpus; write it and an untrained model's configuration into ``folder``."""
    from generator.tokenizer import train_tokenizer, write_model_config

    print(f"training the tokenizer on {count:,} documents ...", flush=True)
    # A word is to be one token after a space and at the start of an answer, however often the prose has it where.
    words = (form for word in lexicon() for form in (word, f" {word}") for _ in range(LEXICON_REPEATS))
    vocabulary = train_tokenizer(chain(documents(seed, count), words), folder)
    write_model_config(folder, vocabulary)
    print(f"wrote {folder}: {len(vocabulary):,} tokens")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, out: Path, out_help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.add_argument("--out", type=Path, default=out, help=out_help)
        return sub

    corpus = command(
        "corpus", "Write the pre-training corpus as JSONL.", HERE / "tiny_corpus.jsonl", "the file to write"
    )
    command("samples", "Rewrite the small shipped data sets, byte for byte.", HERE, "the folder to write them into")
    tokenizer = command(
        "tokenizer",
        "Train the tokenizer of models/tiny and write it beside an untrained config.json.",
        HERE.parent / "models" / "tiny",
        "the folder to write into",
    )
    for sub, count in ((corpus, DEFAULT_DOCUMENTS), (tokenizer, TOKENIZER_DOCUMENTS)):
        sub.add_argument("--seed", type=int, default=DEFAULT_SEED, help="seed of the corpus")
        sub.add_argument("--documents", type=int, default=count, help="number of documents of the corpus")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.command == "corpus":
        write_corpus(options.seed, options.documents, options.out)
    elif options.command == "samples":
        write_samples(options.out)
    else:
        write_tokenizer(options.seed, options.documents, options.out)


if __name__ == "__main__":
    main()
