-- The figures of the packs in some lots. A time outside of the range of its column in ClickHouse is set to the nearest bound of this range.
SELECT s.gateway, f.kind, f.id, f.period, f.label, (greatest(0, least(f.from_ms, 10413791999999)) / 1000.0)::float8, (greatest(0, least(f.to_ms, 10413791999999)) / 1000.0)::float8,
  f.v::float8, coalesce(f.v::text, ''), coalesce(f.u, ''), f.completeness::float8, coalesce(f.verdict, ''), f.official, f.seq, f.boot,
  extract(epoch FROM l.stored)::bigint, f.result::text
FROM packs p JOIN lots l ON l.lot = p.lot JOIN streams s ON s.id = p.stream JOIN figures f ON f.stream = p.stream AND f.seq = p.seq AND f.boot = p.boot
WHERE p.lot = ANY(%s) AND p.faults IS NULL AND s.name LIKE '%%/\_indicators'
ORDER BY p.stream, f.kind, f.id, f.period, f.from_ms, f.seq, f.boot
