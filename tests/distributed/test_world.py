"""Rank, world size and devices."""

from __future__ import annotations

import os

import pytest

from ftlab.distributed.world import (
    Nodes,
    World,
    count_gpus,
    current_world,
    drive_one_device,
    first_host,
    planned_devices,
    slurm_nodes,
    take_slurm_variables,
)
from ftlab.errors import FtlabError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def world_of(monkeypatch):
    """``world_of(RANK="1", ...)``: the world of an environment with only these of torchrun's variables."""

    def read(**variables: str) -> World:
        for name in {*TORCHRUN, *(name for name in os.environ if name.startswith("SLURM_"))}:
            monkeypatch.setenv(name, "")  # so that it is as it was afterwards, whoever sets it in the meantime
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return current_world()

    return read


def test_without_torchrun_there_is_one_process(world_of):
    world = world_of()
    assert world == World(rank=0, size=1, local_rank=0) and world.is_first
    assert world.file_name("counters.pt") == "counters.pt"


def test_torchrun_says_which_of_several_this_is(world_of):
    world = world_of(RANK="5", WORLD_SIZE="8", LOCAL_RANK="1")
    assert world == World(5, 8, 1) and not world.is_first
    assert world.file_name("counters.pt") == "counters_5.pt"
    first = world_of(RANK="0", WORLD_SIZE="8", LOCAL_RANK="0")
    assert first.is_first and first.file_name("counters.pt") == "counters_0.pt"


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (
            {"RANK": "first", "WORLD_SIZE": "2"},
            "RANK=first of the environment must be a whole number from 0 on. torchrun sets",
        ),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 of the environment must be a whole number from 1 on. torchrun sets"),
        ({"LOCAL_RANK": "-1", "WORLD_SIZE": "2"}, "LOCAL_RANK=-1 of the environment must be a whole number from 0 on."),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 of the environment must be below WORLD_SIZE=2."),
        ({"RANK": "1"}, "RANK=1 of the environment, but no WORLD_SIZE. torchrun sets RANK, WORLD_SIZE and LOCAL_RANK"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "RANK= of the environment must be a whole number"),
    ],
)
def test_variables_that_make_no_sense(variables, told, world_of):
    with pytest.raises(FtlabError) as caught:
        world_of(**variables)
    assert str(caught.value).startswith(told)


def test_processes_that_did_not_find_each_other_do_not_train(world_of):
    class Arguments:
        n_gpu, world_size = 4, 1

    world_of()
    drive_one_device(arguments := Arguments())
    assert arguments._n_gpu == 1
    world_of(RANK="0", WORLD_SIZE="2")
    with pytest.raises(FtlabError, match="WORLD_SIZE=2 of the environment, but 1 process found each other"):
        drive_one_device(Arguments())


@pytest.mark.parametrize(("visible", "count"), [(None, 8), ("0,3", 2), ("GPU-8f6b", 1), ("", 0), ("-1", 0)])
def test_gpus_that_are_hidden_do_not_count(visible, count):
    assert count_gpus(8, visible) == count


@pytest.mark.parametrize(
    ("line", "devices"),
    [
        ((), 1),
        (("hardware.devices=4",), 4),
        (("hardware.nodes=2",), 2),
        (("hardware.devices=4", "hardware.nodes=2"), 8),
    ],
)
def test_planned_devices_are_those_of_all_nodes(line, devices, make_run):
    assert planned_devices(make_run(*line).hardware) == devices


OF_SRUN = {
    "SLURM_JOB_ID": "123", "SLURM_STEP_ID": "2", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
}  # fmt: skip


def test_srun_says_it_in_its_own_variables(world_of):
    """Those of the step, which may be smaller than the job; the libraries read torchrun's."""
    world_of(**OF_SRUN)
    take_slurm_variables()
    assert current_world() == World(rank=3, size=4, local_rank=1)
    assert os.environ["MASTER_ADDR"] == "gpu007" and os.environ["LOCAL_WORLD_SIZE"] == "2"
    assert slurm_nodes() == Nodes(1, 2, "gpu007", int(os.environ["MASTER_PORT"]))


def test_processes_of_one_machine_meet_there_whatever_its_name_is(world_of):
    world_of(**{**OF_SRUN, "SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "gpu007"})
    take_slurm_variables()
    assert os.environ["MASTER_ADDR"] == "localhost"


@pytest.mark.parametrize("left_out", ["SLURM_STEP_ID", None])
def test_a_job_without_srun_and_one_task_are_one_process(world_of, left_out):
    """sbatch sets the number of tasks for its script, which runs once."""
    variables = {name: value for name, value in OF_SRUN.items() if name != left_out}
    world_of(**(variables if left_out else {**variables, "SLURM_STEP_NUM_TASKS": "1"}))
    take_slurm_variables()
    assert current_world() == World(0, 1, 0)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("gpu007", "gpu007"), ("gpu[003-007,9],other", "gpu003"), ("a-[1,3]-x,b", "a-1-x"), ("n1,n2", "n1")],
)
def test_first_of_a_list_of_machines(hosts, first):
    assert first_host(hosts) == first
