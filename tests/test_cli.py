"""The command itself, in a process of its own: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ftlab import __version__
from ftlab.config.paths import shipped
from ftlab.main import answer
from tests.conftest import Done, end_of_each, environment

MISTAKES = {
    "lora.rr=3":
        "  - lora.rr=3: no such key. lora has: r, alpha, dropout, target_modules, experts, variant, loraplus_ratio. "
        "Did you mean lora.r?",
    "data.path=nope.json data.format=alpaca":
        "  - data.path: nope.json does not exist. Relative paths start from the current folder.",
    "data.path=empty.json data.format=alpaca":
        "  - data.path: empty.json is empty.",
    "model.path=/nowhere/x":
        "  - model.path=/nowhere/x does not exist",
    "run.dir=empty.json/run":
        "run.dir=empty.json/run cannot be written: Not a directory. Give another with run.dir=FOLDER.",
    "resume elsewhere":
        "elsewhere is no run directory: it has no run.yaml. Runs are in outputs/ of the folder that they were started "
        "in; ftlab ls lists them.",
    "resume":
        "  - run.dir: ftlab resume needs the run directory: ftlab resume outputs/my-run",
    "trian":
        "  - trian: is no task. Tasks: ",
    "lora.r=8,16":
        "  - lora.r=8,16: several values are a sweep: add -m, or quote the value",
    "--config-dir nowhere":
        "  - --config-dir=nowhere: is no folder",
    "--hlep":
        "--hlep: no such flag.",
}  # fmt: skip


URL = "anna:hunter2secret@host/set"
REPEATED = [
    f"data.path=hf://{URL} data.format=alpaca", f"data.path=https://{URL} data.format=alpaca",
    f"+no.such=https://{URL}", f"resume https://{URL}", f"init https://{URL}",
]  # fmt: skip
LONG = "x" * 300
TOO_LONG = [
    f"run.name={LONG}", f"run.dir={LONG}", f"data.path={LONG}.json data.format=alpaca", f"resume {LONG}",
    f"model.path={LONG * 20}", f"diff {LONG} b",
]  # fmt: skip
THREE = "train.learing_rate=1 model=llama3_8bb lora.dropout=2"
STEERING = "data.path=\x1b]0;owned\x07.json"
JOB = "stage=dpo --cfg job lora=r64 train.epochs=1"
OF_SWEEPS = {
    "-m --cfg job lora.r=8,32 seed=1": (8, "the first job of the sweep, with lora.r=8."),
    "--multirun -c job lora=r64": (64, "the first job of the sweep."),
}
LOCAL = f"--cfg job model=local model.path={shipped('models/tiny')} stage=dpo"
PARTS = [LOCAL, f"{LOCAL} -p train", "--cfg job -p lora.r"]
OURS = ["--version", "version", "help", "--help"]


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> dict[str, Done]:
    """How the command lines end that need nothing around them, in one process, which runs in an empty folder."""
    folder = tmp_path_factory.mktemp("empty")
    shown = [JOB, *OF_SWEEPS, *PARTS]  # before those that leave something
    lines = [*shown, *OURS, THREE, shlex.quote(STEERING), *REPEATED, *TOO_LONG]
    return end_of_each(lines, folder, environment(folder))


def test_a_mistake_ends_with_one_and_a_message(each, tmp_path):
    (tmp_path / "empty.json").touch()
    ended = each([*MISTAKES])
    unsaid = {line: ended[line].stderr for line, message in MISTAKES.items() if message not in ended[line].stderr}
    assert unsaid == {}
    assert {line: done.returncode for line, done in ended.items() if done.returncode != 1} == {}
    shown = ("Traceback", "HYDRA_FULL_ERROR")
    assert {line: done.stderr for line, done in ended.items() if any(word in done.stderr for word in shown)} == {}
    assert {line: done.stdout for line, done in ended.items() if done.stdout} == {}
    left = {line: done.left for line, done in ended.items() if done.left != ["empty.json"]}
    assert left == {}, "a refused run leaves nothing behind"
    assert "Did you mean --help?" in ended["--hlep"].stderr


def test_a_mistake_is_told_by_the_command_itself(ftlab):
    """That is, by a process of its own: its exit code, and nothing more than the message."""
    done = ftlab("lora.rr=3")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("A mistake in the config:\n") and "Traceback" not in done.stderr


def test_three_mistakes_are_listed_together(ended):
    done = ended[THREE]
    head, *listed, _ = done.stderr.splitlines()
    assert (done.returncode, head) == (1, "3 mistakes in the config:")
    assert [line.split(":")[0] for line in listed] == [
        "  - model=llama3_8bb",
        "  - train.learing_rate=1",
        "  - lora.dropout=2",
    ]


def test_a_model_that_cannot_be_reached_says_what_would_do(ftlab, tmp_path):
    done = ftlab("model=llama3_8b", "deepspeed=z3")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "  - model.path=meta-llama/Meta-Llama-3-8B is not in the cache, and the hub cannot be reached. "
        f"Give a folder with model.path=FOLDER, or copy the model into the cache {tmp_path}/hub/hub "
        "(on a machine with a network: hf download meta-llama/Meta-Llama-3-8B; HF_HOME moves the cache)"
    ) in done.stderr.splitlines()


def test_a_password_in_an_address_is_not_repeated(ended):
    """Nor where an address was taken for a path, which has one slash less."""
    for line in REPEATED:
        done = ended[line]
        assert done.returncode == 1
        assert "/<redacted>@host/set" in done.stderr, line
        assert "hunter2secret" not in done.stdout + done.stderr, line


def test_a_name_longer_than_a_file_system_takes_is_told(ended):
    for line in TOO_LONG:
        done = ended[line]
        assert done.returncode == 1, line
        assert LONG in done.stderr and "Traceback" not in done.stderr and "Error executing" not in done.stderr, line
        assert "too long" in done.stderr or "longer than" in done.stderr or "does not exist" in done.stderr, line


def test_an_error_cannot_steer_the_terminal(ended):
    done = ended[shlex.quote(STEERING)]
    assert done.returncode == 1
    assert "<U+001B>]0;owned<U+0007>.json" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("line", ["--help", pytest.param("env format=json", marks=pytest.mark.matrix)])
def test_an_output_on_a_full_disk_is_told(line, script, env, tmp_path):
    command = f"{script}/ftlab {line} > /dev/full"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "The output cannot be written: No space left on device.\n")


def test_version(ftlab):
    done = ftlab("version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ftlab {__version__}\n", "")


def test_env_as_json_is_json_and_keeps_secrets(ftlab, env):
    env |= {"HF_TOKEN": "hf_notarealtokenatall", "WANDB_API_KEY": "short", "NCCL_DEBUG": "INFO",
            "HTTPS_PROXY": "http://me:notarealtoken@proxy:3128"}  # fmt: skip
    done = ftlab("env", "format=json")
    facts = json.loads(done.stdout)
    assert (done.returncode, facts["ftlab"]["version"]) == (0, __version__)
    assert sys.executable in facts["machine"]["python"]
    assert facts["packages"]["pydantic"][0] == "2"
    assert facts["packages"]["mlflow-skinny"][0] == "3", "which the whole mlflow comes with, too"
    assert (facts["hub"]["HF_TOKEN"], facts["hub"]["HF_HUB_OFFLINE"]) == ("set", "on")
    assert "notarealtoken" not in done.stdout
    told = facts["environment"]
    assert (told["WANDB_API_KEY"], told["NCCL_DEBUG"]) == ("set", "INFO")
    assert told["HTTPS_PROXY"] == "http://<redacted>@proxy:3128"
    assert {"cpu", "cpus", "usable memory", "C++ compiler"} <= facts["machine"].keys()
    assert {"here", "data.cache", "hub", "temporary"} == facts["disk"].keys()
    assert len(facts["ftlab"]["commit"].split()[0]) == 40 and "extras" in facts["ftlab"]


def test_cfg_job_prints_yaml_with_the_choices_in_it(ended):
    done = ended[JOB]
    config = yaml.safe_load(done.stdout)
    assert done.returncode == 0
    assert (config["stage"]["loss_type"], config["lora"]["r"], config["train"]["epochs"]) == ("sigmoid", 64, 1)
    assert "hydra" not in config
    assert done.left == []


def test_cfg_job_shows_the_values_that_the_run_would_have(ended, make_run):
    """What other keys give, and what the folder of the model says, as in run.yaml; in the order of conf/."""
    whole, train, wrong = (ended[line] for line in PARTS)
    config = yaml.safe_load(whole.stdout)
    run = make_run("model=local", f"model.path={shipped('models/tiny')}", "stage=dpo").model_dump(mode="json")
    assert "${" not in whole.stdout
    assert [*config][:5] == ["task", "hardware", "deepspeed", "tracker", "data"]
    assert {key: config[key] for key in ("model", "train", "lora", "data")} == {
        key: run[key] for key in ("model", "train", "lora", "data")
    }
    assert yaml.safe_load(train.stdout) == run["train"]
    assert "--package=lora.r: is no part of the config" in wrong.stderr


@pytest.mark.matrix
def test_a_task_can_be_swept(each):
    """Whatever the order of its words, and with a launcher before the flag."""
    lines = [
        "version -m seed=1,2",
        "-m task=version seed=1,2",
        "seed=1,2 version --multirun",
        "hydra/launcher=basic -m seed=1,2 task=version hydra.sweep.dir=swept",
    ]
    ends = {line: (done.returncode, done.stdout, done.stderr, done.left) for line, done in each(lines).items()}
    assert ends == dict.fromkeys(lines, (0, f"ftlab {__version__}\n" * 2, "", []))


def test_the_version_is_ours_and_the_word_help_is_help(ended):
    assert ended["--version"].stdout.startswith("ftlab 0.") and ended["version"].stdout.startswith("ftlab 0.")
    assert ended["help"].stdout == ended["--help"].stdout != ""


@pytest.fixture
def script(tmp_path) -> Path:
    """The folder of the console script: the installed one, or the same file as an installer writes."""
    installed = Path(sys.executable).with_name("ftlab")
    if installed.exists():
        return installed.parent
    written = tmp_path / "bin" / "ftlab"
    written.parent.mkdir()
    written.write_text(f"#!{sys.executable}\nimport sys\nfrom ftlab.main import main\nsys.exit(main())\n")
    written.chmod(0o755)
    return written.parent


COMPLETE = """
eval "$(ftlab -sc install=bash)"
complete -p ftlab
for line in "${lines[@]}"; do
    words=($line)
    COMP_LINE="$line" COMP_POINT=${#line} COMP_CWORD=$((${#words[@]} - 1)) COMPREPLY=()
    hydra_bash_completion
    echo "${COMPREPLY[@]}"
done
"""
COMPLETIONS = {
    "ftlab mod": ["model.", "model="],
    "ftlab ins": ["inspect"],
    "ftlab model=llama2": ["model=llama2_13b", "model=llama2_70b", "model=llama2_7b"],
    "ftlab lora.al": ["lora.alpha="],
    "ftlab lora=r64 quant=n": ["quant=nf4", "quant=none"],
    "ftlab inspect outputs/": ["outputs/my-run/", "outputs/other/"],
    "ftlab diff outputs/other outputs/m": ["outputs/my-run/"],
    "ftlab report outputs/my-run outputs/other outputs/o": ["outputs/other/"],
    "ftlab explain train.max_": ["train.max_grad_norm", "train.max_steps"],
    "ftlab explain lo": ["lora", "lora."],
    "ftlab explain lora.r stage=d": ["stage=dpo"],
    "ftlab data.path=ro": ["data.path=rows.jsonl"],
    "ftlab --config-dir=own experiment=mi": ["experiment=mine"],
    "ftlab --config-dir own experiment=mi": ["experiment=mine"],
}


@pytest.fixture
def to_complete(tmp_path) -> None:
    """Files and folders that a word may begin, in the folder of the test."""
    for name in ("outputs/my-run", "outputs/other", "own/experiment"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 3\n")


def test_what_a_shell_is_told_of_a_word_that_is_begun(to_complete, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = {}
    for line in COMPLETIONS:
        monkeypatch.setattr(sys, "argv", ["ftlab"])
        monkeypatch.setenv("COMP_LINE", line)
        answer(["-sc", "query=bash"])
        told[line] = sorted(capsys.readouterr().out.split())
    assert told == COMPLETIONS


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_completion_in_bash(to_complete, script, env, tmp_path):
    """As after ``eval "$(ftlab -sc install=bash)"``: bash's own completion of a group, its choices and a file."""
    env["PATH"] = f"{script}{os.pathsep}{env['PATH']}"
    lines = ["ftlab mod", "ftlab lora=r64 quant=n", "ftlab data.path=ro"]
    script = f"lines=({shlex.join(lines)})\n{COMPLETE}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    rule, *completions = done.stdout.splitlines()
    assert rule == "complete -o default -o nospace -F hydra_bash_completion ftlab"
    assert [sorted(line.split()) for line in completions] == [COMPLETIONS[line] for line in lines]
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_completion_in_zsh(script, env, tmp_path):
    """As after the two lines of README.md, in a terminal."""
    env |= {"PATH": f"{script}{os.pathsep}{env['PATH']}", "TERM": "dumb"}
    (tmp_path / "outputs" / "my-run").mkdir(parents=True)
    outer, inner = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"], cwd=tmp_path, env=env, stdin=inner, stdout=inner, stderr=inner, start_new_session=True
    )
    os.close(inner)

    def typed(text: str, until: str) -> None:
        os.write(outer, text.encode())
        said, end = "", time.monotonic() + 60
        while until not in said and time.monotonic() < end:
            if select.select([outer], [], [], 1)[0]:
                said += os.read(outer, 65536).decode()
        assert until in said

    try:
        typed("autoload -Uz compinit bashcompinit && compinit -u && bashcompinit && echo o''k\n", "ok")
        typed('eval "$(ftlab -sc install=bash)" && echo rea""dy\n', "ready")
        for begun, ended in (("ftlab ins", "pect"), (" outputs/m", "y-run/"), (" lora.al", "pha=")):
            typed(f"{begun}\t", ended)
    finally:
        shell.kill()
        shell.wait()
        os.close(outer)


@pytest.mark.parametrize("line", OF_SWEEPS)
def test_the_config_of_a_sweep_is_that_of_its_first_job(line, ended):
    done, (r, said) = ended[line], OF_SWEEPS[line]
    assert done.returncode == 0, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    assert yaml.safe_load(done.stdout)["lora"]["r"] == r
    assert done.left == []
