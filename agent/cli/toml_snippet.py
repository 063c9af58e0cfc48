"""Writes a TOML table for each device that a scan found. The user can paste the tables into agent.toml."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from agent.cli.scan import say
from drivers.model import GatewayError, ProfileError
from drivers.registry import find_scheme
from drivers.texts import Catalogue

if TYPE_CHECKING:
    from agent.config import Config
    from drivers.profile import Profile
    from drivers.scan import FoundDevice

BY_ID = Path("/dev/serial/by-id")
MOST_OTHERS = 4
SLOW_S = 0.1  # an answer time is written into the file if it is longer than this
STEPS_S = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300)  # round values for times and periods, as people would choose them
# the devices may use this share of a line's time; the rest is a reserve for time-outs of dead devices
COMFORTABLE = 0.7
WORDS: Final = Catalogue(__package__, "snippet")


def tables(
    found: Sequence[FoundDevice], known: Mapping[str, str], lang: str = "en", dirs: Sequence[Path] | None = None
) -> list[str]:
    """Return a text for each ``[[line]]`` and ``[[device]]`` table. Lines come first; configured lines are left out.

    A device without a known profile is commented out, so that the pasted text is valid. Slow devices get limits. If a
    line is too slow for the default paces, its devices get longer periods.

    Args:
        known: url -> name of the configured line.
        dirs: the folders of profiles; by default the site's and the shipped ones.
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
        texts.append(_line(names[url], url, serials[url]))
    lines = [_line(names[url], url, serials[url]) for url in names]
    devices = [_device(device, names[device.url], serials[device.url], taken, lang, dirs) for device in found]
    wanted = periods([*lines, *devices], dirs)
    for text in devices:
        (entry,) = tomllib.loads(text).get("device", [{}])  # {} is used if the device is commented out
        every = wanted.get(entry.get("name", ""), "")
        texts.append(text + (f"every = {every}  # {_say(lang, 'every')}\n" if every else ""))
    return texts


def periods(texts: Sequence[str], dirs: Sequence[Path] | None = None) -> dict[str, str]:
    """Return device -> value of ``every``, for devices whose line would be overloaded by the default paces.

    Empty if the load cannot be computed. ``texts``: valid tables of lines and devices.
    """
    from agent.config import load_config

    paths = f"[paths]\nprofiles_dir = {_text(str(dirs[0]))}\n" if dirs else ""  # needed to find the site's own profiles
    head = f'[site]\nid = "s"\ngateway = "g"\ntimezone = "UTC"\n{paths}'
    with tempfile.TemporaryDirectory(prefix="meterhouse-scan-") as folder:
        path = Path(folder) / "agent.toml"
        path.write_text(head + "\n".join(texts), encoding="utf-8")
        try:
            return slower_paces(load_config(path))
        except GatewayError:
            return {}


def slower_paces(config: Config) -> dict[str, str]:
    """Return device -> value of ``every``, with longer periods for the fast paces of devices on overloaded lines.

    Raises GatewayError if the load of a line cannot be computed.
    """
    from agent.cli.line_load import line_shares, plan_costs
    from agent.config import load_profiles

    costs = plan_costs(config, load_profiles(config))
    slower: dict[str, list[str]] = {}
    for line, share in line_shares(costs).items():
        mine = [cost for cost in costs if cost.line == line and cost.pace != "once"]
        if share <= COMFORTABLE:
            continue
        for step_s in STEPS_S:
            load = sum(cost.cost.line_time_s * 1000 / max(cost.period_ms, step_s * 1000) for cost in mine)
            if load <= COMFORTABLE or step_s == STEPS_S[-1]:
                for cost in mine:
                    if cost.period_ms < step_s * 1000:
                        slower.setdefault(cost.device, []).append(f'{cost.pace} = "{step_s} s"')
                break
    return {device: "{ " + ", ".join(paces) + " }" for device, paces in slower.items()}


def _line(name: str, url: str, serial: str) -> str:
    text = f"[[line]]\nname = {_text(name)}\nurl = {_text(stable(url))}\n"
    return text + (f"serial = {_text(serial)}\n" if serial else "")


def say_why_every(lang: str) -> str:
    """Return the comment beside ``every``, which tells why the period is longer."""
    return _say(lang, "every")


def _say(lang: str, key: str, **names: str) -> str:
    return WORDS.text(key, lang, **names)


def stable(url: str, by_id: Path = BY_ID) -> str:
    """Return a url with the stable name of a serial port; ``url`` itself if there is none.

    The stable name does not change when the adapter is plugged in again (field pain 17).
    """
    if not url.startswith("serial:"):
        return url
    port = os.path.realpath(url.removeprefix("serial:"))
    try:
        links = sorted(by_id.iterdir())
    except OSError:
        return url
    return next((f"serial:{link}" for link in links if os.path.realpath(link) == port), url)


