"""Reads, creates and replaces a key file in a child process that runs as the owner of its folder.

If a root process did this work, the agent's user could misuse that process. A symbolic link could make it write
anywhere, and it would load the library that the key file names. The child's answer is checked like any input.
"""

from __future__ import annotations

import math
import socket
import sys
from pathlib import Path
from pickle import load
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from agent.cli.control import ControlClient, NoAnswer
from agent.cli.owner_process import child, path_owner
from agent.keys import KeyFileError, Revocation, Signer, check_key_records, create_key, current_records, load_key
from agent.keys import rotate_key as replace_key
from agent.keys.token import NoUsableKey, PinRejected, TokenError
from agent.service.control.frames import FrameKind, frame
from drivers.model import GatewayError, clean_text

ANSWER_S: Final = 60.0  # longest wait for the child, in seconds; a token may be slow
MAX_RECORDS: Final = 1 << 20  # limit of the key records in a key file, in bytes

Kid = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}\Z")]


class KeyFacts(Struct, frozen=True):
    """The public facts of a key. ``published``: the key records as they are published; "" if not requested."""

    kid: Kid
    alg: Literal["Ed25519", "ES256"]
    jwk: dict[Literal["crv", "kty", "x", "y"], Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]]
    not_before: Annotated[int, Meta(ge=0, lt=1 << 37)]
    in_token: bool
    records: Annotated[str, Meta(max_length=MAX_RECORDS)] = ""
    published: Annotated[str, Meta(max_length=MAX_RECORDS)] = ""


class ReadKey(Struct, frozen=True, tag="look"):
    """Read the key in a file. If ``gateway`` is not "", also return the key records that this gateway publishes."""

    path: str
    gateway: str = ""


class ReplaceKey(Struct, frozen=True, tag="replace"):
    """Replace a key. The members are the arguments of ``agent.keys.rotate_key``.

    ``revokes``: thumbprint of the revoked key -> stream -> last trusted sequence. ``give_up_s``: monotonic time after
    which the key is not replaced; None means no limit.
    """

    path: str
    gateway: str
    now_s: int
    alg: str = ""
    token: str = ""
    revokes: dict[str, dict[str, int]] = {}
    give_up_s: float | None = None


class CreateKey(Struct, frozen=True, tag="create"):
    """Create a key. The members are the arguments of ``agent.keys.create_key``; ``revokes`` is as in ``ReplaceKey``."""

    path: str
    now_s: int
    alg: str
    token: str = ""
    lost: str = ""
    gateway: str = ""
    revokes: dict[str, dict[str, int]] = {}


Work = ReadKey | ReplaceKey | CreateKey


class Failure(Struct, frozen=True):
    """The error of work that failed. ``kind`` is the name of the error's class."""

    kind: str
    what: str
    where: str
    hint: str


_ERRORS: Final = {kind.__name__: kind for kind in (KeyFileError, TokenError, PinRejected, NoUsableKey)}
_answers = msgspec.json.Decoder(KeyFacts)
_failures = msgspec.json.Decoder(Failure)


def work_on_key(work: Work) -> KeyFacts:
    """Do the work as the owner of the folder. Returns the key that is in the file afterwards. Raises GatewayError."""
    path = Path(work.path)
    master = path_owner(path)
    if master is None:
        return _checked(_do(work), work.gateway)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    work = msgspec.structs.replace(work, path=str(path.absolute()))
    with ours, child(master, __name__, theirs, msgspec.json.encode(work)), ControlClient(ours, path) as client:
        try:
            kind, payload = client.receive(ANSWER_S)
        except NoAnswer as error:
            what = f"the process that handles the key as user {master.st_uid} ended without an answer"
            hint = f"Run the command as that user to see why: `sudo -u '#{master.st_uid}' meterhouse keys ...`"
            raise KeyFileError(what, where=str(path), hint=hint) from error
    try:
        if kind is FrameKind.DONE:
            return _checked(_answers.decode(payload), work.gateway)
        failed = _failures.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, GatewayError) as error:
        what = "the process that handles the key sent a malformed answer"
        raise KeyFileError(what, where=str(path), hint=clean_text(str(error), 300)) from None
    what, where, hint = (clean_text(text, 1000) for text in (failed.what, failed.where, failed.hint))
    raise _ERRORS.get(failed.kind, KeyFileError)(what, where=where, hint=hint)


def _checked(key: KeyFacts, gateway: str) -> KeyFacts:
    """Return the key if the records are valid and the newest record is for this key. Raises GatewayError otherwise."""
    for text in filter(None, (key.records, key.published)):
        data = text.encode()
        newest = check_key_records(data, gateway or _gateway_of(data)).newest
        if newest != key.kid:
            what = f"the newest record in the key file is for {newest}, but the file holds key {key.kid}"
            raise KeyFileError(what, where="keys", hint="Was the file edited?")
    return key


class _Named(Struct):
    gateway: Annotated[str, Meta(max_length=200)]


def _gateway_of(records: bytes) -> str:
    return msgspec.json.decode(records, type=_Named).gateway


def _do(work: Work) -> KeyFacts:
    path = Path(work.path)
    if isinstance(work, ReadKey):
        return _public(load_key(path, any_owner=True), work.gateway)
    revokes = [Revocation(kid, last) for kid, last in work.revokes.items()]
    if isinstance(work, CreateKey):
        return _public(create_key(path, work.now_s, work.alg, work.token, work.lost, work.gateway, revokes))
    give_up_s = math.inf if work.give_up_s is None else work.give_up_s
    return _public(replace_key(path, work.gateway, work.now_s, work.alg, work.token, revokes, give_up_s)[1])


def _public(signer: Signer, gateway: str = "") -> KeyFacts:
    return KeyFacts(
        signer.kid, signer.alg, dict(signer.jwk), signer.not_before, signer.in_token,  # type: ignore[arg-type]
        records=(signer.records or b"").decode("utf-8", "replace"),
        published=current_records(signer, gateway).decode() if gateway else "",
    )  # fmt: skip


def main(fd: int) -> None:
    """Run the child process. It does the work that is pickled on standard input, and answers on the socket ``fd``."""
    with socket.socket(fileno=fd) as sock:
        sock.settimeout(ANSWER_S)
        try:
            found: Struct = _do(msgspec.json.decode(load(sys.stdin.buffer), type=Work))
            kind = FrameKind.DONE
        except GatewayError as error:
            found, kind = Failure(type(error).__name__, error.what, error.where, error.hint), FrameKind.FAILED
        sock.sendall(frame(kind, msgspec.json.encode(found)))
