"""DeepSpeed's config, and what keeps it from training: told before torch is imported. Runs: test_ranks.py."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from ftlab.distributed.deepspeed import deepspeed_config
from ftlab.distributed.sharding import sharding_of
from tests.runs import make_run


def test_the_config_says_what_the_run_says():
    run = make_run(
        "deepspeed=z3_offload", "train.micro_batch_size=3", "train.gradient_accumulation_steps=4", "hardware.devices=2",
        "train.max_grad_norm=0.5", "hardware=cpu",
    )  # fmt: skip
    config = deepspeed_config(run, "bf16", on_cpu=False)
    assert "train_batch_size" not in config and "optimizer" not in config and "scheduler" not in config
    zero = config.pop("zero_optimization")
    assert config == {
        "train_micro_batch_size_per_gpu": 3, "gradient_accumulation_steps": 4, "gradient_clipping": 0.5,
        "bf16": {"enabled": True}, "fp16": {"enabled": False},
        "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
    }  # fmt: skip
    assert zero["stage"] == 3
    assert zero["offload_optimizer"] == zero["offload_param"] == {"device": "cpu", "pin_memory": True}


@pytest.mark.parametrize(
    ("chosen", "wrapper", "layout"),
    [
        ("none", "DistributedDataParallel", "nothing is sharded"),
        ("z0", "DistributedDataParallel", "nothing is sharded"),
        ("z1", "DeepSpeedEngine", "ZeRO-1"),
        ("z2_offload", "DeepSpeedEngine", "ZeRO-2 with optimizer in the host's memory"),
        ("z3_offload", "DeepSpeedEngine", "ZeRO-3 with optimizer and parameters in the host's memory"),
    ],
)
def test_what_the_handshake_expects(chosen, wrapper, layout):
    sharding = sharding_of(make_run(f"deepspeed={chosen}", "hardware=cpu", "hardware.devices=2"))
    assert (sharding.wrapper, sharding.layout) == (wrapper, layout)


def refusal(ftlab, *words: str) -> str:
    done = ftlab("hardware=cpu", "hardware.devices=2", *words)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("stage", ["ppo", "grpo"])
def test_policies_that_write_with_sharded_weights(ftlab, stage):
    found = refusal(ftlab, f"stage={stage}", "stage.rewards=['length:9']", "deepspeed=z3")
    assert f"deepspeed=z3: stage={stage} writes answers with weights that ZeRO-3 gathers for every token" in found
    assert "use deepspeed=z2 or z2_offload" in found


@pytest.mark.parametrize("word", ["deepspeed=z2", "hardware.fsdp=true", "seed=1"])
def test_trls_engine_says_what_trains_in_several_processes(mistakes, word):
    found = mistakes(f"hardware=cpu hardware.devices=2 train.engine=trl {word}")
    asked = "hardware.devices makes 2" + f" and {word}" * (word != "seed=1")
    assert found == [
        f"train.engine=trl: trains in one process, on one device ({asked}); use train.engine=ftlab, which takes the "
        "same rows on any number of devices"
    ]
    assert mistakes("hardware=cpu train.engine=trl") == []


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="DeepSpeed is installed")
def test_without_the_package(ftlab):
    assert "deepspeed=z2 needs the package deepspeed: pip install 'ftlab[deepspeed]'" in refusal(ftlab, "deepspeed=z2")


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="pip install 'ftlab[deepspeed]'")
@pytest.mark.skipif(os.uname().sysname != "Linux", reason="DeepSpeed compiles nothing for a CPU elsewhere")
def test_without_a_compiler(ftlab, env):
    env["CXX"] = "no-such-compiler"
    found = refusal(ftlab, "deepspeed=z2")
    assert "deepspeed=z2 compiles a library of its own before it trains on a CPU, and there is no no-such-comp" in found
