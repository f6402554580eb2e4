"""Names of the files of a run directory that more than one module spells, and of the keys in them."""

from __future__ import annotations

CHECKPOINT_MANIFEST = "checkpoint.json"
DATA_SEAL = "seal.json"  # in a folder of the data cache: the hashes of its files
METRICS = "metrics.jsonl"  # of a run; a checkpoint has a copy, as it was then
SET_ASIDE = "set_aside"  # in a phase's folder: weights that no start goes on from
OUTPUTS = "outputs"  # below the current folder: every run that is not given a folder of its own
MULTIRUN = "multirun"  # below the current folder: every sweep that is given a name
LATEST = "latest"  # below outputs/: a link to the run that was started last
WEIGHT_FILES = {".safetensors", ".bin", ".pt", ".pth"}  # endings
# Keys of a line of metrics.jsonl in which even equal runs differ.
TIMES = ("time", "seconds", "tokens_per_second", "mfu", "gpu_utilization", "gpu_memory_gb")
MERGED_BASE = "base"  # in a phase's folder: under start: merge the base that the adapter before it became a part of
PILOT = "pilot_evaluation.json"  # of a run that was a pilot
SERVED_BASE = "vllm-base"  # of a run: its base as vLLM reads it, with the run's tokenizer and template
MODEL_CARD = "README.md"  # of final weights
FINAL = "final"  # of a run and of a phase: the adapter or model that it ended with
TRAINER_STATE = "trainer_state.json"  # of a checkpoint; the name is that of transformers
ANSWERED = "answered"  # in a trainer's log, of a step after which the prompts were answered
OF_GOLDEN = "golden_"  # begins in a line of metrics.jsonl what was measured of the answers to golden prompts
EXACT_MATCH = "golden_exact_match"  # the share of them that is right
BOUNDS = ("_low", "_high")  # end the names of the ends of such a measure's interval
