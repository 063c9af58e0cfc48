"""Helpers that the tests of several folders share.

house           a running agent as a process, with lines, meters and a broker around it
broker          a real mosquitto, a subscriber that records all messages, and `until`, which waits for a condition
books           compares the packs that arrived with the answers that devices gave
faketime        the clock of an agent's process
lines           simulated serial and TCP lines, and our ends of them
meters          M-Bus, DL/T 645 and CJ/T 188 devices on such lines
scans           buses to scan
raw_client      a Modbus client that shows every byte
packs           packs as the sealer makes them, for the store, with random bytes as signatures
signed          packs with real signatures, for the verifier
folders         exported folders of such packs
hostile         messages and files that try to exhaust a verifier
delivery        an uplink with a store in its own thread, and a real broker
fake_broker     a broker that misbehaves
ledger          hand-made packs of counters, and the ledger that reads them
made_parks      random streams, for ledgers
lived           two days of a whole park in simulated time
exports         a stopped gateway with packs to export
tokens          a PKCS#11 token
control, users  clients of the control socket; commands that run as other users
recorded        frames and registers that others recorded (tests/data)
meter_cases     `meterhouse decode` in this process
kernel_reference, example_profile  slow versions of the kernels, and a profile to break
faults          tools that break an agent, and checks that account for every reading afterwards
"""
