"""Events that begin a counter epoch: what a verifier takes and what it refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from agent.verify.jws import public_key
from agent.verify.pack import Pack, read_pack
from agent.verify.point_table import PointTable
from agent.verify.signed import check_signed
from agent.verify.strict import Refused, parse_object
from tests.kits.signed import Key, Stream

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/pack.schema.json").read_bytes())
EVENT: dict[str, Any] = {
    "counters": [
        {
            "n": "ac.energy.import", "u": "kWh", "new": {"t": 1795500912.5, "v": "3.2"},
            "old": {"t": 1795500900, "v": "120007.6"},
        },
        {"n": "ac.energy.export", "new": None, "old": None, "u": "kWh"},
    ],
    "epoch": 1795500912, "event": "identity", "new": {"serial": "B"}, "old": {"serial": "A"}, "t": 1795500912.5,
}  # fmt: skip


def damaged() -> list[dict[str, Any]]:
    found = []
    for path, value in (
        (("epoch",), None), (("epoch",), 1.5), (("epoch",), -1), (("old",), "A"), (("new",), None), (("counters",), {}),
        (("counters", 0), 3), (("counters", 0, "n"), None), (("counters", 0, "new"), "3.2"),
        (("counters", 0, "new", "v"), 3.2), (("counters", 0, "new", "v"), "3,2"), (("counters", 0, "old", "t"), "x"),
    ):  # fmt: skip
        event = copy.deepcopy(EVENT)
        at: Any = event
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value
        found.append(event)
    return found


def pack_of(event: dict[str, Any]) -> Pack:
    key = Key()
    stream = Stream(key=key)
    stream.make_birth()
    raw = stream.pack(events=[event])
    return read_pack(check_signed(raw, parse_object(raw), "mh-pack", {key.kid: public_key(key.alg, key.jwk)}))


@pytest.mark.parametrize("name", ["identity", "firmware", "ratio", "variant"])
def test_an_event_that_says_all_is_taken(name: str) -> None:
    assert pack_of({**EVENT, "event": name}).link.steps == ()


@pytest.mark.parametrize("event", damaged(), ids=range(12))
def test_a_damaged_one_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        pack_of(event)


@pytest.mark.parametrize("event", [EVENT, *damaged()], ids=range(13))
def test_the_schema_says_the_same(event: dict[str, Any]) -> None:
    import jsonschema

    schema = {**SCHEMA, "$ref": "#/$defs/event"}
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(event))
    assert bool(errors) == (event != EVENT)


@pytest.mark.parametrize("epoch", ["1", 1.5, True, -1])
def test_an_epoch_is_a_whole_number(epoch: object) -> None:
    with pytest.raises(Refused, match="epoch"):
        PointTable({"epoch": epoch, "points": []})
    assert PointTable({"points": []}).epoch is None and PointTable({"epoch": 7, "points": []}).epoch == 7
