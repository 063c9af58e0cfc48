"""The types that all parts share: points, qualities, gap reasons, limits, errors. No I/O.

A quality is below 128 and a gap reason is 128 or more, so that one byte in the ring and in packs holds either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import ClassVar, Final, Protocol

from drivers.night import Night


def sentences(first: str, second: str) -> str:
    """Join two texts with a full stop.

    After a question mark they are joined with a space only. If one text is empty, the other one is returned.
    """
    if not first or not second:
        return first or second
    return f"{first}{' ' if first.endswith('?') else '. '}{second}"


class GatewayError(Exception):
    """Base class of all our errors. Callers decide by type or by ``retry``, never by text."""

    retry: ClassVar[bool] = False  # whether the same call may succeed if it is repeated later
    exit_code: ClassVar[int] = 1  # exit code of a command that ends with this error

    def __init__(self, what: str, *, where: str, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.hint = what, where, hint

    def __str__(self) -> str:
        return f"{self.where}: {sentences(self.what, self.hint)}"


class UsageError(GatewayError):
    """The command line is invalid."""

    exit_code = 2


class ConfigError(GatewayError):
    """agent.toml, or a file that it names, is invalid. ``complaints`` contains all errors, in the order of the file."""

    exit_code = 3

    def __init__(self, what: str, *, where: str, hint: str = "", complaints: tuple[ConfigError, ...] = ()) -> None:
        super().__init__(what, where=where, hint=hint)
        self.complaints = complaints or (self,)


class ProfileError(GatewayError):
    """A profile is invalid or missing. ``complaints`` contains all errors, in the order of the file."""

    exit_code = 3

    def __init__(self, what: str, *, where: str, hint: str = "", complaints: tuple[ProfileError, ...] = ()) -> None:
        super().__init__(what, where=where, hint=hint)
        self.complaints = complaints or (self,)


class LineError(GatewayError):
    """The line or the device failed. The next poll may succeed."""

    retry = True
    exit_code = 4
    reason: ClassVar[Reason]


class BrokerError(GatewayError):
    """The broker cannot be reached, or it refuses the connection."""

    retry = True
    exit_code = 5


class Kind(StrEnum):
    """How the values of a point behave over time."""

    GAUGE = "gauge"
    COUNTER = "counter"
    STATE = "state"
    TEXT = "text"


KIND_CODES: Mapping[Kind, int] = {Kind.GAUGE: 0, Kind.COUNTER: 1, Kind.STATE: 2, Kind.TEXT: 3}


class Quality(IntEnum):
    """How far a reading can be trusted. Packs leave out the quality "good"."""

    GOOD = 0
    SUSPECT = 1
    RANGE = 2
    FROZEN = 3
    CLOCK = 4
    ESTIMATED = 5
    SUBSTITUTED = 6


class Reason(IntEnum):
    """Why a due reading does not exist."""

    TIMEOUT = 128
    EXCEPTION = 129
    CRC = 130
    MISMATCH = 131
    ABSENT = 132
    SENTINEL = 133
    ASLEEP = 134
    OVERLOAD = 135
    LENT = 136
    STALE_SOURCE = 137
    RING = 138
    DISK = 139
    STOPPED = 140
    CLOCK = 141


FIRST_REASON: Final = min(Reason)  # a code below this one is a quality, so the reading has a value


class LineTimeout(LineError):
    """No answer came within the time that the profile allows."""

    reason = Reason.TIMEOUT


class GatewayTimeout(LineTimeout):
    """A gateway or serial server in front of the device answered that the device does not respond."""


class LineDown(LineError):
    """The port or the connection cannot be opened or was lost."""

    reason = Reason.ABSENT


class FrameError(LineError):
    """Bytes were received, but no frame with a valid checksum."""

    reason = Reason.CRC


class MismatchError(LineError):
    """A valid frame was received, but it answers another request: its address, function or length is different."""

    reason = Reason.MISMATCH


class DeviceException(LineError):
    """The device refused the request. ``code`` is the protocol's error code.

    ``busy``: the device may accept the same request in a moment.
    """

    reason = Reason.EXCEPTION

    def __init__(self, what: str, *, where: str, hint: str = "", code: int, busy: bool = False) -> None:
        super().__init__(what, where=where, hint=hint)
        self.code, self.busy = code, busy


class LineLent(LineError):
    """The line is lent to a technician's tool at the moment."""

    reason = Reason.LENT


