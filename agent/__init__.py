"""The agent: schedules polls; seals, stores, delivers and verifies readings; has the command line."""

__version__ = "0.1.0"
