"""Signed checkpoints: heads of all streams, each checkpoint chained to the one before."""

from __future__ import annotations

from typing import Any

from agent.verify.holes import Head
from agent.verify.jws import TYP_CHECKPOINT
from agent.verify.keyring import KeyRing
from agent.verify.signed import check_signed
from agent.verify.strict import Refused
from agent.verify.table import ms_of

MAX_PAGES = 1000


class Checkpoints:
    """Remembers of each gateway's pages the newest."""

    def __init__(self) -> None:
        self.count = 0
        self._newest: dict[tuple[str, int], tuple[int, str, str]] = {}  # (gateway, page) -> counter, hash, kid

    def take(self, raw: bytes, value: dict[str, Any], ring: KeyRing) -> list[tuple[str, Head, bool]]:
        """(stream, its head, is it at its end?) for each head.

        Raises:
            Refused: whatever does not hold; an older page than the one known among it.
        """
        signed = check_signed(raw, value, TYP_CHECKPOINT, ring.keys)
        page, counter, heads = value.get("page"), value.get("counter"), value.get("heads")
        if type(page) is not int or not 1 <= page <= MAX_PAGES or type(counter) is not int or value.get("v") != 1:
            raise Refused("shape", "a checkpoint without page, counter or v 1")
        key = (ring.gateway, page)
        known, kid = self._newest.get(key), signed.key.kid
        if known:
            if known[:2] == (counter, signed.hash):
                return []
            self._check_order(known, counter, value.get("prev"), kid, ring)
        if not isinstance(heads, list):
            raise Refused("shape", "a checkpoint without heads")
        made = [_head(head, ring.gateway) for head in heads]
        for stream, head, _ in made:
            ring.check_revoked(kid, stream, head[1])
        self._newest[key] = (counter, signed.hash, kid)
        self.count += 1
        return made

    @staticmethod
    def _check_order(known: tuple[int, str, str], counter: int, prev: object, kid: str, ring: KeyRing) -> None:
        last, digest, signer = known
        later = ring.order[kid] > ring.order[signer]
        if later and ring.is_revoked(signer):
            return  # a thief may have counted as far as he liked
        if counter < last:
            raise Refused("counter", f"checkpoint {counter} after {last}: an old retained one")
        if counter == last:
            raise Refused("counter", f"two different checkpoints with counter {counter}")
        if ring.order[kid] < ring.order[signer]:
            raise Refused("chain", f"checkpoint {counter} is signed by an older key than {last}")
        if counter == last + 1 and prev != digest:
            raise Refused("chain", f"checkpoint {counter} does not follow the hash of {last}")


def _head(head: Any, gateway: str) -> tuple[str, Head, bool]:
    if isinstance(head, dict):
        stream, boot, seq, digest = (head.get(name) for name in ("stream", "boot", "seq", "hash"))
        if (
            isinstance(stream, str)
            and stream.startswith(gateway + "/")
            and isinstance(boot, str)
            and type(seq) is int
            and isinstance(digest, str)
            and len(digest) == 43
        ):
            return stream, (boot, seq, digest, ms_of(head.get("to"), "to of a head")), head.get("retired") is True
    raise Refused("shape", f"a checkpoint head that is not of {gateway}, or without stream, boot, seq, hash, to")
