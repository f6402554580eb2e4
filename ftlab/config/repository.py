"""The files of ``conf/``, each read once however many configs are composed of it."""

from __future__ import annotations

import copy
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigResult


class ReadOnceRepository(ConfigRepository):
    """Hydra's own, which reads all files anew for each config."""

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        self._read: dict[str, ConfigResult | None] = {}  # other folders have other files

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._read:
            self._read[config_path] = super().load_config(config_path)
        return copy.deepcopy(self._read[config_path])  # Hydra changes what it is given

    def __deepcopy__(self, memo: Any) -> ReadOnceRepository:
        """Hydra copies a repository before it adds folders to it: what has been read stays read until then."""
        twin = copy.copy(self)
        twin.sources = list(self.sources)
        return twin
