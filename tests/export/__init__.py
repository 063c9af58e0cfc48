"""Exports of a running and of a stopped agent."""
