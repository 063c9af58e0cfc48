# cython: language_level=3
"""Keeps the memory of the C allocator small: one arena for all threads, and free memory is returned to the kernel."""

cdef extern from *:
    """
    #include <stdlib.h>
    #if defined(__GLIBC__)
    #include <malloc.h>
    static void mh_stay_small(void) {
        mallopt(M_ARENA_MAX, 1);
        mallopt(M_TRIM_THRESHOLD, 256 * 1024);
        mallopt(M_MMAP_THRESHOLD, 256 * 1024);
    }
    static int mh_give_back(void) { return malloc_trim(0); }
    #else
    static void mh_stay_small(void) {}
    static int mh_give_back(void) { return 0; }
    #endif
    """
    void mh_stay_small()
    bint mh_give_back()


def stay_small() -> None:
    mh_stay_small()


def give_back() -> bool:
    return mh_give_back()
