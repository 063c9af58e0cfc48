"""Readouts of IEC 62056-21 as meters of several makers send them, and mutations of them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from drivers.iec62056.frames import block_check


def readout(identification: str, *lines: str) -> bytes:
    """A whole readout with a right check character."""
    checked = "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"!\r\n\x03"
    return f"/{identification}\r\n".encode("latin-1") + b"\x02" + checked + bytes((block_check(checked),))


# recorded with its check character (public repositories that read this meter's optical port)
E350 = (
    b"/LGZ4ZMF100AC.M26\r\n\x02F.F(00)\r\n0.0(          120858)\r\nC.1.0(13647123)\r\nC.1.1(        )\r\n"
    b"1.8.1(042951.721*kWh)\r\n1.8.2(018609.568*kWh)\r\n2.8.1(000000.302*kWh)\r\n2.8.2(000010.188*kWh)\r\n"
    b"1.8.0(061561.289*kWh)\r\n2.8.0(000010.490*kWh)\r\n15.8.0(061571.780*kWh)\r\nC.7.0(0008)\r\n32.7(241*V)\r\n"
    b"52.7(243*V)\r\n72.7(242*V)\r\n31.7(000.35*A)\r\n51.7(000.52*A)\r\n71.7(000.47*A)\r\n82.8.1(0000)\r\n"
    b"82.8.2(0000)\r\n0.2.0(M26)\r\nC.5.0(0401)\r\n!\r\n\x03\x01"
)
# recorded as text by several public sources; the check characters are computed
ZMD310 = readout(
    "LGZ4ZMD3104100.B32",
    "1-1:F.F(00000000)", "1-1:0.0.0(50871031)", "1-1:0.9.1(155420)", "1-1:0.9.2(170214)", "1-1:0.1.0(18)",
    "1-1:1.2.1(0451.17*kW)", "1-1:1.6.1(27.19*kW)(1702090945)", "1-1:1.6.1*18(28.74)(1701121445)",
    "1-1:1.6.1*17(28.95)(1612081030)", "1-1:1.8.0(00051206*kWh)", "1-1:1.8.0*18(00049555)",
    "1-1:1.8.0*17(00045862)",
)  # fmt: skip
PAFAL = readout(
    "PAF512EC3gr",
    "0.0.0(72044837)(72044837)", "0.0.1(PAF)(PAF)", "F.F(00)(00)", "0.2.0(1.29)(1.29)",
    "1.8.0*00(000783.16)(000783.16)",
    "2.8.0*00(000045.38)(000045.38)", "C.2.1(000000000000)(          )(000000000000)(          )",
    "0.2.2(:::::G11)!(:::::G11)(!)",
)  # fmt: skip
MT382 = readout(
    "ISk5\\2MT382-1008",
    "0-0:96.1.1(3134353637)", "1-0:0.9.2(210528)", "1-0:0.9.1(215658)", "1-0:1.7.0(001.322*kW)",
    "1-0:1.8.0*255(010192.57*kWh)", "1-0:1.8.1*255(006094.31*kWh)", "1-0:2.8.0*255(000000.00*kWh)",
    "0-1:24.2.1(180104231507W)(00212.529*m3)",
    "1-0:99.97.0(2)(0-0:96.7.19)(170609063239S)(0000000267*s)(170611001706S)(0000149657*s)",
)  # fmt: skip
READOUTS = (E350, ZMD310, PAFAL, MT382)


def mutated(seed: int, count: int) -> Iterator[bytes]:
    """Readouts with bytes changed, lost, doubled, moved or put in; half of them with a right check character again."""
    chance = random.Random(seed)
    special = b"()*!/\x02\x03\r\n.:-&#@ \x00\x06\x15\x7f\xff0123456789eE+-"
    for _ in range(count):
        whole = bytearray(chance.choice(READOUTS))
        for _ in range(chance.choice((1, 1, 2, 3, 8, 30))):
            at = chance.randrange(len(whole))
            kind = chance.randrange(6)
            if kind == 0:
                whole[at] = chance.randrange(256)
            elif kind == 1:
                whole[at] = chance.choice(special)
            elif kind == 2:
                whole.insert(at, chance.choice(special))
            elif kind == 3 and len(whole) > 30:
                del whole[at : at + chance.choice((1, 1, 2, 9, 40))]
            elif kind == 4:
                whole[at:at] = whole[at : at + chance.choice((1, 5, 40, 300))]
            else:
                other = chance.randrange(len(whole))
                whole[at], whole[other] = whole[other], whole[at]
            if not whole:
                break
        if chance.random() < 0.5 and (begin := whole.find(b"\x02")) >= 0:
            body = bytes(whole[begin + 1 :]).replace(b"\x03", b"").rstrip() + b"\r\n!\r\n\x03"
            whole[begin + 1 :] = body + bytes((block_check(body),))
        yield bytes(whole)
