"""The record of commissioning."""
