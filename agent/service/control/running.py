"""Serves requests that need a running agent: reload the configuration, and lease a line."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from agent.service.control.protocol import Access, Lease, Reload, Reply
from agent.service.reload import ReloadOutcome
from drivers.line import Line
from drivers.model import LineLent, UsageError, clean_text

MAX_COMPLAINTS: Final = 200  # the answer to a reload contains at most this many complaints
GRANT_S: Final = 30.0  # if a request is running on the line, a lease waits at most this long for its end


async def answer(access: Access, request: Reload | Lease, reply: Reply) -> dict[str, Any]:
    """Serve a reload or a lease."""
    return await (reload(access) if isinstance(request, Reload) else lease(access, request, reply))


async def reload(access: Access) -> dict[str, Any]:
    """Reload the configuration. Returns the outcome.

    ``left_out`` in the outcome is the number of complaints that the answer does not contain.
    """
    outcome: ReloadOutcome = await access.service.reload()
    complaints = [clean_text(text, 1000) for text in outcome.complaints[:MAX_COMPLAINTS]]
    return outcome.as_json() | {"complaints": complaints, "left_out": len(outcome.complaints) - len(complaints)}


async def lease(access: Access, request: Lease, reply: Reply) -> dict[str, Any]:
    """Lease a line to the client. Sends one part, {"line", "url"}, when the client may open the port.

    Returns when the agent ends the lease. If the client closes the connection, the task that runs this is cancelled
    instead.
    """
    lines: dict[str, Line] = access.service.lines if access.service is not None else {}
    line = lines.get(request.line)
    if line is None:
        hint = f"Lines: {', '.join(lines)}" if lines else ""
        raise UsageError(f"no [[line]] is named {clean_text(request.line, 60)!r}", where="lease", hint=hint)
    try:
        async with asyncio.timeout(GRANT_S):
            granted = await line.lend(f"{request.purpose} by {access.caller}")
    except TimeoutError:
        raise LineLent(
            f"the current request did not finish within {GRANT_S:g} s", where=line.where, hint="Try again"
        ) from None
    try:
        reply.rest()  # no more PROGRESS frames, because the client does not read the socket while it uses the line
        await reply.part(json.dumps({"line": line.name, "url": line.config.url}).encode())
        async with asyncio.timeout(request.seconds):
            await granted.over.wait()
    except TimeoutError:
        return {"ended": f"the requested lease of {request.seconds:g} s has ended"}
    finally:
        granted.end()
    return {"ended": "the agent closed the line that it had lent to this command"}
