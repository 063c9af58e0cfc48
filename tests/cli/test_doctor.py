"""`doctor`: each fault of the machine is named with what to do; its archive holds no secret."""

from __future__ import annotations

import json
import os
import pty
import pwd
import shutil
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ext.clock
from agent.cli.doctor import host
from agent.cli.doctor.bundle import Redactor, config_texts
from agent.cli.findings import find
from agent.config import load_config
from agent.keys import create_key
from agent.mounts import mount_of
from tests.cli.conftest import Traces
from tests.kits.broker import free_port
from tests.kits.mounts import mount_point
from tests.kits.users import STRANGER, Town, why_no_users

MOUNTS = """21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /run rw,nosuid shared:2 - tmpfs tmpfs rw
23 21 8:2 / {state} {options} shared:3 - {kind} /dev/sdb1 {options}
"""


def mounts(config: Any, kind: str, options: str = "rw") -> str:
    """A mountinfo in which the state directory is a file system of its own."""
    return MOUNTS.format(state=mount_point(config.state_dir), kind=kind, options=options)


def own_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        pytest.skip("this user has no name (add it to /etc/passwd)")


def results(found: Any) -> list[tuple[str, str]]:
    return [(result.state, result.text) for result in found]


# --- the clock


def clock(synced: bool | None, programs: set[str], now_s: float | None = None) -> list[host.CheckResult]:
    return list(host.check_clock("en", now_s, ext.clock.ClockState(synced, 1500), programs))


def test_a_synchronised_clock_names_its_service() -> None:
    assert results(clock(True, {"chronyd"})) == [("good", "synchronised, error at most 1.5 ms, chrony")]


@pytest.mark.parametrize(
    ("programs", "words"),
    [({"systemd-timesyn"}, "systemd-timesyncd runs, but has not reached a server"), (set(), "no time")],
)
def test_a_clock_that_is_not_synchronised(programs: set[str], words: str) -> None:
    """Field pain 16: readings of 1970 look like readings."""
    (found,) = clock(False, programs)
    assert found.state == "fault" and found.code == 1 and words in found.text and "NTP=" in found.hint


def test_a_date_before_this_software_is_wrong_whatever_the_kernel_says() -> None:
    (old, good) = clock(True, set(), 3600.0)
    assert old.code == 1 and "1970-01-01 01:00 UTC" in old.text and "hwclock" in old.hint and good.state == "good"


# --- disks


@pytest.fixture
def config(park: Callable[..., Path]) -> Any:
    path = park()
    (path.parent / "state").mkdir()
    (path.parent / "run").mkdir()
    return load_config(path)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("ext4", "ro", "read-only (ext4)"),
        ("tmpfs", "rw", "is a tmpfs: everything is lost"),
        ("nfs4", "rw", "network file system (nfs4)"),
        ("vfat", "rw", "vfat, which has no journal"),
    ],
)
def test_a_disk_that_cannot_hold_the_database(config: Any, kind: str, options: str, words: str) -> None:
    listed = mounts(config, kind, options)
    found = list(host.check_disks(config, "en", listed))
    (fault,) = [result for result in found if result.state == "fault"]
    assert words in fault.text and str(config.state_dir) in fault.text and fault.code == 1 and fault.hint
    (note,) = [result for result in found if result.state == "note"]
    assert "the ring is on a disk" in note.text


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize(
    ("kind", "free_bytes", "codes"),
    [
        ("tmpfs", 20 << 30, ["store-warning"]),
        ("ext4", 20 << 30, []),
        ("ext4", 4 << 30, []),  # of a large disk a small share, and enough
        ("ext4", 99_000_000, ["disk-nearly-full"]),
        ("overlay", 99_000_000, ["disk-nearly-full", "store-warning"]),
    ],
)
def test_doctor_and_status_rate_a_disk_alike(
    config: Any, monkeypatch: Any, lang: str, kind: str, free_bytes: int, codes: list[str]
) -> None:
    """The ring lies in memory, as it should."""
    listed = mounts(config, kind)
    listed += f"24 21 0:21 / {mount_point(config.runtime_dir)} rw - tmpfs tmpfs rw\n"
    size = os.statvfs_result((4096, 4096, 100 << 18, free_bytes >> 12, free_bytes >> 12, 99, 99, 99, 0, 255))
    monkeypatch.setattr(host.os, "statvfs", lambda folder: size)
    store = {
        "path": str(config.state_dir),
        "limit_bytes": config.store.max_size_bytes,
        "disk_free_bytes": free_bytes >> 12 << 12,
        "warnings": list(mount_of(config.state_dir, listed).weaknesses()),
    }
    now = time.time()
    status = find({"time": now, "pid": 1, "store": store}, now, True)
    assert [one.code for one in status] == codes
    doctor = [one for one in host.check_disks(config, lang, listed) if one.state != "good"]
    ours = sorted((one.text, one.hint, one.code) for one in doctor)
    assert ours == sorted((one.text(lang), one.advice(lang), one.exit_code) for one in status)


