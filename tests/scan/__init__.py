"""Finding devices on a line."""
