"""The gateway's page, served by a separate process. It reads ring, snapshot and control socket, and changes nothing."""
