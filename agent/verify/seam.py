"""Checks the seam between two packs, that is, whether one directly follows the other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChainLink:
    """The members of a pack that are compared with those of the previous and the next pack in the stream."""

    boot: str
    seq: int
    hash: str
    prev: str | None
    prev_boot: str | None
    first: bool  # True: the first pack of its boot
    from_ms: int
    to_ms: int
    part: tuple[int, int] | None
    birth: str  # hash of the birth in effect; if the pack is a birth, its own hash
    is_birth: bool
    steps: tuple[tuple[int, int], ...]  # clock_step events: (old, new) in ms
    signer: int  # number of the signing key; a later key has a higher number


def check_seam(left: ChainLink, right: ChainLink) -> list[str]:
    """Return a text for each member of ``right`` that does not match ``left``; empty if ``right`` follows correctly.

    Call this if ``right`` claims to follow ``left`` in the stream: its ``prev`` is the hash of ``left``, or it has the
    next sequence in the same boot.
    """
    if right.prev != left.hash:
        return [f"prev is not the hash of sequence {left.seq}"]
    faults = []
    if right.seq != left.seq + 1:
        faults.append(f"sequence {right.seq} follows {left.seq}")
    if right.boot == left.boot:
        if right.first:
            faults.append("prev_boot in a pack that is not the first of its boot")
    elif right.prev_boot != left.boot:
        faults.append(f"prev_boot is {right.prev_boot}, but the previous pack is of boot {left.boot}")
    part = right.part
    if part and part[0] > 1:
        if left.part != (part[0] - 1, part[1]) or (left.from_ms, left.to_ms) != (right.from_ms, right.to_ms):
            faults.append(f"part {part[0]} of {part[1]} without the part before")
    else:
        if left.part and left.part[0] < left.part[1]:
            faults.append(f"part {left.part[0] + 1} of {left.part[1]} is missing")
        stepped = left.to_ms in (old for old, _ in right.steps) and right.from_ms in (new for _, new in right.steps)
        if right.from_ms != left.to_ms and not stepped:
            away = (right.from_ms - left.to_ms) / 1000
            shown = f"{abs(away):.3f}".rstrip("0").rstrip(".")
            word = f"{shown} s {'after' if away > 0 else 'before'}"
            faults.append(
                f"begins {word} the previous pack ends ({left.to_ms / 1000:.3f}), and no clock_step explains it"
            )
    if not right.is_birth and right.birth != left.birth:
        faults.append(f"names birth {right.birth}, but {left.birth} is in effect")
    if right.signer < left.signer:
        faults.append("signed by an older key than the previous pack")
    return faults
