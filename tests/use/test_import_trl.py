"""``ftlab import FILE`` of TRL's arguments: YAML, JSON and command lines."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ftlab.config import foreign_names
from ftlab.config.foreign_names.defaults import defaults
from ftlab.errors import ConfigError
from tests.use.test_import import value

pytestmark = pytest.mark.usefixtures("here")
SFT = """\
model_name_or_path: Qwen/Qwen3-0.6B
dataset_name: trl-lib/Capybara
learning_rate: 2.0e-4
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
packing: true
eval_strategy: "no"
use_peft: true
lora_r: 32
lora_alpha: 16
lora_target_modules: [q_proj, v_proj]
load_in_4bit: true
output_dir: Qwen3-SFT
report_to: [wandb]
"""
DPO = """\
#!/bin/bash
MODEL=Qwen/Qwen3-4B-Base
export LR=5e-7
# one node of eight
accelerate launch --config_file examples/accelerate_configs/deepspeed_zero3.yaml --num_processes 8 \\
    trl/scripts/dpo.py \\
    --model_name_or_path $MODEL \\
    --dataset_name trl-lib/ultrafeedback_binarized \\
    --learning_rate ${LR} --loss_type ipo --beta 0.05 \\
    --per_device_train_batch_size 2 --gradient_accumulation_steps 4 \\
    --bf16 --max_length 2048 --no_remove_unused_columns
"""


def test_a_config_of_sft(imported, composed):
    Path("a.yaml").write_text(SFT)
    said = imported("a.yaml")
    assert (said["tool"], said["stage"]) == ("TRL", "sft")
    wanted = {
        "model.name": "qwen3_0_6b", "method.name": "lora", "quant.name": "nf4", "quant.double_quantization": False,
        "lora.r": 32, "lora.alpha": 16, "lora.dropout": 0.05, "lora.target_modules": ("q_proj", "v_proj"),
        "data.path": "hf://trl-lib/Capybara", "data.format": "messages", "data.train_on": "all", "data.packing": True,
        "data.max_length": 1024, "data.split.validation": "none", "train.lr_scheduler": "linear",
        "train.warmup_steps": 0, "train.epochs": 3.0, "train.gradient_checkpointing": True, "tracker.name": "wandb",
        "run.dir": "Qwen3-SFT", "train.learning_rate": 2e-4,
    }  # fmt: skip
    assert {key: value(composed("a"), key) for key in wanted} == wanted
    assert any(one.startswith("data.format=messages: TRL finds the format by the columns") for one in said["decisions"])


def test_the_same_as_json(imported, composed):
    import yaml

    Path("a.yaml").write_text(SFT)
    Path("b.json").write_text(json.dumps(yaml.safe_load(SFT)))
    imported("a.yaml")
    imported("b.json")
    assert composed("a") == composed("b")


def test_a_command_line(imported, composed):
    Path("train.sh").write_text(DPO)
    said = imported("train.sh")
    wanted = {
        "stage.name": "dpo", "stage.loss_type": "ipo", "stage.beta": 0.05, "deepspeed.name": "z3",
        "hardware.devices": 8, "hardware.precision": "bf16", "method.name": "full", "model.name": "qwen3_4b",
        "model.path": "Qwen/Qwen3-4B-Base", "train.learning_rate": 5e-7, "data.format": "preference",
        "data.max_length": 2048, "train.micro_batch_size": 2, "train.gradient_accumulation_steps": 4,
    }  # fmt: skip
    assert {key: value(composed("train"), key) for key in wanted} == wanted
    assert any("2 x 4 = 8 pairs of a step on each device, as there: 64 on 8." in one for one in said["decisions"])


def test_a_command_with_a_config_of_which_it_changes_a_key(imported, composed):
    Path("runs").mkdir()
    Path("runs/sft.yaml").write_text(SFT)
    Path("runs/go.txt").write_text("trl sft --config sft.yaml --learning_rate 1e-5 --num_processes 2\n")
    imported("runs/go.txt")
    run = composed("go")
    assert (run.train.learning_rate, run.hardware.devices, run.lora.r) == (1e-5, 2, 32)


def test_a_command_of_llama_factory(imported, composed):
    Path("go.sh").write_text(
        "FORCE_TORCHRUN=1 llamafactory-cli train --stage dpo --pref_loss simpo --model_name_or_path Qwen/Qwen3-8B "
        "--dataset a,b --template qwen3 --finetuning_type lora --lora_target q_proj,v_proj --bf16 True\n"
    )
    said = imported("go.sh")
    run = composed("go")
    assert said["tool"] == "LLaMA-Factory"
    assert (run.stage.loss_type, run.data.name, run.lora.target_modules) == ("simpo", ("a", "b"), ("q_proj", "v_proj"))


def test_a_file_of_this_machine_is_looked_at(imported, composed):
    rows = [{"prompt": f"Say {n}.", "chosen": str(n), "rejected": "no"} for n in range(4)]
    Path("pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    Path("a.yaml").write_text("model_name_or_path: Qwen/Qwen3-0.6B\ndataset_name: pairs.jsonl\nbeta: 0.2\n")
    imported("a.yaml", "stage=dpo")
    run = composed("a")
    assert (run.data.path, run.data.format, run.stage.beta) == ("pairs.jsonl", "preference", 0.2)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.yaml", "model_name_or_path: a/b\ndataset_name: c/d\n",
         "a.yaml: says not which of TRL's trainers it is for; add stage=sft, dpo, kto, rm, orpo or grpo"),
        ("a.sh", "trl rloo --model_name_or_path a/b --dataset_name c/d\n", "rloo: is no stage here: pt, sft, "),
        ("a.sh", "trl sft --model_name_or_path $M --dataset_name c/d\n", "$M: a.sh gives $M no value"),
        ("a.sh", "echo hello\n", "a.sh: starts no training"),
        ("a.sh", "trl sft --dataset_name a/b\ntrl dpo --dataset_name a/b\n", "a.sh: starts 2 trainings; leave one"),
        ("a.sh", "trl sft --model_name_or_path 'a\n", "a.sh: is no command line: No closing quotation"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported(name, text, told, imported):
    Path(name).write_text(text)
    with pytest.raises(ConfigError) as error:
        imported(name)
    assert [str(mistake)[: len(told)] for mistake in error.value.mistakes] == [told]


def configs():
    import trl

    return {"sft": trl.SFTConfig, "dpo": trl.DPOConfig, "kto": trl.KTOConfig, "rm": trl.RewardConfig,
            "grpo": trl.GRPOConfig}  # fmt: skip


def test_every_argument_of_the_installed_trl_is_known():
    import trl

    known = foreign_names.TOOLS["TRL"]
    for config in (*configs().values(), trl.ModelConfig, trl.ScriptArguments):
        names = [field.name for field in dataclasses.fields(config)]
        assert [name for name in names if name not in known] == [], config.__name__


def test_defaults_are_those_of_the_installed_trl():
    import trl

    for stage, config in configs().items():
        fields = {field.name: field.default for cls in (trl.ModelConfig, config) for field in dataclasses.fields(cls)}
        wanted = defaults("TRL", stage, trains_adapter=True)
        assert {name: fields[name] for name in wanted} == wanted, stage
