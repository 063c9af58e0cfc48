"""`meterhouse keys`: create, show, replace and revoke the key that signs readings."""
