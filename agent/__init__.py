"""The agent. It polls devices, seals their readings into packs, and stores, delivers and verifies the packs.

The command line is in ``agent.cli``."""

__version__ = "0.1.0"
