SELECT s.name, p.seq, p.boot, p.from_ms, p.to_ms, p.due, p.readings, p.gaps, p.asleep, p.reasons, p.faults, p.lot, extract(epoch FROM l.stored)::bigint,
  CASE WHEN p.faults IS NULL AND p.readings > 0 THEN p.body END
FROM packs p JOIN streams s ON s.id = p.stream JOIN lots l ON l.lot = p.lot WHERE p.lot = ANY(%s)
ORDER BY p.lot, p.stream, p.seq, p.boot, p.from_ms
