"""The gateway's page: a process of its own that reads ring, snapshot and control socket, and changes nothing."""
