"""Device profiles and their samples."""
