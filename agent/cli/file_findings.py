"""Findings about files of the running agent: permissions of its key, and edits without a reload.

The snapshot does not show these facts; findings from the snapshot are in ``agent.cli.findings``. This module writes
nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agent.cli.findings import Finding
from drivers.files import others_may_use
from drivers.model import clean_text

if TYPE_CHECKING:
    from agent.config import Config


def find_in_files(snapshot: Mapping[str, Any], config: Config | None) -> Iterator[Finding]:
    """Yield findings about the files of the agent that wrote a snapshot. Leaves out files that this user may not read.

    Args:
        config: the configuration on disk; None if it is unknown or invalid.
    """
    yield from open_key(snapshot)
    if config is not None:
        yield from edited(snapshot, config)


def open_key(snapshot: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield a finding if other users may read the key file, or if it is missing.

    The next start would fail in both cases.

    The agent itself also reports a missing key file, but only in its next snapshot, some seconds later.
    """
    key = snapshot.get("key")
    file = key.get("file") if isinstance(key, Mapping) else None
    try:
        found = os.stat(file) if isinstance(file, str) else None
    except FileNotFoundError:
        if isinstance(key, Mapping) and not key.get("trouble") and _seen(str(file)):
            yield Finding("key-trouble", "key", {"what": f"{clean_text(str(file), 250)}: the key file is missing"})
        return
    except (OSError, ValueError):
        return
    if found is None or not stat.S_ISREG(found.st_mode):
        return
    yield from open_to_others(str(file), found)


def open_to_others(file: str, found: os.stat_result) -> Iterator[Finding]:
    """Yield a finding if other users may use this key file. ``found``: its status."""
    if others_may_use(found):
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        yield Finding("key-open", "key", {"file": clean_text(file, 300), "mode": mode})


def _seen(file: str) -> bool:
    """True if this user may see the content of the file's folder."""
    return os.path.isabs(file) and os.path.isdir(os.path.dirname(file))


def edited(snapshot: Mapping[str, Any], config: Config) -> Iterator[Finding]:
    """Yield a finding if the files differ from the configuration in effect.

    Yields nothing if a reload has rejected the files.
    """
    running = snapshot.get("config")
    if not isinstance(running, Mapping) or running.get("complaints"):
        return
    if isinstance(running.get("hash"), str) and running["hash"] != config.hash():
        yield Finding("config-edited", "configuration", {"file": clean_text(str(config.path), 300)})
