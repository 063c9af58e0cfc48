"""The control socket: frames, users, leases."""
