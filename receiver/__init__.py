"""The platform. It receives the packs of many gateways, verifies them and keeps them in PostgreSQL.

- ``worker`` takes packs from a broker (``sources``). ``checker`` checks each pack alone, and ``store`` commits a batch
  of packs. The batch is acknowledged to the broker only after the commit.
- ``keeper`` checks everything that involves several packs: the seams between neighbours, ticks in several parts, late
  births, revoked keys. It also sends acks to the gateways and requests missing packs.

Workers and keepers share no memory. Each of them may be killed at any time.

Needs the extra ``platform`` (psycopg, pika). The agent imports nothing from this package.
"""
