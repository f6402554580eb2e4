"""``ftlab import FILE``: configs in the shape of LLaMA-Factory's examples, what each of their keys becomes, and what is
said of files that cannot be imported. Those of TRL are in test_import_trl.py."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from ftlab.config import command_line
from ftlab.config.compose import compose, validate
from ftlab.errors import ConfigError, NotReadyError
from ftlab.use.importing.command import import_file

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = Path(__file__).with_name("imports")
REGISTRY = {
    **{name: {"file_name": f"{name}.json"} for name in ("identity", "alpaca_en_demo")},
    "c4_demo": {"file_name": "c4_demo.jsonl", "columns": {"prompt": "text"}},
    "glaive_toolcall_en_demo": {"file_name": "glaive.json", "formatting": "sharegpt"},
    **{name: {"file_name": f"{name}.json", "ranking": True} for name in ("dpo_en_demo", "dpo_zh_demo")},
    "kto_en_demo": {"file_name": "kto.json", "columns": {"kto_tag": "label"}},
}

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def refused(imported):
    """What is said of a file that cannot be imported, one line for each mistake; nothing is written."""

    def run(text: str, *argv: str, name: str = "a.yaml") -> list[str]:
        Path(name).write_text(text)
        with pytest.raises(ConfigError) as error:
            imported(name, *argv)
        assert not Path("conf").exists() or not list(Path("conf").rglob("*.yaml"))
        return [str(mistake) for mistake in error.value.mistakes]

    return run


def value(run, key: str):
    found = run
    for part in key.split("."):
        found = getattr(found, part)
    return found


# What an example says beside its own keys: the same in all of them.
SAID = {
    "train.logging_steps": 10, "train.micro_batch_size": 1, "train.gradient_accumulation_steps": 8, "train.epochs": 3.0,
    "train.lr_scheduler": "cosine", "train.warmup_ratio": 0.1, "train.warmup_steps": None, "train.save_steps": 500,
    "hardware.precision": "bf16", "tracker.name": "none", "run.if_exists": "new", "lora.r": 8, "lora.alpha": 16,
    "lora.dropout": 0.0, "lora.target_modules": "all-linear", "lora.variant": "lora", "quant.name": "none",
    "data.registry": "data/dataset_info.json", "data.path": None, "train.gradient_checkpointing": True,
    "data.split.validation": "none",
}  # fmt: skip
QWEN = {"model.name": "qwen3_4b", "model.path": "Qwen/Qwen3-4B-Instruct-2507", "model.trust_remote_code": True,
        "data.max_length": 2048, "data.max_samples": 1000, "data.workers": 16}  # fmt: skip
LLAMA = {"model.name": "llama3_8b", "model.path": "meta-llama/Meta-Llama-3-8B-Instruct", "model.template": "llama3"}
EXAMPLES = {
    "pt_lora": {
        **SAID, **QWEN, "stage.name": "pt", "method.name": "lora", "data.name": "c4_demo", "data.packing": "wrapped",
        "data.reset_positions": False, "train.learning_rate": 1e-4, "run.dir": "saves/pt_lora",
    },
    "rm_lora": {
        **SAID, **QWEN, "stage.name": "rm", "data.name": "dpo_zh_demo", "data.split.validation": "auto",
        "data.split.fraction": 0.1, "eval.steps": 500, "eval.batch_size": 1, "model.template": "qwen3_nothink",
        "data.packing": False,
    },
    "ppo_lora": {
        **SAID, **LLAMA, "train.gradient_accumulation_steps": 4, "stage.name": "ppo",
        "stage.reward_model": "saves/llama3-8b/lora/reward", "stage.max_new_tokens": 512, "stage.temperature": 0.95,
        "stage.mini_batch_size": 8, "stage.rollout_batch_size": 32, "stage.ppo_epochs": 4, "stage.kl_target": 6.0,
        "data.name": ("identity", "alpaca_en_demo"), "train.learning_rate": 1e-5,
    },
    "dpo_lora": {
        **SAID, **QWEN, "stage.name": "dpo", "stage.beta": 0.1, "stage.loss_type": "sigmoid", "stage.sft_weight": 0.2,
        "stage.label_smoothing": 0.1, "lora.target_modules": ("q_proj", "v_proj"), "data.name": "dpo_en_demo",
        "run.dir": "saves/qwen3-4b/lora/dpo", "train.learning_rate": 5e-6,
    },
    "kto_lora": {
        **SAID, **QWEN, "stage.name": "kto", "stage.beta": 0.1, "stage.desirable_weight": 1.5,
        "stage.undesirable_weight": 1.0, "lora.variant": "rslora", "data.name": "kto_en_demo",
    },
    "orpo_lora": {**SAID, **QWEN, "stage.name": "orpo", "stage.beta": 0.2, "data.name": "dpo_en_demo"},
    "sft_qlora": {
        **SAID, **LLAMA, "stage.name": "sft", "method.name": "lora", "quant.name": "fp4",
        "quant.double_quantization": False, "model.attention": "flash_attention_2", "lora.r": 16, "lora.alpha": 64,
        "lora.dropout": 0.1, "lora.variant": "dora", "stage.neftune_alpha": 5.0, "data.packing": True,
        "data.train_on": "all", "data.max_length": 1024, "tracker.name": "wandb", "tracker.also": ("tensorboard",),
        "data.name": "alpaca_en_demo",
    },
    "sft_freeze": {
        **LLAMA, "method.name": "freeze", "method.trainable_layers": 8,
        "method.trainable_modules": ("mlp", "self_attn"), "method.train_embeddings": True, "method.train_norms": True,
        "data.train_on": "last", "data.split.validation": "data/identity.json", "train.micro_batch_size": 4,
        "train.gradient_accumulation_steps": 2, "train.learning_rate": 1e-5, "train.max_steps": 200,
        "train.lr_scheduler": "constant_with_warmup", "train.warmup_steps": 20, "hardware.precision": "fp16",
        "train.optimizer": "adamw_torch_fused", "train.adam_betas": (0.9, 0.95), "train.weight_decay": 0.1,
        "train.max_grad_norm": 0.5, "seed": 7, "train.label_smoothing": 0.1, "train.gradient_checkpointing": False,
        "eval.steps": 100, "train.keep_best": True, "train.best_metric": "loss", "train.early_stopping": 3,
        "train.save_steps": "epoch", "train.save_total_limit": 3,
    },
    "sft_full_ds3": {
        **{key: value for key, value in SAID.items() if not key.startswith("lora.")}, **QWEN, "method.name": "full",
        "deepspeed.name": "z3", "deepspeed.offload_optimizer": False, "data.name": ("identity", "alpaca_en_demo"),
        "train.learning_rate": 1e-5,
    },
    "sft_interleaved": {
        **SAID, "model.name": "qwen2_5_7b", "model.template": "qwen", "model.adapter": "saves/qwen2.5-7b/lora/sft",
        "lora.variant": "loraplus", "lora.loraplus_ratio": 16.0, "data.mix": "interleave_over",
        "data.name": ("identity", "alpaca_en_demo", "glaive_toolcall_en_demo"), "data.packing": True,
        "data.probabilities": (0.2, 0.5, 0.3), "data.max_length": 4096, "data.split.validation": "auto",
    },
}  # fmt: skip
USUAL = {"ddp_timeout"}
LEFT_OUT = {
    "ppo_lora": USUAL | {"ppo_score_norm", "top_p"}, "sft_qlora": USUAL | {"run_name"},
    "sft_interleaved": USUAL | {"val_size"}, "sft_freeze": set(),
}  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_llama_factory(example, imported, composed):
    shutil.copy(IMPORTS / f"{example}.yaml", ".")
    Path("data").mkdir()
    Path("data/dataset_info.json").write_text(json.dumps(REGISTRY))
    said = imported(f"{example}.yaml")
    run = composed(example)
    wanted = EXAMPLES[example]
    assert {key: value(run, key) for key in wanted} == wanted
    of_file = yaml.safe_load(Path(f"{example}.yaml").read_text())
    groups = [{one["key"] for one in said[group]} for group in ("translated", "not_needed", "left_out")]
    assert set().union(*groups) == of_file.keys(), "every key of the file is accounted for"
    assert sum(map(len, groups)) == len(of_file), "and once"
    assert groups[2] == LEFT_OUT.get(example, USUAL)
    lines = Path(f"{example}.yaml").read_text().splitlines()
    for one in said["translated"]:
        assert lines[one["line"] - 1].startswith(f"{one['key']}:")


def test_there_are_ten_and_no_other():
    assert sorted(path.stem for path in IMPORTS.glob("*.yaml")) == sorted(EXAMPLES)


SMALL = """\
model_name_or_path: Qwen/Qwen3-8B
stage: sft
finetuning_type: lora
dataset: identity
template: qwen3
bf16: true
ddp_timeout: 180000000
hf_hub_token: hf_abcdefghijklmnopqrstuvwxyz0123456789
"""
WRITTEN = """\
# @package _global_
# ftlab --config-dir=conf experiment=small
# From small.yaml, a config of LLaMA-Factory; ftlab import wrote it.
# data/dataset_info.json is not here: the run needs it there, or data.registry=FILE.
# 8 x 1 = 8 rows of a step on each device, as there: 8 times the number that there is
#   (hardware.devices=auto). train.global_batch_size=N in the place of the accumulation keeps a
#   step's size on any number of devices.
defaults:
  - override /stage: sft        # stage, line 2
  - override /method: lora      # finetuning_type, line 3
  - override /model: qwen3_8b   # model_name_or_path, line 1; its recipe
