"""What a thief can do with stolen keys, tried at random: his own key never gets into a ring that pins the owner's."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.verify.keyring import KeyRing
from agent.verify.strict import Refused, parse_object
from tests.kits.signed import START, Key, key_record, keys_object

OWNER = [Key(n, "ES256" if n % 3 == 0 else "Ed25519") for n in range(1, 6)]
THIEF = [Key(n) for n in range(21, 25)]


def chain(*keys: Key) -> list[dict[str, Any]]:
    return [key_record(key, keys[n - 1] if n else None, START + n) for n, key in enumerate(keys)]


HONEST = [keys_object(chain(*OWNER[: n + 1]), OWNER[n], n + 1) for n in range(len(OWNER))]


@st.composite
def forged(draw: st.DrawFn, stolen: int) -> bytes:
    """An object that somebody can sign who has the first ``stolen`` keys of the owner and any of his own."""
    before = draw(st.lists(st.sampled_from(THIEF[:2]), max_size=1, unique=True))
    known = OWNER[: draw(st.integers(0, stolen))]
    after = draw(st.lists(st.sampled_from(THIEF[2:]), min_size=0 if before else 1, max_size=2, unique=True))
    row = [*before, *known, *after]
    counter = draw(st.integers(0, 1 << 50))
    lost = {"instead_of": OWNER[-1].kid} if draw(st.booleans()) and not known else {}
    records = chain(*row)
    if lost:
        records[0] = key_record(row[0], None, START, **lost)
    return keys_object(records, row[-1], counter)


@given(st.data(), st.integers(0, len(OWNER) - 1))
def test_a_thief_of_old_keys_gets_nowhere_where_the_newest_is_pinned(data: st.DataObject, stolen: int) -> None:
    """Whatever comes in whatever order. ``stolen`` keys are his, the newest is not."""
    objects = data.draw(st.permutations([*HONEST, *data.draw(st.lists(forged(stolen), min_size=1, max_size=5))]))
    ring = KeyRing("park7/gw01", [OWNER[-1].kid])
    for raw in objects:
        try:
            ring.update(raw, parse_object(raw))
        except Refused:
            continue
        assert not {key.kid for key in THIEF} & ring.keys.keys()
    assert list(ring.keys) == [key.kid for key in OWNER], "and the owner's are all there"


@given(st.data(), st.integers(0, len(OWNER) - 1))
def test_a_thief_comes_too_late_where_the_first_is_pinned_and_the_newest_known(
    data: st.DataObject, stolen: int
) -> None:
    ring = KeyRing("park7/gw01", [OWNER[0].kid])
    ring.update(HONEST[-1], parse_object(HONEST[-1]))
    for raw in data.draw(st.permutations([*HONEST, *data.draw(st.lists(forged(stolen), min_size=1, max_size=5))])):
        try:
            ring.update(raw, parse_object(raw))
        except Refused:
            continue
    assert list(ring.keys) == [key.kid for key in OWNER]
