"""The fleet's page: from a table of all gateways down to the packs behind a figure. It only reads the databases."""