BYTE_SCHEMES = ("serial", "tcp", "udp")  # url schemes of lines that carry arbitrary bytes, without framing of their own
# the number of a pace is its index in this tuple
PACES: tuple[str, ...] = ("fast", "normal", "slow", "cells", "once")
DEFAULT_PERIODS_MS: Mapping[str, int] = {
    "fast": 1_000,
    "normal": 5_000,
    "slow": 60_000,
    "cells": 300_000,
    "once": 86_400_000,
}


@dataclass(frozen=True, slots=True)
class RegisterPart:
    """The registers of one part of a value. Some devices split a counter into two registers, such as MWh and kWh."""

    address: int
    type: str
    scale: Decimal
    order: str = ""
    function: int | None = None  # None: the function of the point


IDENTIFICATION = 43  # the function that reads a device's identification, with MEI type 14
FLOATS = frozenset({"f16", "f32", "f64"})  # types of points whose raw value is IEEE 754


@dataclass(frozen=True, slots=True)
class Point:
    """One named quantity of a device, with the location and format of its bytes.

    ``address`` counts registers from 0 as on the wire. ``value = (raw + offset) * scale``. In protocols without
    registers, ``key`` identifies the quantity instead.
    """

    name: str
    kind: Kind
    unit: str = ""  # "" for states, texts and numbers without a unit
    pace: str = "normal"
    function: int = 3
    address: int = 0
    count: int = 1  # number of registers
    type: str = "u16"
    order: str = ""  # "" if the point has only one register, or no register
    bit: int | None = None
    mask: int | None = None  # bits of the raw integer that contain the value; they are then shifted down to bit 0
    scale: Decimal = Decimal(1)
    scale_at: int | None = None  # address of the register that contains the scale factor, as a power of ten
    # whether the value is a share of 1, such as a power factor. A value above 1 is a percentage and is divided by 100
    share: bool = False
    offset: Decimal = Decimal(0)  # added to the raw integer before it is multiplied by ``scale``
    sentinels: tuple[int, ...] | None = None  # raw values that mean "no reading"; None: the type's default
    no_texts: tuple[str, ...] = ()  # texts that mean "no reading"
    low: Decimal | None = None
    high: Decimal | None = None
    bits: int | None = None  # the raw value rolls over to 0 at 2**bits; None: unknown
    digits: int | None = None  # the raw value rolls over to 0 at 10**digits; None: unknown
    labels: Mapping[int, str] = field(default_factory=dict)
    bit_labels: Mapping[int, str] = field(default_factory=dict)
    # for device.state: raw value -> name of the state, such as off, standby or unknown
    states: Mapping[int, str] = field(default_factory=dict)
    parts: tuple[RegisterPart, ...] = ()
    together: str = ""  # name of a group; all points of a group are read in one request
    barrier: bool = False  # no request may cover both this register and the register before it
    # "apply": multiply the value by the device's ct/pt ratio; "done": the device has already done so; "": no ratio
    # applies
    ratio: str = ""
    sleeps: bool = False
    # whether some firmware lacks the point. After "illegal address" its gaps are then ABSENT, which is not a fault
    optional: bool = False
    key: str = ""
    flips: bool = False  # whether a reversed CT changes the sign of the value
    # for a device's clock: "local" or "utc". The reading is the number of seconds by which this clock is ahead of the
    # gateway's clock
    clock: str = ""
    # the format in which registers become a text, such as "{0}.{1:02x}"; "": the registers contain characters
    text: str = ""
    en: str = ""  # the meaning in English, if the vocabulary's explanation is not enough
    zh: str = ""  # the meaning in Chinese

    @property
    def span(self) -> tuple[int, int]:
        """The registers [start, end) that must be read in one request."""
        start, end = self.address, self.address + self.count
        return (start, end) if self.scale_at is None else (min(start, self.scale_at), max(end, self.scale_at + 1))

    def is_decodable_from(self, start: int) -> bool:
        """Whether the point can be decoded from a read that begins at ``start``.

        A value has at most 8 bytes. Therefore a long run of coils fits only if it begins near the beginning of a byte.
        """
        return self.function >= 3 or (self.address - start) % 8 + self.count <= 64

    @property
    def is_signed(self) -> bool:
        """Whether the raw value is a signed integer."""
        return self.type.startswith("i")

    @property
    def is_object(self) -> bool:
        """Whether the point is an object of device identification, not a register. Then ``address`` is the object's
        number.
        """
        return self.function == IDENTIFICATION

    @property
    def is_text(self) -> bool:
        """Whether the value is read from the answer as text, and not decoded by the compiled plan. This includes
        clocks.
        """
        return self.kind is Kind.TEXT or bool(self.clock)


