"""The run directory: where it goes, who may continue it, and what survives a crash."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from ftlab.errors import ConfigError, RunDirError
from ftlab.planning import make_plan
from ftlab.rundir import claim, files
from ftlab.rundir.checkpoints import checkpoints, is_whole, seal
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import write_atomic
from ftlab.rundir.identity import identity
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.plan import Plan
from tests import runs
from tests.runs import create_run

# ------------------------------------------------------------------------------------------------------------ names


def test_a_name_is_a_fixed_folder(plan, here):
    run_dir = create_run(plan("run.name=mine"))
    assert run_dir.path.resolve() == here / "outputs" / "mine"
    assert sorted(path.name for path in run_dir.path.iterdir()) == [".lock", "run.yaml"]


def test_without_a_name_it_is_model_stage_method_and_time(plan):
    run_dir = create_run(plan("stage=dpo", "method=full"))
    assert re.fullmatch(r"outputs/tiny_instruct-dpo-full-\d{8}-\d{6}", str(run_dir.path))


def test_two_runs_of_one_second_have_two_folders(plan, monkeypatch):
    monkeypatch.setattr(claim.time, "strftime", lambda _: "20260101-000000")
    paths = [str(create_run(plan()).path) for _ in range(3)]
    first = "outputs/tiny-sft-lora-20260101-000000"
    assert paths == [first, f"{first}-2", f"{first}-3"]


def test_a_folder_wins_over_a_name(plan, here):
    assert create_run(plan("run.name=mine", f"run.dir={here}/there")).path == here / "there"
    assert not (here / "outputs").exists()


def test_the_files_of_a_run(here):
    run_dir = RunDir(here)
    names = [
        run_dir.run_yaml,
        run_dir.manifest_json,
        run_dir.metrics,
        run_dir.final,
        run_dir.ledger("sft"),
        run_dir.log,
    ]
    assert [str(path.relative_to(here)) for path in names] == [
        "run.yaml", "manifest.json", "metrics.jsonl", "final", "data/sft.json", "log.txt",
    ]  # fmt: skip
    assert run_dir.phase("01-sft") == here / "phases" / "01-sft"


# ----------------------------------------------------------------------------------------------- run.if_exists, open


def test_the_same_command_again_continues(plan):
    first = create_run(plan("run.name=mine"))
    (first.path / "metrics.jsonl").write_text("{}\n")
    written = first.run_yaml.read_text()
    again = create_run(plan("run.name=mine"))
    assert (again.path, again.run_yaml.read_text(), again.metrics.read_text()) == (first.path, written, "{}\n")


def test_new_makes_another_beside_it(plan):
    paths = [create_run(plan("run.name=mine", "run.if_exists=new", f"lora.r={r}")).path.name for r in (1, 2, 3)]
    assert paths == ["mine", "mine-2", "mine-3"]


def test_refuse_refuses(plan):
    create_run(plan("run.name=mine", "run.if_exists=refuse"))
    with pytest.raises(RunDirError) as caught:
        create_run(plan("run.name=mine", "run.if_exists=refuse"))
    assert str(caught.value) == (
        "outputs/mine exists. run.if_exists=resume continues it, run.if_exists=new makes another."
    )


@pytest.mark.parametrize("if_exists", ["resume", "new", "refuse"])
def test_an_empty_folder_is_as_good_as_none(if_exists, plan, here):
    (here / "empty").mkdir()
    assert create_run(plan("run.dir=empty", f"run.if_exists={if_exists}")).path.name == "empty"


def test_a_folder_of_something_else_is_left_alone(plan, here):
    (here / "photos").mkdir()
    (here / "photos" / "cat.png").write_bytes(b"x")
    with pytest.raises(RunDirError, match=r"^photos is no run directory: it has no run\.yaml\. Give an empty or new"):
        create_run(plan("run.dir=photos"))
    assert [path.name for path in (here / "photos").iterdir()] == ["cat.png"]


def test_a_folder_that_cannot_be_made(plan, here):
    (here / "file").write_text("x")
    with pytest.raises(RunDirError) as caught:
        create_run(plan("run.dir=file/run"))
    assert str(caught.value) == (
        "run.dir=file/run cannot be written: Not a directory. Give another with run.dir=FOLDER."
    )
    assert (here / "file").read_text() == "x"


def test_open_wants_a_run(here, plan):
    with pytest.raises(RunDirError, match=r"nowhere is no run directory: it has no run\.yaml"):
        RunDir.open(here / "nowhere")
    create_run(plan("run.dir=run", "lora.r=3"))
    assert RunDir.open(here / "run").plan().phases[0].config.lora.r == 3


# ---------------------------------------------------------------------------------------------------------- identity


@pytest.mark.parametrize(
    "change",
    [
        ["train.save_steps=7", "train.save_total_limit=1", "train.logging_steps=1", "train.on_oom=stop"],
        ["tracker=none"],
        ["tracker.project=other"],
        ["run.dir=outputs/mine", "run.if_exists=resume"],
        ["eval.steps=3", "eval.samples=0"],
        ["task=env"],
    ],
    ids=lambda change: change[0],
)
def test_what_only_concerns_how_it_runs_may_change(change, plan):
    create_run(plan("run.name=mine"))
    assert create_run(plan("run.name=mine", *change)).path.name == "mine"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["lora.r=8"], ["  - lora.r: 16 there, 8 here"]),
        (["seed=1"], ["  - seed: 42 there, 1 here"]),
        (["data.split.fraction=0.5"], ["  - data.split.fraction: 0.05 there, 0.5 here"]),
        (["model.architecture.layers=7"], ["  - model.architecture.layers: 4 there, 7 here"]),
        (["stage.neftune_alpha=5"], ["  - stage.neftune_alpha: None there, 5.0 here"]),
        (
            ["quant=nf4"],
            ["  - quant.name: none there, nf4 here", "  - quant.double_quantization: False there, True here"],
        ),
        (["train.max_grad_norm=2", "train.save_steps=7"], ["  - train.max_grad_norm: 1.0 there, 2.0 here"]),
        (["stage=rm"], ["  - phases: sft there"]),
    ],
    ids=lambda change: change[0],
)
def test_another_run_is_refused_naming_what_differs(change, said, plan):
    begun = create_run(plan("run.name=mine"))
    before = begun.run_yaml.read_text()
    assert create_run(plan("run.name=mine", *change)).path == begun.path  # nothing was done there yet
    begun.run_yaml.write_text(before)
    begun.metrics.write_text("{}")
    with pytest.raises(RunDirError) as caught:
        create_run(plan("run.name=mine", *change))
    head, *different, foot = str(caught.value).splitlines()
    assert head == "outputs/mine holds another run:"
    assert sorted(different) == sorted(said)
    assert foot == "run.if_exists=new starts beside it; another run.name or run.dir starts elsewhere."
    assert RunDir.open(create_run(plan("run.name=mine")).path).run_yaml.read_text() == before


@pytest.mark.parametrize("chooses", [["train.keep_best=true"], ["train.early_stopping=3"]])
def test_what_decides_which_weights_are_kept_may_not_change(chooses, plan, make_run):
    """How often is evaluated concerns nobody else, unless the best evaluation's weights are the final ones."""
    keys = {"eval.steps", "eval.generate_every", "eval.max_new_tokens", "eval.golden_rows"}
    assert keys <= dict(identity(make_run(*chooses))).keys()
    assert not keys & dict(identity(make_run())).keys()
    create_run(plan("run.name=mine", *chooses)).metrics.write_text("{}")
    with pytest.raises(RunDirError, match=r"  - eval\.steps: 50 there, 3 here"):
        create_run(plan("run.name=mine", *chooses, "eval.steps=3"))
    create_run(plan("run.name=mine", *chooses, "eval.batch_size=3", "eval.samples=0"))


