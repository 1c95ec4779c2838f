/*
 * A fault at exactly the so-many-th call: preloaded into the server (LD_PRELOAD) by strike.py,
 * which shares one page with it and says there what is to happen.
 *
 *   a step       a call that changes something outside: writes, syncs, names, sends. Before or
 * after step N everything stops, in all processes that share the page, and is killed. Writes to
 * pipes and the like (the journal, wake-ups of the loop) are no steps. an I/O call  a step, a read,
 * or the making of a descriptor. Call N fails, or each from N on. an allocation
 *
 * Counting begins when `armed` is set, so a start can be left out.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
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
#include <sys/uio.h>
#include <unistd.h>

enum mode { MODE_COUNT = 0, MODE_KILL_BEFORE, MODE_KILL_AFTER, MODE_IO, MODE_ALLOCATION };

/* strike.py knows this layout. */
struct page {
    uint32_t armed, mode;
    uint32_t for_ever, struck;
    uint64_t at;
    uint64_t steps, calls, allocations;
    char what[32];  /* the call that was struck */
    char only[32];  /* the one I/O call that may fail; empty: any */
    uint32_t error; /* what it fails with; 0: what is usual for it */
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
}

static bool is_due(uint64_t count)
{
    return page->for_ever ? count >= page->at : count == page->at;
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
static bool call_fails(const char *what)
{
    if (!page->armed || page->mode == MODE_ALLOCATION)
        return false;
    if (page->only[0] && strcmp(page->only, what) != 0)
        return false;
    const uint64_t count = __atomic_add_fetch(&page->calls, 1, __ATOMIC_RELAXED);
    if (page->mode != MODE_IO || !is_due(count))
        return false;
    note(what);
    return true;
}

static int error_of(int usual)
{
    return page->error ? (int)page->error : usual;
}

static bool step_is_last(const char *what)
{
    if (!page->armed || page->mode == MODE_ALLOCATION)
        return false;
    const uint64_t count = __atomic_add_fetch(&page->steps, 1, __ATOMIC_RELAXED);
    if ((page->mode == MODE_KILL_BEFORE && count == page->at) ||
        (page->mode != MODE_COUNT && page->mode != MODE_IO && count > page->at))
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
#define STEP(type, name, parameters, arguments, outside, error)                                    \
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
        const bool last = counts && step_is_last(#name);                                           \
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

STEP(ssize_t, write, PIECE, (fd, at, count), is_outside(fd), EIO)
STEP(ssize_t, writev, PARTS, (fd, parts, count), is_outside(fd), EIO)
STEP(ssize_t, pwrite, PLACED, (fd, at, count, offset), is_outside(fd), EIO)
STEP(ssize_t, pwrite64, PLACED, (fd, at, count, offset), is_outside(fd), ENOSPC)
STEP(ssize_t, pwritev, PLACED_PARTS, (fd, parts, count, offset), is_outside(fd), EIO)
STEP(ssize_t, pwritev64, PLACED_PARTS, (fd, parts, count, offset), is_outside(fd), EIO)
STEP(int, fsync, (int fd), (fd), is_outside(fd), EIO)
STEP(int, fdatasync, (int fd), (fd), is_outside(fd), EIO)
STEP(int, ftruncate, (int fd, off_t length), (fd, length), is_outside(fd), EIO)
STEP(int, ftruncate64, (int fd, off_t length), (fd, length), is_outside(fd), EIO)
STEP(int, fallocate, (int fd, int how, off_t offset, off_t length), (fd, how, offset, length),
     is_outside(fd), ENOSPC)
STEP(int, fallocate64, (int fd, int how, off_t offset, off_t length), (fd, how, offset, length),
     is_outside(fd), ENOSPC)
STEP(int, rename, (const char *from, const char *to), (from, to), true, EIO)
STEP(int, link, (const char *from, const char *to), (from, to), true, EIO)
STEP(int, unlink, (const char *path), (path), true, EIO)
STEP(int, remove, (const char *path), (path), true, EIO)
STEP(int, mkdir, (const char *path, mode_t how), (path, how), true, ENOSPC)
STEP(ssize_t, send, (int fd, const void *at, size_t count, int flags), (fd, at, count, flags),
     is_outside(fd), ECONNRESET)
STEP(ssize_t, sendto,
     (int fd, const void *at, size_t count, int flags, const struct sockaddr *to, socklen_t size),
     (fd, at, count, flags, to, size), is_outside(fd), ECONNRESET)
STEP(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags),
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

/* Opening is a step when it may create. */
static int open_by(int (*next)(const char *, int, ...), const char *name, const char *path,
                   int flags, mode_t how)
{
    if (call_fails(name)) {
        errno = error_of(EMFILE);
        return -1;
    }
    const bool last = (flags & O_CREAT) && step_is_last(name);
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

static bool memory_is_short(const char *what)
{
    if (!page->armed || page->mode != MODE_ALLOCATION)
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