# On a bus, a profile's ``timeout_s`` is limited to this, because even slow meters answer within a second.
MOST_SERIAL_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a device or line. None means "not given here".

    A limit of the device replaces that of the line, and a limit of the line replaces that of the profile.
    """

    max_words: int | None = None  # most registers that one read may have
    max_gap: int | None = None  # one read may cover at most this many consecutive registers that no point uses
    holes: bool | None = None  # whether a read may cover registers that no point uses
    quiet_s: float | None = None  # silence between an answer and the next request
    timeout_s: float | None = None
    connect_delay_s: float | None = None
    min_every_s: float | None = None
    turnaround_s: float | None = None  # typical time from request to answer, from which the plan of reads is optimized
    late_s: float | None = None  # raw TCP: time after a timeout in which the answer may still arrive
    retries: int | None = None
    connections: int | None = None  # most connections to one host at a time, over all lines to this host
    serial_timeout_s: float | None = None  # only in profiles: replaces ``timeout_s`` on the lines of ``BYTE_SCHEMES``
    serial_retries: int | None = None  # only in profiles: replaces ``retries`` on the lines of ``BYTE_SCHEMES``

    def on_line(self, scheme: str) -> Limits:
        """The limits of a profile, adapted to a line of this scheme.

        ``timeout_s`` may be meant for a dongle or logger that has its own framing. On a bus, a device answers sooner,
        and all other devices must wait for each timeout. So on a bus, ``timeout_s`` is limited to 2 s.
        ``serial_timeout_s``, if given, replaces it without that limit.
        """
        if scheme not in BYTE_SCHEMES:
            return replace(self, serial_timeout_s=None, serial_retries=None)
        timeout_s = self.timeout_s if self.timeout_s is None else min(self.timeout_s, MOST_SERIAL_TIMEOUT_S)
        return replace(
            self,
            timeout_s=timeout_s if self.serial_timeout_s is None else self.serial_timeout_s,
            retries=self.retries if self.serial_retries is None else self.serial_retries,
            serial_timeout_s=None,
            serial_retries=None,
        )

    def over(self, other: Limits) -> Limits:
        """Merge two sets of limits: each limit that is None here is taken from ``other``."""
        if other == NO_LIMITS:
            return self
        return Limits(*(a if (a := getattr(self, n)) is not None else getattr(other, n) for n in self.__slots__))


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class FreshnessRule:
    """The proof that a caching master still reaches its device. It is a point that keeps changing, or has a certain
    value.
    """

    point: str
    changes_within_s: float | None = None
    equals: int | None = None


@dataclass(frozen=True, slots=True)
class ImpossibleZeros:
    """Values that cannot all be 0 in one visit, as patterns of point names.

    If they are, as while a device starts, all values that match ``gaps`` and are 0 are not readings.
    """

    zeros_together: tuple[str, ...]
    gaps: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """Everything a driver needs to know about one configured device. The index of a point in ``points`` is its number
    in the ring.
    """

    name: str
    stream: str  # such as "park7/gw01/inv1"
    address: str
    protocol: str
    profile: str
    points: tuple[Point, ...]
    periods_ms: tuple[int, ...]  # periods in the order of ``PACES``; 0: points of this pace are never read
    limits: Limits = Limits()
    label: str = ""
    phase_ms: int = 0
    reversed: frozenset[str] = frozenset()  # prefixes of points behind a reversed CT; the prefix "": all points
    own_port: bool = False  # whether the device's line is a serial port of this machine
    ratio_ct: Decimal = Decimal(1)
    ratio_pt: Decimal = Decimal(1)
    probe: str = ""  # the point that is read to find out whether the device is alive
    variant: str = ""
    serial: str = ""  # the device's own setting on a serial line, such as "2400 8E1"; "": the setting of the line
    zone: str = ""  # IANA name of the time zone of the device's clock; "": the zone of this machine
    # whether answers come from the cache of a master, so that they prove nothing about the device behind it
    caching: bool = False
    # the rule that proves that the device behind a cache is alive; None: there is none
    fresh: FreshnessRule | None = None
    impossible: tuple[ImpossibleZeros, ...] = ()
    # the nights at the device's site, for a device that sleeps in the dark; None: it does not sleep
    night: Night | None = None

    def silence(self, reason: Reason, utc_ms: int) -> Reason:
        """The gap reason for a device that was silent at a given time. In the dark, ASLEEP replaces TIMEOUT and ABSENT.
        Otherwise ``reason`` is returned.
        """
        if self.night is None or reason not in (Reason.TIMEOUT, Reason.ABSENT) or not self.night.is_dark(utc_ms):
            return reason
        return Reason.ASLEEP

    def reason_of(self, error: LineError, utc_ms: int) -> Reason:
        """The gap reason for a failed request.

        It is ASLEEP if it is dark and the error can be caused by a sleeping device. Otherwise it is the reason of the
        error.
        """
        return self.silence(error.reason, utc_ms) if self.may_sleep_by(error) else error.reason

    def may_sleep_by(self, error: LineError | None) -> bool:
        """Whether the device, or the dongle that it powers, can be asleep after this error. ``error`` is None if it is
        unknown.

        A device that answers is awake. If a serial port of this machine cannot be opened, a sleeping device is not the
        cause.
        """
        if isinstance(error, LineDown):
            return not self.own_port
        return error is None or isinstance(error, LineTimeout)

    def lack(self, utc_ms: int) -> Reason:
        """The gap reason for a "not available" answer. In the dark it is ASLEEP, because some inverters answer this all
        night.
        """
        return Reason.SENTINEL if self.night is None or not self.night.is_dark(utc_ms) else Reason.ASLEEP


@dataclass(slots=True)
class PollResult:
    """The result of one visit to a device. The readings and gaps themselves are in the ring, at ``positions``."""

    positions: list[int] = field(default_factory=list)  # positions of the new readings and gaps in the ring, in order
    asked: int = 0  # number of requests that were sent
    answered: int = 0  # requests that the device itself answered or refused; see ``Device.proves_life``
    error: LineError | None = None  # the last error of this visit; None: there was none


def clean_text(text: str, limit: int = 80) -> str:
    """Make a text from a device safe to show: replace control characters, and cut it to ``limit`` characters."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text.replace("\x00", ""))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


