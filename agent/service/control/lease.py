"""Lends a line to a technician's tool: while its connection is open, and at most for the time that it asked for."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from agent.service.control.access import Access, Reply
from agent.service.control.protocol import Lease
from drivers.line import Line
from drivers.model import LineLent, UsageError, clean_text

GRANT_S: Final = 30.0  # for the request under way to end


async def answer(access: Access, request: Lease, reply: Reply) -> dict[str, Any]:
    """One part, {"line", "url"}, when the port is the client's; the end is said when it is ours again.

    Where the client closes the connection, this is cancelled.
    """
    lines: dict[str, Line] = access.service.lines if access.service is not None else {}
    line = lines.get(request.line)
    if line is None:
        hint = f"There are {', '.join(lines)}" if lines else ""
        raise UsageError(f"there is no line {clean_text(request.line, 60)!r}", where="lease", hint=hint)
    try:
        async with asyncio.timeout(GRANT_S):
            lease = await line.lend(f"{request.purpose} by {access.caller}")
    except TimeoutError:
        raise LineLent(f"its request did not end within {GRANT_S:g} s", where=line.where, hint="Try again") from None
    try:
        reply.rest()  # before the client goes to its line: it reads nothing there
        await reply.part(json.dumps({"line": line.name, "url": line.config.url}).encode())
        async with asyncio.timeout(request.seconds):
            await lease.over.wait()
    except TimeoutError:
        return {"ended": f"the {request.seconds:g} s are over"}
    finally:
        lease.end()
    return {"ended": "the agent closed the line"}
