"""What is configured and not written yet, from the store: the birth that was in force at the last kept state."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agent.config import Config
from agent.intervals import Cut
from agent.intervals.page import Column
from agent.intervals.sketch import Rule, sketch
from agent.intervals.unwritten import Unwritten
from agent.store import Store


class UnwrittenStreams:
    """The configured streams of a gateway. Belongs to the store's thread.

    A verifier has the same from the packs, and from the result ``known`` that is sealed beside what was made.
    """

    def __init__(self, config: Config) -> None:
        entry = config.interval
        self.streams: Sequence[str] = sorted(f"{config.base}/{device.name}" for device in config.devices)
        self._cut = Cut(config.timezone, entry.length_ms)
        self._rule = Rule(entry.max_gap_ms, entry.demand_period_ms, entry.demand_slip_ms)
        self._columns: dict[str, tuple[int, tuple[Column, ...]]] = {}  # with the sequence that they were asked for

    def before(self, store: Store, at_ms: int) -> list[Unwritten]:
        """Those whose intervals are not written up to an instant. A stream without a pack cannot be among them."""
        heads, seqs = store.heads(), store.interval_seqs()
        out = []
        for stream in self.streams:
            if stream not in heads:
                continue
            from_ms = store.interval_end(stream) or self._cut.floor(store.first_pack(stream)[1])
            if from_ms < at_ms:
                out.append(Unwritten(stream, from_ms, self._columns_of(store, stream, seqs.get(stream, 0))))
        return out

    def _columns_of(self, store: Store, stream: str, seq: int) -> tuple[Column, ...]:
        """As the table in force after pack ``seq`` has them; that of the first birth where nothing was written yet."""
        if self._columns.get(stream, (-1, ()))[0] != seq:
            birth = store.birth_before(stream, max(seq, 1) + 1)
            columns = sketch(json.loads(birth)["table"], self._rule).shape.columns if birth is not None else ()
            self._columns[stream] = seq, columns
        return self._columns[stream][1]
