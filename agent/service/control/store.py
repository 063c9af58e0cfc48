"""Serves the check of the database."""

from __future__ import annotations

from typing import Any, Final

from agent.service.control.protocol import Access, CheckStore, Reply
from agent.service.store_check import pack_checker

MAX_TOLD: Final = 200  # number of findings in an answer


async def answer(access: Access, request: CheckStore, reply: Reply) -> dict[str, Any]:
    """Check the whole database, in slices.

    Returns {"packs", "rows", "findings", "count", "set_aside"}: what was read; the first findings in words since the
    database was opened, and their number; and the number of changed packs that the database keeps aside.
    """
    check = await access.call(lambda store: store.start_check(pack_checker(store)))
    while await access.call(lambda store: check.step()):
        reply.progress(check.packs, 0)
    if access.service is not None:  # the streams state the losses in their next packs
        await access.call(access.service.db_thread.reload_losses)
    findings = await access.call(lambda store: list(store.db.findings))
    ((aside,),) = await access.call(lambda store: store.db.query("SELECT count(*) FROM set_aside"))
    return {
        "packs": check.packs, "rows": check.rows, "findings": findings[:MAX_TOLD], "count": len(findings),
        "set_aside": aside,
    }  # fmt: skip
