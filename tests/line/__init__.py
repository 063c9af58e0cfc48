"""Lines: serial, TCP, UDP."""
