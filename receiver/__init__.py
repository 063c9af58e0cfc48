"""The platform's side: workers judge packs one by one, PostgreSQL keeps them and checks the seams between them.

``worker`` takes packs from a broker (``sources``), ``checker`` checks each alone, ``store`` commits a batch, only then
is it acknowledged. ``keeper`` looks at what needs more than one pack: seams, parts, late births, revocations; it also
sends acks and asks for what is missing. No two of them share memory; any of them may be killed at any time.

Needs the extra ``platform`` (psycopg, pika). Nothing of the agent imports this package.
"""
