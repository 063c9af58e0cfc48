"""`meterhouse handover`: makes the record of commissioning."""
