"""Cases: topics, key chains, old retained objects."""

from __future__ import annotations

from tests.kits.signed import BOOTS, START, Key, Stream, checkpoint, key_record, keys, keys_object
from tests.verify.corpus import KEYS_TOPIC, Case, case, doctored, feed


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
                {"key-chain": 1, "kid": 2}, "unknown key chain", 0)  # fmt: skip


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
def old_key_at_a_checkpoint() -> Case:
    """Good signatures both; the replaced key says something after the one that replaced it."""
    old, new = Key(1), Key(2)
    stream = Stream(key=old)
    packs = stream.run(2)
    topic = "meterhouse/v1/park7/gw01/checkpoint/1"
    pages = [checkpoint([], new, 5), checkpoint([], old, 7)]
    objects = (*feed(stream, packs, keys(old, new, counter=2)), *((topic, page) for page in pages))
    return Case("old_key_at_a_checkpoint", "a checkpoint by the replaced key after one by its successor", objects,
                "failed", {"chain": 1}, "signed by an older key", 2)  # fmt: skip


@case
def revoked_checkpoint() -> Case:
    """A thief counts far ahead and names a head that never was; the gateway's own, lower count is believed."""
    old, new = Key(1), Key(2)
    stream = Stream(key=old)
    packs = stream.run(2)
    second = key_record(new, old, START + 1, revokes=[{"kid": old.kid, "last": {stream.stream: 2}}])
    topic = "meterhouse/v1/park7/gw01/checkpoint/1"
    never = {"boot": stream.boot, "hash": "A" * 43, "seq": 9, "stream": stream.stream, "to": START + 90}
    pages = [checkpoint([never], old, 1 << 40), checkpoint([], old, 1 << 40), checkpoint([], new, 5)]
    announced = keys_object([key_record(old), second], new, 2)
    objects = (*feed(stream, packs, announced), *((topic, page) for page in pages))
    return Case("revoked_checkpoint", "a checkpoint by a revoked key about packs after its last", objects,
                "failed", {"revoked": 1}, "trusted up to sequence 2", 2)  # fmt: skip


@case
def returning_key() -> Case:
    """A chain that comes back to its first key: whoever stole that one would be trusted again."""
    old, new = Key(1), Key(2)
    records = [key_record(old), key_record(new, old, START + 1), key_record(old, new, START + 2)]
    return Case("returning_key", "a key recorded twice", ((KEYS_TOPIC, keys_object(records, old, 3)),), "failed",
                {"key-chain": 1}, "recorded twice", 0)  # fmt: skip


@case
def forked_records() -> Case:
    """The thief of the first key signs a successor of his own, and counts higher."""
    old, new, thief = Key(1), Key(2), Key(9)
    stream = Stream(key=old)
    packs = stream.run(2)
    objects = (*feed(stream, packs, keys(old, new, counter=2)), (KEYS_TOPIC, keys(old, thief, counter=9)))
    return Case("forked_records", "another successor of a key that has one", objects, "failed", {"key-chain": 1},
                "do not begin with the known records", 2)  # fmt: skip


@case
def forked_from_the_pinned() -> Case:
    """Who pins the successor that the owner made does not believe the thief's, whatever comes first."""
    old, new, thief = Key(1), Key(2), Key(9)
    stream = Stream(key=old)
    packs = stream.run(2)
    objects = (*feed(stream, packs, keys(old, thief, counter=9)), (KEYS_TOPIC, keys(old, new, counter=2)))
    return Case("forked_from_the_pinned", "a thief's successor before the owner's, which is pinned", objects, "failed",
                {"key-chain": 1}, "do not begin with the known records", 2, trust=(new.kid,))  # fmt: skip


@case
def pinned_successor() -> Case:
    """Pinned is the second key; the records of before it was made lead to it."""
    old, new = Key(1), Key(2)
    stream = Stream(key=old)
    packs = stream.run(2)
    stream.key = new
    more = [(stream.topic(), raw) for raw in stream.run(2)]
    later = (KEYS_TOPIC, keys(old, new, counter=2))
    objects = (*feed(stream, packs, keys(old)), later, *more, (KEYS_TOPIC, keys(old)))
    return Case("pinned_successor", "a later key is pinned", objects, "verified", packs=4, trust=(new.kid,))


@case
def stands_for_a_lost_key() -> Case:
    """Two roots, both pinned: the stream goes on from one to the other. The lost key is cut off."""
    old, new = Key(1), Key(5, "ES256")
    stream = Stream(key=old)
    packs = stream.run(3)
    revokes = [{"kid": old.kid, "last": {stream.stream: 3}}]
    record = key_record(new, since=START + 60, instead_of=old.kid, revokes=revokes)
    root = (KEYS_TOPIC, keys_object([record], new, START + 60))
    stream.restart(BOOTS[1])
    stream.key = new
    more = [(stream.topic(), raw) for raw in (stream.make_birth(), stream.gap(30, "stopped"), stream.pack())]
    objects = (*feed(stream, packs, keys(old)), root, *more)
    return Case("stands_for_a_lost_key", "a new root beside the lost one, both pinned", objects, "verified", packs=6,
                trust=(old.kid, new.kid))  # fmt: skip


@case
def revokes_a_stranger() -> Case:
    old, new = Key(1), Key(2)
    second = key_record(new, old, START + 1, revokes=[{"kid": Key(9).kid, "last": {}}])
    objects = ((KEYS_TOPIC, keys_object([key_record(old), second], new, 2)),)
    return Case("revokes_a_stranger", "a record that revokes a key of no earlier record", objects, "failed",
                {"shape": 1}, "not an earlier key", 0)  # fmt: skip


@case
def unpinned_root() -> Case:
    """A chain that says it stands for a lost key, which is what an impostor would say."""
    old, new = Key(1), Key(5)
    stream = Stream(key=old)
    packs = stream.run(2)
    root = keys_object([key_record(new, since=START + 60, instead_of=old.kid)], new, START + 60)
    objects = (*feed(stream, packs), (KEYS_TOPIC, root))
    return Case("unpinned_root", "a new root that nobody pinned", objects, "failed", {"key-chain": 1},
                "do not begin with the known records", 2)  # fmt: skip


@case
def revoked_key() -> Case:
    old, new = Key(1), Key(2)
    stream = Stream(key=old)
    packs = stream.run(4)
    second = key_record(new, old, START + 1, revokes=[{"kid": old.kid, "last": {stream.stream: 3}}])
    objects = feed(stream, packs, keys_object([key_record(old), second], new, 2))
    return Case("revoked_key", "a pack after the last trusted sequence of a revoked key", objects, "failed",
                {"revoked": 1}, "trusted up to sequence 3", 3)  # fmt: skip
