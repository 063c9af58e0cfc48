"""`meterhouse check`: what is in force, what it costs, what is wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from decimal import Decimal
from pathlib import Path

import pytest
import rfc8785

from agent.cli.line_load import PaceCost, line_shares, plan_notes
from drivers.model import PlanSummary

UPLINK = '\n[[uplink]]\nname = "platform"\nurl = "mqtts://broker.example"\nca_file = "gone.pem"\n'
SLOW_LINE = """
[[line]]
name = "cabinet"
url = "serial:/dev/serial/by-id/usb-none-port0"
serial = "1200 8N1"
""" + "".join(
    f'\n[[device]]\nname = "m{n}"\nline = "cabinet"\naddress = "{n}"\nprofile = "test/box"\n' for n in range(1, 6)
)


def test_shows_what_is_in_force(mh, park) -> None:  # field pain 54
    path = park(more=UPLINK)
    said = mh("check", "-c", path)
    assert said.code == 0
    assert f"{path.parent}/state/store.db, at most 8 GiB; packs are stored before they are sent" in said.out
    assert (
        "delivered packs are kept for 30 d, intervals for 400 d" in said.out
        and "one pack every 1 s, at most 64 KiB per pack" in said.out
    )
    assert "mqtts://broker.example:8883" in said.out and "The configuration is good." in said.out
    rows = [line.split() for line in said.out.splitlines()]
    assert ["inv1", "roof", "1", "test/box", "derived"] in [row[:5] for row in rows]


def test_what_is_not_there_is_a_warning_and_no_fault(mh, park) -> None:  # field pain 65
    path = park(more=UPLINK + SLOW_LINE)
    said = mh("check", "-c", path)
    assert said.code == 0
    warnings = said.err.splitlines()
    assert all(line.startswith("warning: ") for line in warnings)
    assert any("line cabinet: the port /dev/serial/by-id/usb-none-port0 does not exist. " in line for line in warnings)
    assert f"warning: destination platform: ca_file {path.parent}/gone.pem does not exist" in warnings
    key = (
        f"warning: key: {path.parent}/state/signing.key does not exist. The service creates the key at its first start"
    )
    assert any(line.startswith(key) for line in warnings)
    assert any(line.startswith("warning: line cabinet: cannot keep up: its devices need ") for line in warnings)


def test_a_file_in_a_folder_that_this_user_may_not_enter_is_not_said_to_be_missing(
    mh, park, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A technician without sudo read that the password file, which the agent can read, does not exist."""
    secrets = 'username = "u"\npassword_file = "closed/password"\n'
    secrets += 'cert_file = "closed/c.pem"\nkey_file = "closed/k.pem"\n'
    path = park(more=UPLINK.replace("gone.pem", "closed/gone.pem") + secrets)
    closed = path.parent / "closed"
    closed.mkdir()
    assert mh("check", "-c", path).err.count("closed/") == 4
    may = os.access
    monkeypatch.setattr("os.access", lambda file, mode, **more: Path(file) != closed and may(file, mode, **more))
    assert "closed/" not in mh("check", "-c", path).err


def test_a_group_that_is_not_there_is_named(mh, park) -> None:
    """Where the configuration says one; the package makes the usual one."""
    said = mh("check", "-c", park(more='\n[control]\ngroup = "no-such-group-here"\n'))
    assert said.code == 0 and "control: group no-such-group-here does not exist on this machine. Until" in said.err
    assert "warning: control: " not in mh("check", "-c", park()).err


def test_the_plan_says_requests_registers_points_and_line_time(mh, park) -> None:
    said = mh("check", "--plan", "-c", park(more='limits = { turnaround = "10 ms" }\n'))
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert "inv1 fast 1 s 1 request, 2 registers for 1 point; line busy for 10.0 ms 1.0%" in lines
    assert "inv1 normal 5 s 1 request, 2 registers for 2 points; line busy for 10.0 ms 0.2%" in lines
    assert "Reading each point once occupies the lines for " in said.out
    assert "how busy the lines are" in lines, "the title is wider than its table"


def test_devices_show_on_how_many_sources_their_profile_stands(mh, park) -> None:
    said = mh("check", "-c", park())
    (line,) = [" ".join(line.split()) for line in said.out.splitlines() if line.startswith("inv1")]
    assert " test/" in line and "sources" not in line, "the profile does not say"
    park_file = park()
    park_file.write_text(park_file.read_text().replace("test/box", "eastron/sdm630"))
    assert "2 sources" in mh("check", "-c", park_file).out
    facts = json.loads(mh("check", "--json", "-c", park_file).out)
    assert facts["profiles"]["eastron/sdm630"]["second_source"]["source"].startswith("sdm_modbus")


