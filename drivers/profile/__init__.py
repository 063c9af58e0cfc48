"""Profiles: one TOML file a device family becomes checked points. The grammar is in docs/profiles.md."""

from drivers.model import Fresh
from drivers.profile.find import SITE_DIR, default_dirs, find_profile, list_profiles, shipped_dir
from drivers.profile.loader import load_profile
from drivers.profile.types import (
    Param,
    Profile,
    Resolved,
    Sample,
    SecondSource,
    Variant,
    concerned,
    select,
    swap_reversed,
)
from drivers.profile.vocabulary import Vocabulary, VocabularyEntry, vocabulary

__all__ = [
    "SITE_DIR",
    "Fresh",
    "Param",
    "Profile",
    "Resolved",
    "Sample",
    "SecondSource",
    "Variant",
    "Vocabulary",
    "VocabularyEntry",
    "concerned",
    "default_dirs",
    "find_profile",
    "list_profiles",
    "load_profile",
    "select",
    "shipped_dir",
    "swap_reversed",
    "vocabulary",
]
