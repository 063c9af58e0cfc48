"""Mistakes of a technician at the command line: each message names the place, what was seen, and what to do.

Those in agent.toml are in tests/config/complaints.toml, one by one with the whole text.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kits.broker import free_port

# what was typed | exit code | place | what was seen | what to do; CFG, FREE, HERE and LONG are filled in
MISTAKES = """
read | 2 | read: | options are missing: --profile, --line, --address | Give the name of a configured device
declare --replaces 5f0c --who x -c CFG | 2 | declare: | --replaces needs the NAME of an input | alone lists all inputs
read inv9 -c CFG | 2 | agent.toml: | unknown device "inv9" | Did you mean "inv1"?
read inv1 --line serial:/dev/ttyUSB0 -c CFG | 2 | read: | a device name cannot be combined with | Give either a device
read --profile eastron/sdm63 SDM | 3 | profile: | no profile "eastron/sdm63" | Did you mean "eastron/sdm630"?
read --profile sdm630 SDM | 2 | --profile: | "sdm630" | VENDOR/FAMILY
read P --line /dev/ttyUSB0 --address 1 | 2 | --line: | "/dev/ttyUSB0" is not a url | Write "serial:/dev/ttyUSB0"
read P --line COM3 --address 1 | 2 | --line: | "COM3" is not a url | Write serial:/dev/serial/by-id/
read P --line http://192.0.2.1 --address 1 | 2 | --line: | unknown scheme "http" | modbus-tcp://HOST:502
read P --line tcp://127.0.0.1 --address 1 | 2 | --line: | has no port | Write for example "tcp://127.0.0.1:4196"
read P --line serial:/dev/ttyUSB77 --address 1 | 4 | serial:/dev/ttyUSB77: | No such file | Is the adapter plugged in?
read P --line serial:/dev/null --address 1 | 4 | serial:/dev/null: | not a serial port | /dev/serial/by-id/
read P --line modbus-tcp://127.0.0.1:FREE --address 1 | 4 | :FREE: | Connection refused | is the port number right?
read P --line modbus-tcp://nowhere.invalid --address 1 | 4 | nowhere.invalid:502: | DNS|host name | Check the spelling
read P --line modbus-tcp://127.0.0.1 --address 300 | 3 | unit 300: | "300" is not a Modbus address | Allowed: 0 to 255
read P --line modbus-tcp://127.0.0.1 --address 0x01 | 3 | unit 0x01: | "0x01" is not | Allowed: 0 to 255
read SDM --profile eastron/sdm630 --serial 9600,8,N,1 | 2 | --serial: | "9600,8,N,1" is not | Write "9600 8N1"
read SDM --profile eastron/sdm630 --serial "9600 8N3" | 2 | --serial: | "9600 8N3" is not | parity (N, E or O)
read SDM --profile eastron/sdm630 --param racks | 2 | --param: | "racks" is not NAME=VALUE | --param racks=2
read SDM --profile eastron/sdm630 --param ct=60 | 2 | --param: | no parameter "ct" | --ratio ct=60
read SDM --profile eastron/sdm630 --ratio ct=x | 2 | --ratio: | "x" is not a number | A 400/5 A transformer has ct = 80
read SDM --registers 5:0+1 | 2 | --registers: | 5 is not a function that reads | Only functions 1 to 4 read
read SDM --registers 3:0+0 | 2 | --registers: | the count must be at least 1 | FUNCTION:START+COUNT
read SDM --registers 3:65530+20 | 2 | --registers: | goes beyond address 65535 | From address 65530 on, only 6
read SDM --registers 40001 | 2 | --registers: | "40001" does not state a function | write 3:0. Write FUNCTION:START
read SDM --registers 30013+2 | 2 | --registers: | "30013+2" does not state a function | \
write 4:12+2. Write FUNCTION:START
read --profile dlt645/2007 --line modbus-tcp://127.0.0.1 --address 1 | 3 | address 1: | \
cannot be used over modbus-tcp | tcp://HOST:PORT
check -c HERE/nothing.toml | 3 | nothing.toml: | No such file | `meterhouse init` makes a new file
check -c HERE | 3 | HERE: | Is a directory | the configuration file with -c
check -c CFG --plann | 2 | --plann | No such option | --plan
status --runtime-dir HERE/nothing | 1 | HERE/nothing: | no agent is running here | systemctl status meterhouse
status -c HERE/nothing.toml | 3 | nothing.toml: | no such file | Give the file with -c FILE
reload --runtime-dir HERE/nothing | 1 | HERE/nothing: | no agent is running here | --runtime-dir
scan | 2 | --line | Missing option | scan --help
scan --line modbus-tcp://127.0.0.1 --addresses 1-300 | 2 | --addresses: | '1-300' | such as 1-32,100
scan --line modbus-tcp://127.0.0.1 --addresses a | 2 | --addresses: | 'a' | such as 1-32,100
scan --line serial:/dev/ttyUSB77 --serial 9600-8N1 | 3 | serial:/dev/ttyUSB77: | '9600-8N1' | \
Write the setting like "9600 8N1"
scan --line serial:/dev/ttyUSB77 | 4 | serial:/dev/ttyUSB77: | No such file | Is the adapter plugged in?
identify --line serial:/dev/ttyUSB77 | 2 | identify: | --address is missing | Give --line and --address, or the name
profiles show eastron/sdm63 | 3 | profile: | no profile "eastron/sdm63" | Did you mean "eastron/sdm630"?
profiles check HERE/nothing.toml | 2 | nothing.toml | does not exist | profiles check --help
decode registers --type u16 zz | 4 | cannot decode: | Character 1, 'z', is not a hex digit | Write bytes as
decode registers --type uint16 0001 | 2 | --type | 'uint16' is not one of | 'u16'
decode modbus-rtu 0103020007 | 4 | cannot decode: | CRC is 0007 | Copy the complete
decode dlt645 68AA | 4 | cannot decode: | cut short inside its header | Copy the complete
verify | 2 | verify: | give either --broker, PATHs or --db | verify --help
verify HERE/nothing | 2 | nothing: | no such file or folder | `meterhouse export` wrote
verify --broker http://x --trust a=b | 2 | --broker: | 'http://x' | Write mqtt://host:1883
verify --broker mqtt://127.0.0.1:FREE --for 1s | 5 | 127.0.0.1:FREE: | Connection refused | Check that the broker runs
verify --broker mqtt://127.0.0.1:FREE --for x | 2 | --for | "x" is not a duration | such as "20 s"
scan --line serial:/dev/ttyUSB77 --listen 1x | 2 | --listen | "x" is not a unit of time | units are ms, s, min, h, d
scan --line serial:/dev/ttyUSB77 --listen 20m | 2 | --listen | "20 min" is out of range | Allowed: 0 ms to 10 min
scan --line serial:/dev/ttyUSB77 --timeout 99 | 2 | --timeout | "99 s" is out of range | Allowed: 20 ms to 30 s
read SDM --registers 3:0+1 --repeat x | 2 | --repeat | 'x' is not a whole number | read --help
read SDM --registers 3:0+1 --repeat 0 | 2 | --repeat | 0 is out of range | Allowed: 1 to 1000
verify --trust nonsense HERE | 2 | --trust: | 'nonsense' | `meterhouse keys show` prints
export -c CFG --from yesterday HERE/out | 2 | --from: | 'yesterday' | Write 2026-11-25
export -c CFG --from 2026-11-02 --to 2026-11-01 HERE/o | 2 | export: | is not before --to 2026-11-01 | Swap the two
keys show -c CFG | 3 | signing.key: | there is no signing key | meterhouse keys create
keys create HERE/LONG | 3 | HERE/LONG: | the key cannot be written here | File name too long
export HERE/LONG -c CFG | 2 | HERE: | cannot write in this folder | File name too long
demo --dir HERE/LONG --for 1s | 2 | HERE/LONG: | cannot be written: File name too long | Nothing was written
keys create HERE/no/folder | 3 | HERE/no/folder: | cannot be written here | Make the folder
simulate --profile eastron/sdm630 --listen 127.0.0.1:99999 | 2 | --listen: | '127.0.0.1:99999' | \
Write for example 127.0.0.1:5020
stauts | 2 | command | unknown command "stauts" | Did you mean "status"?
doctor --bundle HERE/no/x.tar.gz -c CFG --offline | 2 | HERE/no/x.tar.gz: | cannot be written | Give the name of another
init HERE GW | 2 | HERE/agent.toml: | already exists | Edit this file, or move it away
init HERE/new --site "a b" --gateway b --timezone UTC --yes | 2 | --site: | "a b" is not a name | Use letters
init HERE/new --site a --gateway b --timezone Beijing --yes | 2 | --timezone: | "Beijing" is not a time | Asia/Shanghai
init HERE/new GW --broker broker.example | 2 | --broker: | "broker.example" is not a url | Write mqtts://HOST:8883
adopt -c CFG --line rof --address 1 --yes | 2 | --line: | the line "rof" is not in the configuration | \
Did you mean "roof"? Or give a url:
read -c CFG --line rof --address 1 --registers 3:0+1 | 2 | --line: | the line "rof" is not in the configuration | \
Did you mean "roof"?
read -c CFG P --line nowhere --address 1 | 2 | --line: | the line "nowhere" is not in the configuration | \
Configured lines: roof. Or give a url: serial:
identify -c CFG --line rof --address 1 | 2 | --line: | the line "rof" is not in the configuration | Did you mean "roof"?
identify --line tcp://127.0.0.1:FREE --address 300 | 2 | --address: | "300" is not a Modbus | \
1 to 247. For an address of
identify --line tcp://127.0.0.1:FREE --address 21345678 | 2 | --address: | "21345678" is not | --protocol dlt645
identify --line tcp://127.0.0.1:FREE --address abc | 2 | --address: | "abc" is not a Modbus | Allowed: 1 to 247
identify --line tcp://127.0.0.1:FREE --address 1.5 | 2 | --address: | "1.5" is not a Modbus | Allowed: 1 to 247
identify --line tcp://127.0.0.1:FREE --address 7x | 2 | --address: | "7x" is not a Modbus | Allowed: 1 to 247
identify --line tcp://127.0.0.1:FREE --address 0 | 2 | --address: | "0" is not a Modbus | Allowed: 1 to 247
identify --line tcp://127.0.0.1:FREE --address abc --protocol dlt645 | 2 | --address: | "abc" is not | digits
adopt -c CFG --line tcp://127.0.0.1:FREE --address 21345678 --yes | 2 | --address: | "21345678" is | --protocol dlt645
adopt -c CFG --line tcp://127.0.0.1:FREE --address -5 | 2 | --address: | "-5" is not a Modbus | Allowed: 1 to 247
adopt -c CFG --line tcp://127.0.0.1:FREE --address 300 P | 2 | --address: | "300" is not a Modbus | Allowed: 1 to 247
scan -c CFG --line rof | 2 | --line: | the line "rof" is not in the configuration | Did you mean "roof"?
adopt -c CFG m A7 --profile test/bax | 3 | device.m.profile: | no profile "test/bax" | Did you mean "test/box"?
adopt -c CFG m A7 --profile test/box --ct 400/0 | 2 | --ct: | 400/0 is not a ratio | Write 80 or 400/5
adopt -c CFG m A7 --profile test/box --role gird | 2 | --role: | "gird" is not a role | Did you mean "grid"?
"""
SHORT = {
    "SDM": "--line modbus-tcp://127.0.0.1 --address 1",
    "P": "--profile eastron/sdm630",
    "GW": "--site a --gateway b --timezone Asia/Shanghai --yes",
    "A7": "--line roof --address 7 --no-read --yes",
}
ROWS = [[cell.strip() for cell in row.split(" | ")] for row in MISTAKES.strip().splitlines()]


def test_there_are_at_least_eighty() -> None:
    configuration = Path(__file__).parent.parent / "config" / "complaints.toml"
    assert len(ROWS) + len(tomllib.loads(configuration.read_text())["case"]) >= 80


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_mistake_names_place_what_was_seen_and_what_to_do(
    row: list[str], park: Callable[..., Path], mh: Callable[..., Any], tmp_path: Path
) -> None:
    path, port = park(more='[key]\nfile = "signing.key"\n'), free_port()

    def filled(text: str, quoted: Callable[[str], str] = str) -> str:
        text = re.sub(r"\b(SDM|P|GW|A7)\b", lambda found: SHORT[found[0]], text)
        return (
            text.replace("CFG", quoted(str(path)))
            .replace(":FREE", f":{port}")
            .replace("HERE", quoted(str(tmp_path)))
            .replace("LONG", "x" * 300)
        )

    command, code, *words = row
    said = mh(*shlex.split(filled(command, shlex.quote)))
    assert said.code == int(code), said.err
    for word in words:
        assert any(filled(one) in said.err for one in word.split("|")), f"{word}\n{said.err}"
    assert len(said.err.splitlines()) <= 4, "one mistake, one message"
    assert "--address 7x" not in command or "--protocol" not in said.err, "of IEC 62056-21 any text is an address"
