-- The current state of the changed packs of a batch. A pack that is not in the table packs any more was moved to the table forks, or its month was dropped
-- just now. ClickHouse keeps a dropped pack as it is, unless it has a finding.
-- The last column is the body, if a finding about the pack is gone and the pack was sent in an earlier batch: ClickHouse may lack its readings and figures.
SELECT s.name, c.seq, c.boot, c.from_ms, coalesce(p.to_ms, c.from_ms), p.due, coalesce(p.readings, 0),
  p.gaps, p.asleep, p.reasons, CASE WHEN k.moved THEN array['fork'] ELSE f.codes END, c.lot, extract(epoch FROM l.stored)::bigint,
  CASE WHEN c.back AND l.batch < %(batch)s AND f.codes IS NULL THEN p.body END
FROM (SELECT stream, seq, boot, from_ms, (array_agg(lot ORDER BY number))[1] AS lot, bool_or(back) AS back FROM changed_packs
  WHERE batch = %(batch)s GROUP BY 1, 2, 3, 4) c
JOIN streams s ON s.id = c.stream JOIN lots l ON l.lot = c.lot
LEFT JOIN packs p ON p.stream = c.stream AND p.seq = c.seq AND p.boot = c.boot AND p.from_ms = c.from_ms
CROSS JOIN LATERAL (SELECT array_agg(code ORDER BY code) AS codes FROM (
  SELECT unnest(p.faults) AS code UNION SELECT f.code FROM findings f WHERE f.stream = c.stream AND f.boot = c.boot AND f.seq IN (0, c.seq)) c) f
CROSS JOIN LATERAL (SELECT p.stream IS NULL AND EXISTS (SELECT FROM forks k
  WHERE k.stream = c.stream AND k.seq = c.seq AND k.boot = c.boot AND k.from_ms = c.from_ms) AS moved) k
WHERE p.stream IS NOT NULL OR k.moved OR f.codes IS NOT NULL
ORDER BY c.stream, c.seq, c.boot, c.from_ms
