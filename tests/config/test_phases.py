"""A curriculum: each phase is a full config of its own, and what is wrong in one is said with its name."""

from __future__ import annotations

import shlex

import pytest
import yaml

from ftlab.config import command_line, phases
from ftlab.config.compose import compose, config_loader, read
from ftlab.config.paths import shipped
from ftlab.errors import ConfigError
from ftlab.planning import make_plan
from ftlab.rundir.plan import Plan
from ftlab.use.config import show
from tests.runs import create_run

FITS = "data.max_length=512 data.overlap=32 phases.foundation.deepspeed=none"


def plan_of(line: str) -> Plan:
    given = command_line.read(shlex.split(line))
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
        ("phase=align phases.prefr.stage.beta=1 phases.3.stage.beta=1 phases.-1.train.epochs=2 "
         "phases.01.train.epochs=2 phases.read.run.name=x phases.read.start=merg phases.1.name=other run.phases=[]",
         ["run.phases=[]: chooses no phase, so nothing would run; name some, or leave it out to run all",
          "phases.prefr: no such phase. Phases: 0 read, 1 instruct, 2 prefer. Did you mean prefer?",
          "phases.3: no such phase. Phases: 0 read, 1 instruct, 2 prefer.",
          "phases.-1: no such phase. Phases: 0 read, 1 instruct, 2 prefer.",
          "phases.01: no such phase. Phases: 0 read, 1 instruct, 2 prefer.",
          "phases.read.run.name=x: belongs to the run, not to a phase",
          "phases.read.start=merg: must be one of: continue, merge. Did you mean merge?",
          "phases.1.name=other: a phase is named in its entry, where the list of phases stands; here it would change "
          "nothing"]),
        ("phase=align stage=dpo phases.prefer.stage.beat=1 phases.prefer.trian.epochs=2 lora.alpha=-2 "
         "phases.prefer.train.learning_rate=-1",
         ["lora.alpha=-2: must be greater than 0",
          "stage=dpo: every phase sets its own, so this one would do nothing. Name the phase: phases.read.stage=...",
          "phases.prefer.stage.beat=1: no such key. stage has: name, beta, loss_type, label_smoothing, sft_weight, "
          "simpo_gamma, reference_model. Did you mean phases.prefer.stage.beta?",
          "phases.prefer.trian.epochs=2: no such key. Groups and keys: data, deepspeed, eval, hardware, lora, method, "
          "model, pilot, quant, seed, stage, train. Did you mean phases.prefer.train?",
          "phases.prefer.train.learning_rate=-1: must be greater than 0"]),
        ("phases.prefer.stage.beta=1",
         ["phases.prefer: no such phase. Phases: none; choose phase=NAME, or give phases=[...]."]),
        ("phase=align phases.read=pt phases.prefer.stage=dpp phases.prefer.train.global_batch_size=9 "
         "phases.prefer.train.micro_batch_size=2",
         ["phases.read=pt: has keys of its own: phases.read.KEY=VALUE",
          "phases.prefer.stage=dpp: no such choice. Choices: dpo, grpo, kto, orpo, ppo, pt, rm, sft. "
          "Did you mean ppo or dpo?",
          "phases.prefer.train.global_batch_size=9: must be a multiple of train.micro_batch_size x devices = 2; with "
          "9, train.micro_batch_size could be 1 or 3"]),
        (f"phase=codebase {FITS} train.epochs=5",
         ["train.epochs=5: every phase sets its own, so this one would do nothing. Name the phase: "
          "phases.foundation.train.epochs=..."]),
        ("phase=align phases.instruct.from=prefer run.phases=[red]",
         ["run.phases=red: no such phase. Phases: read, instruct, prefer. Did you mean read?",
          "phases.instruct.from=prefer: is neither a phase before it nor a run directory. Phases before it: read."]),
        ("phase=rlhf phases.reinforce.from=judge phases.reinforce.stage.reward_model=instruct",
         ["phases.reinforce.from=judge: a reward model is no policy to start from",
          "phases.reinforce.stage.reward_model=instruct: is no phase with stage=rm that comes before. Did you "
          "mean judge?"]),
        ("phase=align phases.instruct.lora.r=64",
         ["phases.instruct.lora.r=64: but the adapter that is carried on from phase read has 16; "
          "phases.instruct.start=merge begins a new one",
          "phases.prefer.lora.r=16: but the adapter that is carried on from phase instruct has 64; "
          "phases.prefer.start=merge begins a new one"]),
        ("'phases=[{stage: sft}]'",
         ["phases.0={'stage': 'sft'}: every phase is a mapping with a name of letters, digits, _ and -: "
          "{name: prefer, stage: dpo}"]),
        ("'phases=[{name: a}, {name: b}, {name: a}]'", ["phases=a: two phases have this name"]),
        ("phases=align", ["phases=align: must be a list: phases=[{name: prefer, stage: dpo}]"]),
        ("phase=align phases.prefer.train=3",
         ["phases.prefer.train=3: has keys of its own: phases.prefer.train.KEY=VALUE"]),
        ("phase=align phases.prefer.train.learning_rate=abc phases.read.data=nope phases.instruct.lora.r=-1 "
         "lora.alpha=x",
         ["lora.alpha=x: must be a valid integer",
          "phases.read.data=nope: no such choice. Choices: code, corpus, instructions, labels, phase1_foundation, "
          "phase2_evolution, phase3_pr_mastery, preferences, prompts, registered.",
          "phases.instruct.lora.r=-1: must be greater than 0",
          "phases.prefer.train.learning_rate=abc: must be a valid number"]),
        ("phase=align phases.prefer.stage.bta=1 phases.prefer.train.epochs=0 phases.prefer.train.micro_batch_size=3 "
         "phases.prefer.train.global_batch_size=4",
         ["phases.prefer.stage.bta=1: no such key. stage has: name, beta, loss_type, label_smoothing, sft_weight, "
          "simpo_gamma, reference_model. Did you mean phases.prefer.stage.beta?",
          "phases.prefer.train.epochs=0: must be greater than 0",
          "phases.prefer.train.global_batch_size=4: must be a multiple of train.micro_batch_size x devices = 3; with "
          "4, train.micro_batch_size could be 2 or 4"]),
        ("'phases=[{name: a, stage: sft, lora: r8}]' lora.r=16",
         ["lora.r=16: every phase sets its own, so this one would do nothing. Name the phase: phases.a.lora.r=..."]),
        ("'phases=[{name: a, stage: sft, model: tiny_instruct}]' model.path=x",
         ["model.path=x: every phase sets its own, so this one would do nothing. Name the phase: "
          "phases.a.model.path=..."]),
        ("'phases=[{name: a, data: labels, stage: kto}]' data.name=mine",
         ["data.name=mine: every phase sets its own, so this one would do nothing. Name the phase: "
          "phases.a.data.name=..."]),
        ("phase=rlhf phases.reinforce.stage.reward_model=jduge",
         ["phases.reinforce.stage.reward_model=jduge: is neither a phase with stage=rm that comes before nor a run "
          "directory. Such phases: judge. Did you mean judge?"]),
        ("'phases=[{name: a, stage: rm}, {name: b, stage: grpo, stage.rewards: [\"model:aa\", \"model:a\"]}]'",
         ["phases.b.stage.rewards=model:aa: is neither a phase with stage=rm that comes before nor a run directory. "
          "Such phases: a. Did you mean a?"]),
        ("stage=ppo stage.reward_model=judge",
         ["stage.reward_model=judge: is neither a phase with stage=rm that comes before nor a run directory. Such "
          "phases: none."]),
        ("phase=align run.phases=[prefer,read]",
         ["run.phases=[prefer,read]: phase prefer starts from instruct, which is neither chosen nor finished here. "
          "Choose run.phases=[read,instruct,prefer]"]),
        ("phase=rlhf run.phases=[reinforce]",
         ["run.phases=[reinforce]: phase reinforce starts from instruct, and phase reinforce is rewarded by judge, "
          "which is neither chosen nor finished here. Choose run.phases=[instruct,judge,reinforce]"]),
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
    carried = phases.encode_override(override, ["stage", "lora"])
    assert carried != override
    assert phases.decode_override(carried) == override


