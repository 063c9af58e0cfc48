"""Counters on their way into intervals."""
