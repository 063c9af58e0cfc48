"""Does the system let us open as many files as the configuration needs? Asked before the first line is opened."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from drivers.model import ConfigError

if TYPE_CHECKING:
    from agent.config import Config

EACH_LINE = 2  # its port or connection, and its frames in shared memory
EACH_UPLINK = 4  # connection, wake-up pipe, poller; certificates for a moment
SPARE = 48  # loop, database, ring, snapshot, log; connections of tools; what libraries open for a moment


def files_needed(config: Config) -> int:
    """Open files at the worst moment."""
    return SPARE + EACH_LINE * len(config.lines) + EACH_UPLINK * len(config.uplinks)


def allow_files(config: Config) -> Config:
    """The configuration itself. Raises our limit where that is ours to do.

    Raises:
        ConfigError: the system allows too few for so many lines.
    """
    needed, (soft, hard) = files_needed(config), resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"{len(config.lines)} lines need up to {needed} open files, and this process may have {hard}",
            where="the limit of open files",
            hint=f"Set LimitNOFILE={max(1024, 2 * needed)} in the service: systemctl edit meterhouse",
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return config
