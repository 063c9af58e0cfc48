"""A corpus of streams that hold and streams that do not, each with its right verdict. docs/vectors are made from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module

from tests.kits.signed import POINTS, Key, Stream, keys

Object = tuple[str | None, bytes]  # topic, published bytes
KEYS_TOPIC = "meterhouse/v1/park7/gw01/keys"


@dataclass(frozen=True)
class Case:
    """What is published, and what a verifier must say of it."""

    name: str
    about: str
    objects: tuple[Object, ...]
    verdict: str
    failures: dict[str, int] = field(default_factory=dict)  # code -> count
    reason: str = ""  # part of the first fault's text, or of the verdict's reasons
    packs: int = 0
    readings: int | None = None
    trust: tuple[str, ...] = (Key().kid,)


CASES: dict[str, Callable[[], Case]] = {}


def case(function: Callable[[], Case]) -> Callable[[], Case]:
    CASES[function.__name__] = function
    return function


def feed(stream: Stream, packs: Sequence[bytes], announced: bytes | None = None) -> tuple[Object, ...]:
    return (
        (KEYS_TOPIC, announced if announced is not None else keys(stream.key)),
        *((stream.topic(), raw) for raw in packs),
    )


def refused(name: str, about: str, code: str, reason: str, bad: bytes, *, extra: Sequence[Object] = ()) -> Case:
    """A birth, a pack and then ``bad``."""
    stream = Stream()
    good = stream.run(2)
    objects = (*feed(stream, good), (stream.topic(), bad), *extra)
    return Case(name, about, objects, "failed", {code: 1}, reason, 2, 5)


def third() -> Stream:
    """A stream whose birth and first pack are out: the next pack is the third."""
    stream = Stream()
    stream.run(2)
    return stream


def doctored(**override: object) -> bytes:
    """The third pack with other members, properly signed."""
    stream = third()
    return stream.seal(stream.fields(10, **override))


def counted(name: str, about: str, code: str, reason: str, bad: bytes, packs: int = 3) -> Case:
    """As ``refused``, for a pack whose signature holds: it has its place in the stream, and a fault."""
    stream = Stream()
    objects = (*feed(stream, stream.run(2)), (stream.topic(), bad))
    return Case(name, about, objects, "failed", {code: 1}, reason, packs, 5)


def in_parts(stream: Stream, count: int = 3) -> list[bytes]:
    """The next tick, its due points dealt over ``count`` packs."""
    start, names = stream.at, [name for name, kind, _, _ in POINTS if kind in ("gauge", "counter")]
    packs = []
    for k in range(count):
        stream.at = start
        records = stream.readings(start, start + 5, skip=[n for at, n in enumerate(names) if at % count != k])
        for record in records[:1]:
            record |= {"bn": stream.stream + "/", "bt": start + 0.25}
        packs.append(stream.pack(5, e=records or None, part=[k + 1, count]))
    return packs


MODULES = ("corpus_good", "corpus_bytes", "corpus_keys", "corpus_order", "corpus_pages", "corpus_bounds")


def find_cases() -> None:
    """Fill ``CASES`` from the six modules beside this one; each is made where it is asked for."""
    for name in MODULES:
        import_module(f"tests.verify.{name}")


def all_cases() -> list[Case]:
    """Every case, in the order of the modules whichever was imported first."""
    find_cases()

    def place(make):
        return MODULES.index(make.__module__.rpartition(".")[2])

    return [make() for make in sorted(CASES.values(), key=place)]
