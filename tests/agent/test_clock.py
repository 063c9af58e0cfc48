"""The boot of the kernel, which packs and the record of heads name."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.clock import kernel_boot
from agent.store.heads import boot_bytes


def test_packs_and_heads_name_the_same_boot() -> None:
    boot = kernel_boot()
    assert boot and len(boot) == 36
    assert boot_bytes() == bytes.fromhex(boot.replace("-", ""))


@pytest.mark.parametrize("content", [None, b"", b"\n", b"not known\n", b"\xff\xfe"])
def test_a_boot_that_cannot_be_read_is_not_known(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "boot_id"
    if content is not None:
        file.write_bytes(content)
    assert kernel_boot(file) is None
