"""`meterhouse watch`: shows live values of the running agent on a full screen, in plain tables, or as JSON."""
