"""What a user is told about a wrong command line, and which value wins in a right one."""

from __future__ import annotations

import shlex

import pytest

from ftlab.config import check, command_line
from ftlab.errors import ConfigError

FOLDER_NAME = (
    "names a folder of outputs/: letters, digits, _ . and -, and not dots alone. For a folder anywhere give run.dir"
)


def test_a_good_command_line_has_no_mistakes(mistakes):
    assert mistakes("stage=dpo model=llama3_8b method=qlora lora=r64 train.epochs=1 run.name=x") == []


def test_typos_in_keys(mistakes):
    assert mistakes("lora.rr=3 lora.alhpa=3 sede=3 data.split.goldn=none lora.r.x=3") == [
        "lora.rr=3: no such key. lora has: r, alpha, dropout, target_modules, experts, variant, loraplus_ratio. Did "
        "you mean lora.r?",
        "lora.alhpa=3: no such key. lora has: r, alpha, dropout, target_modules, experts, variant, loraplus_ratio. Did "
        "you mean lora.alpha?",
        "sede=3: no such key. Groups and keys: data, deepspeed, eval, hardware, hydra, lora, method, model, phases, "
        "pilot, quant, run, seed, stage, sweep, task, tracker, train. Did you mean seed or sweep?",
        "data.split.goldn=none: no such key. data.split has: validation, test, golden, fraction, test_fraction. Did "
        "you mean data.split.golden?",
        "lora.r.x=3: lora.r is a value and has no keys.",
    ]


def test_a_key_of_another_group_is_suggested(mistakes):
    given = ["learning_rate=3", "learning_rat=3", "model.learning_rat=3", "lora.learning_rate=3"]
    found = mistakes(" ".join(given))
    assert [text.partition(": ")[0] for text in found] == given
    assert [text for text in found if not text.endswith(" Did you mean train.learning_rate?")] == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lora.r=abc lora.dropout=1 train.lr_scheduler=cosin run.if_exists=newer data.path=x.json data.format=alpca "
         "train.adam_betas=[0.9,1.5] data.max_length=4 run.name=a/b train=3 seed=-1",
         ["seed=-1: must be greater than or equal to 0",
          f"run.name=a/b: {FOLDER_NAME}",
          "run.if_exists=newer: must be one of: resume, new, refuse. Did you mean new?",
          "lora.r=abc: must be a valid integer",
          "lora.dropout=1: must be less than 1",
          "data.format=alpca: must be one of: alpaca, sharegpt, messages, instruction, prompt_completion, preference, "
          "kto, prompts, text. Did you mean alpaca?",
          "data.max_length=4: must be greater than or equal to 8",
          "train=3: has keys of its own: train.KEY=VALUE",
          "train.lr_scheduler=cosin: must be one of: linear, cosine, cosine_with_restarts, polynomial, constant, "
          "constant_with_warmup, inverse_sqrt. Did you mean cosine?",
          "train.adam_betas.1=1.5: must be less than 1"]),
        ("hardware.compute_capability=89 hardware.fits_by=null",
         ["hardware.compute_capability=89: must be less than or equal to 20",
          "hardware.fits_by: must be a list: hardware.fits_by=[]"]),
        ("lora.r=-1 run.name=.. train.gradient_checkpointing=perhaps ~train.epochs train.learning_rate='${train.nope}'",
         ["train.learning_rate: Interpolation key 'train.nope' not found",
          f"run.name=..: {FOLDER_NAME}",
          "lora.r=-1: must be greater than 0",
          "train.epochs: is missing; it has no default",
          "train.gradient_checkpointing=perhaps: must be one of: true, false, selective."]),
    ],
)  # fmt: skip
def test_wrong_values(line, said, mistakes):
    found = mistakes(line)
    assert [text.removesuffix(", unable to interpret input") for text in found] == said


CHOICES = {
    "stage=dop": (": no such choice. Choices: dpo, grpo, ", " Did you mean dpo?"),
    "model=llama3_8bb": (": no such choice. Choices: ", " Did you mean llama3_8b or llama3_1_8b?"),
    "lora=r63": (": no such choice. Choices: default, dora, ", " Did you mean r64 or r32?"),
    "hardware=8xh20": (": no such choice. ", " Did you mean 8xh200 or 8xh100?"),
    "experiment=tiny_bas": (": no such choice. ", " Did you mean tiny_base?"),
}


def test_wrong_choices(mistakes):
    found = mistakes(" ".join(CHOICES))
    assert [text.partition(": ")[0] for text in found] == list(CHOICES)
    wrong = [
        text
        for text, (choice, (start, end)) in zip(found, CHOICES.items())
        if not (text.startswith(choice + start) and text.endswith(end))
    ]
    assert wrong == []


