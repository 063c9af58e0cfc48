"""What comes with paho and is never used is imported when somebody looks into it, which nobody does.

paho imports ``urllib.request`` for the proxies of web sockets, and with it come http, email and more: 3 MB of a small
box's memory and a good part of its start.
"""

from __future__ import annotations

import importlib
import sys
import urllib
from types import ModuleType


class Later(ModuleType):
    """Stands for a module until one of its names is asked for."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


if "urllib.request" not in sys.modules:
    sys.modules["urllib.request"] = urllib.request = Later("urllib.request")  # type: ignore[attr-defined]
