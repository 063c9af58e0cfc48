"""The platform: it receives the packs of many gateways, verifies them and keeps them in PostgreSQL.

``worker`` takes packs from a broker (``sources``), ``checker`` checks each pack alone, ``store`` commits a batch. The
batch is acknowledged only after the commit. ``keeper`` checks everything that involves several packs: the seams between
neighbours, ticks in several parts, late births, revoked keys. It also sends acks and requests missing packs. Workers
and keepers share no memory, and each may be killed at any time.

Needs the extra ``platform`` (psycopg, pika). The agent imports nothing from this package.
"""
