"""The small mechanisms that the whole house uses: files, locks, backoff, rate limits, numbers and bytes as text."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.backoff import Backoff
from drivers.encoding import base64url, base64url_decode, exact_text
from drivers.files import is_locked, try_lock, write_atomic
from drivers.rate_limit import RateLimitedLog, TokenBucket
from drivers.serial_setting import BAUD_RATES, SerialSetting, nearest_setting


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_whole(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "status"
    write_atomic(path, b"old", 0o600)
    (tmp_path / "status.new").write_bytes(b"left by one that died")
    with path.open("rb") as reader:
        write_atomic(path, b"new", 0o640, durable=durable)
        assert reader.read() == b"old", "who reads the old one reads it to its end"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()
    assert os.listdir(tmp_path) == ["status"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "status"
    path.mkdir()
    with pytest.raises(OSError):
        write_atomic(path, b"new", 0o600)
    assert os.listdir(tmp_path) == ["status"], "no draft is left"


def test_a_draft_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "status.new").symlink_to(tmp_path / "victim")
    write_atomic(tmp_path / "status", b"new", 0o600)
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_a_lock_is_seen_and_goes_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path), "missing"
    assert not is_locked(path / "below a file that is missing")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    assert not is_locked(path)
    assert try_lock(fd)
    assert is_locked(path)
    other = os.open(path, os.O_RDWR)
    assert not try_lock(other)
    os.close(other)
    os.close(fd)
    assert not is_locked(path)


def test_backoff_doubles_up_to_its_bound_and_begins_again() -> None:
    backoff = Backoff(1.0, 5.0)
    assert backoff.is_reset
    assert [backoff.next_s() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert not backoff.is_reset
    assert backoff.next_s(most_s=3.0) == 3.0, "a bound for this one"
    backoff.reset()
    assert backoff.next_s(most_s=0.5) == 0.5
    assert backoff.next_s() == 2.0, "which does not hold back the next"


@given(st.floats(0.01, 10), st.floats(1, 100), st.floats(0, 1), st.integers(1, 20))
def test_jitter_only_shortens(first: float, times: float, jitter: float, failures: int) -> None:
    plain, shaken = Backoff(first, first * times), Backoff(first, first * times, jitter)
    for _ in range(failures):
        whole = plain.next_s()
        assert whole * (1 - jitter) * 0.999 <= shaken.next_s() <= whole


@given(st.floats(0.1, 100), st.integers(1, 20), st.lists(st.floats(0, 30), max_size=60))
def test_a_bucket_gives_no_more_than_its_rate_and_burst(rate: float, burst: int, steps: list[float]) -> None:
    bucket, now, taken = TokenBucket(rate, burst, 0.0), 0.0, 0
    for step in steps:
        now += step
        before = taken
        taken += bucket.take(now)
        assert taken <= burst + now * rate + 1e-6
        assert taken > before or bucket.wait_s > 0, "refused: it says how long to wait"


def test_a_bucket_can_begin_with_less() -> None:
    bucket = TokenBucket(2.0, 10, 0.0, tokens=1)
    assert bucket.take(0.0) and not bucket.take(0.0)
    assert bucket.wait_s == 0.5
    assert not bucket.take(0.25) and bucket.take(0.5)


def test_a_limited_log_counts_what_it_leaves_out() -> None:
    lines: list[str] = []
    now = [1000.0]
    log = RateLimitedLog(lambda: now[0])
    for now[0] in (1000.0, 1001.0, 1059.9, 1060.0, 1200.0):
        log.log(lambda text, *args: lines.append(text % args), "%s is wrong", "x")
    assert lines == ["x is wrong", "x is wrong (3 since the last such line)", "x is wrong"]


@given(st.decimals(allow_nan=False, allow_infinity=False, places=9, min_value=-(10**12), max_value=10**12))
def test_exact_text_keeps_the_number_and_no_idle_zero(value: Decimal) -> None:
    text = exact_text(value)
    assert Decimal(text) == value and "E" not in text
    assert "." not in text or text[-1] not in "0."


def test_exact_text_has_no_exponent() -> None:
    assert [exact_text(Decimal(text)) for text in ("1E+3", "1.50", "1E-7", "100", "0.0")] == [
        "1000", "1.5", "0.0000001", "100", "0",
    ]  # fmt: skip


@given(st.binary(max_size=70))
def test_base64url_comes_back(raw: bytes) -> None:
    text = base64url(raw)
    assert "=" not in text and base64url_decode(text) == raw == base64url_decode(text.encode())


@given(st.sampled_from(BAUD_RATES), st.sampled_from("78"), st.sampled_from("NEO"), st.sampled_from("12"))
def test_a_serial_setting_is_written_as_it_is_read(baud: int, bits: str, parity: str, stop: str) -> None:
    text = f"{baud} {bits}{parity}{stop}"
    assert str(SerialSetting.parse(text, "")) == text == nearest_setting(text)
    assert nearest_setting(f"{baud},{bits},{parity.lower()},{stop}") == text


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
