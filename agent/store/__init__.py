"""The durable store: the only package that opens the database."""

from agent.store.documents import StoredTable
from agent.store.errors import StoreBusy, StoreDamaged, StoreError, StoreFull, StoreNewer
from agent.store.intervals import NewGaps, NewPage, Repair
from agent.store.sqlite import Quarantine, newest_damaged
from agent.store.store import Store, Usage
from agent.store.streams import LaggingStream, LossNote, Resume, StoredPack, StreamHead

__all__ = [
    "LaggingStream",
    "LossNote",
    "NewGaps",
    "NewPage",
    "Quarantine",
    "Repair",
    "Resume",
    "Store",
    "StoreBusy",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "StoreNewer",
    "StoredPack",
    "StoredTable",
    "StreamHead",
    "Usage",
    "newest_damaged",
]