def test_what_hydra_would_not_take_is_said_as_it_was_typed(mistakes):
    assert mistakes("phase=align phases.2.stage.beta=0.1,0.2") == [
        "phases.2.stage.beta=0.1,0.2: several values are a sweep: add -m, or quote the value"
    ]
    assert mistakes("'phases={a: {stage: sft}}' lora.r=0") == [
        "phases={a: {stage: sft}}: must be a list: phases=[{name: prefer, stage: dpo}]",
        "lora.r=0: must be greater than 0",
    ]
    (said,) = mistakes("phase=align phases.prefer.a!b=2")
    assert said.startswith("phases.prefer.a!b=2: not understood (")


def test_the_last_one_on_the_command_line_wins_however_the_phase_is_named():
    given = "phases.prefer.train.max_steps=1 phases.2.train.max_steps=2"
    assert plan_of(f"phase=align {given}").phases[2].config.train.max_steps == 2
    assert plan_of(f"phase=align {given} phases.prefer.train.max_steps=3").phases[2].config.train.max_steps == 3
    assert (
        plan_of("phase=align phases.2.data=labels phases.2.stage=orpo phases.prefer.stage=kto")
        .phases[2]
        .config.stage.name
        == "kto"
    )


def test_a_choice_shadows_the_command_lines_keys_that_it_sets_in_its_phase_alone():
    line = "'phases=[{name: a, stage: sft, lora: r8}, {name: b, stage: sft, from: none}]' lora.r=24 lora.dropout=0.2"
    one, two = plan_of(line).phases
    assert (one.config.lora.r, one.config.lora.dropout) == (8, 0.2)
    assert (two.config.lora.r, two.config.lora.dropout) == (24, 0.2)


