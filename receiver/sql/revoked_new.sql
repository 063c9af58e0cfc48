-- Mark new packs that were signed with a revoked key. They were accepted by a worker that did not have the newest keys yet.
WITH bad AS (
  UPDATE new n SET faults = array_append(coalesce(n.faults, '{}'), 'revoked')
  FROM streams s JOIN gateways g ON g.name = s.gateway CROSS JOIN LATERAL jsonb_each(g.revoked) k
  WHERE g.revoked IS NOT NULL AND s.id = n.stream AND n.signer = k.key::bigint AND n.seq > coalesce((k.value ->> s.name)::bigint, 0)
  RETURNING n.stream, n.seq, n.boot, n.from_ms, n.faults
)
UPDATE packs p SET faults = bad.faults FROM bad
WHERE p.stream = bad.stream AND p.seq = bad.seq AND p.boot = bad.boot AND p.from_ms = bad.from_ms
