"""Checks signed checkpoints. A checkpoint lists the heads of all streams on numbered pages.

Each page contains the hash of the page with the same number in the previous checkpoint.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from .canonical import MAX_SAFE
from .jws import TYP_CHECKPOINT
from .keyring import KeyRing
from .missing import CheckpointHead
from .pack import BOOT
from .point_table import ms_of
from .report import MAX_LISTED, IncompleteCheckpoint
from .signed import FoundSignature, check_signed
from .strict import Refused, shown
from .topics import STREAM

_HASH: Final = re.compile(r"[A-Za-z0-9_-]{43}")
MAX_PAGES: Final = 1000
MAX_HEADS: Final = 1000  # limit of the heads on a page; a gateway writes at most 200
MAX_FILED: Final = 10_000  # at most this many pages from files are kept, to recognise copies
MAX_PARTIAL: Final = 10_000  # limit of the incomplete checkpoints from files; beyond the limit, the oldest is dropped
ARRIVING_MS: Final = 300_000  # all pages should arrive within this time; over a slow link, a page takes half a minute


class _Page(NamedTuple):
    """The facts about a page that are kept."""

    counter: int
    hash: str
    prev: object
    kid: str
    pages: int  # number of pages in the checkpoint of this page
    time_ms: int


@dataclass(frozen=True, slots=True)
class NamedHead:
    """The head of a stream in a checkpoint."""

    stream: str
    head: CheckpointHead
    retired: bool  # True: the device of the stream is no longer read
    counter: int
    kid: str
    filed: bool  # True: the checkpoint is from a file


@dataclass(frozen=True, slots=True)
class CheckedPage:
    """A page of a checkpoint with a valid signature by a key of its gateway."""

    gateway: str
    page: int  # number of the page, from 1 on
    pages: int  # number of pages of the checkpoint
    counter: int  # counter of the checkpoint, which is the same on all its pages
    time_ms: int  # time when the checkpoint was made
    hash: str
    prev: str | None  # hash of this page in the previous checkpoint
    kid: str
    heads: tuple[NamedHead, ...]


@dataclass(slots=True)
class _GatewayPages:
    """The pages of one gateway."""

    newest: dict[int, _Page] = field(default_factory=dict)  # number of the page -> newest page with this number
    before: _Page | None = None  # a page of the checkpoint before the newest one


class CheckpointPages:
    """Keeps the newest pages of each gateway, and records which pages of a checkpoint are missing."""

    def __init__(self) -> None:
        self.count = 0
        self.forgotten = 0  # number of incomplete checkpoints that were dropped because of ``MAX_PARTIAL``
        self._gateways: dict[str, _GatewayPages] = {}
        # pages from files, by (gateway, page, counter)
        self._filed: OrderedDict[tuple[str, int, int], _Page] = OrderedDict()
        # (gateway, page number) -> the last page with this number in the current file; None: objects are not from files
        self._file: dict[tuple[str, int], _Page] | None = None
        # Incomplete checkpoints in files. (gateway, counter) -> one page, and a number with one bit for each present
        # page.
        self._partial: OrderedDict[tuple[str, int], tuple[_Page, int]] = OrderedDict()

    def new_file(self) -> None:
        """Call this before each file, because the order in which the files were written is not known."""
        self._file = {}

    def take(
        self,
        raw: bytes,
        value: dict[str, Any],
        ring: KeyRing,
        found: FoundSignature | None = None,
        *,
        filed: bool = False,
    ) -> list[NamedHead]:
        """Add a page. Returns its heads, or an empty list if the page is known already.

        Args:
            filed: True if the page is from a file. The other pages of its checkpoint are then expected in files too.

        Raises:
            Refused: the page is invalid, or older than the known page with this number.
        """
        signed = check_signed(raw, value, TYP_CHECKPOINT, ring.keys, found)
        number, new = _page(value, signed.hash, signed.key.kid)
        own = self._gateways.get(ring.gateway) or _GatewayPages()
        known = own.newest.get(number)
        if self._file is not None and self._is_old(number, new, known, ring):
            return []
        if known and self._file is None:
            if (known.counter, known.hash) == (new.counter, new.hash):
                return []
            _check_order(known, new, ring)
        made = _heads(value, ring, new, filed)
        top = _top(own.newest.values(), ring)
        peer, _ = self._partial.get((ring.gateway, new.counter), (top, 0))
        if peer and peer.counter == new.counter and peer.pages != new.pages and not _is_void(peer, ring):
            raise Refused(
                "counter", f"checkpoint {new.counter} has {peer.pages} pages, but another of them states {new.pages}"
            )
        if top and new.counter > top.counter:
            own.before = top
        elif top and new.counter < top.counter and (own.before is None or new.counter > own.before.counter):
            own.before = new
        if known is None or new.counter > known.counter or ring.order[new.kid] > ring.order[known.kid]:
            own.newest[number] = new
        self._gateways[ring.gateway] = own
        self.count += 1
        self._file_page(ring.gateway, number, new, filed)
        return made

    def _is_old(self, number: int, new: _Page, known: _Page | None, ring: KeyRing) -> bool:
        """True if a page is known already. False: the page is new, and it fits the known pages before and after it.

        Raises Refused if the page does not fit them.
        """
        gateway, counter, files = ring.gateway, new.counter, self._filed
        here = self._file.get((gateway, number)) if self._file else None
        same = known if known and known.counter == counter else files.get((gateway, number, counter))
        if here and (here.counter, here.hash) != (counter, new.hash):
            _check_order(here, new, ring)
        if same and same.hash == new.hash:
            self._file_page(gateway, number, new, filed=False)
            return True
        if same:
            _check_order(same, new, ring)
        if before := files.get((gateway, number, counter - 1)):
            _check_order(before, new, ring)
        if after := files.get((gateway, number, counter + 1)):
            _check_order(new, after, ring)
        if known and counter > known.counter:
            _check_order(known, new, ring)
        elif known and not (_is_void(known, ring) and ring.order[new.kid] > ring.order[known.kid]):
            _check_order(new, known, ring)
        return False

    def _file_page(self, gateway: str, number: int, new: _Page, filed: bool) -> None:
        """Record that this page is present.

        If its checkpoint is complete now, the checkpoint is no longer kept as partial.
        """
        if self._file is not None:
            self._file[gateway, number] = new
            self._filed[gateway, number, new.counter] = new
            if len(self._filed) > MAX_FILED:
                self._filed.popitem(last=False)
        if not filed or new.pages == 1:
            return
        key = (gateway, new.counter)
        _, here = self._partial.get(key, (new, 0))
        here |= 1 << number
        if here.bit_count() == new.pages:
            self._partial.pop(key, None)
            return
        self._partial[key] = (new, here)
        if len(self._partial) > MAX_PARTIAL:
            self._partial.popitem(last=False)
            self.forgotten += 1

    def newest_ms(self, rings: Mapping[str, KeyRing]) -> dict[str, int]:
        """Return the time of the newest checkpoint of each gateway, in UTC ms."""
        tops = ((gateway, _top(own.newest.values(), rings[gateway])) for gateway, own in self._gateways.items())
        return {gateway: top.time_ms for gateway, top in tops if top}

    def incomplete(self, rings: Mapping[str, KeyRing], until_ms: Mapping[str, float]) -> list[IncompleteCheckpoint]:
        """Return the checkpoints with missing pages: first the newest of each gateway, then older ones from files.

        Each page states the number of pages, so a missing page is noticed. From a broker, only the newest checkpoint is
        looked at, because retained pages replace each other and older pages are received only by chance. While pages
        of the newest checkpoint may still arrive, the previous checkpoint is looked at instead.

        Args:
            until_ms: gateway -> current time in UTC ms; infinite if nothing more will arrive.
        """
        made: list[IncompleteCheckpoint] = []
        for gateway, own in self._gateways.items():
            ring = rings[gateway]
            pages = {number: page for number, page in own.newest.items() if not _is_void(page, ring)} or own.newest
            last = max(pages.values(), key=_counter)
            if last.time_ms + ARRIVING_MS > until_ms.get(gateway, math.inf):
                if own.before is None or _is_void(own.before, ring):
                    continue
                last = own.before
            behind = [n for n in range(1, last.pages + 1) if n not in pages or pages[n].counter < last.counter]
            if behind:
                made.append(IncompleteCheckpoint(gateway, last.counter, last.time_ms, last.pages, behind))
        reported = {(one.gateway, one.counter) for one in made}
        for key, (page, here) in self._partial.items():
            if key not in reported and not _is_void(page, rings[key[0]]):
                gone = [n for n in range(1, page.pages + 1) if not here >> n & 1]
                made.append(IncompleteCheckpoint(*key, page.time_ms, page.pages, gone))
                if len(made) > MAX_LISTED:
                    break
        return made


def read_page(raw: bytes, value: dict[str, Any], ring: KeyRing, found: FoundSignature | None = None) -> CheckedPage:
    """Check one page without any other page. Raises Refused."""
    signed = check_signed(raw, value, TYP_CHECKPOINT, ring.keys, found)
    number, page = _page(value, signed.hash, signed.key.kid)
    prev = page.prev if isinstance(page.prev, str) and _HASH.fullmatch(page.prev) else None
    heads = tuple(_heads(value, ring, page, filed=False))
    return CheckedPage(ring.gateway, number, page.pages, page.counter, page.time_ms, page.hash, prev, page.kid, heads)


def _heads(value: Mapping[str, Any], ring: KeyRing, page: _Page, filed: bool) -> list[NamedHead]:
    heads = value.get("heads")
    if not isinstance(heads, list) or len(heads) > MAX_HEADS:
        raise Refused("shape", f"`heads` must be an array of at most {MAX_HEADS} entries")
    made = [_head(head, ring.gateway, page, filed) for head in heads]
    for named in made:
        ring.check_revoked(page.kid, named.stream, named.head[1])
    return made


def _check_order(known: _Page, new: _Page, ring: KeyRing) -> None:
    later = ring.order[new.kid] > ring.order[known.kid]
    if later and ring.is_revoked(known.kid):
        return  # the counters are not compared, because a thief may have used the revoked key with any counter
    if new.counter < known.counter:
        raise Refused("counter", f"checkpoint {new.counter} after {known.counter}: an old retained one")
    if new.counter == known.counter:
        raise Refused("counter", f"two different checkpoints with counter {new.counter}")
    if ring.order[new.kid] < ring.order[known.kid]:
        raise Refused("chain", f"checkpoint {new.counter} is signed by an older key than {known.counter}")
    if new.counter == known.counter + 1 and new.prev != known.hash:
        raise Refused("chain", f"checkpoint {new.counter} does not follow the hash of {known.counter}")


def _page(value: Mapping[str, Any], digest: str, kid: str) -> tuple[int, _Page]:
    number, counter, pages = value.get("page"), value.get("counter"), value.get("pages")
    if type(number) is not int or not 1 <= number <= MAX_PAGES or value.get("v") != 1:
        raise Refused("shape", "a checkpoint with an invalid `page`, or `v` other than 1")
    if type(counter) is not int or not -MAX_SAFE < counter < MAX_SAFE:
        raise Refused("shape", f"a checkpoint with counter {shown(counter)}")
    if type(pages) is not int or not number <= pages <= MAX_PAGES:
        raise Refused("shape", f"page {number} of a checkpoint that has {shown(pages)} pages")
    return number, _Page(
        counter, digest, value.get("prev"), kid, pages, ms_of(value.get("time"), "time of a checkpoint")
    )


def _counter(page: _Page) -> int:
    return page.counter


def _is_void(page: _Page, ring: KeyRing) -> bool:
    """True if a revoked key signed the page. The content of the page cannot be trusted then."""
    return ring.is_revoked(page.kid)


def _top(pages: Iterable[_Page], ring: KeyRing) -> _Page | None:
    """Return a page of the newest checkpoint; None if there is none."""
    return max((page for page in pages if not _is_void(page, ring)), key=_counter, default=None)


def _head(head: Any, gateway: str, page: _Page, filed: bool) -> NamedHead:
    if isinstance(head, dict):
        stream, boot, seq, digest = (head.get(name) for name in ("stream", "boot", "seq", "hash"))
        if (
            isinstance(stream, str)
            and stream.rpartition("/")[0] == gateway
            and STREAM.fullmatch(stream)
            and isinstance(boot, str)
            and BOOT.fullmatch(boot)
            and type(seq) is int
            and 0 <= seq < MAX_SAFE
            and isinstance(digest, str)
            and _HASH.fullmatch(digest)
        ):
            end = (boot, seq, digest, ms_of(head.get("to"), "to of a head"))
            return NamedHead(stream, end, head.get("retired") is True, page.counter, page.kid, filed)
    raise Refused("shape", f"a checkpoint head that is not of {gateway}, or without stream, boot, seq, hash, to")
