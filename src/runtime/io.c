/* What both worlds share of streams and results: pure dispatch. */
#include <string.h>

#include "runtime/runtime.h"

struct io_result io_ok(size_t count)
{
    return (struct io_result){.status = IO_OK, .count = count};
}

struct io_result io_failed(int error)
{
    return (struct io_result){.status = IO_FAILED, .error = error};
}

struct io_result io_status_only(enum io_status status)
{
    return (struct io_result){.status = status};
}

const char *io_result_text(struct io_result result)
{
    switch (result.status) {
    case IO_FAILED:
        return strerrordesc_np(result.error) ? strerrordesc_np(result.error) : "unknown error";
    case IO_OK:
        return "ok";
    case IO_END:
        return "end of stream";
    case IO_TIMEOUT:
        return "timeout";
    case IO_CANCELLED:
        return "cancelled";
    }
    return "unknown";
}

uint64_t deadline_in(uint64_t duration_us)
{
    uint64_t deadline_us = 0;

    if (__builtin_add_overflow(clock_now_us(), duration_us, &deadline_us))
        return DEADLINE_NEVER;
    return deadline_us;
}

uint64_t random_u64(void)
{
    uint64_t value = 0;

    random_fill((struct span){(uint8_t *)&value, sizeof value});
    return value;
}

struct io_result stream_read(struct stream *stream, struct span into, uint64_t deadline_us)
{
    return stream->ops->read(stream, into, deadline_us);
}

struct io_result stream_write(struct stream *stream, struct bytes from, uint64_t deadline_us)
{
    return stream->ops->write(stream, from, deadline_us);
}

struct io_result stream_wait_readable(struct stream *stream, uint64_t deadline_us)
{
    return stream->ops->wait_readable(stream, deadline_us);
}

size_t stream_unacknowledged(const struct stream *stream)
{
    return stream->ops->unacknowledged ? stream->ops->unacknowledged(stream) : 0;
}

void stream_close(struct stream *stream)
{
    if (stream)
        stream->ops->close(stream, false);
}

void stream_reset(struct stream *stream)
{
    if (stream)
        stream->ops->close(stream, true);
}

void stream_close_ptr(struct stream **stream)
{
    stream_close(*stream);
    *stream = NULL;
}

void file_close_ptr(struct file **file)
{
    if (*file)
        file_close(*file);
    *file = NULL;
}
