"""What `decode modbus-rtu` and `decode modbus-tcp` show.

A frame alone does not show whether it is a request or a response. The length decides. If the length fits both, the
frame is explained as a response.
"""

from __future__ import annotations

from collections.abc import Mapping

from drivers.explain import AS_SENT, COPY_WHOLE, BrokenInput, Explainer, Json, other_protocol
from drivers.framing import crc16, crc_ok
from drivers.plan.compiled import decoded

FUNCTIONS: Mapping[int, str] = {
    1: "read coils",
    2: "read discrete inputs",
    3: "read holding registers",
    4: "read input registers",
    5: "write one coil",
    6: "write one register",
    7: "read exception status",
    8: "diagnostics",
    11: "get event counter",
    12: "get event log",
    15: "write coils",
    16: "write registers",
    17: "report server id",
    20: "read file record",
    21: "write file record",
    22: "mask write register",
    23: "read and write registers",
    24: "read FIFO queue",
    43: "encapsulated interface",
}
EXCEPTIONS: Mapping[int, str] = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledge: will take long",
    6: "device busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target does not answer",
}
IDENTITY: Mapping[int, str] = {
    0: "device.vendor",
    1: "device.model",
    2: "device.firmware",
    3: "vendor url",
    4: "product name",
    5: "model name",
    6: "application",
}
# functions whose frames contain their own length, or have a fixed length
_SIZED = frozenset((1, 2, 3, 4, 5, 6, 15, 16))
_AA55 = b"\xaa\x55"  # some inverters send these bytes before an RTU answer over UDP


def decode_rtu(frame: bytes) -> Json:
    """Explain one RTU frame, or several that follow one another directly. ``frame`` describes the first. Raises
    BrokenInput.
    """
    header, body = (_AA55, frame[2:]) if frame.startswith(_AA55) else (b"", frame)
    pieces = _split_rtu(body)
    if pieces is None:
        raise _broken_rtu(body)
    described = []
    for piece in pieces:
        envelope: Json = {"protocol": "modbus-rtu", "unit": piece[0], "crc_ok": True, "crc": piece[-2:].hex()}
        described.append(_explain(envelope, piece[1:-2]))
    if header:
        described[0][0]["header"] = header.hex()
    return _result(described)


def _split_rtu(body: bytes) -> list[bytes] | None:
    """Split bytes into valid frames. None if any byte does not belong to a frame.

    The CRC alone is not enough to find a frame, because it also fits if zeros follow a valid frame. So the length of a
    frame must also be possible for its function.
    """
    # where a frame may begin -> (begin, end) of the preceding frame
    came: dict[int, tuple[int, int]] = {}
    ways = [0]
    while ways:
        at = ways.pop()
        if at and at == len(body):
            frames: list[bytes] = []
            while at:
                at, end = came[at]
                frames.insert(0, body[at:end])
            return frames
        rest = body[at:]
        sizes = [n for n in _rtu_sizes(rest) if n <= len(rest) and crc_ok(rest[:n])]
        if not sizes and crc_ok(rest):
            sizes = [len(rest)]
        for size in sorted(sizes):  # ``ways`` is tried from its end, so the longest size is appended last
            end = at + size
            follows = end + 2 if body[end : end + 2] == _AA55 and end + 2 < len(body) else end
            if follows not in came:
                came[follows] = (at, end)
                ways.append(follows)
    return None


def _rtu_sizes(body: bytes) -> list[int]:
    """The lengths that the frame at the start of ``body`` can have, by its function."""
    if len(body) < 4:
        return []
    function = body[1]
    if function & 0x80:
        sizes = [5]
    elif function in {1, 2, 3, 4}:
        sizes = [5 + body[2], 8]
    elif function in {5, 6}:
        sizes = [8]
    elif function in {15, 16}:
        sizes = [8, 9 + body[6]] if len(body) > 6 else [8]
    elif function == 23 and len(body) > 10:
        sizes = [5 + body[2], 13 + body[10]]
    else:
        sizes = list(range(4, min(len(body), 256) + 1))
    return sizes


