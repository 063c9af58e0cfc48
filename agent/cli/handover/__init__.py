"""`meterhouse handover`: the record of commissioning."""
