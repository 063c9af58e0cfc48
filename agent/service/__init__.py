"""The running agent: the only place where the parts meet."""

from agent.service.core import Service

__all__ = ["Service"]
