"""``ftlab serve [RUN...]``: chooses the engine, loads the runs, and answers until it is stopped."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftlab.base.libraries import quiet_libraries
from ftlab.base.terminal import echo, echo_document
from ftlab.errors import ConfigError, Mistake, NotReadyError
from ftlab.policy.given import Given
from ftlab.preflight.packages import missing_plots, missing_server
from ftlab.schema import Run, ServeTask
from ftlab.use.models.settings import first_settings
from ftlab.use.serve.access import PASSWORD, Access, is_local

if TYPE_CHECKING:
    from ftlab.use.models.loading import Models

# What may be otherwise than the run.
_GROUPS = ("quant", "hardware")
_KEYS = ("seed", "model.attention", "eval.max_new_tokens")
_BACKLOG = 128


def serve(run: Run, overrides: Sequence[str]) -> None:
    """Serve what runs have trained.

    :raises ConfigError: keys that a run has for good, or that do not go together. :raises RunDirError: a run that is
        none, or has no weights. :raises NotReadyError: an engine or a base is missing, or the port is taken.
    """
    task = run.task
    assert isinstance(task, ServeTask)
    given = Given.read(run, overrides, _GROUPS, _KEYS)
    if task.page and task.engine == "vllm":
        raise ConfigError([Mistake("task.page", "asks the models itself, which engine=transformers has", task.page)])
    if task.dry_run and task.engine != "vllm":
        raise ConfigError(
            [Mistake("task.dry_run", "is of engine=vllm: of transformers there is no command", task.dry_run)]
        )
    quiet_libraries()
    from ftlab.use.models.loading import Models

    models = Models(task.runs, given, task.phase, run.run.checkpoint)
    if not task.runs:
        echo(f"{models.folders[0]} is the latest run.")
    tries_vllm = task.engine == "auto" and not task.page and shutil.which("vllm") is not None
    if (task.engine == "vllm" or tries_vllm) and _has_vllm_served(task, models):
        return
    _serve_here(run, task, given, models)


def _has_vllm_served(task: ServeTask, models: Models) -> bool:
    """Become vLLM's process, or print its command; False where it cannot take the runs and another engine may.

    :raises NotReadyError: it cannot, or it is not installed.
    """
    from ftlab.rundir.names import SERVED_BASE
    from ftlab.use.serve import vllm

    policies = models.policies()
    tokens = [policy.tokens() for policy in policies]
    if wrong := vllm.problems(policies, tokens, models.names):
        told = "\n".join(["vLLM cannot serve these runs as they are:", *(f"  - {line}" for line in wrong)])
        if task.engine == "auto":
            echo(f"{told}\nengine=transformers serves them.")
            return False
        raise NotReadyError(f"{told}\nengine=transformers serves them.")
    if not task.dry_run and shutil.which("vllm") is None:
        raise NotReadyError(
            "engine=vllm: vLLM is not installed here (pip install vllm); engine=transformers needs none."
        )
    base = (models.folders[0] / SERVED_BASE).absolute()
    vllm.write_base(policies[0], tokens[0], base)
    words = vllm.command(policies, models.names, base, task.host, task.port, task.compare is not None)
    if task.dry_run:
        echo_document(shlex.join(words))
        return True
    _start_vllm(task, words)
    return True


def _start_vllm(task: ServeTask, words: Sequence[str]) -> None:
    from ftlab.use.serve import vllm

    if not is_local(task.host):
        _warn_of_openness()
    password = os.environ.get(PASSWORD)
    key = {"VLLM_API_KEY": password} if password else {}
    _listen(task.host, task.port).close()  # vLLM tells a port that is taken after minutes
    os.execvpe(words[0], list(words), {**os.environ, **vllm.QUIET, **key})


def _serve_here(run: Run, task: ServeTask, given: Given, models: Models) -> None:
    if lacking := [*missing_server(task.page), *(missing_plots() if task.page else [])]:
        raise NotReadyError("\n".join(lacking))
    listening = _listen(task.host, task.port)
    with listening, warnings.catch_warnings(action="ignore"):  # of libraries, to whoever calls them
        app, served = _application(run, task, given, models)
        import uvicorn

        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
        names = " and ".join(served)
        if not is_local(task.host):
            _warn_of_openness()
        echo(f"{names}: {address}/v1 (OpenAI-compatible){f', page {address}/' if task.page else ''}. Ctrl-C stops it.")
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            echo("Stopped.")


def _application(run: Run, task: ServeTask, given: Given, models: Models) -> tuple[Access, list[str]]:
    """:return: what answers requests, and the names of the models."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before it is imported
    from ftlab.use.serve.endpoint import endpoint
    from ftlab.use.serve.served import ServedModel

    speakers = models.load()
    for speaker in speakers:
        for remark in (speaker.policy.weights.remark, speaker.tokens.warning):
            if remark:
                echo(f"{speaker.name}: {remark}")
    speakers = [*(models.load_bases() if task.compare is not None else []), *speakers]
    settings = first_settings(task, given, run.seed)
    served = [ServedModel(speaker, settings) for speaker in speakers]
    app = endpoint(served)
    if task.page:
        from ftlab.use.serve.page import add_page

        app = add_page(app, served, settings, _report(models.folders))
    names = [speaker.name for speaker in speakers]
    return Access(app, os.environ.get(PASSWORD) or None, is_local(task.host)), names


def _report(folders: Sequence[Path]) -> str:
    """The page of ``ftlab report`` on the runs."""
    from ftlab.use.report.collect import collect
    from ftlab.use.report.page import page

    return page(collect([str(folder) for folder in folders], None), smoothing=0.6)


def _listen(host: str, port: int) -> socket.socket:
    """:raises NotReadyError: there is no such address here, or the port is taken."""
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(_BACKLOG)
    except socket.gaierror:
        raise NotReadyError(f"host={host}: is no address of this machine.") from None
    except PermissionError:
        raise NotReadyError(f"port={port}: a port below 1024 is the system's. Take another: port=8001.") from None
    except OSError as error:
        raise NotReadyError(
            f"port={port} of host={host} cannot be listened on: {error.strerror}. Stop what is there, or take another: "
            f"port={port + 1}; port=0 takes any that is free."
        ) from None
    return found


def _warn_of_openness() -> None:
    if not os.environ.get(PASSWORD):
        echo(f"Whoever reaches this machine may ask, for there is no password: {PASSWORD} in the environment sets one.")
