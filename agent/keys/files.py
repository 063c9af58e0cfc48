"""Creates, rotates and reads key files. A key file holds a PEM (PKCS 8) or the URI of a key in a token.

Only the owner of a key file may read it. Lines before the key give the key's creation time and, after a rotation, the
signed records of all keys so far. The records are in the same file for two reasons: a systemd credential then includes
them, and a rotation replaces key and records atomically.
"""

from __future__ import annotations

import binascii
import contextlib
import math
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.keys.key_records import Revocation, check_key_records, current_records, key_records, new_root
from agent.keys.secret import MAX_BYTES, read_open_secret, read_secret
from agent.keys.signer import KeyFileError, SecretKey, Signer, SoftEd25519, SoftES256
from agent.verify.jws import thumbprint
from drivers.files import remove, try_lock, write_draft

ED25519, ES256 = "Ed25519", "ES256"
# an Ed25519 key as PKCS 8 (RFC 8410): 48 bytes, of which the last 32 are the secret
_OWN_HEAD = bytes.fromhex("302e020100300506032b657004220420")
_OWN_PEM = re.compile(rb"-----BEGIN PRIVATE KEY-----\n([A-Za-z0-9+/]{64})\n-----END PRIVATE KEY-----\n?")
_SINCE, _RECORDS, _TOKEN = b"not_before: ", b"records: ", b"pkcs11:"

LOST = "the signing key is missing, although this gateway has signed with it"
RESTORE = (
    "Restore the file with mode 0600 and with the user of the agent as its owner: the agent does not start without this"
    " file. If the file is lost, run `meterhouse keys create --lost OLD_THUMBPRINT`; every verifier must then pin the"
    " new thumbprint"
)


# --- creating and replacing key files


def create_key(
    path: Path,
    now_s: int,
    alg: str = ED25519,
    token: str = "",
    lost: str = "",
    gateway: str = "",
    revokes: Sequence[Revocation] = (),
) -> Signer:
    """Create a key in a new file of mode 0600. The file is written atomically; an existing file is never overwritten.

    Args:
        token: URI (RFC 7512) of a key in a token. The file then holds this URI. A missing key is created in the
            token.
        lost: thumbprint of the lost key that the new key replaces; requires ``gateway``.

    Raises:
        KeyFileError: the file already exists, or cannot be written.
    """
    if os.path.exists(path):
        raise _exists(path)
    key, body = _new(alg, token)
    signer = Signer(key, now_s)
    if lost:
        signer.records = new_root(signer, gateway, lost, revokes)
    with _opened_folder(path) as folder:
        draft = _draft(path, folder, _text(signer, body), None)
        try:
            os.link(
                draft, path.name, src_dir_fd=folder, dst_dir_fd=folder
            )  # link is used because rename would overwrite an existing file
        except FileExistsError as error:
            raise _exists(path) from error
        except OSError as error:
            raise _unwritable(path, error) from error
        finally:
            remove(draft, folder)
        os.fsync(folder)
    return signer