def test_the_parts_that_choices_share_are_no_choices(mistakes):
    (found,) = mistakes("model=_7b")
    assert found.startswith("model=_7b: no such choice. ")
    assert " _7b," not in found and " _base," not in found


def test_all_mistakes_are_listed_at_once_each_with_its_suggestion():
    with pytest.raises(ConfigError) as caught:
        check.check(command_line.read(["model=llama3_8", "lora.rr=3", "train.lr_scheduler=cosin"]))
    head, *listed, foot = str(caught.value).splitlines()
    assert head == "3 mistakes in the config:"
    assert [line.split(":")[0] for line in listed] == [
        "  - model=llama3_8",
        "  - lora.rr=3",
        "  - train.lr_scheduler=cosin",
    ]
    assert [line.rpartition("Did you mean ")[2].split(" or ")[0].rstrip("?") for line in listed] == [
        "llama3_8b", "lora.r", "cosine",
    ]  # fmt: skip
    assert foot == "See ftlab --help for choices, ftlab explain KEY for where a value comes from."


def test_one_mistake_is_not_called_several():
    with pytest.raises(ConfigError, match=r"^A mistake in the config:\n  - lora\.r=0: must be greater than 0\n"):
        check.check(command_line.read(["lora.r=0"]))


def test_what_plus_lets_into_hydra_the_schema_still_refuses(mistakes):
    (found,) = mistakes("+train.learing_rate=1")
    assert found.startswith("+train.learing_rate=1: no such key. train has: learning_rate, ")
    assert found.endswith(" Did you mean train.learning_rate?")
    (found,) = mistakes("++stage.bta=1 stage=dpo")
    assert found.endswith(" Did you mean stage.beta?")


def test_a_sweep_needs_its_flag(mistakes):
    given = ["lora.r=8,16", "model=tiny,llama3_8b", "lora.alpha=choice(8,16)", "seed=range(1,4)"]
    assert mistakes(shlex.join(given)) == [
        f"{line}: several values are a sweep: add -m, or quote the value" for line in given
    ]
    assert mistakes(shlex.join(["-m", *given])) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-m lora.r=8,x", ["lora.r=x: must be a valid integer"]),
        ("-m train.learning_rate=1e-4,x train.epochs=1,y",
         ["train.learning_rate=x: must be a valid number", "train.epochs=y: must be a valid number"]),
        ("-m 'lora.r=choice(8,0)' seed=1,2,3", ["lora.r=0: must be greater than 0"]),
        ("-m quant=nf4,none method=full,lora",
         ["quant=nf4: quantized weights cannot be trained whole; method=full needs quant=none, or use method=qlora"]),
        ("-m method=lora,freeze method.trainable_layers=9",
         ["method.trainable_layers=9: model=tiny has 4 decoder layers"]),
    ],
)  # fmt: skip
def test_every_value_of_a_sweep_is_checked(line, said, mistakes):
    assert [text.removesuffix(", unable to parse string as a number") for text in mistakes(line)] == said


def test_a_wrong_choice_inside_a_sweep(mistakes):
    (found,) = mistakes("-m lora=r8,r63,r16")
    assert found.startswith("lora=r63: no such choice. ") and found.endswith(" Did you mean r64 or r32?")


@pytest.mark.parametrize("flag", ["", "-m "])
def test_batch_and_accumulation_are_not_both_given(flag, mistakes):
    (found,) = mistakes(f"{flag}train.global_batch_size=8 train.gradient_accumulation_steps=2")
    assert found.startswith("train.global_batch_size: give it or train.gradient_accumulation_steps; the other follows")
    assert mistakes(f"{flag}train.global_batch_size=8") == []
    assert mistakes(f"{flag}train.global_batch_size=null train.gradient_accumulation_steps=2") == []


def test_a_key_is_judged_against_the_stage_that_was_chosen(mistakes):
    assert mistakes("stage=dpo stage.beta=0.2") == []
    assert mistakes("stage.beta=0.2") == ["stage.beta=0.2: no such key. stage has: name, neftune_alpha."]
    (found,) = mistakes("stage=dpo stage.neftune_alpha=5")
    assert found.startswith("stage.neftune_alpha=5: no such key. stage has: name, beta, loss_type, ")


