"""Measurements. ``python -m bench`` runs them. Their results are copied to RESULTS.md, with the machine and the
date.
"""
