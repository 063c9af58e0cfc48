"""Finds profiles in three places: the site's folder, the shipped folder, and the folders of third-party drivers.

If several folders have the same profile, the one in the site's folder is used. An upgrade does not change the site's
folder.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import firmware_profiles
from drivers.model import ProfileError
from drivers.registry import foreign_profiles
from drivers.toml import show

SITE_DIR = Path("/etc/meterhouse/profiles")
_ID = re.compile(r"[a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9-]*")


def shipped_dir() -> Path:
    """The folder of the profiles that are part of this version of the program."""
    return Path(firmware_profiles.__file__).parent


def default_dirs() -> tuple[Path, ...]:
    """The folders that are searched for profiles: first the site's folder, then the shipped folder."""
    return (SITE_DIR, shipped_dir())


def find_profile(id: str, search_dirs: Sequence[Path] | None = None) -> Path:
    """The file of the profile ``VENDOR/FAMILY``, from the first folder that has it.

    Raises:
        ProfileError: the id is malformed, or no folder has it. The error then suggests the nearest known id.
    """
    if not _ID.fullmatch(id):
        raise ProfileError(
            f"invalid profile id {show(id)}", where="profile", hint="Write VENDOR/FAMILY, such as eastron/sdm630"
        )
    dirs = default_dirs() if search_dirs is None else search_dirs
    for folder in dirs:
        path = folder / f"{id}.toml"
        if path.is_file():
            return path
    for folder in foreign_profiles():
        if (path := folder / f"{id}.toml").is_file():
            return path
    known = list(list_profiles(dirs))
    near = difflib.get_close_matches(id, known, n=1, cutoff=0.5)
    family = [k for k in known if k.rpartition("/")[2] == id.rpartition("/")[2]]
    hint = (
        f'Did you mean "{(family or near)[0]}"?' if family or near else "`meterhouse profiles list` shows all profiles"
    )
    raise ProfileError(f"no profile {show(id)} in {', '.join(str(d) for d in dirs)}", where="profile", hint=hint)


def list_profiles(dirs: Sequence[Path] | None = None) -> dict[str, Path]:
    """All profile ids with their files, sorted by id. If two folders have the same id, the file in the first folder is
    used.

    The profiles that came with third-party drivers are always included.
    """
    result: dict[str, Path] = {}
    for folder in (*(default_dirs() if dirs is None else dirs), *foreign_profiles()):
        for path in sorted(folder.glob("*/*.toml")):
            id = f"{path.parent.name}/{path.stem}"
            if _ID.fullmatch(id):
                result.setdefault(id, path)
    return dict(sorted(result.items()))