def test_the_identity_of_a_run(make_run):
    """Every key that changes what comes out, and none that does not."""
    keys = dict(identity(make_run("stage=dpo", "model=llama3_8b")))
    assert {key: keys[key] for key in ("seed", "lora.r", "stage.beta", "model.revision", "train.learning_rate")} == {
        "seed": 42, "lora.r": 16, "stage.beta": 0.1, "model.revision": "main", "train.learning_rate": 5e-7,
    }  # fmt: skip
    assert not {key.split(".")[0] for key in keys} & {"task", "run", "tracker"}
    assert not keys.keys() & {"train.save_steps", "train.logging_steps", "eval.steps"}


# --------------------------------------------------------------------------------------------------- run.yaml, plan


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("stage=dpo", "model=llama3_8b", "method=qlora"),
        ("stage=grpo", "stage.reward_weights=[1.5]"),
        ("phase=codebase", "model=kat_dev_32b", "deepspeed=z3", "hardware=8xh200"),
        ("data.path=ünï.json", "data.format=alpaca", "+data.columns.instruction=question"),
    ],
    ids=lambda overrides: " ".join(overrides) or "defaults",
)
def test_run_yaml_gives_the_plan_back(overrides, make_run):
    run = make_run(*(o.replace("ünï.json", "'ünï.json'") for o in overrides))
    plan = make_plan(run, overrides)
    run_dir = create_run(plan)
    assert run_dir.plan() == plan
    assert yaml.safe_load(run_dir.run_yaml.read_text(encoding="utf-8"))["overrides"] == list(overrides)


