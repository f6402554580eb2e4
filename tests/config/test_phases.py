"""A curriculum: each phase is a full config of its own, and what is wrong in one is said with its name."""

from __future__ import annotations

import shlex

import pytest

from ftlab.config import arguments, phases
from ftlab.config.compose import compose, config_loader, read
from ftlab.errors import ConfigError
from ftlab.plan import Plan, make_plan

FITS = "data.max_length=512 data.overlap=32 phases.foundation.deepspeed=none"


def plan_of(line: str) -> Plan:
    given = arguments.read(shlex.split(line))
    return make_plan(read(given.overrides), given.overrides)


def mistakes_of(line: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plan_of(line)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_each_phase_is_a_config_of_its_own():
    read_, instruct, prefer = plan_of("phase=align phases.prefer.stage.beta=0.3 phases.0.train.epochs=1").phases
    assert [p.config.stage.name for p in (read_, instruct, prefer)] == ["pt", "sft", "dpo"]
    assert [p.folder for p in (read_, instruct, prefer)] == ["01-read", "02-instruct", "03-prefer"]
    assert instruct.config.data.name == "instructions"
    assert prefer.config.data.name == "preferences"
    assert prefer.config.stage.beta == 0.3
    assert [p.config.train.epochs for p in (read_, instruct, prefer)] == [1, 4, 4]
    recommended = read_.config.model.recommended.learning_rate
    assert [p.config.train.learning_rate for p in (read_, instruct, prefer)] == [
        recommended[s] for s in ("pt", "sft", "dpo")
    ]


def test_every_phase_is_of_the_model_that_the_first_one_starts_from():
    """A preference stage alone would start from tiny_instruct."""
    assert {phase.config.model.name for phase in plan_of("phase=align").phases} == {"tiny"}
    line = "'phases=[{name: a, stage: dpo}, {name: b, stage: sft}]'"
    assert {phase.config.model.name for phase in plan_of(line).phases} == {"tiny_instruct"}


def test_a_phase_starts_from_the_last_policy_and_never_from_a_reward_model():
    assert [phase.source for phase in plan_of("phase=rlhf").phases] == [None, "instruct", "instruct"]
    line = "'phases=[{name: a, stage: sft}, {name: b, stage: sft, from: none}, {name: c, stage: dpo, from: a}]'"
    assert [phase.source for phase in plan_of(line).phases] == [None, None, "a"]


def test_the_command_line_wins_over_groups_and_an_entry_over_the_command_line():
    """model < command line < phase entry < phases.NAME.key."""
    foundation, evolution, _ = plan_of(f"phase=codebase {FITS} seed=7 phases.evolution.train.epochs=5").phases
    assert (foundation.config.data.max_length, foundation.config.seed) == (512, 7)
    assert (foundation.config.lora.r, foundation.config.data.overlap) == (128, 32)
    assert (foundation.config.train.epochs, evolution.config.train.epochs) == (3, 5)


def test_the_codebase_curriculum_is_the_published_recipe():
    plan = plan_of("phase=codebase model=kat_dev_32b deepspeed=z3 hardware=8xh200")
    for phase, epochs in zip(plan.phases, (3, 2, 2)):
        config = phase.config
        assert (config.data.max_length, config.data.overlap) == (32768, 2048)
        assert (config.lora.r, config.lora.alpha, config.lora.dropout) == (128, 256, 0.05)
        train = config.train
        assert (train.epochs, train.learning_rate, train.lr_scheduler) == (epochs, 1e-4, "cosine")
        assert (train.warmup_ratio, train.weight_decay, train.max_grad_norm) == (0.03, 0.1, 1.0)
        assert train.gradient_accumulation_steps == 6
    assert [phase.config.deepspeed.stage for phase in plan.phases] == [2, 3, 3]


def test_a_choice_and_values_of_the_same_group():
    prefer = plan_of("phase=align phases.2.stage=kto phases.prefer.data=labels phases.2.stage.beta=0.4").phases[2]
    assert (prefer.config.stage.name, prefer.config.stage.beta) == ("kto", 0.4)
    assert prefer.config.data.name == "labels"


def test_a_registered_set_is_chosen_in_an_entry(tmp_path):
    registry = tmp_path / "dataset_info.yaml"
    registry.write_text("faq: {file_name: faq.json}\n")
    (phase,) = plan_of(f"data.registry={registry} 'phases=[{{name: a, data: faq}}]'").phases
    assert phase.config.data.name == "faq"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("phase=align phases.prefr.stage.beta=1",
         ["phases.prefr: no such phase. Phases: read, instruct, prefer. Did you mean prefer?"]),
        ("phase=align phases.3.stage.beta=1", ["phases.3: no such phase. Phases: read, instruct, prefer."]),
        ("phases.prefer.stage.beta=1",
         ["phases.prefer: no such phase. Phases: none; choose phase=NAME, or give phases=[...]."]),
        ("phase=align phases.prefer.stage.beat=1",
         ["phases.prefer.stage.beat=1: no such key. Known: name, beta, loss_type, label_smoothing, sft_weight, "
          "simpo_gamma, reference_model. Did you mean beta?"]),
        ("phase=align phases.prefer.stage=dpp",
         ["phases.prefer.stage=dpp: no such choice. Choices: dpo, grpo, kto, orpo, ppo, pt, rm, sft. "
          "Did you mean ppo or dpo?"]),
        ("phase=align lora.alpha=-2 phases.prefer.train.learning_rate=-1",
         ["lora.alpha=-2: must be greater than 0", "phases.prefer.train.learning_rate=-1: must be greater than 0"]),
        ("phase=align stage=dpo",
         ["stage=dpo: every phase sets its own, so this one would do nothing. Name the phase: phases.read.stage=..."]),
        (f"phase=codebase {FITS} train.epochs=5",
         ["train.epochs=5: every phase sets its own, so this one would do nothing. Name the phase: "
          "phases.foundation.train.epochs=..."]),
        ("phase=align phases.read.run.name=x", ["phases.read.run.name=x: belongs to the run, not to a phase"]),
        ("phase=align phases.read.start=merg",
         ["phases.read.start=merg: must be one of: continue, merge. Did you mean merge?"]),
        ("phase=align phases.instruct.from=prefer",
         ["phases.instruct.from=prefer: is neither a phase before it nor a run directory. Phases before it: read."]),
        ("phase=rlhf phases.reinforce.from=judge",
         ["phases.reinforce.from=judge: a reward model is no policy to start from"]),
        ("phase=rlhf phases.reinforce.stage.reward_model=instruct",
         ["phases.reinforce.stage.reward_model=instruct: is no phase with stage=rm that comes before"]),
        ("phase=align phases.instruct.lora.r=64",
         ["phases.instruct.lora.r=64: but the adapter that is carried on from phase read has 16; "
          "phases.instruct.start=merge begins a new one",
          "phases.prefer.lora.r=16: but the adapter that is carried on from phase instruct has 64; "
          "phases.prefer.start=merge begins a new one"]),
        ("phase=align phases.prefer.train.global_batch_size=9 phases.prefer.train.micro_batch_size=2",
         ["phases.prefer.train.global_batch_size=9: must be a multiple of train.micro_batch_size x devices = 2; with "
          "9, train.micro_batch_size could be 1 or 3"]),
        ("phase=align run.phases=[red]",
         ["run.phases=red: no such phase. Phases: read, instruct, prefer. Did you mean read?"]),
        ("'phases=[{stage: sft}]'",
         ["phases.0={'stage': 'sft'}: every phase is a mapping with a name of letters, digits, _ and -: "
          "{name: prefer, stage: dpo}"]),
        ("'phases=[{name: a}, {name: b}, {name: a}]'", ["phases=a: two phases have this name"]),
        ("phases=align", ["phases=align: must be a list: phases=[{name: prefer, stage: dpo}]"]),
        ("phase=align phases.read=pt", ["phases.read=pt: has keys of its own: phases.NAME.KEY=VALUE"]),
    ],
)  # fmt: skip
def test_a_mistake_is_said_with_the_name_of_the_phase(line, said):
    assert mistakes_of(line) == said


