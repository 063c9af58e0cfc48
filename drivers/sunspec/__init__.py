"""SunSpec over Modbus: finds the models of a device and decodes them by the Alliance's own definitions."""