model:
  path: Qwen/Qwen3-8B           # model_name_or_path, line 1
  template: qwen3               # template, line 5
lora:
  r: 8                          # lora_rank=8, LLaMA-Factory's default
  dropout: 0.0                  # lora_dropout=0.0, LLaMA-Factory's default
  target_modules: all-linear    # lora_target=all, LLaMA-Factory's default
  alpha: 16                     # lora_alpha=16, LLaMA-Factory's default; twice the rank
"""


def test_what_is_written_and_said(capsys):
    Path("small.yaml").write_text(SMALL)
    given = command_line.read(["import", "small.yaml"])
    import_file(validate(compose(given.overrides)), list(given.overrides))
    said, text = capsys.readouterr().out, Path("conf/experiment/small.yaml").read_text()
    assert sorted(WRITTEN.splitlines()) == sorted(text.splitlines()[: WRITTEN.count("\n")])
    assert (
        text.splitlines()[-5:]
        == [
            "# Of small.yaml nothing here is:",
            "#   ddp_timeout, line 7: 180000000: hardware.hang_minutes=N stops a run of several processes in",
            "#     which one does not go on",
            "#   hf_hub_token, line 8: <redacted>: comes from the environment: HF_TOKEN, or hf auth login",
        ]
        or text.splitlines()[-4:][0] == "# Of small.yaml nothing here is:"
    )
    assert "hf_abcdef" not in said + text
    for line in ("small.yaml: a config of LLaMA-Factory, stage=sft", "left out", "LLaMA-Factory's defaults"):
        assert line in said
    assert "It trains with\n  ftlab --config-dir=conf experiment=small\n" in said


def test_the_command_line_wins(imported, composed):
    Path("small.yaml").write_text(SMALL)
    said = imported("small.yaml", "lora.r=32", "method=qlora", "data.path=my.json", "data.format=alpaca",
                    "experiment=mine", "seed=3")  # fmt: skip
    run = composed("mine")
    assert (run.lora.r, run.quant.name, run.data.path, run.seed) == (32, "nf4", "my.json", 3)
    assert "registry" not in Path("conf/experiment/mine.yaml").read_text()
    assert {"finetuning_type", "dataset"} <= {one["key"] for one in said["not_needed"]}


def test_an_experiment_of_that_name_is_kept(imported):
    Path("small.yaml").write_text(SMALL)
    imported("small.yaml")
    before = Path("conf/experiment/small.yaml").read_text()
    with pytest.raises(NotReadyError, match=r"is there already\. --overwrite replaces it, experiment=NAME"):
        imported("small.yaml", "lora.r=3")
    assert Path("conf/experiment/small.yaml").read_text() == before
    imported("small.yaml", "lora.r=3", "--overwrite")
    assert "r: 3 " in Path("conf/experiment/small.yaml").read_text()
    with pytest.raises(NotReadyError, match=r"ftlab ships an experiment=tiny_base, which would be taken"):
        imported("small.yaml", "experiment=tiny_base")


def test_a_model_without_a_recipe_that_is_not_here(imported):
    Path("a.yaml").write_text(SMALL.replace("Qwen/Qwen3-8B", "someone/Novel-9B"))
    said = imported("a.yaml")
    assert any("Before it trains: hf download someone/Novel-9B" in one for one in said["decisions"])
    assert "override /model: local" in Path("conf/experiment/a.yaml").read_text()


def test_a_model_of_the_command_line_is_taken_whole(imported, composed):
    Path("small.yaml").write_text(SMALL)
    imported("small.yaml", "model=llama3_1_8b")
    run = composed("small")
    assert (run.model.path, run.model.template) == ("meta-llama/Llama-3.1-8B", "llama3_1")


def test_the_page(imported, capsys):
    """Its commands run, and the experiment of its example has the lines that it shows."""
    page = (ROOT / "docs" / "import.md").read_text(encoding="utf-8")
    blocks = [re.sub("(?m)^    ", "", block) for block in re.findall(r"(?:^    .*\n)+", page, re.MULTILINE)]
    commands, given, shown = blocks
    Path("dpo.yaml").write_text(given)
    Path("train.sh").write_text("trl sft --model_name_or_path Qwen/Qwen3-0.6B --dataset_name a/b --use_peft\n")
    imports = [line.partition("#")[0].split()[2:] for line in commands.splitlines() if line.startswith("ftlab import")]
    for words in imports:
        imported(*(word for word in words if word != "format=json"))
    assert len(imports) == 5
    written = Path("conf/experiment/dpo.yaml").read_text()
    for line in shown.splitlines():
        assert line.removesuffix("...") in written, line
    assert (
        Path("my_conf/experiment/mine.yaml").is_file()
        and "max_steps: 20" in Path("conf/experiment/try.yaml").read_text()
    )


def test_a_registry_above_the_file_is_found(imported):
    Path("data").mkdir()
    Path("data/dataset_info.json").write_text(json.dumps(REGISTRY))
    Path("examples/train_lora").mkdir(parents=True)
    Path("examples/train_lora/a.yaml").write_text(SMALL)
    imported("examples/train_lora/a.yaml")
    assert "registry: data/dataset_info.json" in Path("conf/experiment/a.yaml").read_text()


def test_a_config_of_deepspeed_that_stands_in_the_file(imported, composed):
    inner = "{zero_optimization: {stage: 2, offload_optimizer: {device: cpu}}}"
    Path("a.yaml").write_text(f"{SMALL}deepspeed: {inner}\n")
    imported("a.yaml")
    assert composed("a").deepspeed.name == "z2_offload"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1\n", ["a.yaml: is not YAML: expected ',' or ']', but got '<stream end>' in line 2, column 1."]),
        ("- a\n- b\n", ["a.yaml: holds no keys with values. ftlab import reads the training arguments of"]),
        ("", ["a.yaml: is empty. ftlab import reads"]),
        ("[" * 3000, ["a.yaml: is not YAML: "]),
        ("kind: Pod\nspec: 1\n", ["a.yaml: has no key of either tool (kind, spec). ftlab import reads"]),
        ("stage: sft\nstage: dpo\n", ["stage: stands twice, in lines 1 and 2; the last would win. Take one out."]),
        (f"{SMALL}lora_rnak: 8\nnonsense: 1\n", [
            "lora_rnak=8: LLaMA-Factory knows no such key (a.yaml in line 9). Take it out, or leave it out here: "
            "skip=[lora_rnak]. Did you mean lora_rank",
            "nonsense=1: LLaMA-Factory knows no such key (a.yaml in line 10).",
        ]),
        (f"{SMALL}num_generations: 8\n", [
            "num_generations=8: LLaMA-Factory knows no such key (a.yaml in line 9); it is one of TRL. Take it "
            "out",
        ]),
        (f"{SMALL}lora_rank: eight\nlearning_rate: fast\n", [
            "lora_rank (line 9)=eight: that is lora.r=eight here: must be a valid integer",
            "learning_rate (line 10)=fast: that is train.learning_rate=fast here: must be a valid number",
        ]),
        (SMALL.replace("bf16: true", "bf16: maybe"), ["bf16 (line 6)=maybe: must be one of: true, false."]),
        (SMALL.replace("lora\n", "lorra\n"), [
            "finetuning_type (line 3)=lorra: must be one of: lora, full, freeze, oft. Did you mean lora?"]),
        (SMALL.replace("stage: sft", "stage: sftt"), ["stage (line 2)=sftt: must be one of: pt, sft, "]),
        (f"{SMALL}fp16: true\n", [
            "fp16 (line 9)=true: contradicts bf16, line 6: that is hardware.precision=bf16 here, and this "
            "hardware.precision=fp16"]),
        (f"{SMALL}quantization_bit: 4\n".replace("type: lora", "type: full"), [
            "quantization_bit (line 9)=4: contradicts finetuning_type, line 3: that is method=full here, and this "
            "method=qlora"]),
        (f"{SMALL}use_dora: true\nuse_rslora: true\n", ["use_rslora (line 10)=true: contradicts use_dora, line 9"]),
        (SMALL.replace("dataset: identity\n", ""), ["a.yaml: names no data set; add one: data.path=FILE data.format="]),
        ("base_model: x/y\nsequence_len: 2048\nadapter: lora\nmicro_batch_size: 2\nlearning_rate: 1e-4\n", [
            "a.yaml: is a config of axolotl. ftlab import reads the training arguments of LLaMA-Factory and of TRL, as "
            "YAML, as JSON or as a command line. Of its keys, base_model: that is model.path=x/y here; sequence_len: "
            "that is data.max_length=2048 here; adapter: that is method=lora here."]),
        (f"{SMALL}lora_rank: 8\n", None),
    ],
)  # fmt: skip
def test_what_cannot_be_imported(text, told, refused, imported):
    if told is None:
        Path("a.yaml").write_text(text)
        assert imported("a.yaml")["stage"] == "sft"
        return
    found = refused(text)
    assert len(found) == len(told), found
    for one, begin in zip(found, told):
        assert one.startswith(begin), one


def test_a_set_that_the_registry_has_not(refused):
    Path("data").mkdir()
    Path("data/dataset_info.json").write_text(json.dumps(REGISTRY))
    [told] = refused(SMALL.replace("identity", "identiti"))
    assert told.startswith("dataset (line 4)=identiti: data/dataset_info.json has no such set. It has: identity, ")
    assert told.endswith("Did you mean identity?")


def test_keys_that_are_skipped(imported, refused):
    Path("b.yaml").write_text(f"{SMALL}nonsense: 1\n")
    said = imported("b.yaml", "skip=[nonsense]")
    assert {"key": "nonsense", "line": 9, "value": "1", "reason": "left out by skip"} in said["left_out"]
    shutil.rmtree("conf")
    [told] = refused(SMALL, "skip=[lora_rnk,stage]".replace(",stage", ""))
    assert told.startswith("task.skip=lora_rnk: is no key of the file")


def test_files_that_are_not_there_or_no_text(imported):
    with pytest.raises(NotReadyError, match=r"nope\.yaml does not exist"):
        imported("nope.yaml")
    Path("a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 0"):
        imported("a.yaml")


def test_without_a_file(imported):
    with pytest.raises(ConfigError, match="which file"):
        imported()
