"""What the trackers have of a run, read back with their own readers."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record, RunRecord

from ftlab.engine import shards
from ftlab.engine.trackers import hub, rates
from ftlab.engine.work import Listed
from ftlab.errors import NotReadyError
from ftlab.model.adapter import Parameters
from ftlab.preflight import packages
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from ftlab.schema.launchers import Shards
from tests.conftest import ROOT
from tests.engine.test_resume import interrupt_after
from tests.runs import BARE, FAST, FEW, final_hash, held_out, make_run, resume_run, train_run
from tests.stages.trainers import a_trainer
from tests.sweeps import begin, sweep_of

RUN = (*FAST, FEW, "train.save_steps=2", "eval.steps=3")
ALL = ("tracker=wandb", "tracker.also=[tensorboard,mlflow]")
PASSWORD = "plain-words-9"  # no pattern finds it
TOKEN = "ghp_0123456789abcdefghijABCDEFGHIJ0123"
Points = dict[tuple[str, int], float]


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory) -> Iterator[Path]:
    """Stores, a home without any login, and a secret in the environment."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "RANK", "WORLD_SIZE"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(folder))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.chdir(folder)  # where MLflow puts what is no number
        yield folder


@pytest.fixture(scope="module")
def followed(tmp_path_factory, place) -> RunDir:
    project = f"tracker.project=first-{PASSWORD}-{TOKEN}"
    return train_run(tmp_path_factory.mktemp("followed") / "r", *RUN, *ALL, project)


def logged_points(run_dir: RunDir, of_several: bool = False) -> Points:
    """What ``metrics.jsonl`` has, by the names of the trackers."""
    found: Points = {}
    for line in run_dir.read_metrics():
        of_phase = f"{line['phase']}/" if of_several else ""
        for key, value in line.items():
            if key.startswith(("eval_", "golden_")):
                group, _, key = key.partition("_")
                name = f"{group}/{of_phase}{key}"
            elif "loss" in line and key not in ("phase", "global_step", "time"):
                name = "train/" + {"step": "phase_step"}.get(key, key)
            else:
                continue
            assert (name, line["global_step"]) not in found, "two lines say the same of one step"
            found[name, line["global_step"]] = value
    return found


def tensorboard_points(run_dir: RunDir) -> Points:
    events = EventAccumulator(str(run_dir.tensorboard)).Reload()
    found = [((name, event.step), event.value) for name in events.Tags()["scalars"] for event in events.Scalars(name)]
    assert len(dict(found)) == len(found), "a point is there twice"
    return dict(found)


def wandb_records(run_dir: RunDir) -> list[Record]:
    """Of the one offline file that there is, once its end is there: wandb's service writes it after ``finish``."""
    (file,) = (run_dir.path / "wandb").glob("offline-run-*/run-*.wandb")
    until = time.monotonic() + 30
    while not (found := read_wandb_file(file)) or not found[-1].HasField("exit"):
        assert time.monotonic() < until, [record.WhichOneof("record_type") for record in found]
        time.sleep(0.1)
    return found


def read_wandb_file(file: Path) -> list[Record]:
    """LevelDB's log format, with a header of 7 bytes; up to where it has come."""
    data, at, whole, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if len(part := data[at + 7 : at + 7 + length]) < length:
            break
        at += 7 + length
        whole = part if kind in (1, 2) else whole + part
        if kind in (1, 4):
            found.append(Record.FromString(whole))
    return found


def first_record(run_dir: RunDir) -> RunRecord:
    """What wandb was told of a run when it began."""
    return next(record.run for record in wandb_records(run_dir) if record.HasField("run"))


def wandb_points(run_dir: RunDir) -> Points:
    found: Points = {}
    for record in wandb_records(run_dir):
        if record.WhichOneof("record_type") != "history":
            continue
        row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for name, value in row.items():
            if not name.startswith(("_", "samples/")):
                assert (name, row["_step"]) not in found, "a point is there twice"
                found[name, row["_step"]] = value
    return found


def mlflow_runs(project: str) -> list:
    client = MlflowClient()
    return client.search_runs([client.get_experiment_by_name(project).experiment_id])


