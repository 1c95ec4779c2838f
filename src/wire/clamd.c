/*
 * The client of clamd (its protocol: clamd(8), INSTREAM and PING in the "z" form, ended by NUL).
 *
 * Clean means: the whole message went out and then one complete "stream: OK" came back, and nothing
 * else. An answer that comes before the message is out counts only when it objects. Every other way
 * out is a fault with a name. The chunk's memory is on the heap, since fibers have small stacks.
 */
#include "wire/clamd.h"

#include <errno.h>
#include <string.h>

#include "wire/filter.h"

enum {
    CHUNK_BYTES = 65536,
    CHUNK_OVERHEAD = 32, /* the command, the length, and the zero length at the end */
    ANSWER_MAX = 4096,
};

struct clamd_talk {
    struct arena *arena;
    struct stream *stream;
    uint64_t deadline_us;
    uint8_t answer[ANSWER_MAX];
    size_t answer_count;
    bool sent_all;
};

static struct clamd_verdict failed(enum filter_fault fault, struct bytes words)
{
    return (struct clamd_verdict){.result = CLAMD_FAILED, .fault = fault, .words = words};
}

/* What is lacking on our side says nothing about the filter. */
static bool is_our_error(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS ||
           error == EADDRNOTAVAIL;
}

/* `otherwise`: what a plain failure or the end of the stream means at this point. */
static struct clamd_verdict fault_of(struct arena *arena, struct io_result result,
                                     enum filter_fault otherwise)
{
    const struct bytes words = arena_print(arena, "%s", io_result_text(result));

    switch (result.status) {
    case IO_TIMEOUT:
        return failed(FILTER_FAULT_TIMEOUT, words);
    case IO_CANCELLED:
        return failed(FILTER_FAULT_LOCAL, words);
    case IO_FAILED:
        return failed(is_our_error(result.error) ? FILTER_FAULT_LOCAL : otherwise, words);
    case IO_END:
    case IO_OK:
        break;
    }
    return failed(otherwise, words);
}

/* ------------------------------------------------------------------ the answer */

static struct bytes safe_copy(struct arena *arena, struct bytes foreign)
{
    uint8_t *copy = arena_take(arena, foreign.count + 1);

    for (size_t i = 0; copy && i < foreign.count; i++)
        copy[i] = ascii_is_print(foreign.at[i]) ? foreign.at[i] : '?';
    return copy ? bytes_of(copy, foreign.count) : BYTES_EMPTY;
}

static struct clamd_verdict garbled(struct arena *arena, struct bytes answer)
{
    const struct bytes shown = safe_copy(arena, bytes_slice(answer, 0, 200));

    return failed(FILTER_FAULT_GARBLED,
                  arena_print(arena, "answered \"%.*s\"", BYTES_PRINT(shown)));
}

/* One complete answer, without its end. */
static struct clamd_verdict judge_answer(const struct clamd_talk *talk, struct bytes answer)
{
    static const struct bytes prefix = BYTES_LITERAL("stream: "), found = BYTES_LITERAL(" FOUND"),
                              error = BYTES_LITERAL("ERROR");
    const struct bytes rest = bytes_skip(answer, prefix.count);
    const bool about_stream = bytes_starts_with(answer, prefix);

    if (about_stream && bytes_equal_text(rest, "OK"))
        return talk->sent_all ? (struct clamd_verdict){.result = CLAMD_CLEAN}
                              : garbled(talk->arena, BYTES_LITERAL("stream: OK, before its end"));
    if (about_stream && rest.count > found.count && bytes_ends_with_nocase(rest, found))
        return (struct clamd_verdict){
            .result = CLAMD_FOUND,
            .words = safe_copy(talk->arena, bytes_slice(rest, 0, rest.count - found.count))};
    if (bytes_find(answer, BYTES_LITERAL("size limit exceeded")) < answer.count)
        return (struct clamd_verdict){.result = CLAMD_TOO_LARGE,
                                      .words = safe_copy(talk->arena, answer)};
    if (bytes_ends_with_nocase(answer, error))
        return (struct clamd_verdict){.result = CLAMD_ERROR,
                                      .words = safe_copy(talk->arena, answer)};
    return garbled(talk->arena, answer);
}

