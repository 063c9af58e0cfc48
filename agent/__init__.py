"""All that happens with readings: when to ask, sealing, keeping, delivering, verifying, the command line."""

__version__ = "0.1.0"