NO_LAYERS = (
    "method=freeze needs a number other than 0: n trains the last n decoder layers, -n the first n. Or name "
    "method.trainable_modules, or set method.train_embeddings or method.train_norms"
)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("method=full quant=nf4 lora.variant=loraplus data.max_length=2049 data.path=x.json "
         "model.architecture.position_embeddings=2048 "
         "train.global_batch_size=30 train.micro_batch_size=4 deepspeed=z2 hardware.fsdp=true",
         ["quant=nf4: quantized weights cannot be trained whole; method=full needs quant=none, or use method=qlora",
          "train.global_batch_size=30: must be a multiple of train.micro_batch_size x devices = 4; with 30, "
          "train.micro_batch_size could be 3 or 5",
          "lora.loraplus_ratio: lora.variant=loraplus needs a ratio; lora=loraplus sets it to 16",
          "data.max_length=2049: model=tiny has learned 2048 positions and can compute no more; set data.max_length to "
          "that or less",
          "data.format: data.path=x.json needs data.format, one of: alpaca, sharegpt, messages, instruction, "
          "prompt_completion, preference, kto, prompts, text",
          "hardware.fsdp=True: FSDP and DeepSpeed both shard; choose one"]),
        ("method=freeze quant=int8 method.trainable_layers=null data.name=null train.global_batch_size=12 "
         "train.micro_batch_size=2 hardware=8xh100 deepspeed=z3",
         ["quant=int8: quantized weights cannot be trained whole; method=freeze needs quant=none, or use method=qlora",
          f"method.trainable_layers: {NO_LAYERS}",
          "train.global_batch_size=12: must be a multiple of train.micro_batch_size x devices = 16",
          "data.path: no data: choose data=NAME, or give data.path and data.format",
          "deepspeed=z3: ZeRO-3 cannot shard int8 weights; use z2 or quant=nf4"]),
        ("method=freeze method.trainable_layers=0 stage=ppo train.global_batch_size=32 stage.rollout_batch_size=64 "
         "stage.mini_batch_size=24",
         [f"method.trainable_layers=0: {NO_LAYERS}",
          "train.global_batch_size=32: an optimizer step of ppo takes stage.mini_batch_size answers, on however many "
          "devices; set that",
          "stage.mini_batch_size=24: does not divide stage.rollout_batch_size=64"]),
        ("method=freeze method.trainable_layers=-7 data.overlap=256 quant.compute_dtype=bf16",
         ["method.trainable_layers=-7: model=tiny has 4 decoder layers",
          "quant.compute_dtype=bf16: only quant=nf4 and fp4 have it, and this is quant=none",
          "data.overlap=256: must be less than data.max_length=256"]),
        ("hardware.fsdp=true",
         ["hardware.fsdp=True: FSDP shares a model out among several devices, and this is one; give "
          "hardware.devices=N, or use hardware.fsdp=false"]),
        ("hardware=8xh100 hardware.fsdp=true stage=ppo method=qlora quant=int8 hardware.precision=fp16 "
         "train.optimizer=adamw_8bit",
         ["hardware.fsdp=True: stage=ppo writes answers with weights that FSDP gathers for every token, and computes "
          "with the policy as it is and as it was; use hardware.fsdp=false, or deepspeed=z2 instead of it",
          "quant=int8: FSDP cannot shard int8 weights; use quant=nf4, or hardware.fsdp=false",
          "hardware.precision=fp16: under FSDP no gradients are scaled, as fp16 needs it; use bf16, or "
          "hardware.fsdp=false",
          "train.optimizer=adamw_8bit: it does not know sharded weights; under hardware.fsdp=true use one of: "
          "adamw_torch, adamw_torch_fused, sgd, adagrad, rmsprop"]),
        ("hardware=8xh100 deepspeed=z3_offload stage=grpo data=prompts",
         ["deepspeed=z3_offload: stage=grpo writes answers with weights that ZeRO-3 gathers for every token, and "
          "computes with the policy as it is and as it was; use deepspeed=z2 or z2_offload"]),
        ("lora=pissa method=qlora quant=int8 quant.double_quantization=true",
         ["quant.double_quantization=True: only quant=nf4 and fp4 have it, and this is quant=int8",
          "lora.variant=pissa: PiSSA takes the singular vectors of unquantized weights; use quant=none"]),
        ("lora=pissa method=qlora",
         ["lora.variant=pissa: PiSSA takes the singular vectors of unquantized weights; use quant=none"]),
        ("method=qlora model.init=random",
         ["quant=nf4: model.init=random has no weights that could be quantized; use quant=none"]),
        ("lora=dora method=qlora quant=int8",
         ["lora.variant=dora: DoRA cannot read the scales of int8 weights after their first use; use quant=nf4"]),
        ("deepspeed=z2 deepspeed.offload_parameters=true train.optimizer=adafactor",
         ["deepspeed.offload_parameters=True: only sharded parameters are kept in the host's memory; use "
          "deepspeed=z3_offload",
          "train.optimizer=adafactor: deepspeed=z2 gives an optimizer rows of numbers, and this one needs the shapes "
          "of weights; use adamw_torch, or deepspeed=none"]),
        ("deepspeed=z0 deepspeed.offload_optimizer=true",
         ["deepspeed.offload_optimizer=True: only a sharded optimizer is kept in the host's memory; use "
          "deepspeed=z2_offload or z3_offload"]),
        ("-m train.global_batch_size=8,9 train.micro_batch_size=2",
         ["train.global_batch_size=9: must be a multiple of train.micro_batch_size x devices = 2; with 9, "
          "train.micro_batch_size could be 1 or 3"]),
    ],
)  # fmt: skip
def test_rules_across_groups(line, said, mistakes):
    assert mistakes(line) == said


