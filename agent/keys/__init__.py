"""Creates, stores, checks and rotates the key that signs packs, and makes the signed records of its public half."""

from agent.keys.files import LOST, RESTORE, create_key, is_lost, load_key, load_own_key, rotate_key
from agent.keys.key_records import (
    KeyChain,
    Revocation,
    check_key_records,
    current_records,
    is_sound,
    key_records,
    new_root,
    signed_by,
)
from agent.keys.signer import KeyFileError, SecretKey, Signer, SoftEd25519, SoftES256
from agent.verify.jws import TYP_CHECKPOINT, TYP_KEYS, TYP_PACK, thumbprint

__all__ = [
    "LOST",
    "RESTORE",
    "TYP_CHECKPOINT",
    "TYP_KEYS",
    "TYP_PACK",
    "KeyChain",
    "KeyFileError",
    "Revocation",
    "SecretKey",
    "Signer",
    "SoftES256",
    "SoftEd25519",
    "check_key_records",
    "create_key",
    "current_records",
    "is_lost",
    "is_sound",
    "key_records",
    "load_key",
    "load_own_key",
    "new_root",
    "rotate_key",
    "signed_by",
    "thumbprint",
]
