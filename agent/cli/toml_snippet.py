"""Devices found by a scan, as tables to paste into agent.toml."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from drivers.model import ProfileError

if TYPE_CHECKING:
    from drivers.profile import Profile
    from drivers.scan import FoundDevice

BY_ID = Path("/dev/serial/by-id")
MOST_OTHERS = 4


def tables(found: Sequence[FoundDevice], known: Mapping[str, str], dirs: Sequence[Path] | None = None) -> list[str]:
    """``[[line]]`` and ``[[device]]`` tables, one text each: first the lines that are not in ``known`` (url -> name).

    ``dirs``: where the profiles are; by default the shipped and the site's.

    A device without a known profile is commented out, so that the pasted text is valid.
    """
    names: dict[str, str] = {}
    serials: dict[str, str] = {}
    texts: list[str] = []
    taken = set(known.values())
    for url in dict.fromkeys(device.url for device in found):
        settings = Counter(d.serial for d in found if d.url == url and d.serial)
        serials[url] = settings.most_common(1)[0][0] if settings else ""
        if url in known:
            names[url], serials[url] = known[url], ""
            continue
        names[url] = _unused(line_name(url), taken)
        text = f"[[line]]\nname = {_text(names[url])}\nurl = {_text(stable(url))}\n"
        texts.append(text + (f"serial = {_text(serials[url])}\n" if serials[url] else ""))
    for device in found:
        texts.append(_device(device, names[device.url], serials[device.url], taken, dirs))
    return texts


def stable(url: str, by_id: Path = BY_ID) -> str:
    """A serial port under the name that stays when adapters are replugged, where it has one (field pain 17)."""
    if not url.startswith("serial:"):
        return url
    port = os.path.realpath(url.removeprefix("serial:"))
    try:
        links = sorted(by_id.iterdir())
    except OSError:
        return url
    return next((f"serial:{link}" for link in links if os.path.realpath(link) == port), url)


def line_name(url: str) -> str:
    """A name for the line of a url."""
    parts = urlsplit(url)
    if parts.scheme == "serial":
        return _name(os.path.basename(parts.path))
    return _name(parts.hostname or "line")


def _name(text: str) -> str:
    """Free text as a name of agent.toml."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:24].strip("-") or "line"


def _unused(name: str, taken: set[str]) -> str:
    found, number = name, 2
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    taken.add(found)
    return found


def _device(device: FoundDevice, line: str, lines_serial: str, taken: set[str], dirs: Sequence[Path] | None) -> str:
    fits = device.fits
    vendor, _, family = fits[0].profile.rpartition("/") if fits else ("", "", device.protocol)
    family = vendor if family.isdigit() else family  # dlt645/2007
    name = _unused(_name(f"{family}-{device.address.lstrip('0') or '0'}"), taken)
    rows = ["[[device]]", f"name = {_text(name)}", f"line = {_text(line)}", f"address = {_text(device.address)}"]
    if not fits:
        rows.append('profile = "VENDOR/FAMILY"  # none of the known profiles fits')
        return "".join(f"# {row}\n" for row in rows)
    others = ", ".join(fit.profile for fit in fits[1 : 1 + MOST_OTHERS])
    alike = sum(fit.how == fits[0].how for fit in fits) > 1
    doubt = f"; or {others}" + (": the nameplate decides" if alike else "") if others else ""
    rows.append(f"profile = {_text(fits[0].profile)}  # {fits[0].how}{doubt}")
    if device.serial and device.serial != lines_serial:
        rows.append(f"serial = {_text(device.serial)}")
    rows += _params(fits[0].profile, dirs)
    return "".join(f"{row}\n" for row in rows)


def _params(profile_id: str, dirs: Sequence[Path] | None) -> Iterable[str]:
    """Parameters that the installer may or must set, with their default or lowest value."""
    from drivers.profile import find_profile, load_profile

    try:
        profile: Profile = load_profile(find_profile(profile_id, dirs), dirs)
    except ProfileError:
        return []
    if not profile.params:
        return []
    facts = {
        name: (param.choices[0] if param.choices else max(param.low, 1)) if param.default is None else param.default
        for name, param in profile.params.items()
    }
    text = ", ".join(f"{name} = {_text(value)}" for name, value in facts.items())
    optional = all(param.default is not None for param in profile.params.values())
    return [f"{'# ' if optional else ''}params = {{ {text} }}  # as installed"]


def _text(value: object) -> str:
    """As TOML writes it; its basic strings escape as JSON does."""
    return json.dumps(value, ensure_ascii=False)
