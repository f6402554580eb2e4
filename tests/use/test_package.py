"""``ftlab package``: what is packed answers as the run does, without ftlab; and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from ftlab.errors import ConfigError, NotReadyError, PackageError, RunDirError
from ftlab.measure.generate import generate
from ftlab.policy.from_run import load_policy
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import sha256
from ftlab.use.package.documents import write_sums
from tests.conftest import ROOT
from tests.runs import BARE, interrupted_run, train_run
from tests.use.test_package_archive import packaged

TINY = ROOT / "models" / "tiny"
QUESTION = "What is 3 plus 4?"
GIVEN = (
    "model=tiny_instruct", "data.max_samples=64", "train.max_steps=4", "train.learning_rate=1e-3", *BARE,
    "eval.max_new_tokens=12",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> RunDir:
    return train_run(tmp_path_factory.mktemp("package") / "run", *GIVEN)


@pytest.fixture
def run(here, trained) -> Path:
    """The run, in the current folder."""
    shutil.copytree(trained.path, here / "run", symlinks=True)
    return here / "run"


def unpacked(archive: Path) -> Path:
    """The folder of an archive, in an empty one."""
    into = archive.parent / f"{archive.name}-unpacked"
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
    (folder,) = into.iterdir()
    return folder


def answer_of(run: Path) -> str:
    """What the run's own model says to the question."""
    policy = load_policy(run)
    assert policy.template is not None
    prompt = policy.template.prompt([{"role": "user", "content": QUESTION}])
    (answer,) = generate(
        policy.model, policy.tokenizer, [prompt], max_new_tokens=12, batch_size=1, max_tokens=4096, stop=policy.stop
    )
    return answer


WITHOUT_FTLAB = "import sys; sys.modules['ftlab'] = None; exec(compile(open('snippet.txt').read(), 'card', 'exec'))"