def test_run_yaml_is_whole_and_in_plain_words(plan):
    """Every default is filled in, and nothing is left to interpolate."""
    text = create_run(plan("model=llama2_13b")).run_yaml.read_text()
    config = yaml.safe_load(text)["phases"][0]["config"]
    assert "${" not in text and "!!python" not in text
    assert (config["lora"]["r"], config["train"]["micro_batch_size"], config["data"]["max_length"]) == (32, 2, 2048)


@pytest.mark.parametrize(
    ("overrides", "accumulation"),
    [
        (["train.global_batch_size=32", "train.micro_batch_size=4"], 8),
        (["train.global_batch_size=32", "train.micro_batch_size=2", "hardware=8xh100"], 2),
        (["train.global_batch_size=32", "train.micro_batch_size=2", "hardware=8xh100", "hardware.nodes=2"], 1),
        (["train.gradient_accumulation_steps=5"], 5),
    ],
)
def test_the_accumulation_follows_from_the_devices(overrides, accumulation, plan):
    assert plan(*overrides).phases[0].config.train.gradient_accumulation_steps == accumulation


def test_a_batch_that_does_not_divide(plan):
    with pytest.raises(ConfigError) as caught:
        plan("train.global_batch_size=30", "train.micro_batch_size=4")
    assert str(caught.value.mistakes[0]).startswith(
        "train.global_batch_size=30: must be a multiple of train.micro_batch_size x devices = 4"
    )


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefghijklmnopqrstuvwxyz01234567",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "glpat-abcdefghij0123456789",
        "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789",
        "AKIA" + "IOSFODNN7QWERTYU",
        "xoxb-" + "123456789012-abcdefghijkl",
    ],
)
def test_a_secret_is_not_written(secret, plan):
    run_dir = create_run(plan(f"tracker.project=team-{secret}"))
    text = run_dir.run_yaml.read_text()
    assert secret not in text and secret[8:] not in text
    assert run_dir.plan().phases[0].config.tracker.project == "team-<redacted>"
    assert run_dir.plan().overrides == ("tracker.project=team-<redacted>",)


def test_a_secret_that_the_run_would_need_is_refused(plan, here):
    with pytest.raises(RunDirError, match=r"data\.path holds what looks like a secret: .*<redacted>@.*environment"):
        create_run(
            plan("data.format=alpaca", "data.path=https://me:hunter2hunter2@example.org/rows.jsonl", "run.dir=r")
        )
    assert not (here / "r").exists()


def test_ordinary_words_are_no_secrets(plan):
    told = "sk-SK-news-corpus-2023-clean.jsonl"
    assert create_run(plan("data.format=alpaca", f"data.path={told}")).plan().phases[0].config.data.path == told
    run_dir = create_run(plan("run.name=sk-small", "tracker.project=hf_space"))
    assert run_dir.plan().title == "sk-small"
    assert run_dir.plan().phases[0].config.tracker.project == "hf_space"


def test_a_plan_refuses_what_it_does_not_know(plan):
    values = plan().model_dump(mode="json")
    assert Plan.model_validate(values) == plan()
    with pytest.raises(ValueError, match="extra"):
        Plan.model_validate({**values, "extra": 1})


# ------------------------------------------------------------------------------------------------------ atomic writes


def test_a_write_leaves_one_file_and_replaces_the_old(here):
    path = here / "deep" / "er" / "file.json"
    write_atomic(path, "one")
    write_atomic(path, "zwei ü\n")
    assert path.read_text(encoding="utf-8") == "zwei ü\n"
    assert [found.name for found in path.parent.iterdir()] == ["file.json"]


def test_a_write_that_fails_leaves_the_old_file(here):
    path = here / "file.json"
    write_atomic(path, "one")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "two \ud800")
    assert path.read_text() == "one"


def test_a_crash_before_the_rename_leaves_the_old_file(here, monkeypatch):
    path = here / "file.json"
    write_atomic(path, "one")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, "two")
    assert path.read_text() == "one"


