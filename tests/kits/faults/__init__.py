"""Tools to break an agent with, and the books that are balanced afterwards."""
