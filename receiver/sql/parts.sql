SELECT p.stream, p.seq, p.boot, p.from_ms, p.body, s.gateway, t.value FROM packs p JOIN streams s ON s.id = p.stream JOIN gateways g ON g.name = s.gateway
JOIN births b ON b.hash = p.birth JOIN point_tables t ON t.hash = b.points
WHERE p.stream = %s AND p.boot = %s AND p.seq - p.part = %s AND p.due IS NULL AND p.part IS NOT NULL ORDER BY p.seq FOR UPDATE OF p
