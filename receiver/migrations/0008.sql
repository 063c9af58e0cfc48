-- The time at which a pack of the boot was sent again, because its ack was lost: the keeper looks for new acks at this boot. It is not in the column changed,
-- because an old pack is no activity of the boot.
ALTER TABLE boots ADD again timestamptz;
CREATE INDEX ON boots (again) WHERE again IS NOT NULL;

-- An ack that nobody can send is deleted after some time: perhaps no keeper has a broker. If the gateway sends the pack again, the ack is due again.
ALTER TABLE acks_due ADD at timestamptz NOT NULL DEFAULT now();

-- Boots of which a finding with sequence 0 came or went, so that ClickHouse needs the new state of all their packs. Each batch takes some of these packs into
-- changed_packs, because a boot may have millions of them.
CREATE TABLE changed_boots (
  stream bigint NOT NULL, boot bigint NOT NULL,
  after bigint NOT NULL DEFAULT 0,      -- the packs up to this sequence are in batches already
  back boolean NOT NULL DEFAULT false,  -- as in changed_packs
  PRIMARY KEY (stream, boot));

CREATE OR REPLACE FUNCTION note_found_packs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM clickhouse) THEN
    INSERT INTO changed_packs (stream, seq, boot, from_ms, lot, back)
    SELECT DISTINCT p.stream, p.seq, p.boot, p.from_ms, p.lot, TG_OP = 'DELETE' FROM found f JOIN packs p ON p.stream = f.stream AND p.seq = f.seq AND p.boot = f.boot;
    INSERT INTO changed_boots (stream, boot, back)
    SELECT DISTINCT b.stream, b.boot, TG_OP = 'DELETE' FROM found f JOIN boots b ON f.seq = 0 AND b.stream = f.stream AND b.boot = f.boot ORDER BY 1, 2
    ON CONFLICT (stream, boot) DO UPDATE SET after = 0, back = changed_boots.back OR excluded.back;
  END IF;
  RETURN NULL;
END $$;
