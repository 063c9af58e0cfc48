-- Find all packs of a gateway that a revoked key signed after its last trusted sequence. Mark them, add findings, and subtract them from the sums.
WITH bad AS (
  UPDATE packs p SET faults = array_append(coalesce(p.faults, '{}'), 'revoked')
  FROM streams s JOIN gateways g ON g.name = s.gateway CROSS JOIN LATERAL jsonb_each(g.revoked) k
  WHERE g.name = %(gateway)s AND p.stream = s.id AND p.signer = k.key::bigint AND p.seq > coalesce((k.value ->> s.name)::bigint, 0)
    AND NOT coalesce('revoked' = ANY(p.faults), false)
  RETURNING p.stream, p.seq, p.boot, p.from_ms, p.readings, p.due, p.gaps, p.asleep, p.reasons, cardinality(p.faults) = 1 AS was_sound, p.lot
), counted AS (
  SELECT b.*, day_of(b.from_ms) AS day FROM bad b JOIN lots l ON l.lot = b.lot
  WHERE b.was_sound AND b.due IS NOT NULL AND l.checked IS NOT NULL
), less AS (
  SELECT stream, day, count(*) AS packs, sum(readings) AS readings, sum(due) AS due, sum(gaps) AS gaps, sum(asleep) AS asleep FROM counted GROUP BY 1, 2
), less_gaps AS (
  SELECT stream, day, r.key AS reason, sum(r.value::bigint) AS readings FROM counted, jsonb_each_text(reasons) r WHERE reasons IS NOT NULL GROUP BY 1, 2, 3
), a AS (
  UPDATE days d SET packs = d.packs - less.packs, readings = d.readings - less.readings, due = d.due - less.due, gaps = d.gaps - less.gaps, asleep = d.asleep - less.asleep
  FROM less WHERE d.stream = less.stream AND d.day = less.day
), b AS (
  UPDATE gap_days d SET readings = d.readings - g.readings FROM less_gaps g WHERE d.stream = g.stream AND d.day = g.day AND d.reason = g.reason
)
INSERT INTO findings (stream, seq, boot, code) SELECT stream, seq, boot, 'revoked' FROM bad ON CONFLICT DO NOTHING