static size_t answer_end(struct bytes answer)
{
    return MIN_OF(bytes_find_byte(answer, 0), bytes_find_byte(answer, '\n'));
}

/* Reads until NUL or LF. *answer is what came, without that end; true only when the end was seen.
 */
static bool read_answer(struct clamd_talk *talk, struct bytes *answer, struct io_result *last)
{
    for (*last = io_ok(0); talk->answer_count < ANSWER_MAX;) {
        *answer = bytes_of(talk->answer, talk->answer_count);
        const size_t end = answer_end(*answer);
        if (end < answer->count) {
            /* Something behind the end is no answer to one question. */
            const bool alone = end + 1 == answer->count;
            *answer = alone ? bytes_slice(*answer, 0, end) : *answer;
            return alone;
        }
        const struct span room = {talk->answer + talk->answer_count,
                                  ANSWER_MAX - talk->answer_count};
        *last = stream_read(talk->stream, room, talk->deadline_us);
        if (last->status != IO_OK)
            return false;
        talk->answer_count += last->count;
    }
    *answer = bytes_of(talk->answer, talk->answer_count);
    return false;
}

/* Why no complete answer came: silence and then an end is a crash, half an answer is garbage. */
static struct clamd_verdict answer_fault(struct clamd_talk *talk, struct bytes answer,
                                         struct io_result last)
{
    const bool ended = last.status == IO_END || last.status == IO_FAILED;

    if (last.status == IO_OK || (ended && answer.count > 0))
        return garbled(talk->arena, answer);
    return fault_of(talk->arena, last, FILTER_FAULT_CRASHED);
}

/* ------------------------------------------------------------------ sending */

static void put_u32(uint8_t *into, size_t value)
{
    for (unsigned i = 0; i < 4; i++)
        into[i] = (uint8_t)(value >> (24 - 8 * i));
}

enum sending { SENDING_DONE, SENDING_STOPPED, SENDING_FAILED };

struct outgoing {
    struct clamd_talk *talk;
    const struct message_source *message;
    struct span memory;
    struct clamd_verdict why; /* with SENDING_FAILED */
};

/* One write holds the command (at first), a chunk, and the end (at last): small mail needs no more.
 */
static enum sending send_chunk(struct outgoing *out, uint64_t offset)
{
    static const char command[] = "zINSTREAM"; /* with its NUL */
    const uint64_t left = out->message->size_bytes - offset;
    const size_t count = (size_t)MIN_OF(left, (uint64_t)CHUNK_BYTES);
    size_t used = 0;

    if (offset == 0) {
        memcpy(out->memory.at, command, sizeof command);
        used = sizeof command;
    }
    if (count > 0) {
        put_u32(out->memory.at + used, count);
        used += 4;
        const struct io_result got =
            filter_read_whole(out->message, (struct span){out->memory.at + used, count}, offset);
        if (got.status != IO_OK) {
            out->why = fault_of(out->talk->arena, got, FILTER_FAULT_LOCAL);
            out->why.fault = FILTER_FAULT_LOCAL;
            return SENDING_FAILED;
        }
        used += count;
    }
    if (count == left) {
        put_u32(out->memory.at + used, 0);
        used += 4;
    }
    const struct io_result sent =
        stream_write(out->talk->stream, bytes_of(out->memory.at, used), out->talk->deadline_us);
    if (sent.status == IO_OK)
        return SENDING_DONE;
    out->why = fault_of(out->talk->arena, sent, FILTER_FAULT_CRASHED);
    /* It closed while we sent: perhaps it has answered already, so the answer is read first. */
    return out->why.fault == FILTER_FAULT_CRASHED ? SENDING_STOPPED : SENDING_FAILED;
}

static enum sending send_message(struct outgoing *out)
{
    uint64_t offset = 0;

    do {
        const enum sending sending = send_chunk(out, offset);

        if (sending != SENDING_DONE)
            return sending;
        offset += CHUNK_BYTES;
    } while (offset < out->message->size_bytes);
    out->talk->sent_all = true;
    return SENDING_DONE;
}

