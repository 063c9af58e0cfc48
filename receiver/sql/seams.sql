-- Check the seams on both sides of each new pack: that to the pack before it, and that to the pack after it. If two neighbours are in different lots, the
-- check of the later lot sees both packs. So the result does not depend on the order of the lots or on the number of workers.
WITH r AS (
  SELECT p.stream, p.seq, p.boot, p.prev_boot, p.from_ms, p.to_ms, p.prev, p.birth, p.signer, p.part, p.parts, p.is_birth, p.first, p.steps
  FROM new n JOIN packs p ON p.stream = n.stream AND p.seq = n.seq AND p.boot = n.boot AND p.from_ms = n.from_ms
  UNION
  SELECT p.stream, p.seq, p.boot, p.prev_boot, p.from_ms, p.to_ms, p.prev, p.birth, p.signer, p.part, p.parts, p.is_birth, p.first, p.steps
  FROM new n JOIN packs p ON p.stream = n.stream AND p.seq = n.seq + 1
  UNION -- the pack after a hole, if it names the pack before the hole as its predecessor
  SELECT p.stream, p.seq, p.boot, p.prev_boot, p.from_ms, p.to_ms, p.prev, p.birth, p.signer, p.part, p.parts, p.is_birth, p.first, p.steps
  FROM new n CROSS JOIN LATERAL (SELECT * FROM packs p WHERE p.stream = n.stream AND p.seq > n.seq ORDER BY p.seq LIMIT 1) p WHERE p.prev = n.hash
), judged AS (
  SELECT r.stream, r.seq, r.boot, CASE
    WHEN l.stream IS NULL THEN CASE WHEN r.prev = -- No pack has the previous sequence: the stream begins here, or there is a hole. If the pack names the pack before the hole, sequences were skipped.
      (SELECT h.hash FROM packs h WHERE h.stream = r.stream AND h.seq < r.seq ORDER BY h.seq DESC LIMIT 1) THEN 'chain' END
    WHEN r.prev IS DISTINCT FROM l.hash AND r.boot = l.boot THEN CASE WHEN NOT EXISTS
      (SELECT FROM forks f WHERE f.stream = r.stream AND f.seq = r.seq - 1 AND f.boot = r.boot AND f.hash = r.prev) THEN 'chain' END
    WHEN r.prev IS DISTINCT FROM l.hash THEN CASE WHEN
      (SELECT line FROM boots b WHERE b.stream = r.stream AND b.boot = r.boot) = (SELECT line FROM boots b WHERE b.stream = l.stream AND b.boot = l.boot)
      THEN 'conflict' END
    WHEN r.boot = l.boot AND r.first THEN 'chain'
    WHEN r.boot <> l.boot AND r.prev_boot IS DISTINCT FROM l.boot THEN 'chain'
    WHEN r.part > 1 AND (l.part IS DISTINCT FROM r.part - 1 OR l.parts IS DISTINCT FROM r.parts OR l.from_ms <> r.from_ms OR l.to_ms <> r.to_ms) THEN 'chain'
    WHEN coalesce(r.part, 1) = 1 AND l.part < l.parts THEN 'chain'
    WHEN coalesce(r.part, 1) = 1 AND r.from_ms <> l.to_ms AND NOT coalesce(
      l.to_ms IN (SELECT r.steps[i] FROM generate_subscripts(r.steps, 1) i WHERE i % 2 = 1)
      AND r.from_ms IN (SELECT r.steps[i] FROM generate_subscripts(r.steps, 1) i WHERE i % 2 = 0), false) THEN 'chain'
    WHEN NOT r.is_birth AND r.birth <> l.birth THEN 'chain'
    WHEN r.signer < l.signer THEN 'chain' END AS code
  FROM r LEFT JOIN LATERAL (
    SELECT * FROM packs l WHERE l.stream = r.stream AND l.seq = r.seq - 1 ORDER BY l.hash = r.prev DESC, l.boot = r.boot DESC LIMIT 1) l ON true
)
, gone AS ( -- delete findings that are not true any more, because the matching neighbour has arrived
  DELETE FROM findings f USING judged j WHERE f.stream = j.stream AND f.seq = j.seq AND f.boot = j.boot AND f.seq > 0
    AND f.code IN ('chain', 'conflict') AND f.code IS DISTINCT FROM j.code
)
INSERT INTO findings (stream, seq, boot, code)
SELECT stream, seq, boot, code FROM judged WHERE code IS NOT NULL
UNION SELECT stream, seq, boot, unnest(faults) FROM new WHERE faults IS NOT NULL
ON CONFLICT DO NOTHING