@dataclass(frozen=True, slots=True)
class Reading:
    """One value that is read for a person or an identity check. Polling never creates these objects."""

    name: str
    value: Decimal | int | str | None  # None: there is no value; ``quality`` then has the reason
    unit: str = ""
    quality: int = Quality.GOOD  # a Quality; if ``value`` is None, a Reason
    raw: bytes = b""
    # 0: the present value; n: the value at the n-th most recent settlement or freeze, or in the meter's storage n
    storage: int = 0
    tariff: int = 0  # 0: the total of all tariffs
    subunit: int = 0  # number of the part of the device to which the value belongs
    function: str = ""  # "instantaneous", "maximum", "minimum", or "error" for a value during an error; "": not given
    time: str = ""  # the time that the device reports for the value (demand, freeze), ISO 8601 without zone
    label: str = ""  # the name of the quantity in the standard or in the device


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """The cost of one visit to a device, for ``check --plan``."""

    requests: int
    registers: int
    points: int
    line_time_s: float


class ProgressCallback(Protocol):
    """Reports progress."""

    def __call__(self, done: float, total: float | None = None, text: str = "") -> None:
        """Show the progress. ``total`` None: the total is unknown. ``text`` describes the current step, and is shown
        instead of the number.
        """


def no_progress(done: float, total: float | None = None, text: str = "") -> None:
    """A ``ProgressCallback`` that shows nothing."""
