/*
 * A fault at exactly the so-many-th call: preloaded into the server (LD_PRELOAD) by lib_strike.py,
 * which shares some pages with it and says there what is to happen. What is counted:
 *
 * A step is a call that changes something outside: it writes, syncs, names or sends. Before or
 * after step N everything stops, in all processes that share the pages, and is killed. Writes to
 * pipes and the like (the journal, wake-ups of the loop) are no steps; nor is the same call beyond
 * the sixteenth in a row on one descriptor (a file that is filled with zeros).
 *
 * An I/O call is a step, a read, or the making of a descriptor. Call N fails, or each from N on.
 *
 * An allocation is one of memory; it fails in the same ways. A stall: the call takes a while.
 *
 * A site is the chain of the program's callers that led to an I/O call or an allocation. They can
 * be collected, and one can be struck by its hash: at its first call, and then for ever at each
 * call of any site.
 *
 * Counting begins when `armed` is set, so a start can be left out.
 */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode {
    MODE_COUNT = 0,
    MODE_KILL_BEFORE,
    MODE_KILL_AFTER,
    MODE_IO,
    MODE_ALLOCATION,
    MODE_STALL
};

enum { FRAMES = 24, SITES = 16384 };
#define PROGRAM_END (1ULL << 32)

/* lib_strike.py knows this layout. */
struct page {
    uint32_t armed, mode;
    uint32_t for_ever, struck;
    uint64_t at;
    uint64_t steps, calls, allocations;
    char what[32];    /* the call that was struck */
    char only[32];    /* the one I/O call that may fail; empty: any */
    uint32_t error;   /* what it fails with; 0: what is usual for it; milliseconds of a stall */
    uint32_t by_site; /* collect sites; with `site`: strike this one instead of number `at` */
    uint64_t site;
    uint64_t
        frames[FRAMES]; /* who called the one that was struck, innermost first, as in frame_of() */
    struct {
        uint64_t hash, count;
    } sites[SITES];
};

static struct page nothing, *page = &nothing;

