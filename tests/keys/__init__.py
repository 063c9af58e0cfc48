"""Signing keys, their records and tokens."""
