"""The agent's own parts: decimals, pollers, packs."""
