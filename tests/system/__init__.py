"""The package in a Debian machine of its own."""