def _broken_rtu(body: bytes) -> BrokenInput:
    if len(body) < 4:
        return BrokenInput(
            f"{len(body)} bytes are too short for an RTU frame, which has at least 4 (unit, function, CRC)",
            hint=COPY_WHOLE,
        )
    partly = _unproven({"protocol": "modbus-rtu", "unit": body[0], "crc_ok": False}, body[1:-2])
    right = crc16(body[:-2]).to_bytes(2, "little").hex()
    expected = next(iter(_rtu_sizes(body)), 0)
    if crc_ok(body) and (inside := _sound_inside(body)) is not None:  # the CRC also fits if zeros follow a valid frame
        what = f"bytes {inside[0] + 1} to {inside[1]} are a valid frame, but there are {len(body)} bytes"
        return BrokenInput(what, {"frame": partly}, "Give only the bytes of the valid frame")
    what, hint = "", AS_SENT
    if body[1] & 0x7F in {1, 2, 3, 4} and len(body) < expected and len(body) != 8:
        what = (
            f"; a complete answer to this function has {expected} bytes, but only {len(body)} were given: "
            "is the frame cut off?"
        )
        hint = COPY_WHOLE
    elif crc16(body[:-2]) == int.from_bytes(body[-2:]):
        what = "; the two bytes of the CRC are swapped"
    if (inside := _sound_inside(body)) is not None:
        first, last = inside
        hint = f"Bytes {first + 1} to {last} of these {len(body)} bytes are a valid frame: leave out the other bytes"
    else:
        hint = other_protocol(body, "modbus-rtu") or hint
    return BrokenInput(
        f"the CRC is {body[-2:].hex()}, but for these bytes it should be {right}{what}", {"frame": partly}, hint
    )


def _sound_inside(body: bytes) -> tuple[int, int] | None:
    """(begin, end) of the longest frame of a common function within noise. None if there is none."""
    found: list[tuple[int, int]] = []
    for begin in range(min(len(body) - 4, 512)):
        rest = body[begin:]
        if rest[1] & 0x7F in _SIZED and 0 < rest[0] < 248:
            found += [(begin, begin + n) for n in _rtu_sizes(rest) if n <= len(rest) and crc_ok(rest[:n])]
    return max(found, key=lambda place: place[1] - place[0], default=None)


def decode_tcp(stream: bytes) -> Json:
    """Explain one MBAP frame, or several that follow one another directly. Raises BrokenInput."""
    described: list[tuple[Json, list[Json]]] = []
    rest = stream
    while rest or not described:
        if len(rest) < 8:
            which = "after the frame" if described else "are too short for a Modbus TCP frame, which has at least 8"
            raise BrokenInput(f"{len(rest)} bytes {which}", _partly(described), COPY_WHOLE)
        transaction, protocol, length = (int.from_bytes(rest[i : i + 2]) for i in (0, 2, 4))
        envelope: Json = {
            "protocol": "modbus-tcp",
            "transaction": transaction,
            "length": length,
            "length_ok": len(rest) >= 6 + length and 2 <= length <= 254,
            "unit": rest[6],
        }
        if protocol != 0:
            what = f"the protocol id in the header is {protocol}, but Modbus requires 0"
            raise BrokenInput(what, {"frame": envelope}, other_protocol(stream, "modbus-tcp") or AS_SENT)
        if not 2 <= length <= 254:
            what = f"the length in the header is {length}, but Modbus allows 2 to 254 (unit and PDU)"
            raise BrokenInput(what, {"frame": envelope}, other_protocol(stream, "modbus-tcp") or AS_SENT)
        if len(rest) < 6 + length:
            what = f"the header announces {length} bytes, but {len(rest) - 6} follow: is the frame cut off?"
            partly = {"frame": _unproven(envelope, rest[7:])}
            raise BrokenInput(what, partly, other_protocol(stream, "modbus-tcp") or COPY_WHOLE)
        described.append(_explain(envelope, rest[7 : 6 + length]))
        rest = rest[6 + length :]
    return _result(described)


def _unproven(envelope: Json, pdu: bytes) -> Json:
    """Explain the likely content of a broken frame."""
    exception = pdu[1] if pdu[0] & 0x80 and len(pdu) > 1 else None
    return {**envelope, "function": pdu[0] & 0x7F, "exception": exception, "pdu_hex": pdu.hex()}


def _partly(described: list[tuple[Json, list[Json]]]) -> Json:
    return {"frame": described[0][0]} if described else {}


def _result(described: list[tuple[Json, list[Json]]]) -> Json:
    result: Json = {"frame": described[0][0]}
    if len(described) > 1:
        result["frames"] = [{**frame, "readings": readings} for frame, readings in described]
    result["readings"] = [r for _, readings in described for r in readings]
    return result


