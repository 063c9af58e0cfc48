"""Whatever sound or broken frames a line brings, a driver answers with readings or an error of the line's."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.line import Answer, Line, LineConfig, Request, RequestOptions
from drivers.mbus.link import SND_NKE
from drivers.meter_device import MeterDevice, MeterRequest
from drivers.model import DeviceSpec, LineError, LineTimeout, MismatchError
from drivers.registry import driver_class
from tests.kits.meters import points_of

PROFILES = {"dlt645": "dlt645/2007", "cjt188": "cjt188/heat", "mbus": "mbus/heat"}
ADDRESSES = {"dlt645": "AAAAAAAAAAAA", "cjt188": "AAAAAAAAAAAAAA", "mbus": "254"}
ASKED = {"dlt645": "0201FF00", "cjt188": "20 901F", "mbus": "readout"}


class Silent(Line):
    """Keeps what is asked; nobody answers, but that an M-Bus link was reset."""

    asked: MeterRequest[Any]

    async def exchange(self, request: Request, how: RequestOptions | None = None) -> Answer:
        assert isinstance(request, MeterRequest)
        self.asked = request
        if request.function == SND_NKE:
            return Answer(b"\xe5", 0, 0, False)
        raise LineTimeout("nobody here", where=request.where)


def asked(protocol: str) -> tuple[MeterDevice, MeterRequest[Any]]:
    """A device, and its question."""
    points = points_of(PROFILES[protocol])
    spec = DeviceSpec("m", "s", ADDRESSES[protocol], protocol, "t/t", points, (0, 0, 0, 0, 0))
    line = Silent(LineConfig("l", "serial:/dev/null"), lambda: (0, 0))
    device = driver_class(protocol)(spec, line, cast(Any, None), 0)
    with pytest.raises(LineTimeout):
        asyncio.run(device.fetch(ASKED[protocol]))
    return device, line.asked


@pytest.fixture(scope="module", params=PROFILES)
def talk(request: pytest.FixtureRequest) -> tuple[str, MeterDevice, MeterRequest[Any]]:
    return request.param, *asked(request.param)


def sound(protocol: str, head: bytes, body: bytes) -> bytes:
    """A frame of the protocol with any content and a right checksum."""
    if protocol == "dlt645":
        frame = (
            b"\x68" + head[:6].ljust(6, b"\x11") + b"\x68" + head[6:7].ljust(1, b"\x91") + bytes((len(body),)) + body
        )
    elif protocol == "cjt188":
        kind = bytes((0x10 + head[0] % 0x40,)) if head else b"\x20"
        frame = b"\x68" + kind + head[1:8].ljust(7, b"\x11") + head[8:9].ljust(1, b"\x81") + bytes((len(body),)) + body
    else:
        body = (b"\x08" + body).ljust(3, b"\x01")
        return bytes((0x68, len(body), len(body), 0x68)) + body + bytes((sum(body) & 0xFF, 0x16))
    return frame + bytes((sum(frame) & 0xFF, 0x16))


@given(
    head=st.binary(max_size=10),
    body=st.one_of(
        st.binary(max_size=250),
        st.binary(max_size=60).map(lambda b: b"\x33\x32\x34\x35" + b),
        st.binary(max_size=60).map(lambda b: b"\x90\x1f\x00" + b),
        st.binary(max_size=60).map(lambda b: b"\x05\x72" + bytes(12) + b),
    ),
    noise=st.binary(max_size=20),
    cut=st.integers(0, 400),
)
def test_no_bytes_break_a_driver(
    talk: tuple[str, MeterDevice, MeterRequest[Any]], head: bytes, body: bytes, noise: bytes, cut: int
) -> None:
    protocol, device, request = talk
    heard = (noise + sound(protocol, head, body))[:cut]
    for final in (False, True):
        verdict = request.find(heard, final)
        assert verdict is None or isinstance(verdict, bytes | LineError)
        if not isinstance(verdict, bytes):
            continue
        try:
            readings = device.read_frames({ASKED[protocol]: [verdict]})
        except LineError:
            continue
        for name, reading in readings.items():
            assert (reading.value is None) == (reading.quality >= 128), (name, reading)


def test_the_answer_behind_a_wrong_one_is_taken() -> None:
    """field pains 10 and 15: a late answer to another question comes first."""
    _, request = asked("dlt645")
    wrong, right = (
        sound("dlt645", b"\x11" * 6 + b"\x91", bytes.fromhex(di) + b"\x34\x35") for di in ("33333435", "33323435")
    )
    assert request.find(wrong + right, False) == right
    assert request.find(wrong, False) is None
    assert isinstance(request.find(wrong, True), MismatchError)
