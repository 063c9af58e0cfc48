"""Lets paho import ``urllib.request`` without loading it: with http and email, it would take 2 MB in a running agent.

paho uses it only to find a proxy, and only if PySocks is installed. The real module is loaded and takes its place as
soon as somebody uses one of its names. ``importlib.util.LazyLoader`` cannot be used: in Python 3.11, the statement
``import`` alone already loads a module of this loader.
"""

from __future__ import annotations

import importlib
import sys
import threading
import urllib
from types import ModuleType
from typing import Any

_NAME = "urllib.request"
_removing = threading.Lock()


class LateModule(ModuleType):
    """Stands for a module until one of its names is used. May be used by several threads."""

    def __getattr__(self, name: str) -> Any:
        """Load the module, and return the value of one of its names. Called only for names that are not set here."""
        if name.startswith("__"):  # `inspect` and others ask all modules for such names
            raise AttributeError(name)
        with _removing:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


if _NAME not in sys.modules:
    # `import` sets the name in the package only for a module that it loads itself
    sys.modules[_NAME] = urllib.request = LateModule(_NAME)  # type: ignore[attr-defined]
