/* A disk that fails on demand, between a process and its libc: LD_PRELOAD=fault_shim.so FAULT_SHIM=control-file.
 *
 * The control file is mapped and shared, so a test can change the mode while the process runs. Only files whose path
 * contains `match` are affected. `skip` calls pass first; then `times` calls are hit (below 0: until the mode changes).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WELL, SYNC_EIO, SYNC_HANGS, WRITE_EIO, WRITE_FULL, KILL_BEFORE_SYNC, KILL_AFTER_SYNC, KILL_IN_WRITE,
       KILL_BEFORE_SEND, READ_EIO };

struct control {
    _Atomic int32_t mode, skip, times, hits, syncs;
    char match[64];
};

static struct control *control;
static _Atomic int armed; /* KILL_BEFORE_SEND: the sync is done, and the next send kills the process */

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("FAULT_SHIM");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *at = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED) control = at;
}

static int ours(int fd) {
    char link[40], path[512];
    if (!control || !control->mode) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size <= 0) return 0;
    path[size] = 0;
    return strstr(path, control->match) != NULL;
}

/* Returns 1 if this call is to be hit. Counts down `skip` and `times`. */
static int hit(void) {
    if (atomic_fetch_sub(&control->skip, 1) > 0) return 0;
    atomic_store(&control->skip, 0);
    if (control->times >= 0 && atomic_fetch_sub(&control->times, 1) <= 0) {
        atomic_store(&control->times, 0);
        return 0;
    }
    atomic_fetch_add(&control->hits, 1);
    return 1;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int sync_as(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (control) atomic_fetch_add(&control->syncs, 1);
    if (!ours(fd)) return real(fd);
    int mode = control->mode;
    if (mode == SYNC_EIO && hit()) { errno = EIO; return -1; }
    if (mode == KILL_BEFORE_SYNC && hit()) die();
    if (mode == SYNC_HANGS && hit())
        while (control->mode == SYNC_HANGS) nanosleep(&(struct timespec){0, 10000000}, NULL);
    int done = real(fd);
    if (mode == KILL_AFTER_SYNC && hit()) die();
    if (mode == KILL_BEFORE_SEND && hit()) armed = 1;
    return done;
}

int fsync(int fd) { return sync_as("fsync", fd); }
int fdatasync(int fd) { return sync_as("fdatasync", fd); }

typedef ssize_t (*writer)(int, const void *, size_t, off_t);
static ssize_t write_as(const char *name, int fd, const void *data, size_t size, off_t at) {
    writer real = (writer)dlsym(RTLD_NEXT, name);
    if (!ours(fd)) return real(fd, data, size, at);
    int mode = control->mode;
    if (mode == WRITE_EIO && hit()) { errno = EIO; return -1; }
    if (mode == WRITE_FULL && hit()) { errno = ENOSPC; return -1; }
    if (mode == KILL_IN_WRITE && hit()) {
        real(fd, data, size / 2, at);
        die();
    }
    return real(fd, data, size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return write_as("pwrite", fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) { return write_as("pwrite64", fd, data, size, at); }

typedef ssize_t (*reader)(int, void *, size_t, off_t);
static ssize_t read_as(const char *name, int fd, void *data, size_t size, off_t at) {
    reader real = (reader)dlsym(RTLD_NEXT, name);
    if (ours(fd) && control->mode == READ_EIO && hit()) { errno = EIO; return -1; }
    return real(fd, data, size, at);
}

ssize_t pread(int fd, void *data, size_t size, off_t at) { return read_as("pread", fd, data, size, at); }
ssize_t pread64(int fd, void *data, size_t size, off_t at) { return read_as("pread64", fd, data, size, at); }

ssize_t send(int fd, const void *data, size_t size, int flags) {
    ssize_t (*real)(int, const void *, size_t, int) = (ssize_t (*)(int, const void *, size_t, int))dlsym(RTLD_NEXT, "send");
    if (armed && size > 64) die(); /* a publish, not a wake-up of a loop */
    return real(fd, data, size, flags);
}
