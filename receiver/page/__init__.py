"""The fleet's page: a table of gateways, down to the packs of a figure. Reads the databases and changes nothing."""
