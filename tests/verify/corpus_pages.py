"""Cases: checkpoints of several pages, of which one is held back, old, foreign or too many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.kits.signed import BOOTS, START, Key, Stream, checkpoint, key_record, keys_object, payload_hash
from tests.verify.corpus import Case, Object, case, feed

TOPIC = "meterhouse/v1/park7/gw01/checkpoint/"


def two() -> tuple[list[Object], list[dict[str, Any]]]:
    """Two whole streams under one key, and a head of each: the meter's comes first."""
    inverter, meter = Stream("inv1"), Stream("gate-meter")
    packs = [(s.topic(), raw) for s in (inverter, meter) for raw in s.run(3)]
    return [*feed(inverter, []), *packs], [head(meter), head(inverter)]


def head(stream: Stream) -> dict[str, Any]:
    return {"boot": stream.boot, "hash": stream.prev, "seq": stream.seq, "stream": stream.stream, "to": stream.at}


def pages(heads: Sequence[dict[str, Any]], counter: int, before: Sequence[Object] = (), key: Key | None = None,
          **more: Any) -> list[Object]:  # fmt: skip
    """A checkpoint with a page for each head; ``before`` are the pages of the one with the counter before."""
    made: list[Object] = []
    for n, one in enumerate(heads):
        prev = payload_hash(before[n][1]) if n < len(before) else None
        members = {"page": n + 1, "pages": len(heads), "prev": prev, "time": START + 900 + counter, **more}
        made.append((f"{TOPIC}{n + 1}", checkpoint([one], key or Key(), counter, **members)))
    return made


@case
def two_pages() -> Case:
    objects, heads = two()
    first = pages(heads, 4)
    objects += [*first, *pages(heads, 5, first)]
    return Case("two_pages", "two checkpoints of two pages each", tuple(objects), "verified", packs=6)


@case
def page_withheld() -> Case:
    """The page that would name the inverter, which came further than what is here, is not handed on."""
    objects, heads = two()
    objects = [one for one in objects if "/inv1/" not in (one[0] or "")] + pages(heads, 4)[:1]
    return Case("page_withheld", "the second page of two is held back", tuple(objects), "incomplete", {},
                "page 2 of 2 is missing in checkpoint 4", 3)  # fmt: skip


@case
def first_page_withheld() -> Case:
    objects, heads = two()
    objects += pages(heads, 4)[1:]
    return Case("first_page_withheld", "the first page of two is held back", tuple(objects), "incomplete", {},
                "page 1 of 2 is missing in checkpoint 4", 6)  # fmt: skip


@case
def old_page_beside_newer() -> Case:
    objects, heads = two()
    first = pages(heads, 4)
    objects += [*first, pages(heads, 5, first)[0]]
    return Case("old_page_beside_newer", "the second page is still the one of before", tuple(objects), "incomplete",
                {}, "page 2 of 2 is missing in checkpoint 5", 6)  # fmt: skip


@case
def pages_vanish() -> Case:
    """A device is gone from the list; its page stays retained on the broker and says nothing any more."""
    objects, heads = two()
    first = pages(heads, 4)
    objects += [*first, *pages(heads[:1], 5, first)]
    return Case("pages_vanish", "two pages, then one", tuple(objects), "verified", packs=6)


@case
def pages_vanish_and_come_back() -> Case:
    objects, heads = two()
    first = pages(heads, 4)
    second = pages(heads[:1], 5, first)
    objects += [*first, *second, *pages(heads, 6, second)]
    return Case("pages_vanish_and_come_back", "two pages, one, two again", tuple(objects), "verified", packs=6)


@case
def pages_disagree() -> Case:
    objects, heads = two()
    objects += [pages(heads, 4)[0], pages(heads, 4, pages=3)[1]]
    return Case("pages_disagree", "one page says two, the other three", tuple(objects), "failed", {"counter": 1},
                "checkpoint 4 has 2 pages, but another of them states 3", 6)  # fmt: skip