def line_name(url: str) -> str:
    """Return a name for the line with this url."""
    parts = urlsplit(url)
    if parts.scheme == "serial":
        return _name(os.path.basename(parts.path))
    # an unusual port becomes part of the name, because two ports of one serial server are two lines
    port, framed = parts.port, find_scheme(parts.scheme)
    usual = framed.port if framed is not None else 0
    return _name(f"{parts.hostname or 'line'}{f'-{port}' if port and port != usual else ''}")


def _name(text: str) -> str:
    """Return a valid name for agent.toml, made from any text."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[-24:].strip("-") or "line"


def _unused(name: str, taken: set[str]) -> str:
    found, number = name, 2
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    taken.add(found)
    return found


def _device(
    device: FoundDevice, line: str, lines_serial: str, taken: set[str], lang: str, dirs: Sequence[Path] | None
) -> str:
    fits = device.fits
    vendor, _, family = fits[0].profile.rpartition("/") if fits else ("", "", device.protocol)
    # if the family is only a year, it would be a useless name, so the vendor is used
    family = vendor if family.isdigit() else family
    name = _unused(_name(f"{family}-{device.address.lstrip('0') or '0'}"), taken)
    rows = ["[[device]]", f"name = {_text(name)}", f"line = {_text(line)}", f"address = {_text(device.address)}"]
    if not fits:
        why = "not tried" if not device.tried else "cut short" if device.cut_short else "none"
        rows.append(f'profile = "VENDOR/FAMILY"  # {_say(lang, why)}')
        return "".join(f"# {row}\n" for row in rows)
    others = ", ".join(fit.profile for fit in fits[1 : 1 + MOST_OTHERS])
    alike = sum(fit.how == fits[0].how for fit in fits) > 1
    doubt = _say(lang, "or", others=others) + (_say(lang, "nameplate") if alike else "") if others else ""
    rows.append(f"profile = {_text(fits[0].profile)}  # {say(lang, fits[0].how)}{doubt}")
    if device.serial and device.serial != lines_serial:
        rows.append(f"serial = {_text(device.serial)}")
    profile = _profile(fits[0].profile, dirs)
    if profile is not None:
        rows += _params(profile, lang)
        if limits := limits_of(device, profile):
            text = ", ".join(f"{key} = {_text(value)}" for key, value in limits.items())
            rows.append(f"limits = {{ {text} }}  # {_say(lang, 'answers in')}")
    return "".join(f"{row}\n" for row in rows)


def _profile(profile_id: str, dirs: Sequence[Path] | None) -> Profile | None:
    from drivers.profile import find_profile, load_profile

    try:
        return load_profile(find_profile(profile_id, dirs), dirs)
    except ProfileError:
        return None


def limits_of(device: FoundDevice, profile: Profile) -> dict[str, str]:
    """Return ``turnaround`` and, if needed, ``timeout`` for a device that answers more slowly than its profile states.

    The timeout is at least twice the measured answer time. Without ``turnaround``, `check --plan` would calculate too
    little load. Returns {} for other devices.
    """
    limits = profile.limits.on_line(urlsplit(device.url).scheme)
    answer_s, usual_s = device.answer_s, limits.turnaround_s or 0.0
    if answer_s <= max(SLOW_S, 1.5 * usual_s):
        return {}
    found = {"turnaround": f"{math.ceil(answer_s * 100) * 10} ms"}
    if 2 * answer_s > (1.0 if limits.timeout_s is None else limits.timeout_s):
        found["timeout"] = f"{next((step for step in STEPS_S if step >= 2 * answer_s), 60)} s"
    return found


def _params(profile: Profile, lang: str) -> Iterable[str]:
    """Yield the line ``params`` of a device table.

    Each parameter has its default, else its first choice or lowest positive value.

    The line is a comment if all parameters have defaults. Yields nothing if the profile has no parameters.
    """
    if not profile.params:
        return []
    facts = {
        name: (param.choices[0] if param.choices else max(param.low, 1)) if param.default is None else param.default
        for name, param in profile.params.items()
    }
    text = ", ".join(f"{name} = {_text(value)}" for name, value in facts.items())
    optional = all(param.default is not None for param in profile.params.values())
    return [f"{'# ' if optional else ''}params = {{ {text} }}  # {_say(lang, 'installed')}"]


def _text(value: object) -> str:
    """Return a value as TOML. It is written as JSON, because basic strings of TOML have the same escapes."""
    return json.dumps(value, ensure_ascii=False)