def test_json_holds_the_plan_and_the_warnings(mh, park) -> None:
    said = mh("check", "--json", "-c", park(more=UPLINK))
    facts = json.loads(said.out)
    assert said.code == 0 and facts["ok"] and said.err == ""
    assert {row["pace"] for row in facts["plan"]} == {"fast", "normal", "slow", "once"}
    assert facts["config"]["devices"][0]["name"] == "inv1" and len(facts["hash"]) == 43
    assert any(warning["where"] == "key" for warning in facts["warnings"])


def test_a_port_without_a_stable_name_is_told_of_once(mh, park, caplog) -> None:
    """It stood there twice: once as a warning, once from the log."""
    path = park()
    path.write_text(re.sub(r'url = "modbus-tcp://[^"]*"', 'url = "serial:/dev/ttyUSB0"', path.read_text()))
    said = mh("check", "--plan", "-c", path)
    assert (said.out + said.err + caplog.text).count("may refer to another adapter") == 1


def test_complaints_are_lines_or_json(mh, park) -> None:
    path = park(more='[[device]]\nname = "x"\nline = "rof"\naddress = "2"\nprofile = "test/bax"\n')
    said = mh("check", "-c", path)
    assert (said.code, said.out) == (3, "")
    one, two, end = said.err.splitlines()
    assert one == f'error: {path}:25: device.x.line: no [[line]] is named "rof". Did you mean "roof"?'
    assert two.startswith(f'error: {path}:27: device.x.profile: no profile "test/bax" in ') and '"test/box"?' in two
    assert end == "2 errors."
    said = mh("check", "--json", "-c", path)
    facts = json.loads(said.out)
    assert (said.code, facts["ok"], said.err) == (3, False, "")
    assert facts["complaints"][0] == {
        "file": str(path),
        "line": 25,
        "key": "device.x.line",
        "where": f"{path}:25: device.x.line",
        "what": 'no [[line]] is named "rof"',
        "hint": 'Did you mean "roof"?',
    }


def test_a_port_that_is_a_file_is_a_warning(mh, park, tmp_path) -> None:
    (tmp_path / "port").write_text("")
    said = mh("check", "-c", park(f"serial:{tmp_path}/port"))
    assert said.code == 0 and f"line roof: {tmp_path}/port is not a serial port" in said.err


def test_folders_of_the_command_line_are_shown(mh, park, tmp_path) -> None:
    said = mh("check", "-c", park(), "--state-dir", tmp_path / "elsewhere", "--runtime-dir", tmp_path / "here")
    assert f"{tmp_path}/elsewhere/store.db" in said.out and f"{tmp_path}/here, 16 MiB" in said.out


@pytest.mark.parametrize(
    ("share", "says"), [(0.5, ""), (0.85, "is busy for 85% of the time"), (1.5, "devices need 150%")]
)
def test_an_overloaded_line_is_told_with_its_heaviest_device(share: float, says: str) -> None:
    small = PaceCost("m1", "cabinet", "slow", 60_000, PlanSummary(1, 2, 1, 0.0))
    heavy = PaceCost("bms", "cabinet", "fast", 1_000, PlanSummary(9, 900, 400, share))
    once = PaceCost("bms", "cabinet", "once", 86_400_000, PlanSummary(9, 900, 400, 1e9))
    assert line_shares([small, heavy, once]) == {"cabinet": share}
    notes = [str(note) for note in plan_notes([small, heavy, once])]
    assert len(notes) == bool(says)
    assert all(
        says in note
        and "Device bms needs the largest share of the line's time: its points at pace fast are read every 1 s" in note
        for note in notes
    )


def test_a_visit_that_outlasts_its_neighbours_ticks_is_told() -> None:
    """The line is free for most of the time, and still a device that is due each second has a gap each minute."""

    def costs(period_ms: int) -> list[PaceCost]:
        return [
            PaceCost("m1", "cabinet", "fast", period_ms, PlanSummary(1, 2, 1, 0.01)),
            PaceCost("tower", "cabinet", "normal", 30_000, PlanSummary(3, 74, 6, 1.0)),
            PaceCost("tower", "cabinet", "slow", 60_000, PlanSummary(17, 430, 37, 6.0)),
            PaceCost("tower", "cabinet", "once", 86_400_000, PlanSummary(8, 215, 7, 3.0)),
        ]

    (note,) = map(str, plan_notes(costs(1000)))
    assert (
        "reading all points of tower takes 7.00 s; during this time, m1 cannot be read every 1 s, so some of its "
        "readings will be missing" in note
    )
    assert plan_notes(costs(5000)) == []