def mlflow_points(project: str, name: str | None = None) -> Points:
    """:param name: of the run; None: the project has one."""
    (run,) = [run for run in mlflow_runs(project) if name in (None, run.info.run_name)]
    client = MlflowClient()
    found = [
        ((name, point.step), point.value)
        for name in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, name)
    ]
    assert len(dict(found)) == len(found), "a point is there twice"
    return dict(found)


def same(found: Points, expected: Points) -> bool:
    return found.keys() == expected.keys() and all(found[p] == pytest.approx(expected[p], rel=1e-6) for p in expected)


def test_all_have_the_numbers_of_metrics_jsonl_at_the_same_steps(followed):
    expected = logged_points(followed)
    assert [step for name, step in expected if name == "train/loss"] == [1, 2, 3, 4, 5, 6]
    assert {("eval/loss", 3), ("eval/perplexity", 0), ("golden/exact_match", 6), ("train/tokens_per_second", 1)} < {
        *expected
    }
    assert same(tensorboard_points(followed), expected)
    assert same(wandb_points(followed), expected)
    assert same(mlflow_points("first-<redacted>-<redacted>"), expected)


def test_all_have_the_config_the_ledger_and_the_answers(followed):
    ledger = json.loads(followed.ledger("sft").read_text())
    answers = json.loads((followed.samples / "sft-after.json").read_text())["samples"]

    events = EventAccumulator(str(followed.tensorboard)).Reload()
    texts = {name: events.Tensors(name)[0].tensor_proto.string_val[0].decode() for name in events.Tags()["tensors"]}
    assert "learning_rate: 0.001" in texts["run.yaml/text_summary"]
    assert ledger["sha256"].popitem()[1] in texts["data/sft.json/text_summary"]
    assert answers[1]["prompt"].replace("\n", "<br>") in texts["samples/sft-after/text_summary"]

    (run,) = [record.run for record in wandb_records(followed) if record.WhichOneof("record_type") == "run"]
    config = {update.key: json.loads(update.value_json) for update in run.config.update}
    assert (config["train"]["learning_rate"], config["lora"]["r"]) == (0.001, 16)
    assert config["environment"]["packages"]["torch"] == followed.manifest()["packages"]["torch"]
    (table,) = (followed.path / "wandb").glob("offline-run-*/files/media/table/samples/sft-after_6_*.json")
    assert json.loads(table.read_text())["data"] == [[s["prompt"], s["expected"], s["answer"]] for s in answers]

    (run,) = mlflow_runs("first-<redacted>-<redacted>")
    assert run.info.status == "FINISHED"
    assert (run.data.params["train.learning_rate"], run.data.params["lora.r"]) == ("0.001", "16")
    artifacts = Path(run.info.artifact_uri)
    assert json.loads((artifacts / "data" / "sft.json").read_text())["splits"] == ledger["splits"]
    assert json.loads((artifacts / "samples" / "sft-after.json").read_text()) == answers
    assert "learning_rate: 0.001" in (artifacts / "run.yaml").read_text()


def test_a_run_that_is_followed_has_the_same_weights(followed, tmp_path):
    assert final_hash(train_run(tmp_path / "r", *RUN, "tracker=none")) == final_hash(followed)


def test_without_a_key_wandb_is_offline_and_says_how_to_send_it(followed):
    log = followed.log.read_text()
    (folder,) = (followed.path / "wandb").glob("offline-run-*")
    assert f"wandb: no WANDB_API_KEY and no wandb login: offline; to send it: wandb sync {folder}\n" in log