@case
def page_beyond_the_last() -> Case:
    objects, heads = two()
    objects += [pages(heads, 4)[0], pages(heads, 4, pages=1)[1]]
    return Case("page_beyond_the_last", "page 2 of 1", tuple(objects), "failed", {"shape": 1},
                "page 2 of a checkpoint that has 1 pages", 6)  # fmt: skip


@case
def page_replayed() -> Case:
    objects, heads = two()
    first = pages(heads, 4)
    objects += [*first, *pages(heads, 5, first), first[1]]
    return Case("page_replayed", "an old second page after the newer one", tuple(objects), "failed", {"counter": 1},
                "checkpoint 4 after 5: an old retained one", 6)  # fmt: skip


@case
def page_of_another_gateway() -> Case:
    """Its signature holds; here it fills the place of a page that is held back."""
    objects, heads = two()
    other = Stream("inv1", Key(5), gateway="park7/gw02")
    other.run(1)
    page = checkpoint([head(other)], Key(5), 4, gateway="park7/gw02", page=2, pages=2)
    objects += [pages(heads, 4)[0], (f"{TOPIC}2", page)]
    return Case("page_of_another_gateway", "a page of gw02 in place of the second", tuple(objects), "failed",
                {"topic": 1}, "page 2 of park7/gw02 published at", 6)  # fmt: skip


@case
def page_signed_by_a_thief() -> Case:
    """He counts far ahead and says that there are more pages; his key was cut off, so nothing of it is waited for."""
    old, new = Key(1), Key(2)
    objects, heads = two()
    last = {one["stream"]: one["seq"] for one in heads}
    second = key_record(new, old, START + 1, revokes=[{"kid": old.kid, "last": last}])
    objects[0] = (objects[0][0], keys_object([key_record(old), second], new, 2))
    objects += [*pages(heads, 1 << 40, key=old, pages=3), *pages(heads[:1], 5, key=new)]
    return Case("page_signed_by_a_thief", "pages of a revoked key count for nothing", tuple(objects), "verified",
                packs=6)  # fmt: skip


@case
def checkpoint_of_what_was_overtaken() -> Case:
    """A database restored from before: the packs that it forgot never came out, the checkpoint that names them did."""
    stream, forgotten = Stream(), Stream()
    packs = stream.run(3)
    forgotten.run(5)
    stream.restart(BOOTS[1])
    objects = (*feed(stream, packs + stream.run(4)), (f"{TOPIC}1", checkpoint([head(forgotten)], stream.key)))
    return Case("checkpoint_of_what_was_overtaken", "another boot goes on from before what a checkpoint names", objects,
                "failed", {}, "rollback or clone: a checkpoint names sequence 5", 7)  # fmt: skip


@case
def checkpoint_of_a_clone() -> Case:
    """Two boxes with one key: only a head of the other one was ever seen."""
    stream, clone = Stream(), Stream(boot=BOOTS[1])
    clone.run(4)
    objects = (*feed(stream, stream.run(6)), (f"{TOPIC}1", checkpoint([head(clone)], stream.key)))
    return Case("checkpoint_of_a_clone", "a checkpoint of a boot that is not here, beside one that is", objects,
                "failed", {}, "sequence 4 of boot b1946ac92492d234, but this pack is missing here", 6)  # fmt: skip


@case
def checkpoint_of_a_lost_database() -> Case:
    """What the old database held never came out; the new one begins at 1, later than all of that."""
    lost, stream = Stream(boot=BOOTS[1]), Stream(start=START + 600)
    lost.run(4)
    objects = (*feed(stream, stream.run(6)), (f"{TOPIC}1", checkpoint([head(lost)], stream.key)))
    return Case("checkpoint_of_a_lost_database", "a checkpoint from before a stream began anew", objects, "incomplete",
                {}, "the history begins anew: a checkpoint names the pack with sequence 4", 6)  # fmt: skip
