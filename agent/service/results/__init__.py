"""Computes results from committed packs: intervals, figures and balances. They are sealed in stream `_indicators`."""
