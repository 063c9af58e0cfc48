"""The running agent, as a process."""
