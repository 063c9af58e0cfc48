"""Configuration files, good and bad."""
