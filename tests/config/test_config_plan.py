"""The park's plan is checked with the configuration."""

from __future__ import annotations

import hashlib
from typing import Any

from agent.service.births import results_table
from agent.service.results.site import read

MINIMAL = '[site]\nid = "park7"\ngateway = "gw01"\ntimezone = "Asia/Shanghai"\n'
PLAN = MINIMAL + '[indicators]\nplan = "plan.toml"\n'


def test_without_a_plan(site: Any) -> None:
    site.write(MINIMAL)
    assert site.load().indicators.plan is None


def test_complaints_of_the_plan_come_with_the_others(site: Any) -> None:
    site.write(PLAN + '[store]\nsize = "1 GiB"\n')
    plan = site.folder / "plan.toml"
    assert any("plan.toml cannot be read: No such file" in said for said in site.complaints())
    plan.write_text('schema = 1\nsets = ["plian"]\n')
    said = site.complaints()
    assert any("indicators.plan" in one and "did you mean plain?" in one for one in said)
    assert any("store.size" in one for one in said)


def test_a_plan_that_is_edited_later_waits_for_the_next_reload(site: Any) -> None:
    """Reports used the edited file under the old hash, and failed while it was half edited."""
    site.write(PLAN)
    plan = site.folder / "plan.toml"
    plan.write_bytes(b'schema = 1\r\nsets = ["plain"]\r\n')
    config = site.load()
    known = [one.name for one in read(config).indicators]
    signed = results_table(config, "1")["plan"]
    assert hashlib.sha256(signed["text"].encode()).hexdigest() == signed["hash"]
    for text in ('schema = 1\nsets = ["national-2025"]\n', "schema = 1\n[half"):
        plan.write_text(text)
        assert [one.name for one in read(config).indicators] == known
        assert results_table(config, "1")["plan"] == signed


def test_the_hash_of_the_configuration_follows_the_plan(site: Any) -> None:
    site.write(PLAN)
    plan = site.folder / "plan.toml"
    plan.write_text("schema = 1\n")
    first = site.load().hash()
    plan.write_text('schema = 1\nsets = ["plain", "national-2025"]\n')
    assert site.load().hash() != first
