"""Hydra's loader for a process that composes many configs: what only the groups decide is composed once."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig

from ftlab.config.repository import ReadOnceRepository

_KEPT = 64  # composed configs


class ComposeOnceLoader(ConfigLoaderImpl):
    """Hydra's own, over files that do not change. Which files a config is composed of, and so nearly all of the time
    that it takes, depends on the choices of groups alone; those of the jobs of a sweep are mostly the same. The values
    of keys are laid over a copy.
    """

    def __init__(self, search_path: ConfigSearchPath):
        super().__init__(config_search_path=search_path)
        self.repository = ReadOnceRepository(search_path)
        self._of_choices = functools.lru_cache(maxsize=_KEPT)(self._load_choices)

    def _load_choices(self, config_name: str | None, choices: Any, run_mode: RunMode, base: Any) -> DictConfig:
        """:param base: the version that Hydra is to behave as: it is in the config and may be set later."""
        return super()._load_configuration_impl(config_name, choices, run_mode)

    def _load_configuration_impl(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        parsed, repository = self._parse_overrides_and_create_caching_repo(config_name, overrides)
        of_groups = [not isinstance(one.value(), dict) and repository.group_exists(one.key_or_group) for one in parsed]
        values = [one for one, is_choice in zip(parsed, of_groups) if not is_choice]
        if any(one.is_sweep_override() for one in parsed) or any(one.is_hydra_override() for one in values):
            return super()._load_configuration_impl(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        choices = tuple(str(one.input_line) for one, is_choice in zip(parsed, of_groups) if is_choice)
        cfg = copy.deepcopy(self._of_choices(config_name, choices, run_mode, version.getbase()))
        self._apply_overrides_to_config(values, cfg)
        _record(parsed, cfg)
        return cfg


def _record(parsed: list[Override], cfg: DictConfig) -> None:
    """What Hydra's node knows of a command line, and of where it is given."""
    of_task = [one for one in parsed if not one.is_hydra_override()]
    cfg.hydra.overrides.task = [one.input_line for one in of_task]
    cfg.hydra.overrides.hydra = [one.input_line for one in parsed if one.is_hydra_override()]
    cfg.hydra.runtime.cwd = str(Path.cwd())
    style: Any = cfg.hydra.job.config.override_dirname
    cfg.hydra.job.override_dirname = get_overrides_dirname(of_task, style.exclude_keys, style.item_sep, style.kv_sep)
