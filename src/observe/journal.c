/*
 * Standard error as a bounded queue of lines. A quiet server writes each line at once, with one
 * write(2); under load the lines of up to FLUSH_MS share one, by a thread of its own. Nothing here
 * ever blocks a session: a reader that does not keep up costs lines, which are counted.
 *
 * The descriptor's mode is left alone (it is shared with whoever started us), so a pipe is asked
 * for room with poll(2) first, which promises PIPE_BUF bytes.
 */
#include "observe/line.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { QUEUE_ROOM = 1024 * 1024, QUEUE_HURRY = 256 * 1024, FLUSH_MS = 20, QUIET_US = 1000 };

static char rooms[2][QUEUE_ROOM];

static struct {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    char *queue; /* lines come in here */
    size_t count;
    char *out; /* and go out from here, by whoever set `writing`, without the lock */
    size_t out_from, out_count;
    uint64_t written_us; /* when the last write was made */
    bool thread, hooked, writing;
} journal = {.lock = PTHREAD_MUTEX_INITIALIZER,
             .filled = PTHREAD_COND_INITIALIZER,
             .queue = rooms[0],
             .out = rooms[1]};

static uint64_t machine_now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * US_PER_S + (uint64_t)now.tv_nsec / 1000;
}

/* The end of the last whole line within the first PIPE_BUF bytes, so that lines stay whole. */
static size_t whole_lines(const char *at, size_t count)
{
    const size_t most = MIN_OF(count, (size_t)PIPE_BUF);
    const char *end = memrchr(at, '\n', most);

    return end ? (size_t)(end - at) + 1 : most;
}

/* As many bytes as go out now without blocking; 0: none. A closed or broken one takes everything.
 */
static size_t put_now(const char *at, size_t count, int patience_ms)
{
    struct pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT};
    struct stat facts;

    if (fstat(STDERR_FILENO, &facts) != 0)
        return count;
    if (!S_ISREG(facts.st_mode)) {
        if (poll(&ready, 1, patience_ms) <= 0)
            return 0;
        count = whole_lines(at, count);
    }
    const ssize_t written = S_ISSOCK(facts.st_mode)
                                ? send(STDERR_FILENO, at, count, MSG_DONTWAIT | MSG_NOSIGNAL)
                                : write(STDERR_FILENO, at, count);
    if (written >= 0)
        return (size_t)written;
    return errno == EAGAIN || errno == EINTR || errno == ENOSPC ? 0 : count;
}

/* Writes what waits; with the lock held, but given up around each write. One writer at a time. */
static void flush_locked(int patience_ms)
{
    bool stuck = false;

    while (!journal.writing && !stuck && journal.count + journal.out_count > 0) {
        if (journal.out_count == 0) {
            char *empty = journal.out;
            journal.out = journal.queue;
            journal.out_count = journal.count;
            journal.out_from = journal.count = 0;
            journal.queue = empty;
        }
        journal.writing = true;
        pthread_mutex_unlock(&journal.lock);
        const size_t written =
            put_now(journal.out + journal.out_from, journal.out_count, patience_ms);
        pthread_mutex_lock(&journal.lock);
        journal.writing = false;
        stuck = written == 0;
        journal.out_from += written;
        journal.out_count -= written;
        journal.written_us = machine_now_us();
    }
}

/* Gathers for FLUSH_MS, or until much has come. */
static void flusher_gather(void)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += FLUSH_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    while (journal.count < QUEUE_HURRY)
        if (pthread_cond_timedwait(&journal.filled, &journal.lock, &until) != 0)
            return;
}

static void *flusher(void *argument)
{
    (void)argument;
    pthread_mutex_lock(&journal.lock);
    for (;;) {
        while (journal.count + journal.out_count == 0)
            pthread_cond_wait(&journal.filled, &journal.lock);
        flusher_gather();
        flush_locked(FLUSH_MS);
    }
    return NULL;
}

static void flush_at_exit(void)
{
    pthread_mutex_lock(&journal.lock);
    for (unsigned i = 0; journal.writing && i < 100; i++) {
        pthread_mutex_unlock(&journal.lock);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        pthread_mutex_lock(&journal.lock);
    }
    flush_locked(200);
    pthread_mutex_unlock(&journal.lock);
}

/* A child has neither the thread nor a claim on the parent's lines. */
static void forget_in_child(void)
{
    pthread_mutex_init(&journal.lock, NULL);
    pthread_cond_init(&journal.filled, NULL);
    journal.count = journal.out_count = 0;
    journal.thread = journal.writing = false;
}

static bool thread_ready_locked(void)
{
    pthread_t thread;

    if (journal.thread)
        return true;
    if (!journal.hooked) {
        journal.hooked = true;
        atexit(flush_at_exit);
        pthread_atfork(NULL, NULL, forget_in_child);
    }
    journal.thread = pthread_create(&thread, NULL, flusher, NULL) == 0;
    if (journal.thread)
        pthread_detach(thread);
    return journal.thread;
}

/* A quiet or urgent line goes out at once, unless another is being written: then its writer, or the
 * thread, takes it along. */
void journal_put(struct bytes lines, bool urgent)
{
    pthread_mutex_lock(&journal.lock);
    if (lines.count > QUEUE_ROOM - journal.count) {
        metric_add(COUNTER_LOG_DROPPED, 1);
        pthread_mutex_unlock(&journal.lock);
        return;
    }
    const size_t before = journal.count;
    const bool idle = before + journal.out_count == 0;
    memcpy(journal.queue + before, lines.at, lines.count);
    journal.count += lines.count;
    if (!journal.writing && (urgent || (idle && machine_now_us() - journal.written_us > QUIET_US)))
        flush_locked(0);
    if (journal.count + journal.out_count > 0 && !thread_ready_locked())
        flush_locked(0);
    else if (journal.count > 0 && (idle || (before < QUEUE_HURRY && journal.count >= QUEUE_HURRY)))
        pthread_cond_signal(&journal.filled);
    pthread_mutex_unlock(&journal.lock);
}
