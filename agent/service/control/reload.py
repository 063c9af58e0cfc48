"""Has the configuration reloaded and says what came of it."""

from __future__ import annotations

from typing import Any, Final

from agent.service.control.access import Access, Reply
from agent.service.control.protocol import Reload
from agent.service.reload import Outcome
from drivers.model import clean_text

MOST: Final = 200  # complaints that are told


async def answer(access: Access, request: Reload, reply: Reply) -> dict[str, Any]:
    """Gives the hash of the configuration in effect, what changed, and the complaints where the files are rejected."""
    outcome: Outcome = await access.service.reload()
    told = [clean_text(text, 1000) for text in outcome.complaints[:MOST]]
    return outcome.as_json() | {"complaints": told, "left_out": len(outcome.complaints) - len(told)}
