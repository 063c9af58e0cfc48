"""The durable store: the only room that opens the database."""

from agent.store.archive import Archive, Piece
from agent.store.errors import StoreBusy, StoreDamaged, StoreError, StoreFull, StoreNewer
from agent.store.intervals import NewPage, Repair
from agent.store.sqlite import Quarantine, Salvaged, mount_warnings
from agent.store.store import Store
from agent.store.streams import Behind, LossNote, Resume, Sealed, StoredPack, StoredTable, StreamHead, Usage

__all__ = [
    "Archive",
    "Behind",
    "LossNote",
    "NewPage",
    "Piece",
    "Quarantine",
    "Repair",
    "Resume",
    "Salvaged",
    "Sealed",
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
