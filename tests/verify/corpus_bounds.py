"""Cases: keys that anybody can sign with or that have two spellings, several gateways under one pin, endless lists."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import rfc8785

from tests.kits.signed import START, Key, Stream, b64, keys
from tests.verify.corpus import KEYS_TOPIC, Case, case, doctored, feed, refused


class Respelt(Key):
    """A key whose record writes it in another way."""

    def __init__(self, alg: str, **members: str) -> None:
        super().__init__(3, alg)
        self.jwk = {**self.jwk, **members}
        self.kid = b64(hashlib.sha256(rfc8785.dumps(self.jwk)).digest())


class Anybody(Respelt):
    """The neutral point as a key: this signature holds for every text."""

    def __init__(self) -> None:
        super().__init__("Ed25519", x=b64(b"\1" + bytes(31)))

    def raw_sign(self, signed: bytes) -> bytes:
        return b"\1" + bytes(63)


def of_key(name: str, about: str, key: Key, reason: str) -> Case:
    stream = Stream(key=key)
    return Case(name, about, feed(stream, stream.run(2)), "failed", {"key": 1, "kid": 2}, reason, 0, trust=(key.kid,))


@case
def small_order_key() -> Case:
    return of_key("small_order_key", "a key with which anybody can sign", Anybody(), "small order")


@case
def key_with_zeros_in_front() -> Case:
    x = b64(b"\0" + base64.urlsafe_b64decode(Key(3, "ES256").jwk["x"] + "="))
    return of_key("key_with_zeros_in_front", "a known key in a second spelling", Respelt("ES256", x=x), "expected 32")


@case
def gateway_with_a_line_break() -> Case:
    objects = ((KEYS_TOPIC, keys(Key(), gateway="park7/gw01\nverified: 9 packs")),)
    return Case("gateway_with_a_line_break", "a gateway's name that would write a line of the report", objects,
                "failed", {"shape": 1}, "expected <site>/<gateway>", 0)  # fmt: skip


@case
def clock_steps_without_end() -> Case:
    steps: list[dict[str, Any]] = [{"event": "clock_step", "new": START, "old": START, "t": START}] * 101
    return refused("clock_steps_without_end", "101 clock steps in one pack", "shape", "more than 100",
                   doctored(events=steps))  # fmt: skip


def two_gateways() -> tuple[tuple[Any, ...], Key, Key]:
    one, two = Key(1), Key(2)
    first, second = Stream(key=one), Stream(key=two, gateway="park7/gw02")
    announced = ("meterhouse/v1/park7/gw02/keys", keys(two, gateway="park7/gw02"))
    packs = [(second.topic(), raw) for raw in second.run(2)]
    return (*feed(first, first.run(2)), announced, *packs), one, two


@case
def two_gateways_under_bare_pins() -> Case:
    """Either owner could sign for the other's gateway, and it would not show."""
    objects, one, two = two_gateways()
    return Case("two_gateways_under_bare_pins", "two gateways, and pins that do not say whose they are", objects,
                "failed", {}, "SITE/GATEWAY=THUMBPRINT", 4, trust=(one.kid, two.kid))  # fmt: skip


@case
def two_gateways_under_their_own_pins() -> Case:
    objects, one, two = two_gateways()
    return Case("two_gateways_under_their_own_pins", "two gateways, each under its own pin", objects, "verified",
                packs=4, trust=(f"park7/gw01={one.kid}", f"park7/gw02={two.kid}"))  # fmt: skip


@case
def another_gateways_key() -> Case:
    """The owner of gw02 makes a chain of his own for gw01."""
    one, two = Key(1), Key(2)
    stream, forged = Stream(key=one), Stream("inv9", two)
    packs = stream.run(2)
    objects = (
        *feed(stream, packs),
        (KEYS_TOPIC, keys(two, counter=2)),
        *((forged.topic(), raw) for raw in forged.run(2)),
    )
    return Case("another_gateways_key", "a key pinned for gw02 signs for gw01", objects, "failed",
                {"key-chain": 1, "kid": 2}, "do not begin with the known records", 2,
                trust=(f"park7/gw01={one.kid}", f"park7/gw02={two.kid}"))  # fmt: skip