def answer_of_card(folder: Path, base: str = "") -> str:
    """What the code of a model card prints, in a new process where ftlab cannot be imported."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (folder / "snippet.txt").write_text(code.replace('"BASE"', repr(base)))
    command = [sys.executable, "-I", "-c", WITHOUT_FTLAB]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


def test_an_adapter_is_packed_checked_and_used_without_ftlab(run, here, capsys):
    packaged("run")
    printed = capsys.readouterr().out
    assert re.search(r"chat template +the same\n", printed) and re.search(r"greedy answers +3 of 3 the same", printed)
    assert re.search(r"logits +largest difference (0|\S+e-0[5-9]) of ", printed)
    archive = run / "packages" / "run-peft.tar.gz"
    assert f"written to run/packages/run-peft.tar.gz ({archive.stat().st_size:,} bytes)" in printed
    folder = unpacked(archive)
    assert (folder / "adapter_model.safetensors").read_bytes() == (run / "final/adapter_model.safetensors").read_bytes()
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    everything = "".join(path.read_text() for path in folder.rglob("*") if path.suffix in (".md", ".json", ".py"))
    assert str(ROOT) not in everything and str(here) not in everything


@pytest.mark.matrix
def test_the_code_of_the_card_answers_as_the_run_does_where_ftlab_is_not(run):
    packaged("run", "check=false")
    folder = unpacked(run / "packages" / "run-peft.tar.gz")
    assert answer_of_card(folder, str(TINY)) == answer_of(run)


def test_what_a_package_says_of_itself(run, capsys):
    evaluation = {
        "status": "finished", "rows": 40, "data": "mine", "split": "test",
        "metrics": {"exact_match": {"value": 0.5, "low": 0.4, "high": 0.6, "rows": 40}},
        "identity": {"weights": {"adapter_model.safetensors": sha256(run / "final" / "adapter_model.safetensors")}},
    }  # fmt: skip
    for name, weights in (("mine-test", evaluation["identity"]), ("other-test", {"weights": {"a": "b"}})):
        file = run / "evaluations" / name / "evaluation.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({**evaluation, "identity": weights, "data": name}))
    packaged("run", "check=false", "license=mit")
    folder = unpacked(run / "packages" / "run-peft.tar.gz")
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "peft" and front["license"] == "mit" and "base_model" not in front
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "exact_match", "value": 0.5}] and result["dataset"]["name"] == "mine-test"
    assert "| exact_match | 0.5000 | 0.4000 to 0.6000 |" in card and "other-test" not in card
    assert "Of the base model, `tiny`: apache-2.0." in card and "Of these weights: mit." in card
    assert "`train.learning_rate` | 0.001" in card and "ftlab " in card.split("## Run again")[1]
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["base"]["sha256"] == {"model.safetensors": sha256(TINY / "model.safetensors")}
    assert metadata["phases"][0]["data"] and metadata["run"]["stage"] == "sft" and metadata["licence"] == "mit"
    assert metadata["tokens"]["stop_tokens"] == ["<|im_end|>", "<|endoftext|>"]
    assert re.search(r"^peft==\d", (folder / "requirements.txt").read_text(), re.MULTILINE)
    assert "compared with the run" in (folder / "USAGE.md").read_text() and not (folder / "check.json").exists()


def test_the_same_run_makes_the_same_archive(run):
    packaged("run", "check=false")
    packaged("run", "check=false", "output=again.tar.gz")
    assert Path("again.tar.gz").read_bytes() == (run / "packages" / "run-peft.tar.gz").read_bytes()
    assert Path("again.tar.gz.sha256").read_text() == f"{sha256(Path('again.tar.gz'))}  again.tar.gz\n"
    with pytest.raises(ConfigError, match=r"task\.output=.*again\.tar\.gz: is there already"):
        packaged("run", "check=false", "output=again.tar.gz")
    packaged("run", "check=false", "output=again.tar.gz", "overwrite=true")
    assert sorted(path.name for path in (run / "packages").iterdir()) == [
        ".lock", "run-peft.tar.gz", "run-peft.tar.gz.sha256",
    ]  # fmt: skip


@pytest.mark.matrix
def test_a_merged_model_stands_alone_and_its_commands_work(run, here, capsys):
    packaged("run", "merge=true", "shard_size=2MB")
    assert re.search(r"greedy answers +3 of 3 the same", capsys.readouterr().out)
    archive = shutil.copy(run / "packages" / "run-hf.tar.gz", here / "run-hf.tar.gz")
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        page = tar.extractfile("run-hf/USAGE.md").read().decode()
    assert "run-hf/model-00001-of-00004.safetensors" in names and "run-hf/adapter_config.json" not in names
    # Each command of the page in its order, in the environment that is here instead of a new one.
    commands = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    left = [line for line in commands if "env" not in line and "pip" not in line]
    assert len(left) == len(commands) - 3
    script = "\n".join(["set -e", *left]).replace("python ", f"{sys.executable} -I ")
    done = subprocess.run(["bash", "-c", script], cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, answer = done.stdout.splitlines()
    assert answer == answer_of(run).splitlines()[-1]


@pytest.mark.parametrize("words", [("dtype=bf16",), pytest.param((), marks=pytest.mark.matrix)])
def test_a_full_run_is_packed_as_it_is_or_in_fewer_bits(words, here):
    run = train_run(here / "run", *GIVEN, "method=full", "model.adapter=null")
    packaged("run", "check=false", *words)
    (archive,) = (run.path / "packages").glob("*.tar.gz")
    assert archive.name == ("run-hf-bf16.tar.gz" if words else "run-hf.tar.gz")
    folder = unpacked(archive)
    ours, theirs = load_file(run.final / "model.safetensors"), load_file(folder / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(ours[name].to(theirs[name].dtype).equal(theirs[name]) for name in ours)
    assert {str(value.dtype) for value in theirs.values()} == {"torch.bfloat16" if words else "torch.float32"}
    for wrong, said in (("format=peft", "whole weights, and has no adapter"), ("merge=true", "no adapter to merge")):
        with pytest.raises(ConfigError, match=said):
            packaged("run", wrong)


def test_a_run_that_is_not_finished_gives_its_best_checkpoint_and_says_so(here, capsys):
    small = (GIVEN[0], GIVEN[1], *BARE)
    run = interrupted_run(here / "run", 4, *small, "train.max_steps=8", "train.save_steps=2")
    packaged("run", "check=false")
    assert re.search(
        r"phase sft is not finished: this is its checkpoint of step \d, the newest", capsys.readouterr().out
    )
    (archive,) = (run.path / "packages").glob("*.tar.gz")
    assert re.fullmatch(r"run-step-\d-peft\.tar\.gz", archive.name)
    folder = unpacked(archive)
    assert not [path for path in folder.iterdir() if path.suffix in (".pt", ".pth", ".bin")]
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [3, 1]
    assert "is not finished" in (folder / "README.md").read_text()
    with pytest.raises(RunDirError, match=r"run\.checkpoint=77: .* has no whole checkpoint of that step"):
        packaged("run", "run.checkpoint=77")


def changed_adapter(run: Path) -> None:
    file = run / "final" / "adapter_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)


def other_base(run: Path) -> None:
    """As after the folder of the base was replaced by another model's."""
    text = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(text.replace(str(TINY), str(run.parent / "other")))
    shutil.copytree(TINY, run.parent / "other")
    config = json.loads((TINY / "config.json").read_text())
    from transformers import AutoConfig, AutoModelForCausalLM

    smaller = AutoConfig.for_model(**{**config, "hidden_size": 64, "head_dim": 16})
    AutoModelForCausalLM.from_config(smaller).save_pretrained(run.parent / "other")


