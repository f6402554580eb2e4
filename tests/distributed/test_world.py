"""Rank, world size and devices."""

from __future__ import annotations

import pytest

from ftlab.distributed.world import World, current_world, drive_one_device, planned_devices
from ftlab.errors import FtlabError


@pytest.fixture
def world_of(monkeypatch):
    """``world_of(RANK="1", ...)``: the world of an environment with only these of torchrun's variables."""

    def read(**variables: str) -> World:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name, raising=False)
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


def test_a_rank_without_a_world_size_is_one_process(world_of):
    """Which writes what a run writes: nobody else would."""
    assert world_of(RANK="1").is_first


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
