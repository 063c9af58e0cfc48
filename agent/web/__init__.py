"""The gateway's page: a separate process that reads the ring, the snapshot and the control socket. It is read-only."""