def _explain(envelope: Json, pdu: bytes) -> tuple[Json, list[Json]]:
    """Return (the envelope with the decoded PDU, the readings in the PDU)."""
    function = pdu[0] & 0x7F
    frame: Json = {
        **envelope,
        "function": function,
        "function_name": FUNCTIONS.get(function, "not a public function"),
        "exception": None,
        "pdu_hex": pdu.hex(),
    }
    if pdu[0] & 0x80:
        code = pdu[1] if len(pdu) > 1 else None
        name = EXCEPTIONS.get(code, "not in the standard") if code is not None else "no code"
        return {**frame, "kind": "exception", "exception": code, "exception_name": name}, []
    return _body(frame, function, pdu)


def _body(frame: Json, function: int, pdu: bytes) -> tuple[Json, list[Json]]:
    size = len(pdu)
    if function in {1, 2, 3, 4}:
        return _read(frame, function, pdu)
    if function in {5, 6, 15, 16}:
        return _write(frame, function, pdu)
    if function == 23 and size >= 4 and pdu[1] == size - 2:
        return {**frame, "kind": "answer", "registers": _registers(pdu[2:])}, _words(0, pdu[2:])
    if function == 43 and size >= 7 and pdu[1] == 14:
        return _identification(frame, pdu)
    if function == 43 and size == 4 and pdu[1] == 14:
        return {**frame, "kind": "request", "read_code": pdu[2], "object": pdu[3]}, []
    return {**frame, **_seldom(frame, function, pdu)}, []


def _seldom(frame: Json, function: int, pdu: bytes) -> Json:
    """Explain a function that meters rarely use. Shows direction and content if the length of the frame reveals
    them.
    """
    size = len(pdu)
    result: Json = {"kind": "not explained further"}
    if function in {7, 11, 12, 17} and size == 1:
        result = {"kind": "request"}
    elif function == 7 and size == 2:
        result = {"kind": "answer", "status": pdu[1]}
    elif function == 8 and size >= 3:
        result = {"kind": "request or answer", "subfunction": _u16(pdu, 1), "response_length": _response(frame, size)}
    elif function == 11 and size == 5:
        result = {"kind": "answer", "status": _u16(pdu, 1), "events": _u16(pdu, 3)}
    elif function == 17 and size >= 2 and pdu[1] == size - 2:
        result = {"kind": "answer", "server_id": pdu[2:].hex()}
    elif function == 22 and size == 7:
        result = {"kind": "request or answer", "address": _u16(pdu, 1), "response_length": _response(frame, 7)}
        result |= {"and_mask": _u16(pdu, 3), "or_mask": _u16(pdu, 5)}
    elif function == 23 and size >= 10 and pdu[9] == size - 10:
        result = {"kind": "request", "address": _u16(pdu, 1), "count": _u16(pdu, 3)}
        result |= {"write_address": _u16(pdu, 5), "written": _registers(pdu[10:])}
        result["response_length"] = _response(frame, 2 + 2 * result["count"])
    elif function == 24 and size == 3:
        result = {"kind": "request", "address": _u16(pdu, 1)}
    elif function == 24 and size >= 5 and _u16(pdu, 1) == size - 3:
        result = {"kind": "answer", "registers": _registers(pdu[5:])}
    return result


def _read(frame: Json, function: int, pdu: bytes) -> tuple[Json, list[Json]]:
    size = len(pdu)
    if size >= 3 and pdu[1] == size - 2 and (function < 3 or pdu[1] % 2 == 0):
        return _read_answer(frame, function, pdu[2:])
    if size != 5:
        return {**frame, "kind": "neither a request nor an answer: its byte count does not fit"}, []
    count = _u16(pdu, 3)
    answer = 2 * count if function >= 3 else (count + 7) // 8
    frame |= {"kind": "request", "address": _u16(pdu, 1), "count": count}
    return {**frame, "response_length": _response(frame, answer + 2)}, []


