"""The pure functions of each meter protocol under one name: frames and values."""
