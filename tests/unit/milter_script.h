/*
 * A milter in memory: it reads the packets that we write and answers each by a script, else with
 * CONTINUE, as its negotiated steps allow. What was said is kept, packet after packet.
 */
#ifndef TESTS_MILTER_SCRIPT_H
#define TESTS_MILTER_SCRIPT_H

#include <errno.h>
#include <string.h>

#include "wire/milter.h"

struct script_row {
    uint8_t command;     /* the first one of that kind since the script began */
    struct bytes answer; /* raw packets */
};

enum { SCRIPT_ROWS_MAX = 16 };

struct milter_script {
    struct stream stream;
    const struct script_row *rows;
    unsigned row_count;
    bool used[SCRIPT_ROWS_MAX];
    uint32_t version, actions, steps;
    struct bytes lists;      /* macro lists of the negotiation */
    struct buffer said;      /* all packets that we wrote */
    size_t seen;             /* of them */
    struct buffer answers;   /* what the milter will say */
    size_t given;            /* of them */
    size_t answers_most;     /* it says no more octets than this */
    size_t fragment;         /* octets a read gives; 0: all */
    struct io_result at_end; /* when it has nothing to say */
    bool write_fails;
    bool closed;
};

static inline void script_put(struct buffer *into, uint8_t kind, struct bytes data)
{
    buffer_add_u32(into, (uint32_t)data.count + 1);
    buffer_add_byte(into, kind);
    buffer_add(into, data);
}

static inline bool script_is_muted(const struct milter_script *script, uint8_t command)
{
    static const struct {
        uint8_t command;
        uint32_t step;
    } muted[] = {{'C', MILTER_MUTE_CONNECT}, {'H', MILTER_MUTE_HELO}, {'M', MILTER_MUTE_MAIL},
                 {'R', MILTER_MUTE_RCPT},    {'T', MILTER_MUTE_DATA}, {'L', MILTER_MUTE_HEADERS},
                 {'N', MILTER_MUTE_EOH},     {'B', MILTER_MUTE_BODY}, {'U', MILTER_MUTE_UNKNOWN},
                 {'D', UINT32_MAX},          {'A', UINT32_MAX},       {'K', UINT32_MAX},
                 {'Q', UINT32_MAX}};

    for (size_t i = 0; i < COUNT_OF(muted); i++)
        if (muted[i].command == command)
            return muted[i].step == UINT32_MAX || (script->steps & muted[i].step);
    return false;
}

static inline void script_answer(struct milter_script *script, uint8_t command)
{
    for (unsigned i = 0; i < script->row_count; i++) {
        if (script->rows[i].command != command || script->used[i])
            continue;
        script->used[i] = true;
        buffer_add(&script->answers, script->rows[i].answer);
        return;
    }
    if (command == 'O') {
        buffer_add_u32(&script->answers, (uint32_t)script->lists.count + 13);
        buffer_add_byte(&script->answers, 'O');
        buffer_add_u32(&script->answers, script->version);
        buffer_add_u32(&script->answers, script->actions);
        buffer_add_u32(&script->answers, script->steps);
        buffer_add(&script->answers, script->lists);
    } else if (!script_is_muted(script, command)) {
        script_put(&script->answers, 'c', BYTES_EMPTY);
    }
}

static inline struct io_result script_write(struct stream *stream, struct bytes from,
                                            uint64_t deadline_us)
{
    struct milter_script *script = CONTAINER_OF(stream, struct milter_script, stream);

    (void)deadline_us;
    if (script->write_fails)
        return io_failed(EPIPE);
    buffer_add(&script->said, from);
    for (;;) {
        struct reader reader = READER_OF(bytes_skip(buffer_view(&script->said), script->seen));
        const uint32_t length = reader_u32(&reader);
        const struct bytes packet = reader_bytes(&reader, length);
        if (reader.failed || length == 0)
            return io_ok(from.count);
        script->seen += length + 4;
        script_answer(script, packet.at[0]);
    }
}

static inline struct io_result script_read(struct stream *stream, struct span into,
                                           uint64_t deadline_us)
{
    struct milter_script *script = CONTAINER_OF(stream, struct milter_script, stream);
    const size_t end = MIN_OF(script->answers.count, script->answers_most);
    size_t count = MIN_OF(into.count, end - MIN_OF(end, script->given));

    if (script->fragment > 0)
        count = MIN_OF(count, script->fragment);
    if (count == 0) /* an instant that has passed: only what is there already */
        return deadline_us == 0 ? io_status_only(IO_TIMEOUT) : script->at_end;
    memcpy(into.at, script->answers.at + script->given, count);
    script->given += count;
    return io_ok(count);
}

static inline struct io_result script_wait(struct stream *stream, uint64_t deadline_us)
{
    (void)stream;
    (void)deadline_us;
    return io_ok(0);
}

static inline void script_close(struct stream *stream, bool reset)
{
    (void)reset;
    CONTAINER_OF(stream, struct milter_script, stream)->closed = true;
}

static const struct stream_ops script_ops = {.read = script_read,
                                             .write = script_write,
                                             .wait_readable = script_wait,
                                             .close = script_close};

static inline struct milter_script milter_script_of(const struct script_row *rows, unsigned count)
{
    return (struct milter_script){.stream.ops = &script_ops,
                                  .rows = rows,
                                  .row_count = count,
                                  .version = 6,
                                  .actions = MILTER_ACTIONS_ALL,
                                  .said = BUFFER_WITH_LIMIT(64 * MIB),
                                  .answers = BUFFER_WITH_LIMIT(64 * MIB),
                                  .answers_most = SIZE_MAX,
                                  .at_end = {.status = IO_END}};
}

static inline void milter_script_free(struct milter_script *script)
{
    buffer_free(&script->said);
    buffer_free(&script->answers);
}

/* The commands that were said, a letter each: "OCHMRTLLNBE". */
static inline void script_letters(const struct milter_script *script, char *into, size_t room)
{
    struct reader reader = READER_OF(buffer_view(&script->said));
    size_t count = 0;

    while (!reader_at_end(&reader) && count + 1 < room) {
        const struct bytes packet = reader_bytes(&reader, reader_u32(&reader));
        into[count++] = packet.count > 0 ? (char)packet.at[0] : '!';
    }
    into[count] = '\0';
}

/* The data of the n-th packet (from 0) of a kind. */
static inline struct bytes script_packet(const struct milter_script *script, uint8_t kind,
                                         unsigned which)
{
    struct reader reader = READER_OF(buffer_view(&script->said));

    while (!reader_at_end(&reader)) {
        const struct bytes packet = reader_bytes(&reader, reader_u32(&reader));
        if (packet.count > 0 && packet.at[0] == kind && which-- == 0)
            return bytes_skip(packet, 1);
    }
    return bytes_of_text("(not said)");
}

#endif
