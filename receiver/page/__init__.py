"""The fleet's page. It leads from a table of all gateways to the packs behind a figure, and only reads the
databases.
"""
