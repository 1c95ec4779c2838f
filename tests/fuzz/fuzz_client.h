/* A client's end of a session, played by a target: it is always ready, and its reads and writes are
 * the target's own. */
#ifndef TESTS_FUZZ_CLIENT_H
#define TESTS_FUZZ_CLIENT_H

#include "runtime/runtime.h"

static struct io_result client_wait(struct stream *stream, uint64_t deadline_us)
{
    (void)stream, (void)deadline_us;
    return io_ok(0);
}

static void client_close(struct stream *stream, bool reset)
{
    (void)stream, (void)reset;
}

static struct io_result client_read(struct stream *stream, struct span into, uint64_t deadline_us);
static struct io_result client_write(struct stream *stream, struct bytes from,
                                     uint64_t deadline_us);

static const struct stream_ops client_ops = {.read = client_read,
                                             .write = client_write,
                                             .wait_readable = client_wait,
                                             .close = client_close};

#endif
