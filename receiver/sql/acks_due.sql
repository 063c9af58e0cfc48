SELECT s.gateway, coalesce(g.ack_lists, false), s.name, a.stream, a.boot, a.seq, a.hash
FROM acks_due a JOIN streams s ON s.id = a.stream LEFT JOIN statuses g ON g.gateway = s.gateway
ORDER BY s.gateway, a.stream, a.boot, a.seq LIMIT %s