def test_a_good_disk_and_the_last_mount_of_a_point_counts(config: Any) -> None:
    once = mounts(config, "tmpfs")
    again = f"24 23 8:3 / {mount_point(config.state_dir)} rw shared:4 - ext4 /dev/sdc1 rw\n"
    assert "fault" not in dict(results(host.check_disks(config, "en", once + again)))


def test_a_mount_point_with_a_space_and_chinese(config: Any, tmp_path: Path) -> None:
    folder = tmp_path / "data disk" / "园区"
    folder.mkdir(parents=True)
    listed = f"23 21 8:2 / {str(folder).replace(' ', chr(92) + '040')} rw - tmpfs tmpfs rw\nnonsense\n"
    assert mount_of(folder, listed).kind == "tmpfs"


# --- serial adapters and permissions


def serial_config(park: Callable[..., Path], port: str) -> Any:
    path = park(f"serial:{port}")
    (path.parent / "state").mkdir(exist_ok=True)
    return load_config(path)


def test_a_port_that_is_missing_or_held_by_another_program(park: Callable[..., Path]) -> None:
    """Field pain 17."""
    config = serial_config(park, "/dev/serial/by-id/usb-none")
    (missing,) = host.check_adapters(config, None, "en")
    assert missing.code == 4 and "line roof: /dev/serial/by-id/usb-none does not exist" in missing.text

    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        (held,) = host.check_adapters(serial_config(park, name), None, "en")
        assert held.state == "fault" and f"({child})" in held.text and "two programs on one bus" in held.hint
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    (free,) = host.check_adapters(serial_config(park, name), None, "en")
    assert free.state in ("good", "note")
    os.close(ours)
    os.close(theirs)


def test_a_port_that_the_agents_user_may_not_open(park: Callable[..., Path]) -> None:
    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)
    os.chmod(name, 0o600)
    config = serial_config(park, name)
    (found,) = host.check_adapters(config, "nobody", "en")
    assert "user nobody may not open" in found.text and "usermod -aG" in found.hint and found.code == 4
    os.close(ours)
    os.close(theirs)