@pytest.fixture(scope="module", params=[None, pytest.param(2, marks=pytest.mark.matrix)])
def in_turns(request, tmp_path_factory, place) -> list[RunDir]:
    """The runs of a sweep, at work in turns in this process, each in a thread and in all trackers: two in memory, or
    three, of which two are in memory at once and one closes its trackers, to open them again in its next turn."""
    resident, folder = request.param, tmp_path_factory.mktemp("multirun")
    few = (held_out(folder, "instructions"), "train.max_steps=2", "eval.golden_rows=2", "eval.samples=1")
    ranks = ["lora.r=4", "lora.r=8", "lora.r=2"][: 2 if resident is None else 3]
    name = f"ranks-{len(ranks)}"
    sweep = sweep_of(folder / name, [(rank,) for rank in ranks])
    options = Shards(shards=2, resident=resident, stop="none", factor=2)
    prepared = []
    for number, rank in enumerate(ranks):
        given = (*RUN, *few, *ALL, f"tracker.project={name}", rank, f"seed={number}",
                 f"run.dir={begin(sweep, number)}")  # fmt: skip
        prepared.append(shards.prepare(rank, make_run(*given), given, options))
    failures: list[str] = []
    shards.train_all(Listed(prepared, lambda run, error: failures.append(error)), options, sweep)
    assert failures == []
    return [RunDir.open(run.path) for run in prepared]


def test_what_a_run_logs_in_its_turn_is_in_its_own_trackers_and_nowhere_else(in_turns, place):
    starts = [len(run_dir.manifest()["starts"]) for run_dir in in_turns]
    assert (starts == [1, 1]) == (len(starts) == 2)
    losses, project = set(), in_turns[0].path.parent.name
    for run_dir in in_turns:
        expected = logged_points(run_dir)
        losses.add(tuple(value for (name, _), value in expected.items() if name == "train/loss"))
        assert same(tensorboard_points(run_dir), expected)
        assert same(wandb_points(run_dir), expected)
        found = mlflow_points(project, run_dir.path.name)
        # The times of steps that were made twice are those of the first time.
        assert found.keys() == expected.keys()
        assert same(*({p: v for p, v in points.items() if p[0] not in TIMED} for points in (found, expected)))
        config = first_record(run_dir).config
        ranks = [json.loads(update.value_json)["r"] for update in config.update if update.key == "lora"]
        assert ranks == [run_dir.plan().phases[0].config.lora.r]
        answers = json.loads((run_dir.samples / "sft-after.json").read_text())["samples"]
        (table,) = (run_dir.path / "wandb").glob("offline-run-*/files/media/table/samples/sft-after_2_*.json")
        assert [row[2] for row in json.loads(table.read_text())["data"]] == [sample["answer"] for sample in answers]
    assert len(losses) == len(in_turns)
    assert not (place / "wandb").exists()
    assert {run.info.status for run in mlflow_runs(project)} == {"FINISHED"}
    assert len(mlflow_runs(project)) == len(in_turns)


def test_the_runs_of_a_sweep_are_a_group_that_is_called_as_its_folder(in_turns, followed):
    folder = in_turns[0].path.parent
    assert {first_record(run_dir).run_group for run_dir in in_turns} == {folder.name}
    assert {run.data.tags.get("ftlab_sweep") for run in mlflow_runs(folder.name)} == {folder.name}
    assert {file.relative_to(folder).parts[:-1] for file in folder.rglob("events.out.tfevents.*")} == {
        (run_dir.path.name, "tensorboard") for run_dir in in_turns
    }
    assert first_record(followed).run_group == ""
    (alone,) = mlflow_runs("first-<redacted>-<redacted>")
    assert "ftlab_sweep" not in alone.data.tags


def test_a_group_of_the_users_own_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    tracker = hub.Wandb(hub.TrackedRun(tmp_path, "p", "k", "", {}, {}, "ranks"))
    tracker.begin()
    tracker.finish("finished")
    assert first_record(RunDir(tmp_path)).run_group == "mine"


def files_with(secret: str, *folders: Path) -> list[Path]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > len(folders)
    return [path for path in files if secret.encode() in path.read_bytes()]


def test_a_tensorboard_that_is_open_forgets_what_is_written_anew(tmp_path):
    about = hub.TrackedRun(tmp_path, "p", "k", "", {}, {})
    first = hub.TensorBoard(about)
    first.begin()
    for step in range(5):
        first.log(step, {"train/loss": 1.0}, 1.0)
    reader = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    time.sleep(1)  # files are named by the second
    again = hub.TensorBoard(about)
    again.begin()
    again.log(0, {"train/loss": 2.0}, 2.0)
    assert [(event.step, event.value) for event in reader.Reload().Scalars("train/loss")] == [(0, 2.0)]


