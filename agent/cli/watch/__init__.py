"""`meterhouse watch`: what the running agent sees, on a full screen, in plain tables, or as JSON."""