def test_a_ring_that_is_small_or_not_what_it_seems_is_told(mh, park) -> None:
    device = '[[device]]\nname = "x{n}"\nline = "roof"\naddress = "{n}"\nprofile = "test/box"\n'
    device += 'every = {{ fast = "50 ms" }}\n'
    more = '\n[ring]\nsize = "100 KiB"\n' + "".join(device.format(n=n) for n in (2, 3))
    said = mh("check", "-c", park(more=more))
    (warning,) = [line for line in said.err.splitlines() if "ring.size" in line]
    assert warning.endswith(
        "agent.toml:25: ring.size: the agent changes the size 100 KiB to 64 KiB. The size of the ring buffer "
        "must be a power of two, "
        "so the agent rounds it down"
    )
    assert "run, 64 KiB, about 33 s of readings" in said.out


def test_a_ring_that_is_less_than_needed_is_raised_or_told(mh, park) -> None:
    path = park()
    often = path.read_text().replace('every = "1 s"', 'every = "5 min"') + 'every = { fast = "50 ms" }\n'
    path.write_text(often + '[ring]\nsize = "64 KiB"\n')
    raised = mh("check", "--plan", "-c", path)
    assert (
        raised.code == 0
        and "ring.size: 64 KiB is less than the 1 MiB that the devices need; the agent raises the size to 1 MiB"
        in raised.err
    )
    assert "run, 1 MiB, about" in raised.out
    plan = (
        "need a ring buffer of 1 MiB if packs are sealed every 5 min and the store stalls for 10 s; "
        "the ring buffer has 1 MiB."
    )
    assert plan in " ".join(raised.out.split())
    facts = json.loads(mh("check", "--json", "-c", path).out)["ring"]
    assert (facts["size_bytes"], facts["need_bytes"], facts["limit_bytes"]) == (1 << 20, 1 << 20, 256 << 20)
    assert facts["full_s"] > 600 and facts["readings_per_s"] > 10
    path.write_text(often + '[ring]\nsize = "64 KiB"\nmax = "64 KiB"\n')
    capped = mh("check", "-c", path)
    assert capped.code == 0 and "but at most 64 KiB are allowed (ring.max); if the store stalls, the ring" in capped.err


def test_opens_nothing(mh, park, served) -> None:
    assert mh("check", "--plan", "-c", park(served.url)).code == 0
    assert served.line.accepted == 0


def test_shares_are_exact_enough_for_a_thousand_devices() -> None:
    costs = [PaceCost(f"m{n}", "l", "normal", 5_000, PlanSummary(1, 10, 5, 0.004)) for n in range(1_000)]
    assert Decimal(line_shares(costs)["l"]).quantize(Decimal("0.001")) == Decimal("0.800")


def test_the_hash_follows_from_the_configuration_that_is_printed(mh, park) -> None:
    """docs/pack-format.md: SHA-256 of the RFC 8785 form of `config`, as births carry it."""
    facts = json.loads(mh("check", "--json", "-c", park(more=UPLINK + 'confirm = "broker"\n')).out)
    digest = hashlib.sha256(rfc8785.dumps(facts["config"])).digest()
    assert facts["hash"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("text", "mode", "what"), [("junk\n", 0o600, "no"), ("", 0o600, "no"), ("junk\n", 0o644, "others may read")]
)
def test_a_signing_key_that_the_agent_would_refuse(mh, park, text: str, mode: int, what: str) -> None:
    """Start and reload refused it, and check said nothing."""
    path = park()
    key = path.parent / "state" / "signing.key"
    key.parent.mkdir(exist_ok=True)
    key.write_text(text)
    key.chmod(mode)
    said = mh("check", "-c", path)
    assert said.code == 3 and f"key.file: {key}: " in said.err
    assert what in said.err
    key.chmod(0o600)
    key.write_text("pkcs11:token=park\n")
    assert mh("check", "-c", path).code == 0, "a token is the agent's to ask"
