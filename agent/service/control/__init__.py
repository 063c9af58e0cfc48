"""The control socket, on which the agent serves requests: a Unix socket in the runtime directory."""
