"""The verifier, its vectors, and hostile input."""
