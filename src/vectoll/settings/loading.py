"""From files, environment and flags to settings that are checked."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from vectoll.domain.errors import ConfigurationError
from vectoll.settings.checks import faults
from vectoll.settings.sources import explain, read_sources
from vectoll.settings.tree import Settings


def load_settings(
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Read every source and merge them. Raises ConfigurationError, one line that names the setting.

    ``flags`` is a nested mapping of what was given on the command line, None for what was not. Without
    ``config`` the file is ``$VECTOLL_CONFIG``, else ``./vectoll.toml`` if it exists, else none.
    """
    sources = read_sources(config, flags or {}, environ, Settings)
    try:
        settings = msgspec.convert(sources.tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(explain(error, sources, Settings)) from None
    for name, why in faults(settings):
        raise ConfigurationError(f"setting {name}: {why}{sources.suffix_of(name)}")
    try:
        return msgspec.structs.replace(settings, data_dir=str(Path(settings.data_dir).expanduser()))
    except RuntimeError:
        raise ConfigurationError(
            "setting data_dir: this user has no home directory: give --data-dir"
        ) from None