@pytest.mark.parametrize(
    "line",
    [
        "method=freeze method.trainable_layers=-4",
        "data.max_length=2048",
        "data.overlap=255",
        "data.path=x.json data.format=alpaca",
        "quant=nf4 deepspeed=z3",
        "quant=int8 deepspeed=z2",
        "deepspeed=z3_offload",
        "deepspeed=z0 train.optimizer=adafactor",
        "method=qlora quant=fp4 quant.compute_dtype=bf16 quant.double_quantization=false",
        "train.global_batch_size=32 train.micro_batch_size=4",
        "stage=grpo train.global_batch_size=32",
        "lora=loraplus",
        "phase=codebase phases.foundation.deepspeed=none data.max_length=2048 data.overlap=64",
    ],
)
def test_what_is_just_allowed(line, mistakes):
    """The other side of each bound."""
    assert mistakes(line) == []


def test_something_that_hydra_cannot_parse_is_said_beside_the_rest(mistakes):
    broken, other = mistakes("lora.r=[1 seed=-1")
    assert broken.startswith("lora.r=[1: not understood (")
    assert broken.endswith("""quote special characters: "lora.r='[1'\"""")
    assert other == "seed=-1: must be greater than or equal to 0"


# ------------------------------------------------------------------------------------------------ a user's own files


@pytest.fixture
def own(tmp_path):
    """A user's --config-dir: an experiment, one with two typos, and a data set."""
    for name, text in {
        "experiment/mine.yaml": "# @package _global_\ndefaults: [{override /lora: r64}]\ntrain: {learning_rate: 0.5}\n",
        "experiment/typo.yaml": "# @package _global_\ntrain:\n  lerning_rate: 0.5\nlora:\n  r: abc\n",
        "experiment/new_group.yaml": "# @package _global_\nfoo: 3\n",
        "data/mydata.yaml": "# Mine.\ndefaults:\n  - _base\n  - _self_\nname: mydata\nmax_length: 64\n",
    }.items():
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "own"


def test_an_experiment_and_a_data_set_of_the_users_own(own, make_run, mistakes):
    assert mistakes(f"--config-dir {own} experiment=mine data=mydata") == []
    run = make_run("experiment=mine", "data=mydata", config_dir=own)
    assert (run.lora.r, run.lora.alpha, run.train.learning_rate) == (64, 128, 0.5)
    assert (run.data.name, run.data.max_length, run.data.truncation) == ("mydata", 64, "right")


def test_a_relative_config_dir(own, monkeypatch, mistakes):
    monkeypatch.chdir(own.parent)
    assert mistakes("--config-dir own experiment=mine") == []
    assert mistakes("--config-dir=own experiment=mine") == []


def test_typos_in_a_users_own_file(own, mistakes):
    value, key = sorted(mistakes(f"--config-dir {own} experiment=typo"))
    assert value == "lora.r=abc: must be a valid integer"
    assert key.startswith("train.lerning_rate=0.5: no such key. Known: learning_rate, ")
    assert key.endswith(" Did you mean learning_rate?")
    (unknown,) = mistakes(f"--config-dir {own} experiment=new_group")
    assert unknown.startswith("foo=3: no such key. Known: task, seed, run, ")


def test_a_users_own_files_are_among_the_suggestions(own, mistakes):
    (found,) = mistakes(f"--config-dir {own} experiment=min")
    known = "mine, new_group, pilot, tiny_base, tiny_instruct, typo"
    assert found == f"experiment=min: no such choice. Choices: {known}. Did you mean mine?"


