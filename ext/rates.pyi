"""Counters and gauges over time. Grows with the interval kernel."""
from typing_extensions import Buffer

def counter_rates(counts: Buffer, t_ns: Buffer, bits: int, out: Buffer) -> None:
    """Units per second between neighbours; NaN where there is no honest rate.

    counts: const uint64_t[::1], shape (n,), n > 0; t_ns: const int64_t[::1], monotonic, shape (n,); bits 1..64;
    out: double[::1], shape (n-1,)."""

def counter_deltas(counts: Buffer, modulus: int, max_step: int, out: Buffer, kinds: Buffer) -> None:
    """Steps between neighbours, classified. counts const uint64_t (n,), n > 0; out int64_t, kinds uint8_t (n-1,).

    kinds: 0 normal, 1 rollover (a fall that continues past ``modulus`` within ``max_step``), 2 reset (another fall to
    within ``max_step`` of zero), 3 back step (any other fall), 4 glitch (a rise beyond ``max_step``). Only 0 and 1 have
    an increment, others 0. modulus 0: 2**64. ValueError unless max_step is below the modulus and below 2**63."""

def time_weighted_mean(values: Buffer, t_ns: Buffer, max_gap_ns: int) -> float:
    """Trapezoid mean of double[::1] values over int64_t[::1] monotonic times.

    Stretches that are longer than max_gap_ns, not longer than 0 or end in a NaN are left out; NaN if none is left."""
