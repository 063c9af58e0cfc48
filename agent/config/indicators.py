"""``[indicators]``: the park's plan. It is read completely, so that its complaints come with all others."""

from __future__ import annotations

import hashlib
from pathlib import Path

from agent.config import parsers as v
from agent.config.tree import IndicatorsConfig
from drivers.model import ConfigError
from drivers.toml import TomlTable


def read_indicators(table: TomlTable) -> IndicatorsConfig:
    """The checked table."""
    found = table.find("plan")
    plan: Path | None = None
    if found is not None:
        plan = table.take("plan", v.path_in(found[0].source.folder), None)
    table.done({"sets": "Write sets = [...] into the plan, and plan = FILE here", "file": "The key is plan"})
    if plan is None:
        return IndicatorsConfig()
    from agent.indicators.plan import load_plan

    try:
        raw = plan.read_bytes()
    except OSError as error:
        table.complain(None, "plan", f"{plan} cannot be read: {error.strerror}")
        return IndicatorsConfig()
    try:
        load_plan(raw, str(plan))
    except ConfigError as error:
        for one in error.complaints or (error,):
            table.complain(None, "plan", str(one))
    return IndicatorsConfig(plan, hashlib.sha256(raw).hexdigest())
