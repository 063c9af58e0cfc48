"""The durable store: the only package that opens the database."""

from agent.store.archive import Archive, Piece
from agent.store.documents import StoredTable
from agent.store.errors import StoreBusy, StoreDamaged, StoreError, StoreFull, StoreNewer
from agent.store.intervals import NewPage, Repair
from agent.store.sqlite import Quarantine, mount_warnings
from agent.store.store import Store, Usage
from agent.store.streams import Behind, LossNote, Resume, StoredPack, StreamHead

__all__ = [
    "Archive",
    "Behind",
    "LossNote",
    "NewPage",
    "Piece",
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
    "mount_warnings",
]
