"""Findings about files that the running agent has read once: the rights of its key, and edits without a reload.

They are not in the snapshot: what follows from that alone is in ``agent.cli.findings``. Reads only.
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
    """What is wrong with the files of the agent that wrote a snapshot; nothing about those that this user may not read.

    Args:
        config: of its files; None where it is not known or not valid.
    """
    yield from open_key(snapshot)
    if config is not None:
        yield from edited(snapshot, config)


def open_key(snapshot: Mapping[str, Any]) -> Iterator[Finding]:
    """A key that others may read, or that is gone; the next start fails.

    The agent itself sees that one is gone within seconds, and its snapshot is some seconds old as well.
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
    if others_may_use(found):
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        yield Finding("key-open", "key", {"file": clean_text(str(file), 300), "mode": mode})


def _seen(file: str) -> bool:
    """Is the folder of the file one that can be seen from here?"""
    return os.path.isabs(file) and os.path.isdir(os.path.dirname(file))


def edited(snapshot: Mapping[str, Any], config: Config) -> Iterator[Finding]:
    """Files that give another configuration than the one in effect, and no reload rejected them."""
    running = snapshot.get("config")
    if not isinstance(running, Mapping) or running.get("complaints"):
        return
    if isinstance(running.get("hash"), str) and running["hash"] != config.hash():
        yield Finding("config-edited", "configuration", {"file": clean_text(str(config.path), 300)})
