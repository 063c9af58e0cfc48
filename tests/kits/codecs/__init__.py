"""One module for each meter protocol, with its pure functions for frames and values."""
