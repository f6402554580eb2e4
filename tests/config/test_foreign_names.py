"""Keys as other tools write them: each gets the line that does it here."""

from __future__ import annotations

import functools

import pytest

from ftlab.config import command_line, foreign_names
from ftlab.config.compose import compose, group_choices, select_loader
from ftlab.config.keys import takes_list, unknown_key
from ftlab.errors import ConfigError

STAGES = ("sft", "dpo", "kto", "ppo", "grpo")  # which between them have every key that a line names


@functools.cache
def choices():
    return group_choices(select_loader(None, None)[0])


@functools.cache
def composed(stage):
    return compose([f"stage={stage}"], *select_loader(None, None))


@pytest.mark.parametrize("line", sorted(foreign_names.keys()))
def test_every_line_names_a_key_or_a_group_that_there_is(line):
    key, _, value = line.partition("=")
    groups = choices()
    if key in groups:
        assert value == "{}" or value in groups[key], line
        return
    of_stages = STAGES if key.startswith("stage.") else STAGES[:1]
    assert any(unknown_key(key, composed(stage), sorted(groups)) is None for stage in of_stages), line


@pytest.mark.parametrize(
    ("given", "here"),
    [
        ("cutoff_len=2048", "data.max_length=2048"),
        ("output_dir=out", "run.dir=out"),
        ("num_train_epochs=3", "train.epochs=3"),
        ("train.num_train_epochs=3", "train.epochs=3"),
        ("per_device_train_batch_size=4", "train.micro_batch_size=4"),
        ("bf16=true", "hardware.precision=bf16"),
        ("bf16=false", "hardware.precision=fp32"),
        ("model_name_or_path=meta/x", "model.path=meta/x"),
        ("finetuning_type=lora", "method=lora"),
        ("lora_rank=16", "lora.r=16"),
        ("lora_target=all", "lora.target_modules=all-linear"),
        ("lora_target=q_proj", "lora.target_modules=[q_proj]"),
        ("train.eval_steps=10", "eval.steps=10"),
        ("train.random_seed=10", "seed=10"),
        ("train.seed=10", "seed=10"),
        ("adapter=qlora", "method=qlora"),
        ("adapter=out/mine", "model.adapter=out/mine"),
        ("quantization_bit=8", "quant=int8"),
        ("flash_attn=fa2", "model.attention=flash_attention_2"),
        ("enable_liger_kernel=true", "model.kernels=liger"),
        ("use_liger_kernel=true", "model.kernels=liger"),
        ("liger_rms_norm=true", "model.kernels=liger"),
        ("report_to=wandb", "tracker=wandb"),
        ("fp8=true", "train.fp8=tensorwise"),
        ("mixed_precision=fp8", "train.fp8=tensorwise"),
        ("val_set_size=0.1", "data.split.fraction=0.1"),
        ("pref_loss=orpo", "stage=orpo"),
        ("template=glm4", "model.template=null"),
        ("report_to=[wandb,tensorboard]", "tracker=wandb tracker.also=[tensorboard]"),
        ("use_dora=true", "lora=dora"),
        ("loraplus_lr_ratio=16", "lora=loraplus lora.loraplus_ratio=16"),
    ],
)
def test_a_key_of_another_tool_gets_its_line(given, here, mistakes):
    [told] = mistakes(given)
    assert told.startswith(f"{given}: that is {here} here")


def test_a_key_that_has_no_counterpart_says_what_takes_its_place(mistakes):
    [told] = mistakes("resume_from_checkpoint=x")
    assert "ftlab resume RUN" in told and "run.checkpoint=STEP" in told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--learning_rate 1e-4", "--learning_rate 1e-4: a key is written train.learning_rate=1e-4."),
        ("--learning_rate=1e-4", "--learning_rate=1e-4: a key is written train.learning_rate=1e-4."),
        ("--learning-rate 1e-4", "--learning-rate 1e-4: a key is written train.learning_rate=1e-4."),
        ("--stage dpo", "--stage dpo: a key is written stage=dpo."),
        ("--lora_rank 8", "--lora_rank 8: that is lora.r=8 here."),
        ("--bf16", "--bf16: that is hardware.precision=bf16 here."),
        ("--train.epochs 2", "--train.epochs 2: a key is written train.epochs=2."),
    ],
)
def test_keys_with_dashes(line, told):
    with pytest.raises(ConfigError) as error:
        command_line.read(line.split())
    assert f"{told} Keys take no dashes: key=value." in str(error.value)


def test_all_keys_with_dashes_are_told_at_once():
    with pytest.raises(ConfigError) as error:
        command_line.read(["--stage", "sft", "--cutoff_len", "512", "--output_dir", "out", "--do_train"])
    for here in ("stage=sft", "data.max_length=512", "run.dir=out", "leave it out"):
        assert here in str(error.value)


def test_values_of_a_list_are_told_as_one(mistakes):
    [told] = mistakes("lora.target_modules=q_proj,v_proj")
    assert told.endswith("one list is 'lora.target_modules=[q_proj,v_proj]'")
    [told] = mistakes("lora.r=8,16")
    assert "one list" not in told


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("stage=SFT", "sft"),
        ("model=Llama3_8B", "llama3_8b"),
        ("lora.target_modules=all", "all-linear"),
        ("train.lr_scheduler=Cosine", "cosine"),
        ("data.packing=WRAPPED", "wrapped"),
    ],
)
def test_another_case_and_a_beginning_are_understood(given, meant, mistakes):
    [told] = mistakes(given)
    assert told.endswith(f"Did you mean {meant}?")


def test_which_keys_take_a_list():
    assert [key for key in ("lora.target_modules", "train.adam_betas", "lora.r", "seed") if takes_list(key)] == [
        "lora.target_modules",
        "train.adam_betas",
    ]
