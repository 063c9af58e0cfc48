"""Cases: what holds."""

from __future__ import annotations

import json

import zstandard

from tests.kits.signed import BOOTS, START, Key, Stream, keys, payload_hash
from tests.verify.corpus import Case, case, feed, in_parts


@case
def good() -> Case:
    stream = Stream()
    return Case("good", "a birth and three packs", feed(stream, stream.run(4)), "verified", packs=4, readings=13)


@case
def unproven() -> Case:
    stream = Stream()
    return Case("unproven", "nothing pinned", feed(stream, stream.run(4)), "consistent, origin unproven", packs=4,
                readings=13, trust=(), reason="pinned")  # fmt: skip


@case
def restart() -> Case:
    stream = Stream()
    packs = stream.run(3)
    stream.restart(BOOTS[1])
    packs += [stream.make_birth(), stream.gap(60, "stopped"), stream.pack()]
    return Case("restart", "a second boot, its downtime stated", feed(stream, packs), "verified", packs=6, readings=13)


@case
def redelivered() -> Case:
    stream = Stream()
    packs = stream.run(4)
    return Case("redelivered", "the same bytes again", feed(stream, packs + packs[1:3]), "verified", packs=4)


@case
def reordered() -> Case:
    stream = Stream()
    packs = stream.run(8)
    order = [0, 1, 6, 7, 5, 2, 4, 3]
    return Case("reordered", "backfill after fresh packs", feed(stream, [packs[n] for n in order]), "verified", packs=8)


@case
def rewritten() -> Case:
    stream = Stream()
    packs = [json.dumps(json.loads(raw), indent=2).encode() for raw in stream.run(4)]
    return Case("rewritten", "a bridge has re-serialised every pack", feed(stream, packs), "verified", packs=4)


@case
def compressed() -> Case:
    stream = Stream()
    packs = [zstandard.compress(raw) for raw in stream.run(4)]
    return Case("compressed", "zstd outside, the signature inside", feed(stream, packs), "verified", packs=4)


@case
def unknown_members() -> Case:
    stream = Stream()
    packs = [
        stream.make_birth(),
        stream.pack(zz={"new": [1, None]}),
        stream.pack(events=[{"event": "moon", "t": START}]),
    ]
    return Case("unknown_members", "members and events of a later version", feed(stream, packs), "verified", packs=3)


@case
def clock_step() -> Case:
    stream = Stream()
    packs = stream.run(2)
    event = {"event": "clock_step", "new": stream.at - 3600, "old": stream.at, "t": stream.at - 3600}
    stream.at -= 3600
    packs += [stream.pack(events=[event]), stream.pack()]
    return Case(
        "clock_step", "the clock was set back an hour and a pack says so", feed(stream, packs), "verified", packs=4
    )


@case
def parts() -> Case:
    stream = Stream(start=START)
    packs = stream.run(2)
    return Case("parts", "one tick in three packs", feed(stream, packs + in_parts(stream)), "verified", packs=5)


@case
def rotated() -> Case:
    old, new = Key(1), Key(2, "ES256")
    stream = Stream(key=old)
    packs = stream.run(3)
    stream.key = new
    packs += stream.run(2)
    objects = feed(stream, packs, keys(old, new, counter=2))
    return Case("rotated", "a second key, ES256, announced by the first", objects, "verified", packs=5)


@case
def stated_loss() -> Case:
    stream = Stream()
    packs = stream.run(8)
    loss = {
        "boot": stream.boot, "event": "loss", "first": 4, "from": START + 20, "hash": payload_hash(packs[5]), "last": 6,
        "reason": "disk", "t": stream.at, "to": START + 50,
    }  # fmt: skip
    packs = packs[:3] + packs[6:] + [stream.pack(events=[loss])]
    return Case(
        "stated_loss", "three packs dropped and a signed event that says so", feed(stream, packs), "verified", packs=6
    )
