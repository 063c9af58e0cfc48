"""Cases: topics, key chains, old retained objects."""

from __future__ import annotations

from corpus import KEYS_TOPIC, Case, case, doctored, feed
from packs import START, Key, Stream, checkpoint, key_record, keys, keys_object


@case
def cross_topic() -> Case:
    raw = doctored()
    bad = Case("cross_topic", "a pack of inv1 on the topic of inv2", (), "failed")
    stream = Stream()
    objects = (*feed(stream, stream.run(2)), ("meterhouse/v1/park7/gw01/inv2/readings", raw))
    return Case(bad.name, bad.about, objects, "failed", {"topic": 1}, "replayed across topics", 2)


@case
def cross_gateway() -> Case:
    """Sound packs of another gateway under this one's topics: its keys are not these."""
    stream = Stream()
    other = Stream(gateway="park7/gw02", key=Key(5))
    objects = (
        *feed(stream, stream.run(2)),
        ("meterhouse/v1/park7/gw01/inv1/readings", other.run(1)[0]),
        (KEYS_TOPIC, keys(Key(5), gateway="park7/gw02")),
    )
    return Case("cross_gateway", "packs and keys of another gateway on these topics", objects, "failed",
                {"topic": 1, "kid": 1}, "replayed across topics", 2)  # fmt: skip


@case
def foreign_keys() -> Case:
    forger = Key(9)
    stream = Stream(key=forger)
    return Case("foreign_keys", "a whole chain by somebody else", feed(stream, stream.run(2)), "failed",
                {"key-chain": 1, "kid": 2}, "foreign key chain", 0)  # fmt: skip


@case
def grafted_key() -> Case:
    """The first record is the pinned one, the second is not signed by it."""
    mine, forger = Key(1), Key(9)
    records = [key_record(mine), key_record(forger, mine, START + 1, signer=forger)]
    stream = Stream(key=forger)
    objects = feed(stream, stream.run(1), keys_object(records, forger))
    return Case("grafted_key", "a second key that the first never signed", objects, "failed",
                {"key-chain": 1, "kid": 1}, "not signed by the key before", 0)  # fmt: skip


@case
def wrong_thumbprint() -> Case:
    record = key_record(Key(1))
    record["kid"] = Key(2).kid
    objects = ((KEYS_TOPIC, keys_object([record], Key(1))),)
    return Case(
        "wrong_thumbprint", "a record whose kid is not its key's", objects, "failed", {"key": 1}, "its key is", 0
    )


@case
def old_keys() -> Case:
    old, new = Key(1), Key(2)
    stream = Stream(key=old)
    packs = stream.run(2)
    objects = (*feed(stream, packs, keys(old, new, counter=2)), (KEYS_TOPIC, keys(old, counter=1)))
    return Case("old_keys", "an older keys object after a newer one", objects, "failed", {"counter": 1},
                "counter 1 after 2", 2)  # fmt: skip


@case
def old_checkpoint() -> Case:
    stream = Stream()
    packs = stream.run(2)
    topic = "meterhouse/v1/park7/gw01/checkpoint/1"
    pages = [checkpoint([], stream.key, counter) for counter in (5, 4)]
    objects = (*feed(stream, packs), *((topic, page) for page in pages))
    return Case("old_checkpoint", "an older checkpoint after a newer one", objects, "failed", {"counter": 1},
                "checkpoint 4 after 5", 2)  # fmt: skip


@case
def old_key_again() -> Case:
    old, new = Key(1), Key(2)
    stream = Stream(key=old)
    packs = stream.run(2)
    stream.key = new
    packs += stream.run(2)
    stream.key = old
    packs += stream.run(1)
    objects = feed(stream, packs, keys(old, new, counter=2))
    return Case("old_key_again", "the replaced key signs again", objects, "failed", {"chain": 1}, "older key", 5)


@case
def revoked_key() -> Case:
    old, new = Key(1), Key(2)
    stream = Stream(key=old)
    packs = stream.run(4)
    second = key_record(new, old, START + 1, revokes=[{"kid": old.kid, "last": {stream.stream: 3}}])
    objects = feed(stream, packs, keys_object([key_record(old), second], new, 2))
    return Case("revoked_key", "a pack after the last trusted sequence of a revoked key", objects, "failed",
                {"revoked": 1}, "trusted up to sequence 3", 3)  # fmt: skip
