/*
 * runtime: fibers, deadlines, cancellation, streams, disk, worker pool, over one interface that two
 * worlds implement: `kernel` (the real machine, libuv, one loop a core) and `sim` (seeded, virtual
 * time, one thread). A program links exactly one of them.
 *
 * Flow:   world_run(main) -> loops run fibers -> a fiber calls something that sleeps -> its loop
 * runs others -> the event or the deadline wakes it -> the call returns a result by value. Owns:
 * fibers and their stacks, loops, open streams and files until closed. Sleeps: every function
 * marked "Sleeps." Nothing else here does. A mutex may be held only around memory operations, never
 * across a call that sleeps. Fails:  by io_result; the errno is captured in it at once, so nobody
 * reads errno after a sleep. Never:  waits without a deadline; decides anything about mail.
 *
 * Fiber code (shared by both worlds) is in fiber.c; what a world provides is in runtime/world.h.
 */
#ifndef RUNTIME_RUNTIME_H
#define RUNTIME_RUNTIME_H

#include <sys/types.h>

#include "base/base.h"

/* ------------------------------------------------------------------ results */

enum io_status {
    IO_FAILED = 0, /* see error */
    IO_OK,
    IO_END,       /* orderly end of stream or file */
    IO_TIMEOUT,   /* the deadline passed; nothing is known about the rest */
    IO_CANCELLED, /* the fiber was cancelled (shutdown) */
};

struct io_result {
    enum io_status status;
    int error;    /* errno value when IO_FAILED */
    size_t count; /* bytes done; also meaningful beside a failure (partial write) */
};

_Static_assert(IO_FAILED == 0, "forgotten memory must read as a failure");

struct io_result io_ok(size_t count);
struct io_result io_failed(int error);
struct io_result io_status_only(enum io_status status);
const char *io_result_text(struct io_result result); /* "timeout", "end of stream", strerror text */

/* ------------------------------------------------------------------ clocks and chance */

uint64_t clock_now_us(void);                /* monotonic; in sim, virtual */
int64_t clock_wall_us(void);                /* since 1970 UTC; may jump */
uint64_t deadline_in(uint64_t duration_us); /* now + duration, saturating */
void random_fill(struct span into);         /* kernel: getrandom; sim: the seed */
uint64_t random_u64(void);

/* ------------------------------------------------------------------ fibers */

struct fiber;
struct loop;
typedef void fiber_main(void *argument);

/*
 * Starts a fiber on the calling thread's loop; it runs when the caller next sleeps. `name` is a
 * literal. NULL when the limit of fibers or memory is reached: the caller answers server.busy.
 */
MUST_USE struct fiber *fiber_start(const char *name, fiber_main *main, void *argument);
/* The same on another loop; callable from any fiber. */
MUST_USE struct fiber *fiber_start_on(struct loop *loop, const char *name, fiber_main *main,
                                      void *argument);
struct fiber *fiber_self(void);
const char *fiber_name(const struct fiber *fiber);

/*
 * Parks the fiber until fiber_wake(), the deadline, or cancellation. A wake that comes first is
 * kept (one token). Wakes may be spurious, so callers loop on their condition. Sleeps.
 */
enum io_status fiber_park(uint64_t deadline_us);
/* From any thread. A fiber struct is never unmapped, so a late wake is harmless. */
void fiber_wake(struct fiber *fiber);
/* Makes the current and every later sleep of the fiber return IO_CANCELLED. From any thread, by one
 * who knows that the fiber has not ended: its struct may live again as another fiber. */
void fiber_cancel(struct fiber *fiber);
bool fiber_cancelled(void);
/* For clean-up that has to sleep though cancelled (bounded by its own deadline): masks
 * cancellation. */
bool fiber_mask_cancel(bool masked); /* returns the former state */
enum io_status
fiber_sleep_until(uint64_t deadline_us); /* IO_OK at the deadline, or IO_CANCELLED. Sleeps. */
void fiber_yield(void);                  /* lets others run once. Sleeps. */
uint32_t fiber_count(void);              /* live fibers in the process */

/* A place to wait for a condition that other fibers of any loop change. Zero-initialised is ready.
 */
struct waiter;
struct waitlist {
    struct waiter *first; /* guarded by `lock`; a short spin, never held across a sleep */
    int lock;
};
/*
 * Prepare, re-check the condition, then sleep or forget:
 *     struct waiter waiter;  waitlist_join(&list, &waiter);
 *     while (!condition) if (fiber_park(deadline) != IO_OK) break;
 *     waitlist_leave(&list, &waiter);
 */