def test_the_manifest_keeps_what_it_has(plan):
    run_dir = create_run(plan("run.name=mine"))
    assert run_dir.manifest() == {}
    Manifest(run_dir).record(status="running", steps=3)
    Manifest(run_dir).record(status="done", note="ü")
    assert run_dir.manifest() == {"status": "done", "steps": 3, "note": "ü"}
    assert json.loads(run_dir.manifest_json.read_text(encoding="utf-8")) == run_dir.manifest()
    assert sorted(path.name for path in run_dir.path.iterdir()) == [".lock", "manifest.json", "run.yaml"]


# -------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def sealed(here):
    """A checkpoint of two files, one in a folder of its own."""
    folder = here / "checkpoint-10"
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 5000)
    (folder / "inner" / "state.json").write_text("{}")
    seal(folder)
    return folder


def test_a_sealed_checkpoint_is_whole(sealed):
    assert is_whole(sealed)
    hashes = json.loads((sealed / "checkpoint.json").read_text())["sha256"]
    assert sorted(hashes) == ["inner/state.json", "model.safetensors"]
    assert hashes["inner/state.json"] == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_one_without_its_seal_is_not(sealed):
    (sealed / "checkpoint.json").unlink()
    assert not is_whole(sealed)


def test_a_flipped_byte_is_seen(sealed):
    weights = sealed / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[1_200_000] ^= 1
    weights.write_bytes(content)
    assert not is_whole(sealed)
    content[1_200_000] ^= 1
    weights.write_bytes(content)
    assert is_whole(sealed)


def test_a_cut_file_is_seen(sealed):
    weights = sealed / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not is_whole(sealed)


@pytest.mark.parametrize("name", ["model.safetensors", "inner/state.json"])
def test_a_missing_file_is_seen(name, sealed):
    (sealed / name).unlink()
    assert not is_whole(sealed)


def test_sealing_again_takes_in_a_changed_file(sealed):
    (sealed / "inner" / "state.json").write_text("[]")
    assert not is_whole(sealed)
    seal(sealed)
    assert is_whole(sealed)


def test_checkpoints_come_newest_step_first(here):
    for name in ("checkpoint-9", "checkpoint-100", "checkpoint-20", "checkpoint-best", "checkpoint-", "final"):
        (here / name).mkdir()
    assert [path.name for path in checkpoints(here)] == ["checkpoint-100", "checkpoint-20", "checkpoint-9"]
    assert checkpoints(here / "nowhere") == []


