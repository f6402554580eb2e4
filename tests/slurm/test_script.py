"""What is handed to a cluster, as far as it can be seen without one: keys, scripts, and what is refused."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from ftlab.rundir.directory import RunDir
from ftlab.slurm.options import Options
from tests.conftest import ROOT

DRY = "hydra/launcher=slurm hydra.launcher.dry_run=true tracker=none"


def directives(script: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH --")]
    return dict(line.partition("=")[::2] for line in lines)


def test_the_keys_of_yaml_and_schema_are_the_same():
    values = yaml.safe_load((ROOT / "conf" / "hydra" / "launcher" / "slurm.yaml").read_text())
    del values["_target_"]
    assert values.keys() == Options.model_fields.keys()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("hydra.launcher.partitoin=gpu", "Did you mean hydra.launcher.partition?"),
        ("hydra.launcher.timeout_min=soon", "hydra.launcher.timeout_min=soon: must be a valid integer"),
        ("hydra.launcher.setup=x", "must be a list: hydra.launcher.setup=[x]"),
        ("run.checkpoint=4", "run.checkpoint=4: is for a start on this machine"),
        ("task=ls", "train and resume are handed to a cluster"),
        ("-m hydra.launcher.configs_per_job=4", "configs of a job take turns: give hydra.launcher.shards=N, too"),
        ("-m hydra.launcher.shards=8", "configs of a job take turns: give hydra.launcher.configs_per_job=N, too"),
        ("-m hydra.launcher.resident=2", "give hydra.launcher.configs_per_job=N and hydra.launcher.shards=N, too"),
        ("hydra.launcher.shards=8", "hydra.launcher.shards=8: is for the configs of a sweep: add -m, or leave it out"),
        ("-m hydra.launcher.configs_per_job=0 hydra.launcher.shards=8", "hydra.launcher.configs_per_job=0: must be"),
        ("-m hydra.launcher.configs_per_job=2 hydra.launcher.shards=0", "hydra.launcher.shards=0: must be greater"),
    ],
)
def test_a_wrong_key_is_told_with_what_is_right(mistakes, line, told):
    (mistake,) = mistakes(f"hydra/launcher=slurm {line}")
    assert told in mistake


def test_wrong_keys_of_launcher_and_run_are_told_at_once(mistakes):
    told = mistakes("hydra/launcher=slurm lora.rr=1 hydra.launcher.timeout_min=soon hydra.launcher.part=gpu")
    assert len(told) == 3, told


@pytest.fixture
def dry(each, tmp_path):
    """``dry("run.name=a ...", ...)``: how each command line ends under ``dry_run``."""
    pytest.importorskip("submitit", reason="pip install 'ftlab[slurm]'")
    (tmp_path / "own.sh").write_text("#!/bin/bash -l\n#SBATCH --time=7\nmodule load x\n  @COMMAND@\necho after\n")
    (tmp_path / "empty.sh").write_text("#!/bin/bash\npython train.py\n")

    def run(*lines: str):
        return [*each([f"{DRY} {line}" for line in lines]).values()]

    return run


def test_a_dry_run_writes_scripts_and_runs_and_submits_nothing(dry, tmp_path):
    asked = {
        "partition": "gpu", "qos": "high", "account": "lab", "gres": "gpu:1", "constraint": "nvme", "exclude": "n7",
        "dependency": "afterok:12", "mail_type": "END", "mail_user": "me@lab.org", "cpus_per_task": "8", "mem_gb": "64",
        "timeout_min": "90", "signal_delay_s": "30", "exclusive": "true", "name": "first", "comment": "mine",
    }  # fmt: skip
    keys = " ".join(f"hydra.launcher.{key}={value}" for key, value in asked.items())
    more = "hydra.launcher.setup=[module\\ load\\ cuda] hydra.launcher.additional_parameters={reservation:spring}"
    one, many, own = dry(
        f"run.name=a hardware=h100 {keys} {more}",
        "-m lora.r=4,8,16 hydra.sweep.dir=swept hydra.launcher.array_parallelism=2",
        "run.name=b hydra.launcher.template=own.sh hydra.launcher.mem_gb=2.5",
    )
    assert [done.returncode for done in (one, many, own)] == [0, 0, 0], one.stderr + many.stderr + own.stderr
    assert "Nothing is submitted. The script is outputs/.slurm/a.sh" in one.stdout
    script = (tmp_path / "outputs" / ".slurm" / "a.sh").read_text()
    written = directives(script)
    expected = {
        "partition": "gpu", "qos": "high", "account": "lab", "gres": "gpu:1", "constraint": "nvme", "exclude": "n7",
        "dependency": "afterok:12", "mail-type": "END", "mail-user": "me@lab.org", "cpus-per-task": "8", "mem": "64GB",
        "time": "90", "signal": "USR2@30", "exclusive": "", "job-name": "first", "comment": "mine", "nodes": "1",
        "ntasks-per-node": "1", "reservation": "spring", "requeue": "", "chdir": str(tmp_path),
    }  # fmt: skip
    assert {key: written.get(key) for key in expected} == expected
    assert "gpus-per-node" not in written  # gres says it
    assert "\nmodule load cuda\n" in script.partition("srun")[0]
    run_dir = RunDir.open(tmp_path / "outputs" / "a")
    assert run_dir.plan().phases[0].config.hardware.name == "h100"  # which this machine need not be
    assert f"runs=({run_dir.path.absolute()})" in script
    assert run_dir.manifest() == {}

    array = (tmp_path / "swept" / ".slurm" / "0-to-2.sh").read_text()
    assert directives(array)["array"] == "0-2%2"
    assert f"runs=({' '.join(str(tmp_path / 'swept' / str(number)) for number in range(3))})" in array
    assert [RunDir.open(tmp_path / "swept" / str(n)).plan().phases[0].config.lora.r for n in range(3)] == [4, 8, 16]

    filled = (tmp_path / "outputs" / ".slurm" / "b.sh").read_text()
    assert filled.startswith("#!/bin/bash -l\n")
    assert "@COMMAND@" not in filled
    places = [
        filled.index(word) for word in ("--mem=2560MB", "--time=60", "--time=7", "module load x", "srun ", "echo after")
    ]
    assert places == sorted(places)
    for text in (script, array, filled):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_configs_that_take_turns_are_handed_to_a_job_as_run_directories(dry, tmp_path):
    """Three to a job; those that several processes train have jobs of their own."""
    turns = "hydra.launcher.configs_per_job=3 hydra.launcher.shards=4 hydra.launcher.resident=2"
    (done,) = dry(f"-m hardware=cpu lora.r=1,2,4,8 hardware.devices=1,2 {turns} hydra.sweep.dir=swept")
    assert done.returncode == 0, done.stderr
    alone, array = sorted((tmp_path / "swept" / ".slurm").glob("*.sh"), key=lambda path: path.name == "0-to-6.sh")
    assert (alone.name, array.name) == ("1-to-7.sh", "0-to-6.sh")
    assert directives(alone.read_text())["array"] == "0-3%4"
    assert "ftlab.engine.shards" not in alone.read_text()
    script = array.read_text()
    assert directives(script)["array"] == "0-1%2"
    words = '-m ftlab.engine.shards --shards 4 --failures "$files.failures" --resident 2 "${runs[@]}"'
    assert words in script
    for task, numbers in ((0, [0, 2, 4]), (1, [6])):
        choose = "\n".join(line for line in script.splitlines() if line.startswith("runs="))
        command = f"SLURM_ARRAY_TASK_ID={task}\n{choose}\nprintf '%s\\n' \"${{runs[@]}}\""
        chosen = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout.split()
        assert chosen == [str(tmp_path / "swept" / str(number)) for number in numbers]


def test_what_cannot_be_submitted_is_refused_before_a_folder_is_made(dry, env, tmp_path):
    env["PATH"] = "/nowhere"
    ends = dry(
        "run.name=a hydra.launcher.template=empty.sh",
        "run.name=a hydra.launcher.template=gone.sh",
        "run.name=a hydra.launcher.dry_run=false",
        "-m lora.r=4,8 hydra.launcher.dry_run=false",
        "run.dir=b hydra.launcher.nodes=2 hydra.launcher.tasks_per_node=3",
    )
    told = [" ".join(done.stderr.split()) for done in ends]
    assert [done.returncode for done in ends] == [1] * 5
    assert "hydra.launcher.template=empty.sh: has no line @COMMAND@, where the run starts" in told[0]
    assert "hydra.launcher.template=gone.sh: cannot be read: No such file" in told[1]
    assert "there is no sbatch on the PATH" in told[2] and "hydra.launcher.dry_run=true" in told[2]
    assert "there is no sbatch on the PATH" in told[3]
    assert "hydra.launcher.nodes=2: contradicts hardware.nodes=1" in told[4]
    assert "hydra.launcher.tasks_per_node=3: must be 1, or hardware.devices=1" in told[4]
    assert not (tmp_path / "outputs").exists() and not (tmp_path / "b").exists()
