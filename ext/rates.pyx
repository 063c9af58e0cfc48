# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Counters and gauges over time. Checks at the door, plain C inside."""
from libc.math cimport NAN
from libc.stdint cimport INT64_MAX, UINT64_MAX, int64_t, uint8_t, uint64_t

cdef enum:
    NORMAL
    ROLLOVER
    RESET
    BACK_STEP
    GLITCH


cdef inline double _rate(uint64_t old, uint64_t new, int64_t dt_ns, uint64_t mask) noexcept nogil:
    cdef uint64_t step = (new - old) & mask  # unsigned on purpose: a wrap cancels out
    if dt_ns <= 0 or step > mask >> 1:  # time stood still, or the device restarted
        return NAN
    return <double>step * 1e9 / <double>dt_ns


def counter_rates(
    const uint64_t[::1] counts not None, const int64_t[::1] t_ns not None, int bits, double[::1] out not None
):  # fmt: skip
    cdef Py_ssize_t i, n = counts.shape[0]
    cdef uint64_t mask
    if not 1 <= bits <= 64:
        raise ValueError(f"bits must be 1..64, got {bits}")
    if n == 0 or t_ns.shape[0] != n or out.shape[0] != n - 1:
        raise ValueError(f"want n, n and n-1 items; got {n}, {t_ns.shape[0]}, {out.shape[0]}")
    mask = UINT64_MAX >> (64 - bits)
    with nogil:
        for i in range(n - 1):
            out[i] = _rate(counts[i], counts[i + 1], t_ns[i + 1] - t_ns[i], mask)


cdef inline uint8_t _step(
    uint64_t old, uint64_t new, uint64_t modulus, uint64_t max_step, int64_t *increment
) noexcept nogil:  # fmt: skip
    cdef uint64_t past
    increment[0] = 0
    if new >= old:
        if new - old > max_step:
            return GLITCH
        increment[0] = <int64_t>(new - old)
        return NORMAL
    past = modulus - old + new  # modulus 0 is 2**64: it wraps to the right number
    if (modulus == 0 or old < modulus) and past <= max_step:
        increment[0] = <int64_t>past
        return ROLLOVER
    return RESET if new <= max_step else BACK_STEP


def counter_deltas(
    const uint64_t[::1] counts not None, uint64_t modulus, uint64_t max_step, int64_t[::1] out not None,
    uint8_t[::1] kinds not None,
):  # fmt: skip
    cdef Py_ssize_t i, n = counts.shape[0]
    if n == 0 or out.shape[0] != n - 1 or kinds.shape[0] != n - 1:
        raise ValueError(f"want n, n-1 and n-1 items; got {n}, {out.shape[0]}, {kinds.shape[0]}")
    if max_step > <uint64_t>INT64_MAX or (modulus and max_step >= modulus):
        raise ValueError(f"max_step is below 2**63 and below the modulus {modulus}, got {max_step}")
    with nogil:
        for i in range(n - 1):
            kinds[i] = _step(counts[i], counts[i + 1], modulus, max_step, &out[i])


def time_weighted_mean(const double[::1] values not None, const int64_t[::1] t_ns not None, int64_t max_gap_ns):
    cdef Py_ssize_t i, n = values.shape[0]
    cdef int64_t dt, total = 0
    cdef double area = 0, mean
    if t_ns.shape[0] != n:
        raise ValueError(f"want as many times as values; got {n} values, {t_ns.shape[0]} times")
    with nogil:
        for i in range(n - 1):
            dt = t_ns[i + 1] - t_ns[i]
            mean = values[i] / 2 + values[i + 1] / 2
            if 0 < dt <= max_gap_ns and mean == mean:  # a NaN at either end: not a stretch that was measured
                area += mean * <double>dt
                total += dt
    return area / <double>total if total else NAN
