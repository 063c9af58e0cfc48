"""Measurements. ``python -m bench`` runs them. Results are copied to RESULTS.md, with the machine and the date."""
