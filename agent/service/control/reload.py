"""Has the configuration reloaded and says what came of it."""

from __future__ import annotations

from typing import Any, Final

from agent.service.control.access import Access, Reply
from agent.service.control.protocol import Reload
from drivers.model import clean_text

MOST: Final = 200  # complaints that are told


async def answer(access: Access, request: Reload, reply: Reply) -> dict[str, Any]:
    """Gives the hash of the configuration in effect, and the complaints about the files if they are not in effect."""
    complaints: list[str] = await access.service.reloaded()
    told = [clean_text(text, 1000) for text in complaints[:MOST]]
    return {"config": access.service.config.hash(), "complaints": told, "left_out": len(complaints) - len(told)}
