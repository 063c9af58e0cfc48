"""Results computed from committed packs: intervals, indicators and balances, sealed in the stream `_indicators`."""
