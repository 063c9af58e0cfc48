"""Finds protocols by name. Those of third parties are found by entry point. A driver is imported when it is first
used.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drivers.model import BYTE_SCHEMES, ConfigError, clean_text
from drivers.protocol import DRIVER_METHODS, Driver, InvalidAddress, LineScheme, Protocol
from drivers.toml import did_you_mean, show

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "meterhouse.drivers"
PACKAGES: Mapping[str, str] = {  # protocol -> name of the package that contains its descriptor PROTOCOL
    "modbus": "drivers.modbus",
    "sunspec": "drivers.sunspec",
    "dlt645": "drivers.dlt645",
    "cjt188": "drivers.cjt188",
    "mbus": "drivers.mbus",
    "iec62056": "drivers.iec62056",
}
DEFAULT = "modbus"  # the protocol that is used if none is given
_log = logging.getLogger("meterhouse.drivers")


def protocols() -> tuple[str, ...]:
    """The names of all protocols, those of this project first. Does not import any of them."""
    return (*PACKAGES, *(point.name for point in _foreign() if point.name not in PACKAGES))


def find_protocol(name: str) -> Protocol | None:
    """The descriptor of a protocol. None for an unknown name. Raises ConfigError for a broken package."""
    if name in PACKAGES:
        found = import_module(PACKAGES[name]).PROTOCOL
        assert isinstance(found, Protocol)
        return found
    return next((_checked(point) for point in _foreign() if point.name == name), None)


def protocol_of(name: str) -> Protocol:
    """The descriptor of a protocol. Raises ConfigError if it is unknown or its package is broken."""
    if (found := find_protocol(name)) is None:
        what = f"no driver for protocol {show(name)}"
        raise ConfigError(what, where="protocol", hint=did_you_mean(name, protocols()))
    return found


def all_protocols() -> Iterator[Protocol]:
    """Yield all descriptors, those of this project first. Broken third-party descriptors are left out, and logged
    once.
    """
    for name in protocols():
        try:
            yield protocol_of(name)
        except ConfigError as error:
            _warn_once(f"{error.where}: {error.what}; ignored")


@lru_cache(maxsize=256)
def _warn_once(text: str) -> None:
    _log.warning("%s", clean_text(text, 300))


@lru_cache(maxsize=1)
def own_schemes() -> tuple[LineScheme, ...]:
    """The line schemes that our own protocols define."""
    descriptors = (import_module(package).PROTOCOL for package in PACKAGES.values())
    return tuple(scheme for protocol in descriptors for scheme in protocol.line_schemes)


def find_scheme(name: str) -> LineScheme | None:
    """The line scheme with this name. None if the name is unknown, or if it is the scheme of lines without framing."""
    if name in BYTE_SCHEMES:
        return None
    if (own := next((one for one in own_schemes() if one.name == name), None)) is not None:
        return own
    return next((one for protocol in all_protocols() for one in protocol.line_schemes if one.name == name), None)


def line_urls() -> str:
    """A list of the possible forms of a line's url, as a hint for a person who writes one."""
    framed = "".join(f"{one.name}://HOST:{one.port}, " for one in own_schemes())
    return f"serial:/dev/serial/by-id/..., {framed}tcp://HOST:PORT or udp://HOST:PORT"


def line_url_help() -> str:
    """A list of the possible forms of a line's url, for the help texts of commands."""
    framed = "".join(f"{one.name}://HOST, " for one in own_schemes())
    return f"serial:/dev/..., {framed}tcp:// or udp://HOST:PORT"


def searchable(scheme: str = "") -> list[Protocol]:
    """The protocols that a scan can search for on a line of this scheme ("": any scheme)."""
    return [one for one in all_protocols() if one.search and (not scheme or scheme in one.schemes)]


def named_on_lines() -> list[str]:
    """The names of the protocols that devices use on a line. Protocols that use another protocol's frames are left
    out.
    """
    return [one.name for one in all_protocols() if not one.wire]


def has_registers(name: str) -> bool:
    """Whether the devices of a protocol have registers, so that they can be dumped."""
    found = _found(name)
    return found is not None and found.has_registers


def maps_registers(name: str) -> bool:
    """Whether the points in a protocol's profiles have registers, not a ``key``. False for an unknown protocol."""
    found = _found(name)
    return found is not None and found.maps_registers


def _found(name: str) -> Protocol | None:
    try:
        return find_protocol(name)
    except ConfigError:  # ignore the error here, because it is reported when the protocol is used
        return None