@pytest.mark.parametrize("secret", [PASSWORD, TOKEN])
def test_no_secret_is_sent(followed, place, secret):
    """Neither of the environment nor of the config."""
    assert files_with(secret, followed.tensorboard, followed.path / "wandb", place) == []


@pytest.mark.kill
def test_killed_and_resumed_it_is_one_run_with_every_step_once(tmp_path, place, monkeypatch):
    """kill -9, with a key in the environment, and another on the command line."""
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 3)
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder, long = tmp_path / "r", (*RUN[:-3], "train.max_steps=24", "train.save_steps=6", "eval.steps=7")
    killed = interrupt_after(folder, 9, *long, *ALL, f"tracker.project=killed-{TOKEN}", by=signal.SIGKILL)
    assert killed.returncode == -9
    (run,) = mlflow_runs("killed-<redacted>")
    assert run.info.status == "RUNNING"
    finished = resume_run(folder)
    expected = logged_points(finished)
    assert [step for name, step in expected if name == "train/loss"] == list(range(1, 25))
    values = {point: value for point, value in expected.items() if point[0] not in TIMED}
    assert same(tensorboard_points(finished), expected)
    assert same(wandb_points(finished), expected)
    points = mlflow_points("killed-<redacted>")
    # The times of steps that were made twice are those of the first time.
    assert points.keys() == expected.keys()
    assert same({point: value for point, value in points.items() if point[0] not in TIMED}, values)
    (run,) = mlflow_runs("killed-<redacted>")
    assert run.info.status == "FINISHED"
    for secret in ("0123456789abcdef" * 3, TOKEN):
        assert files_with(secret, finished.tensorboard, finished.path / "wandb", place) == []


TIMED = ("train/seconds", "train/tokens_per_second")


@pytest.mark.parametrize(
    ("status", "known"), [("interrupted", "KILLED"), ("failed", "FAILED"), ("stopped", "FINISHED")]
)
def test_mlflow_is_told_how_it_ended(tmp_path, status, known):
    about = hub.TrackedRun(tmp_path, f"ended-{status}", "k", "", {"seed": 1}, {})
    for _ in range(2):  # and of one that goes on the same
        tracker = hub.Mlflow(about)
        tracker.begin()
        tracker.finish(status)
    assert [run.info.status for run in mlflow_runs(f"ended-{status}")] == [known]


BEGIN = """
import sys, time
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store, mlflow.tracking
from ftlab.engine.trackers.base import TrackedRun
from ftlab.engine.trackers.mlflow import Mlflow
print("ready", flush=True)
sys.stdin.readline()
Mlflow(TrackedRun(Path(sys.argv[1]), "together", sys.argv[1], "", {}, {}, "swept")).begin()
"""


@pytest.mark.matrix
def test_jobs_that_begin_together_make_one_database_of_mlflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new.db")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, "-c", BEGIN, name], cwd=ROOT, **pipes) for name in "abc"]
    for one in started:
        assert one.stdout is not None and one.stdout.readline() == "ready\n"
    for one in started:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    ends = [(one.communicate()[1], one.returncode) for one in started]
    assert [code for _, code in ends] == [0, 0, 0], ends
    assert sorted(run.info.run_name for run in mlflow_runs("together")) == ["a", "b", "c"]