def no_base(run: Path) -> None:
    text = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(text.replace(str(TINY), str(run.parent / "gone")))


def pickled(run: Path) -> None:
    file = run / "final" / "adapter_model.safetensors"
    file.rename(file.with_suffix(".bin"))


BROKEN = {
    "no weights": (lambda run: shutil.rmtree(run / "phases"), RunDirError, "has no weights yet"),
    "no run.yaml": (lambda run: (run / "run.yaml").unlink(), RunDirError, "is no run directory"),
    "no run.yaml in it": (lambda run: (run / "run.yaml").write_text("phases: ["), RunDirError, r"run\.yaml is no YAML"),
    "damaged manifest": (lambda run: (run / "manifest.json").write_text("{"), RunDirError, r"manifest\.json is no"),
    "damaged ledger": (lambda run: (run / "data" / "sft.json").write_text("{"), RunDirError, r"sft\.json is no JSON"),
    "changed adapter": (changed_adapter, NotReadyError, "has changed since the run finished"),
    "pickled adapter": (pickled, NotReadyError, "is gone since the run finished"),
    "no base": (no_base, NotReadyError, r"(?s)The model that the run was trained on is not there.*gone does not exist"),
    "other base": (other_base, NotReadyError, "cannot be loaded onto this model: size mismatch"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_run_is_told_and_nothing_is_left(case, run):
    change, error, said = BROKEN[case]
    change(run)
    with pytest.raises(error, match=said):
        packaged("run", "check=false" if case != "other base" else "merge=true")
    assert not list(run.rglob("*.tar.gz")) and not list(run.rglob("packages/.*tmp"))


WRONG = {
    "": r"run\.dir: ftlab package needs a run directory",
    "run format=json": r"task\.format=json: is how ftlab package verify prints",
    "run format=peft merge=true": r"task\.merge=True: makes whole weights",
    "run format=hf merge=false": r"format=hf is whole weights, made of the adapter and its base",
    "run dtype=bf16": r"task\.dtype=bf16: is of whole weights, and this would be the adapter",
    "run train.learning_rate=1": r"train\.learning_rate: is the run's own, and ftlab package takes what was trained",
    "run load=true": r"task\.load=True: is of ftlab package verify",
    "run phase=none": "no such phase",
}


@pytest.mark.parametrize("words", WRONG)
def test_keys_that_do_not_go_together_are_told_before_anything_is_loaded(words, run):
    with pytest.raises(ConfigError, match=WRONG[words]):
        packaged(*words.split())


@pytest.mark.matrix
def test_an_archive_that_was_changed_with_its_hashes_answers_otherwise_and_that_is_told(run, here, capsys):
    packaged("run")
    capsys.readouterr()
    packaged("verify", "run/packages/run-peft.tar.gz", "load=true", f"base={TINY}", "format=json")
    values = json.loads(capsys.readouterr().out)
    assert {"name": "greedy answers", "found": "3 of 3 the same"} in values["check"]
    folder = unpacked(run / "packages" / "run-peft.tar.gz")
    file = folder / "adapter_model.safetensors"
    save_file({name: value + 0.02 for name, value in load_file(file).items()}, file)
    with pytest.raises(PackageError, match=r"adapter_model\.safetensors is not what was packed"):
        packaged("verify", str(folder))
    write_sums(folder)
    packaged("verify", str(folder))  # whoever changes the list too is found out by the answers alone
    with pytest.raises(PackageError, match=r"(?s)does not answer here as it says it does.*first tokens"):
        packaged("verify", str(folder), "load=true", f"base={TINY}")
    with pytest.raises(ConfigError, match=r"task\.base: this adapter is for the model tiny; say where that is"):
        packaged("verify", str(folder), "load=true")
    shutil.copytree(TINY, here / "other")
    weights = load_file(TINY / "model.safetensors")
    save_file({name: value * 2 for name, value in weights.items()}, here / "other" / "model.safetensors")
    with pytest.raises(NotReadyError, match=r"base=.*other is another model than tiny"):
        packaged("verify", str(folder), "load=true", f"base={here / 'other'}")


@pytest.mark.matrix
def test_a_curriculum_is_packed_with_all_its_phases_and_a_base_that_it_made_goes_in(here, capsys):
    phases = "[{name: learn, stage: sft}, {name: prefer, stage: dpo, data: preferences, start: merge}]"
    small = ("data.max_samples=24", "data.max_length=128", "train.max_steps=3", "train.learning_rate=1e-3", *BARE)
    train_run(here / "run", *small, "eval.max_new_tokens=8", f"phases={phases}")
    with pytest.raises(ConfigError, match="the base of this adapter is one that the run made"):
        packaged("run")
    packaged("run", "merge=true")
    assert re.search(r"greedy answers +3 of 3 the same", capsys.readouterr().out)
    folder = unpacked(here / "run" / "packages" / "run-prefer-hf.tar.gz")
    card, metadata = (folder / "README.md").read_text(), json.loads((folder / "metadata.json").read_text())
    assert "## Training of phase `learn` (sft)" in card and "## Data of phase `prefer` (dpo)" in card
    assert [(one["name"], one["stage"], one["steps"]) for one in metadata["phases"]] == [
        ("learn", "sft", 3), ("prefer", "dpo", 3),
    ]  # fmt: skip
    assert metadata["base"]["name"] == "tiny"
    packaged("run", "phase=learn", "check=false")
    assert (here / "run" / "packages" / "run-learn-peft.tar.gz").is_file()


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("method=qlora",), ()),
        (("method=qlora",), ("merge=true",)),
        (("lora=pissa",), ()),
        (("lora=dora",), ("merge=true",)),
        (("model.template=llama3",), ()),
        (("model.template=llama3",), ("merge=true",)),
        (("hardware.precision=bf16",), ("merge=true", "dtype=bf16")),
        (("stage=pt", "data.path=texts.jsonl", "data.format=text"), ()),
        (("stage=dpo", "data=preferences"), ("merge=true",)),
        (("stage=rm", "data=preferences"), ()),
        (("stage=rm", "data=preferences", "method=full"), ()),
        (("method=freeze",), ("dtype=fp16",)),
    ],
)
def test_whatever_is_trained_is_packed_and_does_what_it_did(given, words, here, capsys):
    small = ("data.max_samples=24", "data.max_length=128", "train.max_steps=3", "train.learning_rate=1e-3")
    Path("texts.jsonl").write_text("".join(json.dumps({"text": f"The sea has {i} ships."}) + "\n" for i in range(40)))
    train_run(here / "run", *small, *BARE, "eval.max_new_tokens=8", *given)
    packaged("run", *words)
    printed = capsys.readouterr().out
    assert "written to" in printed
    (archive,) = (here / "run" / "packages").glob("*.tar.gz")
    folder = unpacked(archive)
    answer = answer_of_card(folder, str(TINY)).strip()
    assert answer or "stage=pt" in given  # a text may end where it began
