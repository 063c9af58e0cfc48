-- The newest packs of a boot that have no faults and no findings. A finding with sequence 0 concerns all packs of the boot.
SELECT p.seq, p.boot, p.body FROM packs p JOIN lots l ON l.lot = p.lot
WHERE p.stream = %(stream)s AND p.boot = %(boot)s AND p.seq > %(after)s AND p.readings > 0 AND p.faults IS NULL AND p.due IS NOT NULL AND l.checked IS NOT NULL
  AND NOT EXISTS (SELECT FROM all_findings f WHERE f.stream = p.stream AND f.boot = p.boot AND f.seq IN (0, p.seq))
ORDER BY p.seq DESC LIMIT %(most)s