struct waiter {
    struct waiter *next, *previous;
    struct fiber *fiber;
    bool chosen; /* by wake_one; who leaves passes that on, lest a wake be lost to one that needs
                    none */
};
void waitlist_join(struct waitlist *list, struct waiter *waiter);
void waitlist_leave(struct waitlist *list, struct waiter *waiter);
void waitlist_wake_all(struct waitlist *list);
void waitlist_wake_one(struct waitlist *list); /* wakes the one that waits longest */

/* ------------------------------------------------------------------ loops */

enum loop_kind {
    LOOP_SESSIONS = 0, /* disk calls go to the worker pool */
    LOOP_BLOCKING,     /* a thread for one writer: its disk calls block the thread itself */
};

/* In sim a loop is only a name: all fibers run on one thread. NULL when no thread could be made. */
MUST_USE struct loop *loop_start(const char *name, enum loop_kind kind);
struct loop *loop_self(void);
/* Loops for sessions, index 0 is where main runs; at least 1, by default one a core. */
unsigned loop_session_count(void);
struct loop *loop_session(unsigned index);

/*
 * Runs `work` on a thread of the pool and sleeps until it has ended. For libraries that block
 * (SQLite readers, crypt, libldap): they must bound themselves in time. In sim it runs at once.
 * Sleeps.
 */
enum io_status work_run(void (*work)(void *argument), void *argument);

/* ------------------------------------------------------------------ streams and listeners */

struct stream;

/* One implementation per kind: TCP or Unix (kernel), simulated (sim), TLS (crypto, over another
 * stream). */
struct stream_ops {
    /* At least one byte, or IO_END, IO_TIMEOUT, IO_FAILED. */
    struct io_result (*read)(struct stream *stream, struct span into, uint64_t deadline_us);
    /* All bytes or an error; `count` says how many went out. */
    struct io_result (*write)(struct stream *stream, struct bytes from, uint64_t deadline_us);
    /* Sleeps until a read would give something (data, end or error) without holding a buffer. */
    struct io_result (*wait_readable)(struct stream *stream, uint64_t deadline_us);
    /* Frees it. reset: TCP RST instead of FIN. */
    void (*close)(struct stream *stream, bool reset);
    /* Octets written that the peer has not confirmed. NULL where nobody can know. */
    size_t (*unacknowledged)(const struct stream *stream);
};

struct stream {
    const struct stream_ops *ops;
    struct endpoint local, remote; /* as known; a TLS stream copies them from below */
    bool last_descriptor;          /* accepted although there are none left: say so and close it */
};

struct io_result stream_read(struct stream *stream, struct span into,
                             uint64_t deadline_us); /* Sleeps. */
struct io_result stream_write(struct stream *stream, struct bytes from,
                              uint64_t deadline_us);                                /* Sleeps. */
struct io_result stream_wait_readable(struct stream *stream, uint64_t deadline_us); /* Sleeps. */
/* Octets written that the peer's machine has not confirmed: 0 once all has arrived there. After a
 * reset it stays above 0 when the last of them were lost. */
size_t stream_unacknowledged(const struct stream *stream);
void stream_close(struct stream *stream); /* NULL is fine; never sleeps */
void stream_reset(struct stream *stream);
void stream_close_ptr(struct stream **stream); /* fits CLEANUP */

/* Connects. *stream is NULL unless IO_OK. `from`: source address or NULL. Sleeps. */
struct io_result stream_dial(const struct endpoint *to, const struct endpoint *from,
                             uint64_t deadline_us, struct stream **stream);

/* The user of the process at the other end of a Unix socket; false: not known. Not in sim. */
MUST_USE bool stream_peer_user(struct stream *stream, uint32_t *user);

struct listener;
/*
 * Binds and listens. With `shared` several loops may each open the same address (SO_REUSEPORT).
 * Port 0 takes a free one; listener_endpoint tells which. Accept it on the loop that opened it.
 */
struct io_result listener_open(const struct endpoint *at, bool shared, struct listener **listener);
const struct endpoint *listener_endpoint(const struct listener *listener);
struct io_result listener_accept(struct listener *listener, uint64_t deadline_us,
                                 struct stream **stream); /* Sleeps. */
/* From another loop too, then a moment later. Nobody may be waiting in accept. */
void listener_close(struct listener *listener);

/*
 * Sockets that a parent opened for this process; not in sim. listener_socket gives a bound and
 * listening descriptor, or -1 with errno, and needs no loop. Once adopted, listener_open of that
 * address takes a copy of it instead of binding, as often as asked: what stands in its queue waits
 * for whoever comes next. Several of one address are taken in turn. They are for the main fiber.
 */
int listener_socket(const struct endpoint *at, bool shared, struct endpoint *bound);
MUST_USE bool listener_adopt(const struct endpoint *at, int descriptor);
void listener_disown(const struct endpoint *at); /* closes ours */
int listener_adopted(const struct endpoint *at); /* a copy for a library; -1: none */

