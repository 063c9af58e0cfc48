-- Delete published values that must not be shown any more, because the gateway is no longer trusted, or because a pack that the values name has a finding.
DELETE FROM latest l USING streams s WHERE s.id = l.stream AND (
  NOT EXISTS (SELECT FROM pins p WHERE p.gateway = s.gateway)
  OR EXISTS (SELECT FROM findings f CROSS JOIN LATERAL jsonb_each(l.points) p
    WHERE f.stream = l.stream AND (%(all)s OR f.found > now() - interval '1 hour') AND split_part(p.value ->> 'pack', '/', 1) = lpad(to_hex(f.boot), 16, '0')
      AND (f.seq = 0 OR f.seq::text = split_part(p.value ->> 'pack', '/', 2))))
RETURNING s.name
