"""What the tests of several folders share.

house           a running agent as a process, with lines, meters and a broker around it; its end in order
broker          a real mosquitto and who listens to it; `until`, the wait for a state that is told
books           what came, held against what was served
faketime        the clock of an agent's process
lines           simulated serial and TCP lines, and what was sent on them
meters          M-Bus, DL/T 645 and CJ/T 188 devices on such lines
scans           buses to scan
raw_client      a Modbus client that sends what it is told to
packs           packs as the sealer makes them, for the store; signature made up
signed          packs with real signatures, for the verifier
folders         exported folders of such packs
hostile         bytes that want to cost a verifier time or memory
delivery        an uplink with an outbox in memory, and a real broker
fake_broker     a broker that misbehaves
ledger          packs of counters by hand, and the ledger that reads them
made_parks      streams made up at random, for ledgers
lived           days of a whole park, lived by a made-up clock
exports         a gateway at rest with packs to export
tokens          a PKCS#11 token
control, users  clients of the control socket, as real users
recorded        frames and registers of others (tests/data)
meter_cases     `meterhouse decode` in this process
kernel_reference, example_profile  slow truths, and a profile to break
faults          tools to break an agent with, and the books that are balanced afterwards
"""
