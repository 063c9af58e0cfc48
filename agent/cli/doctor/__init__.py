"""`meterhouse doctor`: the machine that the agent runs on, and an archive for support."""
