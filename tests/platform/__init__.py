"""The platform's side: PostgreSQL of our own, real brokers. ``make test-platform``."""
