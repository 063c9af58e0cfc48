-- The packs of some lots, with the codes of their faults and findings. Only a pack without a code has its body. A finding with sequence 0 concerns all packs
-- of its boot.
SELECT s.name, p.seq, p.boot, p.from_ms, p.to_ms, p.due, p.readings, p.gaps, p.asleep, p.reasons, f.codes, p.lot, extract(epoch FROM l.stored)::bigint,
  CASE WHEN f.codes IS NULL AND p.readings > 0 THEN p.body END
FROM packs p JOIN streams s ON s.id = p.stream JOIN lots l ON l.lot = p.lot
CROSS JOIN LATERAL (SELECT array_agg(code ORDER BY code) AS codes FROM (
  SELECT unnest(p.faults) AS code UNION SELECT f.code FROM findings f WHERE f.stream = p.stream AND f.boot = p.boot AND f.seq IN (0, p.seq)) c) f
WHERE p.lot = ANY(%s)
ORDER BY p.lot, p.stream, p.seq, p.boot, p.from_ms
