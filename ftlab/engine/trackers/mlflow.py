"""MLflow: a server, a database or a folder, as MLFLOW_TRACKING_URI says."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ftlab.base.redaction import redact
from ftlab.engine.trackers.base import TrackedRun
from ftlab.rundir.compare import flatten

_KEY = "ftlab_key"  # the tag that a run is found by
_SWEEP = "ftlab_sweep"  # the tag that runs are grouped by
_FILE = "sqlite:///"  # how the address of a database file begins
_AT_ONCE = 100  # parameters that MLflow takes in one call
_LONGEST = 6000  # characters of a parameter
_STATUS = {
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "paused": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}
# A server that does not answer must not hold up training; MLflow itself would try for minutes.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class Mlflow:
    """Nothing can be taken out of an MLflow run, but a run that goes on makes again what it had made: of each value the
    steps that are there already are left out.
    """

    def __init__(self, about: TrackedRun) -> None:
        self._about = about
        self._has: dict[str, set[int]] = {}

    def begin(self) -> str | None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        uri = os.environ.get("MLFLOW_TRACKING_URI", self._about.store)
        if uri.startswith("file:") or "://" not in uri:
            os.environ.setdefault(
                "MLFLOW_ALLOW_FILE_STORE", "true"
            )  # it is being given up, but the user has asked for it
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        about = self._about
        with _lock_of(uri):
            self._metric, self._client = Metric, MlflowClient(tracking_uri=uri)
            experiment = self._experiment()
        found = self._client.search_runs([experiment], filter_string=f"tags.`{_KEY}` = '{about.key}'", max_results=1)
        if found:
            self._id, known = found[0].info.run_id, found[0].data
            self._client.update_run(self._id, status="RUNNING")
            for key in known.metrics:
                self._has[key] = {point.step for point in self._client.get_metric_history(self._id, key)}
        else:
            run = self._client.create_run(experiment, run_name=about.name, tags={_KEY: about.key})
            self._id, known = run.info.run_id, run.data
            for key, value in flatten(about.environment):
                self._client.set_tag(self._id, f"ftlab.{_name(key)}", str(value))
        if about.sweep is not None:
            self._client.set_tag(self._id, _SWEEP, about.sweep)
        # A parameter stays as it was first given; what a later command changed is in run.yaml.
        params = [Param(_name(key), str(value)[:_LONGEST]) for key, value in flatten(about.config)]
        params = [param for param in params if param.key not in known.params]
        for some in _parts(params, _AT_ONCE):
            self._client.log_batch(self._id, params=some)
        return f"run {self._id} in {redact(uri)}"

    def log(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        metrics = [
            self._metric(_name(key), value, round(seconds * 1000), step)
            for key, value in values.items()
            if step not in self._has.get(_name(key), ())
        ]
        if metrics:
            self._client.log_batch(self._id, metrics=metrics)

    def document(self, name: str, step: int, text: str) -> None:
        self._client.log_text(self._id, text, name)

    def samples(self, name: str, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        self.document(f"samples/{name}.json", step, json.dumps(list(samples), indent=2, ensure_ascii=False) + "\n")

    def finish(self, status: str) -> None:
        self._client.set_terminated(self._id, _STATUS[status])

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        project = self._about.project
        found = self._client.get_experiment_by_name(project)
        if found is None:
            try:
                return self._client.create_experiment(project)
            except MlflowException:  # another run has just made it
                found = self._client.get_experiment_by_name(project)
                if found is None:
                    raise
        return found.experiment_id


@contextmanager
def _lock_of(uri: str) -> Iterator[None]:
    """Let one process at a time open a database file: of several that find no tables in it and make them, as the jobs
    of a sweep do that begin together, all but one would fail."""
    if not uri.startswith(_FILE):
        yield
        return
    with ExitStack() as stack:
        with suppress(OSError):  # MLflow itself says what is wrong with the folder; a file system may have no locks
            file = stack.enter_context(Path(f"{uri.removeprefix(_FILE)}.lock").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _name(key: str) -> str:
    """``key`` with what MLflow takes in the name of a value."""
    return re.sub(r"[^\w./ -]", "_", key)


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))