def test_a_config_dir_that_is_not_there(tmp_path, mistakes):
    assert mistakes(f"--config-dir {tmp_path}/nowhere") == [f"--config-dir={tmp_path}/nowhere: is no folder"]


# ------------------------------------------------------------------------------------------------------- precedence


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (16, 32)),
        (["model=llama2_13b"], (32, 64)),
        (["model=llama2_70b"], (64, 128)),
        (["model=llama2_13b", "lora=r8"], (8, 16)),
        (["lora=r8", "model=llama2_13b"], (8, 16)),
        (["model=llama2_13b", "lora.r=24"], (24, 64)),
        (["model=llama2_13b", "lora=r8", "lora.r=24"], (24, 16)),
        (["model=llama2_13b", "lora=dora"], (32, 64)),
        (["model=llama2_13b", "model.recommended.lora.r=40"], (40, 64)),
    ],
)
def test_a_recommendation_yields_to_a_choice_and_to_the_command_line(overrides, expected, make_run):
    run = make_run(*overrides)
    assert (run.lora.r, run.lora.alpha) == expected


def test_precedence_of_the_learning_rate(own, make_run):
    """Stage, then the model's own rate, then the experiment, then the command line."""
    assert make_run("stage=dpo", "model=llama3_8b").train.learning_rate == 5e-7
    rates = make_run("model=tiny").model.recommended.learning_rate
    assert rates["dpo"] != rates["sft"]
    assert make_run("stage=dpo", "model=tiny").train.learning_rate == rates["dpo"]
    assert make_run("stage=sft", "model=tiny").train.learning_rate == rates["sft"]
    mine = ["stage=dpo", "model=tiny", "experiment=mine"]
    assert make_run(*mine, config_dir=own).train.learning_rate == 0.5
    assert make_run(*mine, "train.learning_rate=0.25", config_dir=own).train.learning_rate == 0.25


def test_the_stage_chooses_its_data_and_the_command_line_another(make_run):
    assert make_run("stage=kto").data.name == "labels"
    assert make_run("stage=kto", "data=preferences").data.name == "preferences"
    assert make_run("data=preferences", "stage=kto").data.name == "preferences"


def test_qlora_is_lora_on_four_bits_unless_told_otherwise(make_run):
    run = make_run("method=qlora")
    assert (run.method.name, run.quant.name) == ("lora", "nf4")
    assert make_run("method=qlora", "quant=int8").quant.name == "int8"


def test_a_run_is_frozen(make_run):
    run = make_run()
    with pytest.raises(ValueError, match="frozen"):
        run.lora.r = 3
    assert run.lora.r == 16


def test_rules_across_groups_are_checked_beside_other_mistakes(mistakes):
    said = mistakes("method=full quant=nf4 lora.r=-1 train.micro_batch=2")
    assert len(said) == 3
    assert any("quantized weights cannot be trained whole" in line for line in said)


def test_a_mistake_is_not_followed_by_what_leaving_it_out_would_cause(mistakes):
    assert len(mistakes("data.path=x.json data.format=alpca")) == 1


@pytest.mark.parametrize("key", ["run.name", "run.dir"])
def test_a_sweep_does_not_put_its_runs_into_one_folder(mistakes, key):
    (said,) = mistakes(f"-m seed=1,2 {key}=x")
    assert said.startswith(f"{key}=x: every run of a sweep needs a folder of its own")
    assert mistakes(f"-m {key}=x,y") == []


def test_a_list_is_asked_for_as_it_is_spelled(mistakes):
    [told] = mistakes("lora.target_modules=q_proj")
    assert told.endswith("must be one of: all-linear, default, or a list: lora.target_modules=[q_proj]")


@pytest.mark.parametrize(
    ("files", "circle"),
    [
        ({"mine": "[mine]"}, "experiment/mine.yaml -> experiment/mine.yaml"),
        ({"mine": "[/experiment: mine]"}, "experiment/mine.yaml -> experiment/mine.yaml"),
        (
            {"mine": "[other, _self_]", "other": "[/experiment/mine]"},
            "experiment/mine.yaml -> experiment/other.yaml -> experiment/mine.yaml",
        ),
    ],
    ids=["by name", "by group", "by way of another"],
)
def test_an_experiment_that_includes_itself_is_told(files, circle, tmp_path, mistakes):
    (tmp_path / "experiment").mkdir()
    for name, defaults in files.items():
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\ndefaults: {defaults}\n")
    (said,) = mistakes(f"--config-dir {tmp_path} experiment=mine")
    assert said == f"config: {circle}: its defaults list leads back to the file itself. Take the last of them out."