@pytest.mark.matrix
def test_phases_stopped_between_are_one_run_in_a_folder_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "store"))
    given = (*FAST, FEW, "train.max_steps=3", "data.max_samples=40",
             "tracker=mlflow", "tracker.also=[tensorboard,wandb]",
             "phases=[{name: a, stage: sft}, {name: b, stage: sft}]")  # fmt: skip
    for chosen in ("[a]", "[b]"):
        run_dir = train_run(tmp_path / "r", *given, f"run.phases={chosen}")
    expected = logged_points(run_dir, of_several=True)
    assert [step for name, step in expected if name == "train/loss"] == [1, 2, 3, 4, 5, 6]
    assert {("eval/a/loss", 0), ("eval/a/loss", 3), ("eval/b/loss", 3), ("eval/b/loss", 6)} < {*expected}
    assert same(tensorboard_points(run_dir), expected)
    assert same(wandb_points(run_dir), expected)
    assert same(mlflow_points("ftlab"), expected)
    (run,) = mlflow_runs("ftlab")
    assert run.data.params["b.train.max_steps"] == "3"
    assert (tmp_path / "store").is_dir()


class Failing:
    """Its disk is full from the third step on."""

    asked = 0

    def __init__(self, about: object) -> None: ...

    def begin(self) -> None: ...

    def log(self, step: int, values: object, seconds: float) -> None:
        Failing.asked += step >= 3
        if step == 3:
            raise OSError(28, "No space left on device")

    def __getattr__(self, name: str):
        return lambda *given: None


def test_one_that_fails_is_told_once_and_stops_nothing(followed, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(hub.KINDS, "wandb", Failing)
    run_dir = train_run(tmp_path / "r", *RUN, "tracker.also=[wandb]")
    told = "The tracker wandb failed and is left alone; training goes on, and metrics.jsonl has everything. OSError: "
    for said in (capsys.readouterr().out, run_dir.log.read_text()):
        assert said.count(told) == 1 and "No space left on device" in said
    assert Failing.asked == 1
    assert run_dir.manifest()["status"] == "finished"
    assert final_hash(run_dir) == final_hash(followed)
    assert same(tensorboard_points(run_dir), logged_points(run_dir))


def test_a_server_that_is_not_there_stops_nothing(followed, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{PASSWORD}@127.0.0.1:9")
    run_dir = train_run(tmp_path / "r", *RUN, "tracker=mlflow")
    said = capsys.readouterr().out
    assert said.count("The tracker mlflow failed and is left alone") == 1
    assert PASSWORD not in said
    assert final_hash(run_dir) == final_hash(followed)


def test_a_missing_package_is_told_before_training(tmp_path, monkeypatch):
    there = packages.find_spec
    gone = ("wandb", "sqlalchemy")
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name in gone else there(name))
    with pytest.raises(NotReadyError) as caught:
        train_run(tmp_path / "r", *RUN, *ALL)
    assert "  - tracker=wandb needs wandb: pip install 'ftlab[wandb]'" in str(caught.value)
    assert "  - tracker=mlflow needs sqlalchemy: pip install 'ftlab[mlflow]'" in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_a_folder_named_wandb_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb_of_mine").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not packages.is_installed("wandb_of_mine")
    assert packages.is_installed("wandb")


def test_only_the_first_process_follows(tmp_path, followed, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    trackers = hub.Trackers(followed, followed.plan(), Manifest(followed), print)
    trackers.open()
    trackers.log({"phase": "sft", "step": 7, "global_step": 7, "loss": 1.0, "time": 1.0})
    assert same(tensorboard_points(followed), logged_points(followed))


# ------------------------------------------------------------------------------------------------------------ rates


def test_flops_of_a_token_and_the_share_of_the_peak():
    """Llama 2 7B, fine-tuned whole on samples of 4096 tokens; by hand."""
    layers, heads, head, length = 32, 32, 128, 4096
    work = rates.Work(6_738_415_616, 6_738_415_616, layers * heads * head, length)
    assert work.flops() == 6 * 6_738_415_616 + 12 * 32 * 32 * 128 * 4096 == 46_872_944_640
    assert rates.mfu(10_000, work, 989e12) == pytest.approx(0.47394, abs=1e-5)
    frozen = rates.Work(6_738_415_616, 40_000_000, layers * heads * head, length)
    assert work.flops() - frozen.flops() == 2 * (6_738_415_616 - 40_000_000)


@pytest.mark.parametrize(
    ("device", "precision", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989e12),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756e12),
        ("NVIDIA A100-SXM4-40GB", torch.float16, 312e12),
        ("NVIDIA A100-SXM4-40GB", torch.float32, None),
        ("NVIDIA A10G", torch.bfloat16, None),
        ("Tesla T4", torch.float16, None),
        ("cpu", torch.bfloat16, None),
    ],
)
def test_a_peak_is_known_or_it_is_not(device, precision, flops):
    assert rates.peak(device, precision) == flops