def _write(frame: Json, function: int, pdu: bytes) -> tuple[Json, list[Json]]:
    size = len(pdu)
    if function in {5, 6} and size == 5:
        frame |= {"kind": "request or answer", "address": _u16(pdu, 1), "response_length": _response(frame, 5)}
        value = _u16(pdu, 3)
        return frame, [_word(_u16(pdu, 1), value == 0xFF00 if function == 5 else value, pdu[3:5])]
    if function in {15, 16} and size == 5:
        return {**frame, "kind": "answer", "address": _u16(pdu, 1), "count": _u16(pdu, 3)}, []
    if function in {15, 16} and size >= 7 and pdu[5] == size - 6:
        address = _u16(pdu, 1)
        frame |= {"kind": "request", "address": address, "count": _u16(pdu, 3)}
        frame["response_length"] = _response(frame, 5)
        return frame, _words(address, pdu[6:]) if function == 16 else _coils(address, pdu[6:], _u16(pdu, 3))
    return {**frame, "kind": "neither a request nor an answer: its length does not fit"}, []


def _read_answer(frame: Json, function: int, payload: bytes) -> tuple[Json, list[Json]]:
    frame["kind"] = "answer"
    if function < 3:
        readings = _coils(0, payload, 8 * len(payload))
        return {**frame, "bits": [r["value"] for r in readings]}, readings
    return {**frame, "registers": _registers(payload)}, _words(0, payload)


def _identification(frame: Json, pdu: bytes) -> tuple[Json, list[Json]]:
    """Explain an answer of function 43/14: a list of numbered texts."""
    readings: list[Json] = []
    at, kind = 7, "answer"
    for n in range(pdu[6]):
        if at + 2 > len(pdu) or at + 2 + pdu[at + 1] > len(pdu):
            kind = f"answer that ends within object {n + 1} of {pdu[6]}"
            break
        number, size = pdu[at], pdu[at + 1]
        raw = pdu[at + 2 : at + 2 + size]
        name = IDENTITY.get(number, f"object {number}")
        readings.append({"name": name, "value": decoded(raw), "unit": "", "raw": raw.hex()})
        at += 2 + size
    return {**frame, "kind": kind, "conformity": pdu[3], "more": pdu[4] == 0xFF}, readings


def _response(frame: Json, pdu: int) -> int:
    """The number of bytes in the whole answer to a request."""
    return pdu + (3 if frame["protocol"] == "modbus-rtu" else 7)


def _u16(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 2])


def _registers(payload: bytes) -> list[int]:
    return [_u16(payload, i) for i in range(0, len(payload) - 1, 2)]


def _word(address: int, value: int | bool, raw: bytes) -> Json:
    return {"name": str(address), "value": value, "unit": "", "raw": raw.hex()}


def _words(first: int, payload: bytes) -> list[Json]:
    """The value of each register. In a response, a register is named by its position, because a response does not
    contain the address.
    """
    return [_word(first + i, word, word.to_bytes(2)) for i, word in enumerate(_registers(payload))]


def _coils(first: int, payload: bytes, count: int) -> list[Json]:
    bits = [bool(byte >> bit & 1) for byte in payload for bit in range(8)]
    return [{"name": str(first + i), "value": value, "unit": ""} for i, value in enumerate(bits[:count])]


# bytes are guessed to be Modbus only if they have one of these functions
_COMMON = frozenset((1, 2, 3, 4, 5, 6, 15, 16, 23, 43))


def _is_rtu(stream: bytes) -> bool:
    return 5 <= len(stream) <= 256 and any(stream) and stream[1] & 0x7F in _COMMON and crc_ok(stream)


def _is_tcp(stream: bytes) -> bool:
    fits = len(stream) >= 8 and stream[2:6] == b"\0\0" + (len(stream) - 6).to_bytes(2)
    return fits and stream[7] & 0x7F in _COMMON


EXPLAINERS = (
    Explainer(
        name="modbus-tcp",
        title="Modbus TCP",
        help="""Explain and check a Modbus TCP frame: header, unit, function, exception and registers.

    \b
    Example:
      meterhouse decode modbus-tcp "00 01 00 00 00 07 01 03 04 53 75 6E 53"

    \b
    Exit codes: 0 decoded (also an exception response), 2 wrong usage, 4 no valid frame.
    """,
        explain=decode_tcp,
        is_sound=_is_tcp,
    ),
    Explainer(
        name="modbus-rtu",
        title="Modbus RTU",
        help="""Explain and check a Modbus RTU frame: unit, function, exception, registers and CRC.

    A leading AA 55 is removed; all frames are explained if several follow each other.

    \b
    Example:
      meterhouse decode modbus-rtu "01 03 04 53 75 6E 53 96 F0"

    \b
    Exit codes: 0 decoded (also an exception response), 2 wrong usage, 4 no valid frame.
    """,
        explain=decode_rtu,
        is_sound=_is_rtu,
    ),
)
