"""Finds a device's models. A marker at one of three addresses precedes them; the length of each model leads to the
next.

Source: SunSpec Device Information Model Specification 1.2, clause 6. The order of the three addresses is that of
pysunspec2.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import cast

from drivers.model import FrameError
from drivers.sunspec.models import END_MODEL, Model, decode_model, whole_registers

BASES = (40000, 0, 50000)
MARKER = (0x5375, 0x6E53)  # "SunS"
MAX_READ = 125  # most registers in one Modbus read
MAX_MODELS = 200  # limit for the number of models; a longer chain is not plausible

Ask = tuple[int, int]  # (address, number) of the holding registers to read
Answer = Sequence[int] | None  # None: the device refused or was silent


@dataclass(slots=True)
class ModelChain:
    """The models of one device, in order, including the end model. ``warnings`` describe deviations from the
    standard.
    """

    base: int
    models: list[Model] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def first(self, *ids: int) -> Model | None:
        """The first model that has one of these ids. None if there is none."""
        return next((m for m in self.models if m.id in ids), None)


def discover(bases: Sequence[int] = BASES, most: int = MAX_READ) -> Generator[Ask, Answer, ModelChain]:
    """A generator of the reads that find a device's models. It does no I/O itself.

    It yields (address, count) for each read. The caller reads these holding registers, and sends them into the
    generator. If there was no answer, the caller sends None. A value is split between two reads only if it is longer
    than one read.

    Raises:
        FrameError: no marker at any of ``bases``, or a chain without end.
    """
    for base in bases:
        answer = yield base, 2
        if answer is not None and tuple(answer) == MARKER:
            break
    else:
        raise FrameError(
            f"no SunSpec marker at {', '.join(map(str, bases))}",
            where="SunSpec",
            hint="Is SunSpec switched on in the device, and is the unit number right?",
        )
    device = ModelChain(base)
    at = base + 2
    for _ in range(MAX_MODELS):
        head = yield at, 2
        if head is None or len(head) < 2:
            device.warnings.append(f"the chain of models has no end model: address {at} does not answer")
            return device
        if head[0] == END_MODEL:
            device.models.append(Model(END_MODEL, at, head[1]))
            return device
        if head[0] == 0:
            device.warnings.append(f"the chain of models has no end model: address {at} has model id 0")
            return device
        registers = yield from _read_model(at, head, most)
        model = decode_model(at, registers)
        device.models.append(model)
        if model.truncated:
            device.warnings.append(
                f"model {model.id} at {at}: only {len(registers) - 2} of {model.length} registers could be read"
            )
            if len(registers) == 2:
                return device
        at += 2 + head[1]
    raise FrameError(f"more than {MAX_MODELS} models, but no end model", where=f"SunSpec at {at}")


def _read_model(at: int, head: Sequence[int], most: int) -> Generator[Ask, Answer, list[int]]:
    """All registers of one model, beginning with id and length. Fewer if the device stops answering."""
    registers, wanted = [*head], 2 + head[1]
    while len(registers) < wanted:
        begin = len(registers)
        answer = yield at + begin, min(most, wanted - begin)
        if not answer:
            break
        registers += answer
        whole = whole_registers(registers)
        if whole > begin:  # otherwise the read contains only a part of one long point, which has to be split
            del registers[whole:]
    return registers


def decode_image(base_address: int, registers: Sequence[int | None]) -> ModelChain:
    """Find the models in a register image that begins at ``base_address``. None means a register that was not read.

    It looks for the marker at the three usual addresses, then at the start of the image, then anywhere in it.

    Raises:
        FrameError: the image has no marker.
    """
    walk = discover(_candidates(base_address, registers), most=1 << 16)
    ask = next(walk)
    while True:
        begin, count = ask[0] - base_address, ask[1]
        piece = registers[begin : begin + count] if 0 <= begin < len(registers) else ()
        read = list(itertools.takewhile(lambda word: word is not None, piece))
        try:
            ask = walk.send(cast(list[int], read) or None)
        except StopIteration as done:
            found: ModelChain = done.value
            return found


def _candidates(base_address: int, registers: Sequence[int | None]) -> list[int]:
    inside = [b for b in BASES if base_address <= b < base_address + len(registers)]
    anywhere = [base_address + i for i in range(len(registers) - 1) if (registers[i], registers[i + 1]) == MARKER]
    return list(dict.fromkeys([*inside, base_address, *anywhere]))