def test_what_a_token_of_a_run_takes(followed):
    """The tiny model's own numbers; packed samples attend to themselves alone."""
    run = followed.plan().phases[0].config
    from ftlab.data.packing.store import PackedRow, Sample
    from ftlab.model.adapter import apply_method, count_parameters
    from ftlab.model.load import load_model

    model = apply_method(load_model(run), run)
    samples = [Sample(torch.zeros(n).numpy(), torch.zeros(n).numpy()) for n in (10, 30)]
    work = rates.estimate_work(run, model, count_parameters(model), [PackedRow(tuple(samples))])
    shape = run.model.architecture
    parameters = followed.manifest()["phases"]["sft"]["parameters"]
    assert (work.total, work.trained) == (parameters["total"], parameters["trainable"])
    assert work.attention == shape.layers * shape.heads * shape.head_dim
    assert work.length == (10 * 10 + 30 * 30) / 40


def test_a_prompt_that_is_computed_once_counts_once(tmp_path):
    """Of the second answer of a pair its own tokens count, each of which sees the prompt, too."""
    given = ("stage=dpo", "data=preferences", "data.max_samples=6", "hardware=cpu", *BARE)
    trainer, rows = a_trainer(tmp_path, *given)
    parameters = Parameters(1, 1)
    apart = rates.estimate_work(trainer.run, trainer.model, parameters, rows)
    rows.shares_prompts = True
    once = rates.estimate_work(trainer.run, trainer.model, parameters, rows)
    lengths, prompts = rows.view_lengths(), rows.prompts
    own = lengths - [0 if view % 2 == 0 else prompts[view] for view in range(len(lengths))]
    assert once.length == (own * lengths).sum() / own.sum() != apart.length == (lengths**2).sum() / lengths.sum()


def test_evaluating_and_saving_are_not_training(monkeypatch):
    now = 100.0
    monkeypatch.setattr(rates.time, "monotonic", lambda: now)
    monkeypatch.setattr(rates, "peak", lambda device, precision: 1000.0)
    found = rates.Rates(rates.Work(10, 10, 0, 1.0), torch.bfloat16)

    class Args:
        device, world_size = torch.device("cpu"), 1

    class State:
        num_input_tokens_seen = 1000  # of before it was resumed

    found.on_train_begin(Args, State, None)
    for seconds, event in ((0, "step_begin"), (2, "step_end"), (50, "evaluate"), (0, "step_begin"), (3, "step_end")):
        now += seconds
        getattr(found, f"on_{event}")(Args, State, None)
    State.num_input_tokens_seen += 40
    found.on_log(Args, State, None, logs={"loss": 1.0})
    # 40 tokens in 5 s, each of 60 FLOPs, on a device that makes 1000 in a second
    assert found.latest == {"tokens_per_second": 8.0, "mfu": 0.48}
    for seconds, event in ((7, "save"), (1, "step_begin"), (4, "step_end")):
        now += seconds
        getattr(found, f"on_{event}")(Args, State, None)
    State.num_input_tokens_seen += 40
    found.on_log(Args, State, None, logs={"loss": 1.0})
    assert found.latest["tokens_per_second"] == 10.0
    found.on_log(Args, State, None, logs={"eval_loss": 1.0})
    assert found.latest == {}


def test_a_gpu_is_asked_for_its_memory_and_its_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20_000_000_000, 80_000_000_000))
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 97)
    assert rates.usage(torch.device("cuda")) == {"gpu_memory_gb": 60.0, "gpu_utilization": 97}

    def no_nvml(device):
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "utilization", no_nvml)
    assert rates.usage(torch.device("cuda")) == {"gpu_memory_gb": 60.0}
    assert rates.usage(torch.device("cpu")) == {}