def test_weights_that_are_carried_on_are_not_asked_for_otherwise():
    tiny = shipped("models/tiny")
    asked = [
        ("model.path: other", "path", "other", tiny),
        ("model: smollm2_135m", "path", "HuggingFaceTB/SmolLM2-135M", tiny),
        ("model.revision: v2", "revision", "v2", "main"),
        ("model.init: random", "init", "random", "pretrained"),
        ("model: tiny_instruct", "adapter", shipped("models/tiny_instruct"), "null"),
    ]

    def line(source: str) -> str:
        entries = [f"{{name: b{n}, stage: sft, from: {source}, {entry}}}" for n, (entry, *_) in enumerate(asked)]
        return f"'phases=[{{name: a, stage: sft}}, {', '.join(entries)}]'"

    assert mistakes_of(line("a")) == [
        f"phases.b{n}.model.{key}={here}: but phase b{n} goes on with the weights of phase a, which began with "
        f"model.{key}={there}. Leave it at that, or begin anew with phases.b{n}.from=none"
        for n, (_, key, here, there) in enumerate(asked)
    ]
    _, *others = plan_of(line("none")).phases
    found = [str(getattr(phase.config.model, key)) for phase, (_, key, *_) in zip(others, asked)]
    assert found == [here for *_, here, _ in asked]


def test_a_phase_goes_on_with_the_model_of_the_one_before_and_with_what_it_says_of_it_itself():
    """run.yaml says what runs: a model that the first phase gave itself is that of the next too."""
    entries = "{name: a, stage: sft, model.path: mine, model.template: chatml}, {name: b, stage: dpo}"
    last = "{name: c, stage: kto, model.template: alpaca, model.attention: eager}"
    a, b, c = (phase.config.model for phase in plan_of(f"'phases=[{entries}, {last}]' model=tiny").phases)
    assert (a.path, b.path, c.path) == ("mine", "mine", "mine")
    assert [(one.template, one.attention) for one in (a, b, c)] == [
        ("chatml", "auto"), ("chatml", "auto"), ("alpaca", "eager"),
    ]  # fmt: skip


@pytest.fixture
def other(tmp_path, monkeypatch):
    """``other(line, "01-sft")``: a run directory of that command line, in which those phases look finished."""
    monkeypatch.chdir(tmp_path)

    def make(line: str, *finished: str, name: str = "other") -> None:
        run_dir = create_run(plan_of(f"{line} run.dir={name}"))
        for folder in finished:
            (run_dir.phase(folder) / "final").mkdir(parents=True)

    return make


