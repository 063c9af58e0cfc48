"""`meterhouse doctor`: checks the machine on which the agent runs, and makes an archive for support."""
