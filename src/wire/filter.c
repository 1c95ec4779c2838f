/*
 * What the clients of filters share: the name of a fault, and safe copies of foreign words.
 */
#include "wire/filter.h"

#include <errno.h>

/* What is lacking on our side says nothing about the filter. */
static bool is_our_error(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS ||
           error == EADDRNOTAVAIL;
}

enum filter_fault filter_fault_of(struct io_result result, enum filter_fault otherwise)
{
    switch (result.status) {
    case IO_TIMEOUT:
        return FILTER_FAULT_TIMEOUT;
    case IO_CANCELLED:
        return FILTER_FAULT_LOCAL;
    case IO_FAILED:
        return is_our_error(result.error) ? FILTER_FAULT_LOCAL : otherwise;
    case IO_END:
    case IO_OK:
        break;
    }
    return otherwise;
}

/* EAGAIN: the backlog of a Unix socket is full, which a busy or stopped filter shows. */
enum filter_fault filter_dial_fault(struct io_result result)
{
    const bool full = result.status == IO_FAILED && result.error == EAGAIN;

    return filter_fault_of(result, full ? FILTER_FAULT_OVERLOADED : FILTER_FAULT_UNREACHABLE);
}

struct bytes filter_safe_copy(struct arena *arena, struct bytes foreign, size_t most)
{
    const size_t count = MIN_OF(foreign.count, most);
    uint8_t *copy = arena_take(arena, count + 1);

    for (size_t i = 0; copy && i < count; i++)
        copy[i] = ascii_is_print(foreign.at[i]) ? foreign.at[i] : '?';
    return copy ? bytes_of(copy, count) : BYTES_EMPTY;
}

struct io_result filter_read_whole(const struct message_source *message, struct span into,
                                   uint64_t offset)
{
    size_t done = 0;

    while (done < into.count) {
        const struct span rest = {into.at + done, into.count - done};
        const struct io_result result = message->read(message->argument, rest, offset + done);

        if (result.status == IO_END || (result.status == IO_OK && result.count == 0))
            return io_failed(EIO);
        if (result.status != IO_OK)
            return result;
        done += result.count;
    }
    return io_ok(done);
}
