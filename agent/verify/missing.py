"""Finds missing packs (gaps in the sequences), packs reported as lost, rollbacks and new histories."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, islice
from typing import Final

from .history import MAX_RUNS, History, PackRun
from .pack import Loss
from .point_table import PointTable, by_day, day_name
from .report import MAX_LISTED, Day, Range, StreamReport

CheckpointHead = tuple[str, int, str, int]  # the head of a stream in a checkpoint, as (boot, seq, hash, to_ms)
MERGE_LOSSES: Final = 1000  # up to this many losses are kept as they were stated


class StatedLosses:
    """The losses that a stream has stated.

    Many losses are merged into ranges, because a gateway whose store is full states a loss in each pack. Only the
    ``MAX_RUNS`` ranges with the highest sequences are kept. ``History`` keeps no more runs than that either.
    """

    def __init__(self) -> None:
        self._losses: list[Loss] = []
        self._merge_at = MERGE_LOSSES

    def __iter__(self) -> Iterator[Loss]:
        return iter(self._losses)

    def __len__(self) -> int:
        return len(self._losses)

    def add(self, losses: Iterable[Loss]) -> None:
        """Add the losses of one pack."""
        self._losses.extend(losses)
        if len(self._losses) > self._merge_at:
            self._losses = _merged(self._losses)[-MAX_RUNS:]
            self._merge_at = max(MERGE_LOSSES, 2 * len(self._losses))  # so that each loss is merged only a few times


def _merged(losses: Iterable[Loss]) -> list[Loss]:
    """Return the losses in order of sequence. Merges adjacent losses with the same reason, as the gateway does."""
    made: list[Loss] = []
    for loss in sorted(losses, key=_sequences):
        last = made[-1] if made else None
        if last is None or loss.reason != last.reason or loss.first > last.last + 1:
            made.append(loss)
            continue
        from_ms, to_ms = min(last.from_ms, loss.from_ms), max(last.to_ms, loss.to_ms)
        end = loss if loss.last >= last.last else last
        made[-1] = replace(end, first=last.first, from_ms=from_ms, to_ms=to_ms)
    return made


def _sequences(loss: Loss) -> tuple[int, int]:
    return loss.first, loss.last


def find_missing(
    history: History,
    tables: Mapping[str, PointTable],
    losses: Iterable[Loss],
    heads: Sequence[CheckpointHead],
    made: StreamReport,
) -> None:
    """Fill in the members of ``made`` that depend on the whole history. Changes no other object."""
    lines = lineages(history)
    if history.dropped_runs:
        made.restarts.append(f"too many gaps in the sequence: the oldest {history.dropped_runs} are no longer listed")
    if not lines:
        return
    losses = sorted(losses, key=_sequences)
    # for each loss: the highest sequence of it and all losses before it, so that ``_hole`` skips earlier losses at once
    reach = list(accumulate((loss.last for loss in losses), max))
    for line in lines:
        if line is not lines[0]:
            made.restarts.append(
                f"the history begins anew with sequence {line[0].first.seq} in boot {line[0].first.boot}"
            )
        reached = line[0]
        for run in line[1:]:
            first = run.first
            if first.seq <= reached.last.seq:
                made.conflicts.append(
                    f"rollback or clone: sequence {first.seq} exists in boot {reached.last.boot} "
                    f"and in boot {first.boot}"
                )
            elif first.seq > reached.last.seq + 1:
                _hole(reached, run, tables, losses, reach, made)
            elif not run.joined and first.boot != reached.last.boot:
                made.conflicts.append(
                    f"sequence {first.seq} of boot {first.boot} does not follow "
                    f"{reached.last.seq} of boot {reached.last.boot}"
                )
            if run.last.seq > reached.last.seq:
                reached = run
    newest = max((line[-1] for line in lines), key=lambda s: s.last.to_ms)
    made.first_seq, made.last_seq = lines[0][0].first.seq, newest.last.seq
    made.from_ms, made.to_ms = lines[0][0].first.from_ms, newest.last.to_ms
    made.begun_ms = lines[0][0].first.to_ms
    _compare_heads(history, heads, lines, tables, made)
    del made.conflicts[MAX_LISTED:], made.restarts[MAX_LISTED:]


def lineages(history: History) -> list[list[PackRun]]:
    """Return the histories of a stream. Each history is a list of runs in order of sequence.

    A new history begins with each boot that knew no earlier pack of the stream.
    """
    roots = {
        name: boot.runs[0]
        for name, boot in history.boots.items()
        if boot.runs and boot.runs[0].first.first and boot.runs[0].first.prev_boot is None
    }
    parents = {
        name: boot.runs[0].first.prev_boot
        for name, boot in history.boots.items()
        if boot.runs and boot.runs[0].first.first
    }
    lines: dict[str, list[PackRun]] = {}
    known: dict[str, str] = {}  # boot -> first boot of its history
    for name, boot in history.boots.items():
        if not boot.runs:
            continue
        path, at = [], name
        while (
            at not in known and at not in roots and (up := parents.get(at)) and up in history.boots and at not in path
        ):
            path.append(at)
            at = up
        root = known.get(at, at)
        # the first pack of this history is missing, so add the runs to the newest history that began before them
        if root not in roots:
            begun = boot.runs[0].first.from_ms
            before = [(s.first.from_ms, r) for r, s in roots.items() if s.first.from_ms <= begun]
            root = max(before)[1] if before else ""
        for step in (*path, name):
            known[step] = root
        lines.setdefault(root, []).extend(boot.runs)
    for line in lines.values():
        line.sort(key=lambda s: (s.first.seq, s.first.from_ms))
    return sorted(lines.values(), key=lambda line: line[0].first.from_ms)


def _hole(
    left: PackRun,
    right: PackRun,
    tables: Mapping[str, PointTable],
    losses: Sequence[Loss],
    reach: Sequence[int],
    made: StreamReport,
) -> None:
    """Divide the packs between two runs into those that loss events report and those that are missing."""
    table = tables.get(left.last.birth)
    at, from_ms = left.last.seq + 1, left.last.to_ms
    end = right.first.seq - 1
    for loss in islice(losses, bisect_left(reach, at), None):
        first, last = max(loss.first, at), min(loss.last, end)
        if loss.first > end:
            break
        if first > last:
            continue
        if last == right.first.seq - 1 == loss.last and loss.hash != right.first.prev:
            made.conflicts.append(
                f"the hash in the loss event of {loss.first} to {loss.last} is not the prev of the next pack"
            )
        if first > at:
            _missing(made, Range(at, first - 1, from_ms, max(from_ms, loss.from_ms), None), table)
        # if a loss also covers packs after the hole, only the time up to these packs counts
        until_ms = loss.to_ms if last == loss.last else min(loss.to_ms, right.first.from_ms)
        low, high = max(from_ms, loss.from_ms), max(from_ms, until_ms)
        made.lost.append(Range(first, last, low, high, table.due(low, high) if table else None, loss.reason))
        _add(made, table, low, high, "lost")
        at, from_ms = last + 1, high
    if at <= end:
        _missing(made, Range(at, end, from_ms, max(from_ms, right.first.from_ms), None), table)


def _missing(made: StreamReport, hole: Range, table: PointTable | None) -> None:
    due = table.due(hole.from_ms, hole.to_ms) if table else None
    made.missing.append(Range(hole.first, hole.last, hole.from_ms, hole.to_ms, due))
    _add(made, table, hole.from_ms, hole.to_ms, "missing")


def _add(made: StreamReport, table: PointTable | None, from_ms: int, to_ms: int, what: str) -> None:
    """Add the due readings of a hole to the days.

    They are added to ``due`` and to the member of ``Day`` that ``what`` names.
    """
    if table is None:
        return
    for number, due, _, _ in by_day(table, (), from_ms, to_ms):
        if due:
            day = made.days.setdefault(day_name(number), Day())
            day.due += due
            setattr(day, what, getattr(day, what) + due)


def contradicts(history: History, head: CheckpointHead) -> bool | None:
    """True if the head of a checkpoint contradicts a known pack. None: the pack is not known.

    Also returns False if the pack is known but its hash is no longer kept.
    """
    boot, seq, digest, _ = head
    known, kept = history.find(boot, seq)
    if not known:
        return None
    ends = {run.last.seq: run.last.hash for run in history.boots[boot].runs}
    return ends.get(seq, digest) != digest or bool(kept and kept != urlsafe_b64decode(digest + "=")[:16])


def _compare_heads(
    history: History,
    heads: Sequence[CheckpointHead],
    lines: Sequence[Sequence[PackRun]],
    tables: Mapping[str, PointTable],
    made: StreamReport,
) -> None:
    """Compare the heads of checkpoints with the packs.

    Args:
        heads: the heads of this stream, in the order of their checkpoints.
    """
    # index in ``lines`` -> the highest head, if its sequence is above all packs of this history
    behind: dict[int, CheckpointHead] = {}
    gone = [*made.missing, *made.lost]
    line_of = {s.first.boot: n for n, line in enumerate(lines) for s in line}
    taken_over = _taken_over(lines)
    reached = [max((s.last for s in line), key=lambda link: link.seq) for line in lines]
    # lowest sequence in the checkpoints after the current one; a head above it belongs to an earlier history
    later: int | None = None
    before: CheckpointHead | None = None
    for head in reversed(heads):
        boot, seq, _, _ = head
        known = contradicts(history, head)
        at, over = line_of.get(boot), taken_over.get(boot)
        last = reached[-1 if at is None else at].seq
        is_earlier = (len(lines) > 1 and seq <= last) or head[3] <= lines[-1][0].first.from_ms
        is_earlier = is_earlier and seq >= made.first_seq
        if known:
            made.conflicts.append(f"a checkpoint has a different hash for sequence {seq} of boot {boot}")
        elif known is None:
            if over is not None and seq >= over:
                text = (
                    f"a checkpoint names sequence {seq} of boot {boot}, but the next boot begins with sequence {over}"
                )
                made.conflicts.append(f"rollback or clone: {text}")
            elif at is None and (is_earlier or (later is not None and later < seq)):
                before = head if before is None or seq > before[1] else before
            elif seq > last:
                line = len(lines) - 1 if at is None else at
                behind[line] = max(behind.get(line, head), head, key=lambda one: one[1])
            elif made.first_seq <= seq <= last and not any(hole.first <= seq <= hole.last for hole in gone):
                made.conflicts.append(_absent(head))
        later = seq if later is None else min(later, seq)
    if before:
        made.restarts.append(f"the history begins anew: {_absent(before)}")
    for number, head in sorted(behind.items()):
        end = reached[number]
        hole = Range(end.seq + 1, head[1], end.to_ms, max(end.to_ms, head[3]), None)
        _missing(made, hole, tables.get(end.birth))


def _absent(head: CheckpointHead) -> str:
    """Return the text that the pack of a checkpoint's head is missing."""
    boot, seq, _, _ = head
    return f"a checkpoint names the pack with sequence {seq} of boot {boot}, but this pack is missing here"


def _taken_over(lines: Sequence[Sequence[PackRun]]) -> dict[str, int]:
    """Return a dictionary: boot -> the first sequence of the boot that continues it."""
    begun: dict[str, int] = {}
    for first in (run.first for line in lines for run in line):
        if first.first and first.prev_boot is not None:
            begun[first.prev_boot] = min(first.seq, begun.get(first.prev_boot, first.seq))
    return begun
