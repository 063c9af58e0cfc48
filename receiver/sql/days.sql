-- Add the new packs to the sums by day. Only sound packs with known completeness are added. day_of maps all days of implausible years to a single day.
INSERT INTO days (stream, day, packs, readings, due, gaps, asleep)
SELECT stream, day_of(from_ms), count(*), sum(readings), sum(due), sum(gaps), sum(asleep)
FROM new WHERE due IS NOT NULL AND faults IS NULL GROUP BY 1, 2 ORDER BY 1, 2
ON CONFLICT (stream, day) DO UPDATE SET packs = days.packs + excluded.packs, readings = days.readings + excluded.readings,
  due = days.due + excluded.due, gaps = days.gaps + excluded.gaps, asleep = days.asleep + excluded.asleep
