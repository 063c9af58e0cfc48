"""The park's plan is checked with the configuration."""

from __future__ import annotations

from typing import Any

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


def test_the_hash_of_the_configuration_follows_the_plan(site: Any) -> None:
    site.write(PLAN)
    plan = site.folder / "plan.toml"
    plan.write_text("schema = 1\n")
    first = site.load().hash()
    plan.write_text('schema = 1\nsets = ["plain", "national-2025"]\n')
    assert site.load().hash() != first
