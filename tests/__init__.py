"""Tests. `kits` holds what several folders share; docs/contributing.md says how to run one."""
