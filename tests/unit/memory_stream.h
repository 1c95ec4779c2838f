/*
 * A stream over a byte array, for tests: what the peer says is fixed, how it is cut is chosen, what
 * we say is recorded. It never sleeps, so that no network and no clock is needed.
 */
#ifndef TESTS_MEMORY_STREAM_H
#define TESTS_MEMORY_STREAM_H

#include <errno.h>
#include <string.h>

#include "runtime/runtime.h"

struct memory_stream {
    struct stream stream;
    struct bytes input;
    size_t at;
    size_t first;                 /* size of the first read; 0: as `fragment` */
    size_t fragment;              /* size of every further read; 0: whatever is asked for */
    struct io_result at_end;      /* what a read behind the input gives */
    struct buffer written;        /* what was sent to the peer */
    size_t write_limit;           /* after so many bytes writes fail */
    struct io_result write_fault; /* in this way */
    unsigned reads, waits;
};

static struct io_result memory_read(struct stream *stream, struct span into, uint64_t deadline_us)
{
    struct memory_stream *memory = CONTAINER_OF(stream, struct memory_stream, stream);
    const size_t wanted = memory->at == 0 && memory->first > 0 ? memory->first : memory->fragment;
    size_t count = MIN_OF(into.count, memory->input.count - memory->at);

    (void)deadline_us;
    memory->reads++;
    if (count == 0)
        return memory->at_end;
    count = wanted > 0 ? MIN_OF(count, wanted) : count;
    memcpy(into.at, memory->input.at + memory->at, count);
    memory->at += count;
    return (struct io_result){.status = IO_OK, .count = count};
}

static struct io_result memory_write(struct stream *stream, struct bytes from, uint64_t deadline_us)
{
    struct memory_stream *memory = CONTAINER_OF(stream, struct memory_stream, stream);
    const size_t room = memory->write_limit - MIN_OF(memory->write_limit, memory->written.count);

    (void)deadline_us;
    buffer_add(&memory->written, bytes_slice(from, 0, room));
    if (from.count <= room)
        return (struct io_result){.status = IO_OK, .count = from.count};
    memory->write_fault.count = room;
    return memory->write_fault;
}

static struct io_result memory_wait(struct stream *stream, uint64_t deadline_us)
{
    struct memory_stream *memory = CONTAINER_OF(stream, struct memory_stream, stream);

    (void)deadline_us;
    memory->waits++;
    return (struct io_result){.status = IO_OK};
}

static void memory_close(struct stream *stream, bool reset)
{
    (void)stream;
    (void)reset;
}

static const struct stream_ops memory_stream_ops = {.read = memory_read,
                                                    .write = memory_write,
                                                    .wait_readable = memory_wait,
                                                    .close = memory_close};

static inline struct memory_stream memory_stream_of(struct bytes input)
{
    return (struct memory_stream){.stream.ops = &memory_stream_ops,
                                  .input = input,
                                  .at_end = {.status = IO_END},
                                  .written = BUFFER_WITH_LIMIT(64 * MIB),
                                  .write_limit = SIZE_MAX,
                                  .write_fault = {.status = IO_FAILED, .error = EPIPE}};
}

#endif
