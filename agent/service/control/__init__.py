"""The agent's only listener: a Unix socket in the runtime directory, and the kinds of requests that it serves."""
