"""Profiles: turns the TOML file of a device family into checked points. The file format is described in
docs/profiles.md.
"""

from drivers.profile.find import default_dirs, find_profile, list_profiles, shipped_dir
from drivers.profile.loader import load_profile
from drivers.profile.types import Profile, Resolved, Sample, SecondSource, concerned, select
from drivers.profile.vocabulary import vocabulary

__all__ = [
    "Profile",
    "Resolved",
    "Sample",
    "SecondSource",
    "concerned",
    "default_dirs",
    "find_profile",
    "list_profiles",
    "load_profile",
    "select",
    "shipped_dir",
    "vocabulary",
]
