"""``--cfg job``: the config of a run, with its values as the run would have them."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from ftlab.base.redaction import mask_secrets
from ftlab.base.terminal import echo_document, echo_error
from ftlab.config import command_line, phases
from ftlab.config.compose import of_run
from ftlab.config.paths import group_names
from ftlab.errors import ConfigError, Mistake


def show(given: command_line.Arguments, cfg: DictConfig) -> None:
    """Print it as YAML; of a sweep that of its first job, which is said.

    :param cfg: as it was composed of a good command line.
    :raises ConfigError: ``--package`` names no part of it.
    """
    job = given
    if given.is_multirun:
        job = command_line.first_job(given)
        chosen = [phases.decode_override(line) for line in job.overrides if line not in given.overrides]
        with_values = f", with {' '.join(chosen)}" if chosen else ""
        echo_error(f"The config of the first job of the sweep{with_values}. Another's: its values, without -m.")
    cfg = of_run(cfg, job.overrides)
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    entries = phases.folded(plain, job.overrides, group_names())
    if entries is not None:
        cfg.phases = entries
        del cfg[phases.CARRIER]
    part, header = cfg, ""
    if (package := given.flag("--package", "-p")) is not None:
        part, header = OmegaConf.select(cfg, package), f"# @package {package}\n"
        if not OmegaConf.is_config(part):
            raise ConfigError([Mistake("--package", "is no part of the config that has keys", package)])
    echo_document(header + mask_secrets(OmegaConf.to_yaml(part, resolve=True)))
