"""Other runs that a run starts from."""

from __future__ import annotations

import shlex
from pathlib import Path

from ftlab.errors import RunDirError
from ftlab.rundir.plan import Phase


def policy_of_run(folder: Path) -> Phase:
    """The last phase of a run that trained a policy, whose final weights are there.

    :raises RunDirError: there is no such run, or it is not finished.
    """
    from ftlab.rundir.directory import RunDir

    if not (folder / "run.yaml").is_file():
        inside = next((parent for parent in folder.absolute().parents if (parent / "run.yaml").is_file()), None)
        if inside is not None:
            raise RunDirError(f"is only a part of a run; name the run directory itself, {inside}")
        raise RunDirError("is no run directory: it has no run.yaml. A model or adapter of another origin goes into "
                          "model.path or model.adapter")  # fmt: skip
    run_dir = RunDir.open(folder)
    trained = [phase for phase in run_dir.plan().phases if phase.config.stage.name != "rm"]
    if not trained:
        raise RunDirError("trained a reward model, which is no policy to start from")
    if not run_dir.phase_files(trained[-1].folder).final.is_dir():
        raise RunDirError(f"has not finished training; finish it first: ftlab resume {shlex.quote(str(folder))}")
    return trained[-1]