def test_an_adapter_that_is_carried_on_may_have_another_dropout():
    line = "phase=align lora.dropout=0.1 phases.prefer.lora.dropout=0.3"
    assert [phase.config.lora.dropout for phase in plan_of(line).phases] == [0.1, 0.1, 0.3]


def test_a_merged_adapter_may_have_another_shape():
    line = "phase=align phases.instruct.lora.r=64 phases.instruct.start=merge phases.prefer.lora.r=64"
    assert [phase.config.lora.r for phase in plan_of(line).phases] == [16, 64, 64]


@pytest.mark.parametrize("override", ["phases.prefer.stage.beta=0.2", "phases.2.stage=kto", "phases.a.lora.r=8,16"])
def test_what_hydra_carries_is_shown_as_it_was_typed(override):
    carried = phases.carried(override, ["stage", "lora"])
    assert carried != override
    assert phases.as_typed(carried) == override


def test_phases_can_be_swept(mistakes):
    assert mistakes("-m phase=align phases.prefer.stage.beta=0.1,0.2 phases.2.train.learning_rate=1e-6,1e-7") == []
    (wrong,) = mistakes("-m phase=align phases.prefer.stage.beta=0.1,-1")
    assert wrong == "phases.prefer.stage.beta=-1: must be greater than 0"


def test_every_shipped_curriculum_composes():
    loader = config_loader()
    for name in loader.get_group_options("phase"):
        if name != "single":
            cfg = compose([f"phase={name}"], loader)
            assert all("name" in entry for entry in cfg.phases)