def test_files_that_the_agent_may_not_read_or_everybody_may(park: Callable[..., Path], tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("x")
    uplink = '[[uplink]]\nname = "p"\nurl = "mqtt://b"\nusername = "u"\npassword_file = "password"\n'
    config = load_config(park(more=uplink))
    user = own_name()
    secret.chmod(0o644)
    (found,) = [r for r in host.check_permissions(config, user, "en") if "password" in r.text]
    assert "everybody may read the secret" in found.text and found.hint == f"`chmod o= {secret}`"
    secret.chmod(0o640)
    assert not [r for r in host.check_permissions(config, user, "en") if "password" in r.text]
    tmp_path.chmod(0o700)  # the folder above is closed to others
    assert any("user nobody may not read" in r.text for r in host.check_permissions(config, "nobody", "en"))


def test_a_key_with_which_the_next_start_fails_is_a_fault(park: Callable[..., Path]) -> None:
    """Only "everybody may read it" was a fault, but a start refuses a key that a group may change."""
    config = load_config(park())
    config.state_dir.mkdir()
    create_key(config.key.file, time.time())
    (good,) = host.check_permissions(config, own_name(), "en")
    config.key.file.chmod(0o660)
    (bad,) = host.check_permissions(config, own_name(), "en")
    assert (good.state, bad.state, bad.code) == ("good", "fault", 1)
    assert "others may read or change it (mode 0660)" in bad.text and "the next start fails" in bad.hint


def test_a_key_that_is_gone_is_a_fault_and_no_first_start(park: Callable[..., Path], mh: Callable[..., Any]) -> None:
    """Permissions were good, and a note promised that the service makes the key."""
    path = park()
    config = load_config(path)
    config.state_dir.mkdir()
    assert "creates the key at its first start" in mh("check", "-c", path).err
    config.store_path.write_bytes(b"")
    (lost,) = host.check_permissions(config, own_name(), "en")
    assert (lost.state, lost.code) == ("fault", 1) and f"{config.state_dir}/signing.key is missing" in lost.text
    said = mh("doctor", "--offline", "-c", path)
    assert said.code == 1 and "Restore the file" in said.out and "first start" not in said.out
    assert "请恢复该文件" in mh("doctor", "--offline", "-c", path, "--lang", "zh").out
    said = mh("check", "-c", path)
    assert said.code == 3 and "the signing key is missing" in said.err and "new thumbprint" in said.err
    assert "签名密钥已不存在" in mh("check", "-c", path, "--lang", "zh").err


@pytest.mark.process
def test_a_user_without_rights_is_told_so(park: Callable[..., Path], tmp_path: Path) -> None:
    """An internal error, "there is no such file" and "no agent runs here": all wrong."""
    if why := why_no_users():
        pytest.skip(why)
    town = Town()
    try:
        town.begin()
        site, out = town.folder / "site", town.folder / "out"
        site.mkdir(mode=0o750)
        config = shutil.copy(park(), site)
        out.mkdir(mode=0o755)
        town.give(out, STRANGER)
        for command in ("status", "watch", "reload", "check"):
            done = town.mh(STRANGER, command, "-c", config)
            assert done.returncode == 3 and "no such file" not in done.stderr
            assert "agent.toml: cannot be read: Permission denied. Use sudo" in done.stderr
        done = town.mh(STRANGER, "init", site / "no", "--site=p", "--gateway=g", "--timezone=UTC", "--yes")
        assert done.returncode == 2 and "this user cannot write here. Use sudo" in done.stderr
        done = town.mh(STRANGER, "doctor", "--offline", "-c", config, "--bundle", out / "x.tar.gz")
        assert done.returncode in (1, 3) and "internal error" not in done.stderr and (out / "x.tar.gz").exists()
        assert "cannot tell whether an agent runs" in done.stdout and "no agent runs here" not in done.stdout
        assert f"user {STRANGER.name}, who runs this command, may not read the configuration" in done.stdout
        done = town.mh(STRANGER, "doctor", "--offline", "-c", config, "--lang", "zh")
        assert "无权读取配置" in done.stdout and "请用 sudo" in done.stdout and "无法得知" in done.stdout
        site.chmod(0o755)
        (site / "run").mkdir(mode=0o700)
        done = town.mh(STRANGER, "doctor", "--offline", "-c", config)
        assert done.returncode == 1 and "snapshot.json: cannot be read: Permission denied" in done.stdout
        assert "no agent runs here" not in done.stdout
    finally:
        town.close()


# --- the command


def test_a_full_runtime_directory_is_not_called_an_agent_that_hangs(
    park: Callable[..., Path], mh: Callable[..., Any], traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`doctor` advised to restart the agent, where `status` advised to make room."""
    traces.write()
    traces.facts["time"] -= 60
    (traces.folder / "snapshot.json").write_text(json.dumps(traces.facts))
    path = park()
    hangs = mh("doctor", "--offline", "-c", path)
    assert "it hangs" in hangs.out and "runtime directory is full" not in hangs.out
    full = shutil.disk_usage(traces.folder)._replace(free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: full)
    said = mh("doctor", "--offline", "-c", path)
    assert said.code == 1 and "runtime directory is full" in said.out and "it hangs" not in said.out


def test_exit_code_and_words_of_the_first_fault_that_holds(park: Callable[..., Path], mh: Callable[..., Any]) -> None:
    broken = park(more="[site2]\n")
    said = mh("doctor", "--offline", "--json", "-c", broken)
    facts = json.loads(said.out)
    assert said.code == 1 and facts["ok"] is False  # no agent runs here
    assert any(check["code"] == 3 and "site2" in check["text"] for check in facts["checks"])
    assert facts["versions"]["meterhouse"] and facts["versions"]["SQLite"]


def test_a_broker_that_is_not_there(park: Callable[..., Path], mh: Callable[..., Any]) -> None:
    port = free_port()
    path = park(more=f'[[uplink]]\nname = "platform"\nurl = "mqtt://127.0.0.1:{port}"\n')
    said = mh("doctor", "-c", path, "--lang", "zh")
    assert "上行目标" in said.out and "nothing listens on this port" in said.out
    assert "nothing listens" not in mh("doctor", "--offline", "-c", path).out


# --- the archive


SECRETS = ("hunter2hunter2", "swordfish77", "opensesame9", "quiet-river-5", "tok_live_123456", "4711-pin")


def archive(path: Path) -> dict[str, str]:
    with tarfile.open(path) as opened:
        return {m.name: opened.extractfile(m).read().decode() for m in opened.getmembers()}  # type: ignore[union-attr]


@pytest.mark.parametrize("valid", [True, False])
def test_the_archive_holds_no_secret(
    park: Callable[..., Path], mh: Callable[..., Any], tmp_path: Path, valid: bool
) -> None:
    """Secrets in files, in comments, in a mistyped key, in a url; also where the configuration has errors."""
    (tmp_path / "password").write_text(SECRETS[0] + "\n")
    create_key(tmp_path / "signing.key", 1)
    key_text = (tmp_path / "signing.key").read_text()
    more = f"""[key]
file = "signing.key"
[[uplink]]
name = "platform"
url = "mqtt://127.0.0.1:{free_port()}"
username = "park7-gw01"
password_file = "password"
# old password = "{SECRETS[1]}", the file had {SECRETS[0]}
# mqtts://gw:{SECRETS[2]}@broker.example
# token: {SECRETS[4]}
# pkcs11:token=x?pin-value={SECRETS[5]}
# {key_text.replace(chr(10), chr(10) + "# ")}
"""
    if not valid:
        more += f"pasword = \"\"\"\n{SECRETS[3]}\"\"\"\npassword = '''{SECRETS[3]}'''\n"
    path = park(more=more)
    said = mh("doctor", "--offline", "--bundle", tmp_path / "out.tar.gz", "-c", path)
    assert "out.tar.gz" in said.err and (tmp_path / "out.tar.gz").stat().st_mode & 0o777 == 0o600
    texts = archive(tmp_path / "out.tar.gz")
    assert {"out/doctor.json", "out/snapshot.json", "out/journal.txt", "out/config/agent.toml"} <= set(texts)
    everything = "\n".join(texts.values())
    for secret in SECRETS:
        assert secret not in everything, secret
    for line in key_text.splitlines():
        assert len(line) < 20 or line.startswith("-----") or line not in everything
    assert 'username = "park7-gw01"' in texts["out/config/agent.toml"]  # what helps stays
    assert 'password_file = "password"' in texts["out/config/agent.toml"]


@pytest.mark.parametrize(
    "text",
    [
        "password: hunter3", "密码：hunter3", 'pw = "hunter3"', 'label = "PIN: hunter3"',
        '"口令" = "hunter3"', 'secret = ["a", "hunter3"]', "mqtt://u:hunter3@b", "mqtts://u:p@hunter3@b",
        'url = "mqtts://u:a/hunter3@b:8883"', "passwort=hunter3 -x",
        '{"pwd": "hunter3"}', 'old hunter2\\"x y, aHVudGVyMiJ4, hunter2%22x',
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_hidden(tmp_path: Path, text: str) -> None:
    (tmp_path / "pw").write_text('hunter2"x\n')
    cleaned = Redactor(None, tmp_path, ['password_file = "pw"']).clean(text)
    assert "hunter3" not in cleaned and "hunter2" not in cleaned and "aHVudGVyMiJ4" not in cleaned, cleaned


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb18030"])
def test_a_password_file_of_any_encoding_is_known(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "pw").write_bytes("暗号cat\n".encode(encoding))
    redactor = Redactor(None, tmp_path, ['password_file = "pw"'])
    assert "暗号cat" not in redactor.clean("the log said 暗号cat today")


@pytest.mark.parametrize("broken", ["", 'name = "roof', "x = 'it\"s", 'tail = """open'])
def test_no_comment_of_a_configuration_goes_into_the_archive(tmp_path: Path, broken: str) -> None:
    """Whatever words it has; a label does go, as far as it does not look like a secret."""
    file = tmp_path / "agent.toml"
    remarks = ("# password hunter3", "# curl -u admin:hunter3 https://broker", '# it\'s the 4711 of "Li", hunter3')
    lines = [*remarks, 'label = "hall #2"  # hunter3', "key = 'a # b' # hunter3", broken, "# hunter3"]
    file.write_text("\n".join(lines))
    text = config_texts(file, None)["config/agent.toml"]
    assert "hunter3" not in text and 'label = "hall #2"  #' in text and "'a # b'" in text


def test_a_short_password_is_hidden_as_a_word(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("cat")
    redactor = Redactor(None, tmp_path, ['password_file = "pw"'])
    assert redactor.clean("a cat, concatenated") == "a [hidden], concatenated"


def test_files_that_cannot_be_searched_are_left_out(
    park: Callable[..., Path], mh: Callable[..., Any], tmp_path: Path
) -> None:
    """Another encoding, a link to a file of somebody else, a pipe that never ends."""
    path = park(more="broken = [\n")
    conf = tmp_path / "conf.d"
    conf.mkdir()
    (conf / "a.toml").write_text("# hunter4hunter4", "utf-16")
    (tmp_path / "shadow").write_text("root:hunter4hunter4")
    (conf / "b.toml").symlink_to(tmp_path / "shadow")
    mh("doctor", "--offline", "--bundle", tmp_path / "out.tar.gz", "-c", path)
    texts = archive(tmp_path / "out.tar.gz")
    assert "hunter4" not in "".join(texts.values()).replace("\0", "")
    assert "left out: it is not text in UTF-8" in texts["out/config/conf.d/a.toml"]
    assert "left out" in texts["out/config/conf.d/b.toml"]


def test_an_archive_is_never_overwritten_and_its_folder_must_be_there(
    park: Callable[..., Path], mh: Callable[..., Any], tmp_path: Path
) -> None:
    there = tmp_path / "there.tar.gz"
    there.write_text("x")
    said = mh("doctor", "--offline", "--bundle", there, "-c", park())
    assert said.code == 2 and "already exists" in said.err and there.read_text() == "x"
    said = mh("doctor", "--offline", "--bundle", tmp_path / "no" / "b.tar.gz", "-c", park())
    assert said.code == 2 and "No such file" in said.err


def test_a_long_text_without_secrets_is_kept(tmp_path: Path) -> None:
    text = "a-b." * 200_000
    assert Redactor(None, tmp_path).clean(text) == text
