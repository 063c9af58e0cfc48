"""The names of the metrics by the rules that `promtool check metrics` has (prometheus/client_golang, promlint)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from agent.service.status import families

UNITS = {
    "ms", "us", "ns", "millis", "milliseconds", "microseconds", "minutes", "hours", "days", "kb", "mb", "gb", "kib",
    "mib", "kilobytes", "megabytes", "percent", "percents", "celsius", "grams", "kwh", "secs", "sec",
}  # fmt: skip
TYPES = {"gauge", "counter", "summary", "histogram", "untyped"}


class Anything(dict[str, Any]):
    """Facts in which every key is there."""

    def __missing__(self, key: str) -> Any:
        return {"3": 1} if key == "sent" else "roof" if key in {"line", "file", "what"} else 1


FACTS: Mapping[str, Any] = Anything(
    config=Anything(complaints=[]),
    store=Anything(pending={"platform": 3}),
    clock=Anything(),
    devices={"m1": Anything()},
    lines={"roof": Anything()},
    uplinks={"platform": Anything()},
)
FAMILIES = list(families(FACTS))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: str(family.name))
def test_promtool_would_have_nothing_to_say(family: Any) -> None:
    words = family.name.split("_")
    assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name), "lower case, no colons"
    assert family.help and family.help.endswith(".")
    assert not TYPES & set(words) and not UNITS & set(words)
    assert words[-1] not in {"count", "sum", "bucket"}, "these belong to histograms and summaries"
    names = {name for labels, _ in family.samples for name in re.findall(r'(?:^|,)([^=]*)="', labels)}
    assert {"le", "quantile"}.isdisjoint(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_no_name_is_given_twice() -> None:
    names = [family.name for family in FAMILIES]
    assert len(names) == len(set(names)) > 25
