# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Reads the state of the kernel's clock, and never sets the clock: ``adjtimex`` with modes 0 only reads."""
from typing import NamedTuple

from libc.stdint cimport int64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    #ifdef __linux__
    #include <string.h>
    #include <sys/timex.h>
    static int mh_clock(long *error_us) {
        struct timex t;
        int state;
        memset(&t, 0, sizeof t);
        state = adjtimex(&t);
        if (state < 0) return -1;
        *error_us = t.maxerror;
        return state != TIME_ERROR && !(t.status & STA_UNSYNC);
    }
    #else
    static int mh_clock(long *error_us) { (void)error_us; return -1; }
    #endif
    static int64_t mh_now(clockid_t id) {
        struct timespec t;
        clock_gettime(id, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    """
    int mh_clock(long *error_us) noexcept nogil
    int64_t mh_now(int clock) noexcept nogil
    int CLOCK_REALTIME
    int CLOCK_MONOTONIC


class ClockState(NamedTuple):
    synced: bool | None
    error_us: int | None


def state():
    cdef long error_us = 0
    cdef int synced = mh_clock(&error_us)
    # below 0: a seccomp filter refuses the call, or this system does not have it, so nothing is known
    return ClockState(None, None) if synced < 0 else ClockState(synced == 1, error_us)


def now():
    cdef int64_t utc = mh_now(CLOCK_REALTIME)
    cdef int64_t mono = mh_now(CLOCK_MONOTONIC)
    return utc, mono
