-- Births of which only the retained copy was received, because the gateway published them before the platform started.
CREATE TABLE birth_copies (hash uuid PRIMARY KEY, stream bigint NOT NULL, body bytea NOT NULL);

-- Further pages of checkpoints that are kept as evidence. Such a page contradicts the stored page of the same checkpoint, or it is not the predecessor that
-- the next checkpoint names, or it has a head that a later checkpoint lowers.
CREATE TABLE checkpoint_twins (gateway text NOT NULL, hash uuid NOT NULL, body bytea NOT NULL, PRIMARY KEY (gateway, hash));

-- The newest checkpoint of each gateway. torn: number of its pages that were not received. Checkpoints younger than five minutes are left out, because
-- a gateway publishes the pages one after the other.
CREATE VIEW torn_checkpoints AS
SELECT c.gateway, c.time_ms, c.pages - (SELECT count(*) FROM checkpoints o WHERE o.gateway = c.gateway AND o.signer = c.signer AND o.counter = c.counter) AS torn
FROM (SELECT DISTINCT ON (gateway) * FROM checkpoints ORDER BY gateway, signer DESC, counter DESC) c
WHERE c.time_ms + 300000 <= extract(epoch FROM now()) * 1000;

-- The view of 0001.sql without some readings: those of packs that have a finding, such as a broken seam, a fork or a clone.
CREATE OR REPLACE VIEW readings AS
SELECT s.gateway, s.name AS stream, r.point, to_timestamp((b.from_ms + r.after_ms) / 1000.0) AS at, r.v AS value, l.units[r.place] AS unit,
  b.other -> r.place::text ->> 'q' AS quality, b.other -> r.place::text ->> 'x' AS exact, b.other -> r.place::text ->> 'vs' AS text, b.seq
FROM reading_blocks b JOIN streams s ON s.id = b.stream JOIN layouts l ON l.hash = b.layout
CROSS JOIN LATERAL unnest(l.points, b.after_ms, b.v) WITH ORDINALITY AS r (point, after_ms, v, place)
WHERE EXISTS (SELECT FROM packs p WHERE p.stream = b.stream AND p.seq = b.seq AND p.boot = b.boot AND p.from_ms = b.from_ms AND p.faults IS NULL)
  AND NOT EXISTS (SELECT FROM findings f WHERE f.stream = b.stream AND f.seq = b.seq AND f.boot = b.boot);