/* Datagrams, for direct DNS questions. */
struct datagram;
struct io_result datagram_open(const struct endpoint *to, struct datagram **socket);
struct io_result datagram_send(struct datagram *socket, struct bytes packet);
struct io_result datagram_receive(struct datagram *socket, struct span into,
                                  uint64_t deadline_us); /* Sleeps. */
void datagram_close(struct datagram *socket);

/*
 * Waits for a foreign descriptor (libunbound's ub_fd, libpq's socket). In sim it fails with ENOSYS:
 * libraries with sockets of their own are replaced there at their room's seam. Sleeps.
 */
struct io_result descriptor_wait(int descriptor, bool for_write, uint64_t deadline_us);

/* ------------------------------------------------------------------ disk */

struct file;

enum file_flags {
    FILE_READ = 0,
    FILE_WRITE = 1,   /* read and write */
    FILE_CREATE = 2,  /* may create; mode 0600 */
    FILE_NEW = 4,     /* must create (O_EXCL) */
    FILE_FOREIGN = 8, /* others may have put it there: no link is followed, no pipe waited for */
};

struct file_facts {
    uint64_t size_bytes;
    int64_t modified_wall_us;
    bool is_directory, is_regular;
    unsigned links, owner; /* names that it has; whose it is */
};

/* Who opens for reading what this process may not: a descriptor, or -1 with errno. Set once, before
 * the world runs; called on any thread, and blocks. Not in sim. */
void file_set_opener(int (*open_for_us)(const char *path));

/* All of them sleep (in the worker pool, or the thread itself on a LOOP_BLOCKING loop). */
struct io_result file_open(const char *path, unsigned flags, struct file **file);
struct io_result file_write_at(struct file *file, const struct bytes *parts, size_t part_count,
                               uint64_t offset); /* all bytes or an error */
struct io_result file_read_at(struct file *file, struct span into,
                              uint64_t offset); /* short only at the end */
struct io_result file_sync(struct file *file); /* fdatasync. Never call it again after a failure. */
struct io_result file_truncate(struct file *file, uint64_t size_bytes);
struct io_result file_reserve(struct file *file,
                              uint64_t size_bytes); /* allocate and zero-fill to this size */
struct io_result file_facts(struct file *file, struct file_facts *facts);
struct io_result
file_lock(struct file *file); /* exclusive, at once; EWOULDBLOCK when held by another */
void file_close(struct file *file);
void file_close_ptr(struct file **file); /* fits CLEANUP */

struct io_result disk_rename(const char *from, const char *to);
struct io_result disk_link(const char *from, const char *to); /* EEXIST when `to` exists */
struct io_result disk_remove(const char *path);
struct io_result disk_make_directory(const char *path); /* EEXIST is IO_OK; parents must exist */
struct io_result disk_sync_directory(const char *path);
struct io_result disk_facts(const char *path, struct file_facts *facts);
/* Calls `each` for every name but . and .. until it returns false. */
struct io_result disk_list(const char *path, bool (*each)(void *argument, const char *name),
                           void *argument);

struct disk_space {
    uint64_t bytes_total, bytes_free; /* free to us */
    uint64_t inodes_total, inodes_free;
};
struct io_result disk_space(const char *path, struct disk_space *space);

/*
 * A slate: some hundred small rows of one size in a file, for what should outlive a restart and may
 * be forgotten (a power cut, a full disk). Machine's byte order: it never leaves the machine.
 */
struct slate;
struct slate_reader {
    void (*each)(void *argument, uint32_t row, struct bytes content);
    void *argument;
};
/* Shows each row that is whole, then is open for writing. NULL: no such file, no memory. Sleeps. */
MUST_USE struct slate *slate_open(const char *path, uint32_t row_bytes, uint32_t rows,
                                  const struct slate_reader *reader);
/* False: it is not on the disk. They sleep, so under no lock. */
bool slate_write(struct slate *slate, uint32_t row, struct bytes content);
bool slate_erase(struct slate *slate, uint32_t row);
void slate_close(struct slate *slate);

/* The SQLite VFS that reaches this world's disk: NULL for SQLite's own. */
const char *disk_sqlite_vfs(void);

/* ------------------------------------------------------------------ the process */

/* Could one more descriptor be opened at this moment? For libraries that do not say why they
 * failed. In sim: always. */
MUST_USE bool process_has_descriptor(void);

/* Waits for SIGTERM, SIGINT or SIGHUP; in sim for what the scenario sends. Sleeps. */
enum io_status process_wait_signal(int *signal_number, uint64_t deadline_us);

/*
 * Runs `main` as the first fiber and returns its exit code after it returned and every other loop
 * was stopped. session_loops: 0 = one a core.
 */
int world_run(int (*main)(void *argument), void *argument, unsigned session_loops);

#endif