def rotate_key(
    path: Path,
    gateway: str,
    now_s: int,
    alg: str = "",
    token: str = "",
    revokes: Sequence[Revocation] = (),
    give_up_s: float = math.inf,
) -> tuple[Signer, Signer]:
    """Replace the key at ``path``. The old key signs the record of the new key. Returns the old and the new key.

    The file is replaced atomically and keeps its owner and mode. The old secret is then deleted, but its bytes can
    stay on the disk until the disk overwrites them.

    Args:
        gateway: full name of the gateway, such as ``park7/gw01``.
        alg: algorithm of the new key; by default the algorithm of the old key.
        token: URI of the new key, if it is in a token.
        revokes: keys that this rotation revokes, including the old key if it was stolen.
        give_up_s: deadline in seconds of monotonic time. After the deadline nothing is replaced, because ``revokes`` is
            outdated then.

    Raises:
        KeyFileError: the old key cannot be read, the file cannot be written, or the deadline has passed.
    """
    path = Path(os.path.realpath(path))
    with _opened_folder(path) as folder, _locked(path, folder) as file:
        old = _signer(*read_open_secret(file, path, any_owner=True), path)
        if old.in_token and not (token or alg):
            hint = (
                "To change to another key in a token, add --pkcs11 URI. "
                "To change to a new key in the key file, add --alg ed25519"
            )
            raise KeyFileError(
                "the current key is in a token: give --pkcs11 or --alg for the new key", where=str(path), hint=hint
            )
        before = current_records(old, gateway)
        key, body = _new(alg or old.alg, token)
        new = Signer(key, now_s)
        if new.kid == old.kid:
            raise KeyFileError(
                "this key is already the signing key", where=token, hint="Give the URI of another key in the token"
            )
        new.records = key_records(new, gateway, before, old, revokes=revokes)
        check_key_records(new.records, gateway)  # never install records that a verifier would refuse
        draft = _draft(path, folder, _text(new, body), os.fstat(file))
        try:
            if time.monotonic() > give_up_s:
                raise KeyFileError(
                    "creating the new key took too long", where=str(path), hint="Nothing was changed; try again"
                )
            os.rename(draft, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            raise _unwritable(path, error) from error
        finally:
            remove(draft, folder)
        os.fsync(folder)
    return old, new


def _new(alg: str, token: str) -> tuple[SecretKey, bytes]:
    """Create a key. Returns the key and its text for the key file."""
    if token:
        from agent.keys.token import TokenKey

        key = TokenKey(token, make=True)
        return key, key.uri.encode() + b"\n"
    while True:
        soft, body = _new_soft(alg)
        # commands would mistake a thumbprint that begins with "-" for an option
        if not thumbprint(soft.jwk).startswith("-"):
            return soft, body


def _new_soft(alg: str) -> tuple[SecretKey, bytes]:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    how = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    if alg == ES256:
        from cryptography.hazmat.primitives.asymmetric import ec

        curve = ec.generate_private_key(ec.SECP256R1())
        return SoftES256(curve), curve.private_bytes(*how)
    edwards = Ed25519PrivateKey.generate()
    return SoftEd25519(edwards), edwards.private_bytes(*how)


def _text(signer: Signer, body: bytes) -> bytes:
    made = datetime.fromtimestamp(signer.not_before, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    keep = b"Keep it secret." if body.startswith(b"-----") else b"The key itself is in the token that this names."
    text = b"meterhouse signing key of %s. %s\n%s%d\n" % (made, keep, _SINCE, signer.not_before)
    if signer.records is not None:
        text += _RECORDS + signer.records + b"\n"
    return text + body


def _draft(path: Path, folder: int, text: bytes, like: os.stat_result | None) -> str:
    """Write ``text`` durably to a hidden file in the folder of ``path``. Returns the name of the hidden file.

    The file gets the owner and mode of ``like``. Without ``like``, the mode is 0600, and root gives the file to the
    owner of the folder, because the state directory belongs to the agent's user.
    """
    if len(text) > MAX_BYTES:
        what = f"the key file would have {len(text)} bytes, but at most {MAX_BYTES} are allowed"
        raise KeyFileError(what, where=str(path), hint="Nothing was changed. The key file lists too many revocations")
    owner = os.fstat(folder) if like is None and os.geteuid() == 0 else like
    mode = 0o600 if like is None else stat.S_IMODE(like.st_mode)
    draft = f".{path.name}.{os.getpid()}.new"
    try:
        write_draft(draft, text, mode, folder, like=owner)
    except OSError as error:
        raise _unwritable(path, error) from error
    return draft


@contextlib.contextmanager
def _opened_folder(path: Path) -> Iterator[int]:
    """Open the folder of ``path`` and yield its descriptor, so that all steps use this folder even if it is renamed."""
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _locked(path: Path, folder: int) -> Iterator[int]:
    """Open and lock the key file, and yield its descriptor. Also removes drafts that a killed process left behind.

    The lock is on the file, not on its folder, because other users could open the folder and hold its lock.
    """
    while True:
        fd = _open_itself(path, folder)
        try:
            if not try_lock(fd):
                hint = "Check the result with `meterhouse keys show`"
                raise KeyFileError("another process is replacing this key", where=str(path), hint=hint)
            if not _is_still(path, folder, fd):
                continue  # another process replaced the file before we locked it, so try again with the new file
            for left in os.listdir(folder):
                if left.startswith(f".{path.name}.") and left.endswith(".new"):
                    remove(left, folder)
            yield fd
            return
        finally:
            os.close(fd)


def _open_itself(path: Path, folder: int) -> int:
    try:
        return os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise KeyFileError(f"the signing key cannot be opened ({error.strerror})", where=str(path)) from error


def _is_still(path: Path, folder: int, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path.name, dir_fd=folder, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _exists(path: Path) -> KeyFileError:
    return KeyFileError(
        "the file already exists, and a key is never overwritten",
        where=str(path),
        hint="`meterhouse keys show` shows the key, `meterhouse keys rotate` replaces the key with a successor",
    )


def _unwritable(path: Path, error: OSError) -> KeyFileError:
    hint = (
        f"Make the folder {path.parent} first"
        if isinstance(error, FileNotFoundError)
        else "Run the command as root, or choose another folder"
    )
    return KeyFileError(f"the key cannot be written here ({error.strerror})", where=str(path), hint=hint)


# --- reading key files


def load_key(path: Path, any_owner: bool = False) -> Signer:
    """Load the key from a PEM file or systemd credential, or from the token that the file names.

    Args:
        any_owner: let root read a key that belongs to another user. Only for tools: the agent must own its key.

    Raises:
        KeyFileError: the file is missing, other users may read it, its key has a passphrase, or the key is neither
            Ed25519 nor P-256.
    """
    return _signer(*read_secret(path, any_owner=any_owner), path)


def is_lost(path: Path, store: Path) -> bool:
    """True if the key file is missing although a database exists. The gateway has then already signed with the key."""
    return not os.path.exists(path) and os.path.exists(store)


def load_own_key(path: Path, store: Path) -> Signer:
    """Load the signing key of the gateway whose database is ``store``. Raises KeyFileError."""
    if is_lost(path, store):
        raise KeyFileError(LOST, where=str(path), hint=RESTORE)
    return load_key(path)


def _signer(text: bytes, owner: int, path: Path) -> Signer:
    head, begin, _ = text.partition(b"-----BEGIN")
    lines = head.splitlines()
    if not begin and (uri := next((line for line in lines if line.startswith(_TOKEN)), b"")):
        if os.geteuid() == 0 and owner != 0:  # root must not run a library that another user chose
            raise KeyFileError(
                f"the key file belongs to user {owner} and names a PKCS#11 library: root does not load a library"
                " that another user chose",
                where=str(path),
                hint=f"Run the command as user {owner}, `sudo -u '#{owner}' ...`, or move the file to a folder that "
                f"belongs to user {owner}",
            )
        from agent.keys.token import TokenKey

        key: SecretKey = TokenKey(uri.decode("utf-8", "replace").strip(), where=str(path))
    else:
        key = _soft_key(text, path)
    return Signer(key, _not_before(lines), _records(lines))


def _soft_key(text: bytes, path: Path) -> SecretKey:
    # what `meterhouse keys create` writes is read here: the library would import its modules for keys of all kinds,
    # which take 1.5 MB in a running agent
    if form := _OWN_PEM.fullmatch(text, max(0, text.find(b"-----BEGIN"))):
        der = binascii.a2b_base64(form[1])
        if der.startswith(_OWN_HEAD):
            return SoftEd25519(Ed25519PrivateKey.from_private_bytes(der[len(_OWN_HEAD) :]))
    return _foreign_key(text, path)


def _foreign_key(text: bytes, path: Path) -> SecretKey:
    """Read a PEM that another tool may have made, or a key on P-256."""
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key: object = load_pem_private_key(text, password=None)
    except TypeError as error:
        raise KeyFileError(
            "the key has a passphrase, which cannot be entered when a service starts",
            where=str(path),
            hint="Use a systemd credential (LoadCredentialEncrypted=) to keep the key encrypted on disk",
        ) from error
    except (ValueError, InternalError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            "this is not a private key in PEM form", where=str(path), hint="Create a key with `meterhouse keys create`"
        ) from error
    if isinstance(key, Ed25519PrivateKey):
        return SoftEd25519(key)
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
    )  # imported here because it is rarely needed

    if isinstance(key, EllipticCurvePrivateKey) and key.curve.name == "secp256r1":
        return SoftES256(key)
    raise KeyFileError(
        f"a key of type {type(key).__name__} cannot sign packs",
        where=str(path),
        hint="Use Ed25519 (`meterhouse keys create`) or ECDSA on P-256",
    )


def _not_before(lines: Sequence[bytes]) -> int:
    for line in lines:
        if line.startswith(_SINCE):
            with contextlib.suppress(ValueError):
                return max(0, int(line[len(_SINCE) :]))
    return 0  # another tool made the key and wrote no creation time, so the key counts as valid from the beginning


def _records(lines: Sequence[bytes]) -> bytes | None:
    return next((line[len(_RECORDS) :].strip() for line in lines if line.startswith(_RECORDS)), None)