def test_runs_that_no_phase_can_start_from_are_told_before_anything_runs(other, tmp_path):
    other("stage=sft", name="begun")
    other("phase=align", "01-read", name="half")
    other("stage=sft", "01-sft", name="done")
    other("stage=rm", "01-rm", name="judge")
    reasons = {
        "begun": "has not finished training; finish it first: ftlab resume begun",
        "half": "has not finished training; finish it first: ftlab resume half",
        "done/phases": f"is only a part of a run; name the run directory itself, {tmp_path}/done",
        "done/phases/01-sft/final": f"is only a part of a run; name the run directory itself, {tmp_path}/done",
        ".": "is no run directory: it has no run.yaml. A model or adapter of another origin goes into model.path or "
        "model.adapter",
        "judge": "trained a reward model, which is no policy to start from",
    }
    entries = [f"{{name: p{number}, stage: sft, from: {source}}}" for number, source in enumerate(reasons)]
    line = f"'phases=[{{name: one, stage: sft}}, {', '.join(entries)}]'"
    assert mistakes_of(line) == [
        f"phases.p{number}.from={source}: {reason}" for number, (source, reason) in enumerate(reasons.items())
    ]
    assert plan_of(f"{line} run.phases=[one]")  # they may be there in time


def test_a_phase_from_another_run_is_of_its_model_and_adapter(other):
    other("model=tiny_instruct model.template=chatml lora.r=4", "01-sft")
    config = plan_of("'phases=[{name: two, stage: sft, from: other}]'").phases[0].config
    assert (config.model.name, config.model.template, config.lora.r) == ("tiny_instruct", "chatml", 4)
    assert config.model.adapter == shipped("models/tiny_instruct")
    asked = plan_of("'phases=[{name: two, stage: sft, from: other, model.template: plain}]'").phases[0].config
    assert (asked.model.template, asked.model.name) == ("plain", "tiny_instruct")
    (said,) = mistakes_of("'phases=[{name: two, stage: sft, from: other}]' model=tiny")
    assert said.startswith("phases.two.model.adapter=null: but phase two goes on with the weights of other, which ")
    (said,) = mistakes_of("'phases=[{name: two, stage: sft, from: other}]' model.path=elsewhere")
    assert said.startswith("phases.two.model.path=elsewhere: but phase two goes on with the weights of other, which ")
    assert mistakes_of("'phases=[{name: two, stage: sft, from: other, lora.r: 8}]'") == [
        "phases.two.lora.r=8: but the adapter that is carried on from other has 4; phases.two.start=merge begins a new "
        "one"
    ]


def test_what_is_finished_in_the_run_directory_need_not_be_chosen(tmp_path):
    line = f"phase=align run.dir={tmp_path}/run run.phases=[prefer]"
    create_run(plan_of(f"phase=align run.dir={tmp_path}/run run.phases=[read]"))
    assert len(mistakes_of(line)) == 1
    for folder in ("01-read", "02-instruct"):
        (tmp_path / "run" / "phases" / folder / "final").mkdir(parents=True)
    assert plan_of(line)
    assert len(mistakes_of(f"{line} run.if_exists=new")) == 1


def test_random_weights_below_an_adapter_come_from_one_seed():
    line = "model.init=random 'phases=[{name: a, stage: sft}, {name: b, stage: sft, seed: 7}]'"
    assert mistakes_of(line) == [
        "phases.b.seed=7: but model.init=random drew the weights below the adapter of phase a from seed 42"
    ]


def test_phases_can_be_swept(mistakes):
    assert mistakes("-m phase=align phases.prefer.stage.beta=0.1,0.2 phases.2.train.learning_rate=1e-6,1e-7") == []
    (wrong,) = mistakes("-m phase=align phases.prefer.stage.beta=0.1,-1")
    assert wrong == "phases.prefer.stage.beta=-1: must be greater than 0"


def test_cfg_job_shows_the_list_of_phases_with_what_the_command_line_says_of_them(capsys):
    """And nothing of how that travels through Hydra."""
    line = "phase=codebase phases.1.train.epochs=7 phases.evolution.data=labels 'phases.0.data.path=a b''s' seed=1"
    given = command_line.read([*shlex.split(line), "--cfg", "job"])
    show(given, compose(given.overrides))
    shown = yaml.safe_load(capsys.readouterr().out)
    assert phases.CARRIER not in shown and shown["seed"] == 1
    first, second, third = shown["phases"]
    assert (second["train.epochs"], second["data"], second["lora.r"]) == (7, "labels", 128)
    assert first["data.path"] == "a bs" and third["train.weight_decay"] == 0.1


def test_every_shipped_curriculum_composes():
    loader = config_loader()
    for name in loader.get_group_options("phase"):
        if name != "single":
            cfg = compose([f"phase={name}"], loader)
            assert all("name" in entry for entry in cfg.phases)
