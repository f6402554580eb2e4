"""A sweep whose jobs run in other processes, which were started with command lines of their own."""

from __future__ import annotations

import os

import pytest

from ftlab.rundir.directory import RunDir

PLUGIN = '''
import multiprocessing
import sys
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict


@dataclass
class Elsewhere:
    _target_: str = "hydra_plugins.elsewhere.ElsewhereLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="elsewhere", node=Elsewhere, provider="elsewhere")


def work(jobs):
    sys.argv = ["worker", "--id", "7", "no such task"]
    setup_globals()
    for context, task, config in jobs:
        HydraConfig.instance().set_config(config)
        done = run_job(
            hydra_context=context, task_function=task, config=config,
            job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
        )
        done.return_value  # or what went wrong


class ElsewhereLauncher(Launcher):
    """The jobs in another process, and only what can be pickled reaches it."""

    def setup(self, *, hydra_context, task_function, config):
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides, initial_job_idx):
        jobs = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            jobs.append((self.context, self.task, config))
        process = multiprocessing.get_context("spawn").Process(target=work, args=(jobs,))
        process.start()
        process.join(100)
        assert process.exitcode == 0
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=None) for _ in jobs]
'''
EXPERIMENT = """# @package _global_
lora:
  r: {r}
train:
  max_steps: 1
data:
  max_samples: 16
  split: {{validation: none, golden: none}}
eval:
  samples: 0
  golden_rows: 0
"""


@pytest.fixture
def swept(tmp_path, ftlab, env):
    """A sweep of two experiments of the user's own, under a launcher of the user's own."""
    plugins = tmp_path / "plugins" / "hydra_plugins"
    plugins.mkdir(parents=True)
    (plugins / "elsewhere.py").write_text(PLUGIN)
    env["PYTHONPATH"] = os.pathsep.join([str(plugins.parent), env["PYTHONPATH"]])
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    for name, r in (("small", 3), ("large", 5)):
        (tmp_path / "own" / "experiment" / f"{name}.yaml").write_text(EXPERIMENT.format(r=r))
    return ftlab("--config-dir", "own", "-m", "hydra/launcher=elsewhere", "experiment=small,large",
                 "hydra.sweep.dir=swept", "tracker=none")  # fmt: skip


@pytest.mark.matrix
def test_jobs_in_processes_with_other_command_lines_train_what_was_asked_for(swept, tmp_path):
    assert swept.returncode == 0, swept.stdout + swept.stderr
    for number, (name, r) in enumerate((("small", 3), ("large", 5))):
        run_dir = RunDir.open(tmp_path / "swept" / str(number))
        assert (run_dir.manifest()["status"], run_dir.plan().phases[0].config.lora.r) == ("finished", r)
        rerun = run_dir.manifest()["rerun"]
        assert "--config-dir=own" in rerun and f"experiment={name}" in rerun
        assert "worker" not in rerun