# ------------------------------------------------------------------------------------------------------ damaged files


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("run.yaml", b"phases: [{", r"run\.yaml is no YAML: .*run\.if_exists=new"),
        ("run.yaml", b"\xff\xfe\x00", r"run\.yaml is no YAML: .*run\.if_exists=new"),
        ("run.yaml", b"", r"run\.yaml is empty\. .*run\.if_exists=new"),
        ("run.yaml", b"{}", r"run\.yaml is no config of this ftlab, .*(?s:.*)Continue it with the ftlab that wrote it"),
        ("manifest.json", b'{"status": "runn', r"manifest\.json is no JSON: .*goes on from the checkpoints"),
        ("manifest.json", b"\xff", r"manifest\.json is no JSON: .*goes on from the checkpoints"),
        ("manifest.json", b"[]", r"manifest\.json is no JSON object"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(file, content, said, plan):
    run_dir = create_run(plan("run.name=r"))
    (run_dir.path / file).write_bytes(content)
    with pytest.raises(RunDirError, match=said):
        run_dir.manifest()
        run_dir.plan()


def test_a_config_of_another_version_is_told_with_what_it_has_otherwise(plan):
    run_dir = create_run(plan("run.name=r"))
    Manifest(run_dir).record(ftlab="0.0.9")
    text = run_dir.run_yaml.read_text()
    run_dir.run_yaml.write_text(text.replace("learning_rate:", "rate_of_learning:"))
    with pytest.raises(RunDirError) as caught:
        run_dir.plan()
    said = str(caught.value)
    assert "(it was written by 0.0.9)" in said
    assert "phases.0.config.train.learning_rate: Field required" in said and "rate_of_learning" in said


def test_a_last_line_of_metrics_that_no_one_can_read_is_passed_over(plan):
    run_dir = create_run(plan("run.name=r"))
    run_dir.metrics.write_bytes(b'{"phase": "sft", "step": 1, "time": 2.5}\n\xff\xfe{"st')
    assert list(run_dir.read_metrics()) == [{"phase": "sft", "step": 1, "time": 2.5}]


# -------------------------------------------------------------------------------------------------- names in file names


@pytest.fixture
def curriculum():
    """The plan of a command line that may name phases."""
    return lambda *overrides: make_plan(runs.make_run(*overrides), overrides)


def test_only_folders_of_steps_are_checkpoints(here):
    for name in ("checkpoint-9", "checkpoint-old-8", "checkpoint-9-copy", "checkpoint-²", "checkpoint-07"):
        (here / name).mkdir()
    (here / "checkpoint-3").write_text("a file")
    assert [path.name for path in checkpoints(here)] == ["checkpoint-9"]


def test_a_phase_has_only_its_own_samples_where_its_name_begins_another(curriculum):
    given = ("run.name=r", "phases=[{name: sft}, {name: sft-long, from: none}, {name: sft-step-1, from: none}]")
    run_dir = create_run(curriculum(*given))
    run_dir.metrics.write_text("{}\n")
    for phase in ("sft", "sft-long", "sft-step-1"):
        for when in ("before", "after", 2, 10):
            write_atomic(run_dir.samples_file(phase, when), "{}")
    assert [run_dir.answered_steps(phase) for phase in ("sft", "sft-long", "sft-step-1")] == [[2, 10]] * 3
    others = {path.name for path in run_dir.samples.iterdir() if path.name.startswith(("sft-long-", "sft-step-1-"))}
    assert len(others) == 8
    create_run(curriculum(*given, "phases.sft.train.weight_decay=0.5"))  # which has not trained, and begins anew
    assert {path.name for path in run_dir.samples.iterdir()} == others


def test_a_folder_with_the_signs_of_a_pattern_in_its_name(plan):
    run_dir = create_run(plan("run.dir='a[1]*?'"))
    write_atomic(run_dir.samples_file("sft", 3), "{}")
    (run_dir.phase("01-sft") / "checkpoint-3").mkdir(parents=True)
    assert run_dir.answered_steps("sft") == [3]
    assert [path.name for path in checkpoints(run_dir.phase("01-sft"))] == ["checkpoint-3"]


# --------------------------------------------------------------------------------------------- weights without metrics

TRAINED = ("checkpoint-4/adapter_model.safetensors", "checkpoint-4/rng_state.pth", "final/model.safetensors",
           "final/pytorch_model.bin", ".final.tmp/model.safetensors", "checkpoint-4/", "final/")  # fmt: skip


def left_behind(run_dir, phase, name):
    path = run_dir.phase(phase) / name
    if name.endswith("/"):
        path.mkdir(parents=True)
    else:
        write_atomic(path, b"weights")
    return path


@pytest.mark.parametrize("name", [*TRAINED, "base/model.safetensors"])
def test_a_run_is_known_by_its_weights_where_the_metrics_are_gone(name, plan):
    run_dir = create_run(plan("run.name=mine"))
    assert not run_dir.has_begun
    left_behind(run_dir, "01-sft", name)
    assert run_dir.has_begun


@pytest.mark.parametrize("name", TRAINED)
def test_another_run_is_refused_where_only_weights_are_left(name, plan):
    run_dir = create_run(plan("run.name=mine"))
    kept, written = left_behind(run_dir, "01-sft", name), run_dir.run_yaml.read_text()
    different = ("seed=1", "train.learning_rate=0.5", "lora.alpha=3")
    with pytest.raises(RunDirError, match="outputs/mine holds another run:") as caught:
        create_run(plan("run.name=mine", *different))
    assert {line.split(":")[0] for line in str(caught.value).splitlines()[1:-1]} == {
        f"  - {one.split('=')[0]}" for one in different
    }
    assert kept.exists() and run_dir.run_yaml.read_text() == written
    assert create_run(plan("run.name=mine")).path == run_dir.path


@pytest.mark.parametrize("name", TRAINED)
def test_a_phase_that_has_weights_is_not_begun_anew_with_other_values(name, curriculum):
    """Also where neither the manifest nor a checkpoint tells of them."""
    given = ("run.name=mine", "phases=[{name: a, stage: sft}, {name: b, stage: sft}]")
    run_dir = create_run(curriculum(*given))
    kept = left_behind(run_dir, "02-b", name)
    with pytest.raises(RunDirError, match=r"phases\.b\.train\.weight_decay: 0\.0 there, 0\.5 here"):
        create_run(curriculum(*given, "phases.b.train.weight_decay=0.5"))
    assert kept.exists()


def test_what_was_only_merged_for_a_phase_is_merged_again_for_its_other_values(curriculum):
    given = ("run.name=mine", "phases=[{name: a, stage: sft}, {name: b, stage: sft, start: merge}]")
    run_dir = create_run(curriculum(*given))
    base = left_behind(run_dir, "02-b", "base/model.safetensors")
    create_run(curriculum(*given, "phases.b.train.weight_decay=0.5"))
    assert not base.exists()
