-- The time at which a pack of the boot was sent again, because its ack was lost: the keeper looks for new acks at this boot. It is not in the column changed,
-- because an old pack is no activity of the boot.
ALTER TABLE boots ADD again timestamptz;
CREATE INDEX ON boots (again) WHERE again IS NOT NULL;

-- An ack that nobody can send is deleted after some time: perhaps no keeper has a broker. If the gateway sends the pack again, the ack is due again.
ALTER TABLE acks_due ADD at timestamptz NOT NULL DEFAULT now();
