"""`meterhouse keys`: creates, shows, replaces and revokes the key that signs readings."""
