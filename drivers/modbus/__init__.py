"""Modbus over TCP and RTU: reads only, planned by wire time, decoded straight into the ring."""
