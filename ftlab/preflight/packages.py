"""Optional packages that a run asks for and that are not installed."""

from __future__ import annotations

import os
from importlib.util import find_spec

from ftlab.schema import Run


def missing_trackers(run: Run) -> list[str]:
    """Trackers whose packages are not installed."""
    needs = {"wandb": ["wandb"], "mlflow": ["mlflow"]}
    if "MLFLOW_TRACKING_URI" not in os.environ or "sql" in os.environ["MLFLOW_TRACKING_URI"].partition(":")[0]:
        needs["mlflow"] += ["sqlalchemy", "alembic"]  # which mlflow-skinny does without
    return [
        f"tracker={name} needs {' and '.join(lacking)}: pip install 'ftlab[{name}]'"
        for name in run.tracker.names
        if (lacking := [module for module in needs.get(name, []) if not _is_installed(module)])
    ]


def _is_installed(module: str) -> bool:
    """A folder of the same name where the command is run, such as wandb makes, is no package."""
    found = find_spec(module)
    return found is not None and found.origin is not None
