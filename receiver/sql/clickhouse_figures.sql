-- The figures of the packs in some lots, and of changed packs about which a finding is gone (their last column is true: ClickHouse may have them already).
-- Packs with a fault or a finding are left out. A time outside of the range of its column in ClickHouse is set to the nearest bound of this range.
WITH sent AS (
  SELECT stream, seq, boot, from_ms, lot, false AS back FROM packs WHERE lot = ANY(%(lots)s)
  UNION ALL SELECT DISTINCT c.stream, c.seq, c.boot, c.from_ms, c.lot, true FROM changed_packs c JOIN lots l ON l.lot = c.lot
  WHERE c.batch = %(batch)s AND c.back AND l.batch < %(batch)s
)
SELECT s.gateway, f.kind, f.id, f.period, f.label, (greatest(0, least(f.from_ms, 10413791999999)) / 1000.0)::float8, (greatest(0, least(f.to_ms, 10413791999999)) / 1000.0)::float8,
  f.v::float8, coalesce(f.v::text, ''), coalesce(f.u, ''), f.completeness::float8, coalesce(f.verdict, ''), f.official, f.seq, f.boot,
  extract(epoch FROM l.stored)::bigint, f.result::text, n.back
FROM sent n JOIN packs p ON p.stream = n.stream AND p.seq = n.seq AND p.boot = n.boot AND p.from_ms = n.from_ms AND p.lot = n.lot
JOIN lots l ON l.lot = p.lot JOIN streams s ON s.id = p.stream JOIN figures f ON f.stream = p.stream AND f.seq = p.seq AND f.boot = p.boot
WHERE p.faults IS NULL AND s.name LIKE '%%/\_indicators'
  AND NOT EXISTS (SELECT FROM findings c WHERE c.stream = p.stream AND c.boot = p.boot AND c.seq IN (0, p.seq))
ORDER BY p.stream, f.kind, f.id, f.period, f.from_ms, f.seq, f.boot
