-- The current state of the changed packs of a batch. A pack that is not in the table packs any more was moved to the table forks.
SELECT DISTINCT ON (c.stream, c.seq, c.boot, c.from_ms) s.name, c.seq, c.boot, c.from_ms, coalesce(p.to_ms, c.from_ms), p.due, coalesce(p.readings, 0),
  p.gaps, p.asleep, p.reasons, CASE WHEN p.stream IS NULL THEN array['fork'] ELSE p.faults END, c.lot, extract(epoch FROM l.stored)::bigint, NULL
FROM changed_packs c JOIN streams s ON s.id = c.stream JOIN lots l ON l.lot = c.lot
LEFT JOIN packs p ON p.stream = c.stream AND p.seq = c.seq AND p.boot = c.boot AND p.from_ms = c.from_ms
WHERE c.batch = %s ORDER BY c.stream, c.seq, c.boot, c.from_ms, c.number