__attribute__((constructor)) static void strike_open(void)
{
    const char *path = getenv("STRIKE_PAGE");
    const int descriptor = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

    if (descriptor < 0)
        return;
    void *shared =
        mmap(NULL, sizeof(struct page), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (shared != MAP_FAILED)
        page = shared;
    void *first[1];
    backtrace(first, 1); /* it loads its library now, before the locks */
}

/* ------------------------------------------------------------------ sites */

/* An address that is the same in each run: from the begin of its object, and which object it is:
 * its size, or nothing for the program itself. */
static uint64_t frame_of(void *address)
{
    struct dl_find_object object;

    if (_dl_find_object(address, &object) != 0)
        return 0;
    const uint64_t offset = (uint64_t)((char *)address - (char *)object.dlfo_map_start);
    const uint64_t size = (uint64_t)((char *)object.dlfo_map_end - (char *)object.dlfo_map_start);
    const bool is_program = object.dlfo_link_map->l_name[0] == 0;
    return is_program ? offset : offset | size * PROGRAM_END;
}

static __thread bool is_unwinding; /* what that allocates or reads is nobody's call */

/* The hash of the chain of callers, as far as they are the program's own, and of the innermost
 * two, whosever they are; the whole chain in `frames`. */
static uint64_t site_of(uint64_t frames[FRAMES])
{
    enum { OWN = 3, INNERMOST = 2 }; /* frames of this file; those that count even in libraries */
    void *raw[FRAMES + OWN];
    uint64_t hash = 14695981039346656037u;
    const int kept = errno;

    is_unwinding = true;
    const int count = backtrace(raw, FRAMES + OWN);
    is_unwinding = false;
    for (int i = 0; i < FRAMES; i++) {
        frames[i] = i + OWN < count ? frame_of(raw[i + OWN]) : 0;
        if (i < INNERMOST || frames[i] < PROGRAM_END)
            hash = (hash ^ frames[i]) * 1099511628211u;
    }
    errno = kept;
    return hash ? hash : 1;
}

/* How often that site was seen by now, this call included; 0 when there is no more room. */
static uint64_t site_count(uint64_t hash)
{
    for (uint64_t i = 0; i < SITES; i++) {
        uint64_t *const slot = &page->sites[(hash + i) % SITES].hash;
        uint64_t found = __atomic_load_n(slot, __ATOMIC_RELAXED);

        if (found == 0)
            __atomic_compare_exchange_n(slot, &found, hash, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED);
        if (found == 0 || found == hash)
            return __atomic_add_fetch(&page->sites[(hash + i) % SITES].count, 1, __ATOMIC_RELAXED);
    }
    return 0;
}

/* Is it this call's turn, the so-many-th of its kind? */
__attribute__((noinline)) static bool is_due(uint64_t count)
{
    uint64_t frames[FRAMES];

    if (!page->by_site)
        return page->for_ever ? count >= page->at : count == page->at;
    if (page->struck)
        return page->for_ever;
    const uint64_t site = site_of(frames);
    const bool due = site_count(site) == 1 && site == page->site;
    if (due)
        memcpy(page->frames, frames, sizeof frames);
    return due;
}

static void note(const char *what)
{
    if (__atomic_fetch_add(&page->struck, 1, __ATOMIC_RELAXED) == 0)
        for (size_t i = 0; i + 1 < sizeof page->what && what[i]; i++)
            page->what[i] = what[i];
}

/* The worker may not kill anybody, so strike.py does it: until then nobody takes another step. */
static void die(const char *what)
{
    note(what);
    for (;;)
        poll(NULL, 0, 1000);
}

/* True: this call has to fail. */
__attribute__((noinline)) static bool call_fails(const char *what)
{
    if (!page->armed || page->mode == MODE_ALLOCATION || is_unwinding)
        return false;
    if (page->only[0] && strcmp(page->only, what) != 0)
        return false;
    const uint64_t count = __atomic_add_fetch(&page->calls, 1, __ATOMIC_RELAXED);
    if ((page->mode != MODE_IO && page->mode != MODE_STALL) || !is_due(count))
        return false;
    note(what);
    if (page->mode == MODE_STALL)
        poll(NULL, 0, (int)page->error);
    return page->mode == MODE_IO;
}

static int error_of(int usual)
{
    return page->error ? (int)page->error : usual;
}

static bool is_one_more_of_many(const char *what, int descriptor)
{
    enum { MANY = 16 };
    static uint64_t last, row; /* of this process; two threads that mix break the row */
    const uint64_t now = (uint64_t)(uintptr_t)what * 1024 + (uint64_t)descriptor;

    if (__atomic_exchange_n(&last, now, __ATOMIC_RELAXED) != now)
        __atomic_store_n(&row, 0, __ATOMIC_RELAXED);
    return __atomic_add_fetch(&row, 1, __ATOMIC_RELAXED) > MANY;
}

static bool step_is_last(const char *what, int descriptor)
{
    if (!page->armed || page->mode == MODE_ALLOCATION || is_one_more_of_many(what, descriptor))
        return false;
    const uint64_t count = __atomic_add_fetch(&page->steps, 1, __ATOMIC_RELAXED);
    if ((page->mode == MODE_KILL_BEFORE && count == page->at) ||
        ((page->mode == MODE_KILL_BEFORE || page->mode == MODE_KILL_AFTER) && count > page->at))
        die(what);
    return page->mode == MODE_KILL_AFTER && count == page->at;
}

/* Files and sockets; not pipes, events and terminals. */
static bool is_outside(int descriptor)
{
    struct stat facts;
    const int kept = errno;
    const bool outside =
        page->armed && fstat(descriptor, &facts) == 0 &&
        (S_ISREG(facts.st_mode) || S_ISDIR(facts.st_mode) || S_ISSOCK(facts.st_mode));

    errno = kept;
    return outside;
}

static void *real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

/* A step named `name` on what `outside` says, failing with `error`. */
#define STEP(type, name, parameters, arguments, fd_or_none, outside, error)                        \
    type name parameters;                                                                          \
    type name parameters                                                                           \
    {                                                                                              \
        static __typeof__(&name) next;                                                             \
        if (!next)                                                                                 \
            next = (__typeof__(&name))real(#name);                                                 \
        const bool counts = outside;                                                               \
        if (counts && call_fails(#name)) {                                                         \
            errno = error_of(error);                                                               \
            return -1;                                                                             \
        }                                                                                          \
        const bool last = counts && step_is_last(#name, fd_or_none);                               \
        const type result = next arguments;                                                        \
        if (last)                                                                                  \
            die(#name);                                                                            \
        return result;                                                                             \
    }

/* The same for calls that change nothing: they are never the moment of a kill. */
#define LOOK(type, name, parameters, arguments, outside, error)                                    \
    type name parameters;                                                                          \
    type name parameters                                                                           \
    {                                                                                              \
        static __typeof__(&name) next;                                                             \
        if (!next)                                                                                 \
            next = (__typeof__(&name))real(#name);                                                 \
        if ((outside) && call_fails(#name)) {                                                      \
            errno = error_of(error);                                                               \
            return -1;                                                                             \
        }                                                                                          \
        return next arguments;                                                                     \
    }

#define PIECE (int fd, const void *at, size_t count)
#define PLACED (int fd, const void *at, size_t count, off_t offset)
#define PARTS (int fd, const struct iovec *parts, int count)
#define PLACED_PARTS (int fd, const struct iovec *parts, int count, off_t offset)

STEP(ssize_t, write, PIECE, (fd, at, count), fd, is_outside(fd), EIO)
STEP(ssize_t, writev, PARTS, (fd, parts, count), fd, is_outside(fd), EIO)
STEP(ssize_t, pwrite, PLACED, (fd, at, count, offset), fd, is_outside(fd), EIO)
STEP(ssize_t, pwritev, PLACED_PARTS, (fd, parts, count, offset), fd, is_outside(fd), EIO)
STEP(ssize_t, pwritev64, PLACED_PARTS, (fd, parts, count, offset), fd, is_outside(fd), EIO)
STEP(int, fsync, (int fd), (fd), fd, is_outside(fd), EIO)
STEP(int, fdatasync, (int fd), (fd), fd, is_outside(fd), EIO)
STEP(int, ftruncate, (int fd, off_t length), (fd, length), fd, is_outside(fd), EIO)
STEP(int, ftruncate64, (int fd, off_t length), (fd, length), fd, is_outside(fd), EIO)
STEP(int, fallocate, (int fd, int how, off_t offset, off_t length), (fd, how, offset, length), fd,
     is_outside(fd), ENOSPC)
STEP(int, fallocate64, (int fd, int how, off_t offset, off_t length), (fd, how, offset, length), fd,
     is_outside(fd), ENOSPC)
STEP(int, rename, (const char *from, const char *to), (from, to), -1, true, EIO)
STEP(int, link, (const char *from, const char *to), (from, to), -1, true, EIO)
STEP(int, unlink, (const char *path), (path), -1, true, EIO)
STEP(int, remove, (const char *path), (path), -1, true, EIO)
STEP(int, mkdir, (const char *path, mode_t how), (path, how), -1, true, ENOSPC)
STEP(ssize_t, send, (int fd, const void *at, size_t count, int flags), (fd, at, count, flags), fd,
     is_outside(fd), ECONNRESET)
STEP(ssize_t, sendto,
     (int fd, const void *at, size_t count, int flags, const struct sockaddr *to, socklen_t size),
     (fd, at, count, flags, to, size), fd, is_outside(fd), ECONNRESET)
STEP(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags), fd,
     is_outside(fd), ECONNRESET)

LOOK(ssize_t, read, (int fd, void *at, size_t count), (fd, at, count), is_outside(fd), EIO)
LOOK(ssize_t, pread, (int fd, void *at, size_t count, off_t offset), (fd, at, count, offset),
     is_outside(fd), EIO)
LOOK(ssize_t, pread64, (int fd, void *at, size_t count, off_t offset), (fd, at, count, offset),
     is_outside(fd), EIO)
LOOK(ssize_t, recv, (int fd, void *at, size_t count, int flags), (fd, at, count, flags),
     is_outside(fd), ECONNRESET)
LOOK(int, socket, (int domain, int type, int protocol), (domain, type, protocol), true, EMFILE)
LOOK(int, accept4, (int fd, struct sockaddr *from, socklen_t *size, int flags),
     (fd, from, size, flags), true, EMFILE)
LOOK(int, connect, (int fd, const struct sockaddr *to, socklen_t size), (fd, to, size), true,
     ECONNREFUSED)

/* A spare segment of the log is 64 MiB of zeros. A hole reads the same, and a strike that makes
 * one is over ten times sooner; what this preload is for, a kill, loses neither. */
static bool zeros_written(int fd, const void *at, size_t count, off_t offset)
{
    struct stat facts;

    return count >= 4096 && *(const char *)at == 0 &&
           memcmp(at, (const char *)at + 1, count - 1) == 0 && fstat(fd, &facts) == 0 &&
           S_ISREG(facts.st_mode) &&
           syscall(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                   (off_t)count) == 0 &&
           (facts.st_size >= offset + (off_t)count ||
            syscall(SYS_ftruncate, fd, offset + (off_t)count) == 0);
}

ssize_t pwrite64(int fd, const void *at, size_t count, off_t offset);
ssize_t pwrite64(int fd, const void *at, size_t count, off_t offset)
{
    static ssize_t (*next)(int, const void *, size_t, off_t);

    if (!next)
        next = (ssize_t(*)(int, const void *, size_t, off_t))real("pwrite64");
    const bool counts = is_outside(fd);
    if (counts && call_fails("pwrite64")) {
        errno = error_of(ENOSPC);
        return -1;
    }
    const bool last = counts && step_is_last("pwrite64", fd);
    const ssize_t result =
        zeros_written(fd, at, count, offset) ? (ssize_t)count : next(fd, at, count, offset);
    if (last)
        die("pwrite64");
    return result;
}

/* Opening is a step when it may create. */
static int open_by(int (*next)(const char *, int, ...), const char *name, const char *path,
                   int flags, mode_t how)
{
    if (call_fails(name)) {
        errno = error_of(EMFILE);
        return -1;
    }
    const bool last = (flags & O_CREAT) && step_is_last(name, -1);
    const int descriptor = next(path, flags, how);
    if (last)
        die(name);
    return descriptor;
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...);                                                    \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        static int (*next)(const char *, int, ...);                                                \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        const mode_t how = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                             \
        va_end(rest);                                                                              \
        if (!next)                                                                                 \
            next = (int (*)(const char *, int, ...))real(#name);                                   \
        return open_by(next, #name, path, flags, how);                                             \
    }
OPEN(open)
OPEN(open64)

/* ------------------------------------------------------------------ memory */

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *at, size_t size);

__attribute__((noinline)) static bool memory_is_short(const char *what)
{
    if (!page->armed || page->mode != MODE_ALLOCATION || is_unwinding)
        return false;
    const uint64_t count = __atomic_add_fetch(&page->allocations, 1, __ATOMIC_RELAXED);
    if (!is_due(count))
        return false;
    note(what);
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size)
{
    return memory_is_short("malloc") ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return memory_is_short("calloc") ? NULL : __libc_calloc(count, size);
}

void *realloc(void *at, size_t size)
{
    return memory_is_short("realloc") ? NULL : __libc_realloc(at, size);
}

/* Those that no other function of this file stands for. */
int posix_memalign(void **into, size_t alignment, size_t size)
{
    static int (*next)(void **, size_t, size_t);

    if (!next)
        next = (int (*)(void **, size_t, size_t))real("posix_memalign");
    return memory_is_short("posix_memalign") ? ENOMEM : next(into, alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    static void *(*next)(size_t, size_t);

    if (!next)
        next = (void *(*)(size_t, size_t))real("aligned_alloc");
    return memory_is_short("aligned_alloc") ? NULL : next(alignment, size);
}

/* Stacks and large tables. */
void *mmap(void *at, size_t size, int protection, int flags, int descriptor, off_t offset)
{
    static void *(*next)(void *, size_t, int, int, int, off_t);

    if (!next)
        next = (void *(*)(void *, size_t, int, int, int, off_t))real("mmap");
    if ((flags & MAP_ANONYMOUS) && memory_is_short("mmap"))
        return MAP_FAILED;
    return next(at, size, protection, flags, descriptor, offset);
}