struct clamd_verdict clamd_talk_scan(struct arena *arena, struct stream *stream,
                                     const struct message_source *message, uint64_t deadline_us)
{
    struct clamd_talk *talk = malloc(sizeof *talk);
    uint8_t *memory = malloc(CHUNK_BYTES + CHUNK_OVERHEAD);
    struct clamd_verdict verdict = failed(FILTER_FAULT_LOCAL, BYTES_LITERAL("out of memory"));

    if (!talk || !memory)
        goto done;
    *talk = (struct clamd_talk){.arena = arena, .stream = stream, .deadline_us = deadline_us};
    struct outgoing out = {
        .talk = talk, .message = message, .memory = {memory, CHUNK_BYTES + CHUNK_OVERHEAD}};
    const enum sending sending = send_message(&out);
    verdict = out.why;
    if (sending == SENDING_FAILED)
        goto done;
    struct bytes answer = BYTES_EMPTY;
    struct io_result last;
    if (read_answer(talk, &answer, &last))
        verdict = judge_answer(talk, answer);
    else
        verdict = answer_fault(talk, answer, last);
    verdict.awaited =
        verdict.fault == FILTER_FAULT_TIMEOUT && talk->sent_all && talk->answer_count == 0;
done:
    free(talk);
    free(memory);
    return verdict;
}

struct clamd_verdict clamd_talk_ping(struct arena *arena, struct stream *stream,
                                     uint64_t deadline_us)
{
    struct clamd_talk talk = {.arena = arena, .stream = stream, .deadline_us = deadline_us};
    struct bytes answer = BYTES_EMPTY;
    struct io_result last;
    const struct io_result sent =
        stream_write(stream, bytes_of("zPING", sizeof "zPING"), deadline_us);

    if (sent.status != IO_OK)
        return fault_of(arena, sent, FILTER_FAULT_CRASHED);
    if (!read_answer(&talk, &answer, &last))
        return answer_fault(&talk, answer, last);
    return bytes_equal_text(answer, "PONG") ? (struct clamd_verdict){.result = CLAMD_CLEAN}
                                            : garbled(arena, answer);
}

/* ------------------------------------------------------------------ with the connection */

/* EAGAIN: the backlog of a Unix socket is full, which a busy or stopped clamd shows. */
static struct clamd_verdict dial_fault(struct arena *arena, struct io_result result)
{
    const bool full = result.status == IO_FAILED && result.error == EAGAIN;

    return fault_of(arena, result, full ? FILTER_FAULT_OVERLOADED : FILTER_FAULT_UNREACHABLE);
}

struct clamd_verdict clamd_scan(struct arena *arena, const struct endpoint *at,
                                const struct message_source *message,
                                struct filter_deadlines deadlines, struct stream **late)
{
    CLEANUP(stream_close_ptr) struct stream *stream = NULL;
    const struct io_result dialled = stream_dial(at, NULL, deadlines.connect_us, &stream);

    if (dialled.status != IO_OK)
        return dial_fault(arena, dialled);
    const struct clamd_verdict verdict = clamd_talk_scan(arena, stream, message, deadlines.done_us);
    if (late && verdict.awaited) {
        *late = stream;
        stream = NULL;
    }
    return verdict;
}

struct clamd_verdict clamd_listen(struct arena *arena, struct stream *late, uint64_t deadline_us)
{
    struct clamd_talk talk = {
        .arena = arena, .stream = late, .deadline_us = deadline_us, .sent_all = true};
    struct bytes answer = BYTES_EMPTY;
    struct io_result last;

    if (read_answer(&talk, &answer, &last))
        return judge_answer(&talk, answer);
    return answer_fault(&talk, answer, last);
}

struct clamd_verdict clamd_ping(struct arena *arena, const struct endpoint *at,
                                struct filter_deadlines deadlines)
{
    CLEANUP(stream_close_ptr) struct stream *stream = NULL;
    const struct io_result dialled = stream_dial(at, NULL, deadlines.connect_us, &stream);

    if (dialled.status != IO_OK)
        return dial_fault(arena, dialled);
    return clamd_talk_ping(arena, stream, deadlines.done_us);
}
