"""Checks that the results that an agent signed can be recomputed from its own export."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.cli.main import outcome
from tests.kits.house import Agent, Listener


def give_roles(agent: Agent, roles: Mapping[str, str]) -> None:
    """Write roles of devices to the agent's configuration file. ``roles``: name of a device -> role."""
    text = agent.config.read_text()
    for name, role in roles.items():
        text = text.replace(f'name = "{name}"\n', f'name = "{name}"\nroles = {{ "ac" = "{role}" }}\n')
    agent.config.write_text(text)


def published_to(listener: Listener) -> float:
    """The end of the newest interval whose results have arrived, in UTC seconds."""
    return max((float(pack["to"]) for pack in listener.packs("_indicators")), default=0.0)


def recomputed(agent: Agent, folder: Path) -> dict[str, Any]:
    """The result of ``verify --recompute`` for an export of the stopped agent."""
    _run("export", folder, "-c", agent.config)
    found: dict[str, Any] = json.loads(_run("verify", folder, "--trust", agent.kid, "--recompute", "--json"))
    assert found["recomputed"] is not None, found
    return dict(found["recomputed"])


def _run(*words: object) -> str:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        outcome([str(word) for word in words])
    assert "Traceback" not in err.getvalue(), err.getvalue()
    return out.getvalue()
