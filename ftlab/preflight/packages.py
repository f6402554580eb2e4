"""Optional packages that a run asks for and that are not installed."""

from __future__ import annotations

import os
import platform
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from ftlab.distributed.deepspeed import search_path
from ftlab.distributed.sharding import uses_deepspeed
from ftlab.distributed.world import may_have_accelerator
from ftlab.schema import Run


def missing_trackers(run: Run) -> list[str]:
    """Trackers whose packages are not installed."""
    needs = {"wandb": ["wandb"], "mlflow": ["mlflow"]}
    if "MLFLOW_TRACKING_URI" not in os.environ or "sql" in os.environ["MLFLOW_TRACKING_URI"].partition(":")[0]:
        needs["mlflow"] += ["sqlalchemy", "alembic"]  # which mlflow-skinny does without
    return [
        f"tracker={name} needs {' and '.join(lacking)}: pip install 'ftlab[{name}]'"
        for name in run.tracker.names
        if (lacking := [module for module in needs.get(name, []) if not is_installed(module)])
    ]


def missing_plots() -> list[str]:
    """What the pictures of a report are drawn with, where it is not installed."""
    return [] if is_installed("plotly") else ["ftlab report needs the package plotly: pip install 'ftlab[sweeps]'"]


def missing_server(has_page: bool) -> list[str]:
    """What ``ftlab serve`` needs that is not installed. :param has_page: whether it shows a page, too."""
    needs = {"serve": ["fastapi", "uvicorn", "openai"], "page": ["gradio"] if has_page else []}
    return [
        f"ftlab serve needs {' and '.join(lacking)}: pip install 'ftlab[{extra}]'"
        for extra, modules in needs.items()
        if (lacking := [module for module in modules if not is_installed(module)])
    ]


def missing_fp8(run: Run) -> list[str]:
    """What multiplies in fp8, where it is not installed."""
    if run.train.fp8 == "none" or is_installed("torchao"):
        return []
    return [f"train.fp8={run.train.fp8} needs the package torchao: pip install torchao. Or use train.fp8=none"]


def deepspeed_problems(run: Run) -> list[str]:
    """What DeepSpeed needs that is not here. On a CPU it compiles a library for its processes, once, and looks for what
    does that when it is imported."""
    if not uses_deepspeed(run):
        return []
    if not is_installed("deepspeed"):
        return [f"deepspeed={run.deepspeed.name} needs the package deepspeed: pip install 'ftlab[deepspeed]'"]
    on_cpu = run.hardware.name == "cpu" or not may_have_accelerator()
    if not on_cpu or platform.system() != "Linux":  # elsewhere it does without
        return []
    compiler = os.environ.get("CXX", "c++")
    lacking = [name for name in (compiler, "ninja") if which(name, path=search_path()) is None]
    remedy = "on Debian apt-get install g++ ninja-build" + "; CXX names another compiler" * (compiler in lacking)
    return [
        f"deepspeed={run.deepspeed.name} compiles a library of its own before it trains on a CPU, and there is no "
        f"{' and no '.join(lacking)} to do it with. Install it ({remedy}), or use deepspeed=none"
    ] * bool(lacking)


def compiler_problems(run: Run) -> list[str]:
    """What torch compiles with that is not here: a compiler of C++, the headers of Python, and on a GPU Triton."""
    if run.train.compile == "none":
        return []
    is_on_cpu = run.hardware.name == "cpu" or not may_have_accelerator()
    # As torch and Triton look for it.
    names = [os.environ.get("CXX", "g++")] if is_on_cpu else [os.environ.get("CC", "gcc"), "clang"]
    lacking = [] if any(map(which, names)) else [f"{names[0]} (on Debian apt-get install g++)"]
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        lacking.append("Python.h (on Debian apt-get install python3-dev)")
    if not is_on_cpu and not is_installed("triton"):
        lacking.append("the package triton (pip install triton)")
    return [
        f"train.compile={run.train.compile} has torch compile programs, and there is no {' and no '.join(lacking)}. "
        "Install it, or use train.compile=none"
    ] * bool(lacking)


def is_installed(module: str) -> bool:
    """A folder of the same name where the command is run, such as wandb makes, is no package."""
    found = find_spec(module)
    return found is not None and found.origin is not None
