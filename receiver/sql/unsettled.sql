SELECT p.stream, p.seq, p.boot, p.from_ms, p.body, s.gateway, t.value FROM packs p JOIN streams s ON s.id = p.stream JOIN gateways g ON g.name = s.gateway
JOIN births b ON b.hash = p.birth JOIN point_tables t ON t.hash = b.points
WHERE p.due IS NULL AND p.part IS NULL ORDER BY p.stream, p.boot, p.from_ms LIMIT %s FOR UPDATE OF p SKIP LOCKED