def driver_class(name: str) -> type[Driver]:
    """The class of a protocol's driver. Raises the ConfigErrors of ``protocol_of``, and one for an incomplete
    driver.
    """
    protocol = protocol_of(name)
    if name in PACKAGES:
        return protocol.driver()
    where = f"driver {name} ({protocol.device})"
    try:
        found = protocol.driver()
    except Exception as error:
        raise _not_loaded(error, where) from error
    lacking = [method for method in DRIVER_METHODS if not hasattr(found, method)]
    if lacking:
        hint = "Add the missing members: see Driver in drivers/protocol.py"
        raise ConfigError(f"the driver lacks the members {', '.join(lacking)}", where=where, hint=hint)
    return found


def check_address(name: str, address: str, scheme: str = "") -> InvalidAddress | None:
    """The error in a device's address or line. None if there is no error, or if the protocol is unknown.

    Args:
        scheme: the scheme of the line's url; "" if the line is unknown.
    """
    try:
        protocol = find_protocol(name)
    except ConfigError as error:
        return InvalidAddress("profile", f"{error.where}: {error.what}", error.hint)
    if protocol is None:
        return None
    if (wrong := protocol.check_address(address, scheme)) is not None:
        return wrong
    if not scheme or scheme in protocol.schemes:
        return None
    hint = "Use a serial port or a connection tcp://HOST:PORT (raw bytes)"
    return InvalidAddress("line", f"{protocol.title} cannot be used over {scheme}", hint)


def demand_address(name: str, address: str, scheme: str, where: str) -> None:
    """Raise ConfigError if ``check_address`` finds an error. Called by the constructors of drivers."""
    if (wrong := check_address(name, address, scheme)) is not None:
        raise ConfigError(wrong.what, where=where, hint=wrong.hint)


def foreign_profiles() -> list[Path]:
    """The folders of profiles that came with third-party drivers."""
    return [one.profiles for one in all_protocols() if one.name not in PACKAGES and one.profiles is not None]


def entry_points(group: str) -> Iterable[EntryPoint]:
    """The installed entry points of a group.

    importlib.metadata is imported only here, because it takes a megabyte of memory.
    """
    from importlib.metadata import entry_points as found

    return found(group=group)


def _foreign() -> list[EntryPoint]:
    return _installed(tuple(sys.path))


@lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> list[EntryPoint]:
    """The entry points of third-party drivers, sorted by name. The search takes 10 ms, so its result is cached. Another
    ``path`` (sys.path) causes a new search.
    """
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def load_point(point: EntryPoint, where: str) -> object:
    """Import the object that an entry point of a third party names. Raises ConfigError for any error during the
    import.
    """
    try:
        return point.load()
    except Exception as error:
        raise _not_loaded(error, where) from error


def _checked(point: EntryPoint) -> Protocol:
    """Load the descriptor of a third party, and check its type, the frames it sends, and its name. Raises
    ConfigError.
    """
    where = f"driver {point.name} ({point.value})"
    found = load_point(point, where)
    if not isinstance(found, Protocol):
        hint = "The entry point must name an object of the class Protocol in drivers/protocol.py"
        raise ConfigError("this object is not the descriptor of a protocol", where=where, hint=hint)
    if not found.frames or not all(isinstance(frame, str) for frame in found.frames):
        hint = "Add to the descriptor: frames = {FRAME: PURPOSE}"
        raise ConfigError("the descriptor does not list the frames that the driver sends", where=where, hint=hint)
    if found.name != point.name:
        raise ConfigError(f"the descriptor is for the protocol {found.name!r}, not for {point.name!r}", where=where)
    _follow(found, where)
    return found


def _follow(found: Protocol, where: str) -> None:
    """Import all parts of a third party's protocol, so that errors appear before the protocol is used. Raises
    ConfigError.
    """
    followed: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("explainers", found.all_explainers),
        ("parser", found.new_parser),
        ("request_parser", found.new_request_parser),
        ("search", found.search_class),
        ("demo", found.demo_slot),
        ("line_schemes", lambda: [scheme.link_class() for scheme in found.line_schemes]),
    )
    for name, follow in followed:
        try:
            result = follow()
            if name == "explainers" and not all(hasattr(one, "name") and callable(one.explain) for one in result):
                raise TypeError("not a tuple of Explainer")
            if name.endswith("parser") and result is not None and result.feed(b""):
                raise TypeError("finds frames in an empty input")
        except Exception as error:
            raise _not_loaded(error, f"{where}: {name}") from error


def _not_loaded(error: Exception, where: str) -> ConfigError:
    what = f"cannot be loaded: {type(error).__name__}: {error}"
    return ConfigError(what, where=where, hint="Is the driver's package complete?")
