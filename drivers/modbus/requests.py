"""Builds the frames of reads, and reads the identification objects of function 43/14.

The parameters of a request are encoded by the PDU classes of pymodbus.
"""

from __future__ import annotations

from pymodbus.pdu import ModbusPDU
from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest
from pymodbus.pdu.mei_message import ReadDeviceInformationRequest
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadInputRegistersRequest

from drivers.line import Line, RequestOptions
from drivers.modbus.frames import ModbusRequest
from drivers.model import MismatchError, clean_text
from drivers.plan.compiled import characters

_READS: dict[int, type[ModbusPDU]] = {
    1: ReadCoilsRequest,
    2: ReadDiscreteInputsRequest,
    3: ReadHoldingRegistersRequest,
    4: ReadInputRegistersRequest,
}
_MOST_OBJECTS = 16  # limit for one identification, because a faulty device may answer "more follows" forever


def read_request(unit: int, function: int, address: int, count: int, where: str) -> ModbusRequest:
    """Build a read of ``count`` registers (coils for functions 1 and 2) from ``address`` on. Addresses count from 0, as
    on the wire.

    Raises ValueError for any other function, or for an address or count that the protocol cannot express.
    """
    if function not in _READS or address + count > 0x10000:
        raise ValueError(f"{where}: cannot read {count} values from address {address} with function {function}")
    pdu = _READS[function](address=address, count=count, dev_id=unit)
    payload = count * 2 if function >= 3 else (count + 7) // 8
    return ModbusRequest(unit, bytes((function,)) + pdu.encode(), payload, where)


def identification_request(unit: int, object_id: int, where: str) -> ModbusRequest:
    """A request of function 43/14 for the basic identification, from the object ``object_id`` on."""
    pdu = ReadDeviceInformationRequest(read_code=1, object_id=object_id, dev_id=unit)
    return ModbusRequest(unit, b"\x2b" + pdu.encode(), 0, where)


async def read_identification(line: Line, unit: int, options: RequestOptions, where: str) -> dict[int, str]:
    """Read the identification. Returns object number -> text: 0 vendor, 1 product code, 2 revision.

    Raises LineError, for example if the device does not support function 43/14.
    """
    found: dict[int, str] = {}
    object_id = 0
    for _ in range(_MOST_OBJECTS):
        payload = (await line.exchange(identification_request(unit, object_id, where), options)).payload
        more, following, at = payload[3], payload[4], 6
        for _ in range(payload[5]):
            size = payload[at + 1]
            found[payload[at]] = clean_text(characters(payload[at + 2 : at + 2 + size]) or "")
            at += 2 + size
        if more != 0xFF:
            return found
        if following <= object_id:
            raise MismatchError(
                f"in the identification, object {object_id} is followed by object {following}, expected a "
                "higher number",
                where=where,
            )
        object_id = following
    return found
