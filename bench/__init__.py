"""Measurements. ``python -m bench`` runs them; results are copied into RESULTS.md with machine and date."""
