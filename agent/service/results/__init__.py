"""Computes results from committed packs: intervals, figures and balances.

Results are sealed in the stream `_indicators`.
"""
