/*
 * A message for a milter: its fields, the end of the header, the body in chunks, the end; then what
 * the milter changes, and its answer. The body's memory is on the heap: fibers have small stacks.
 */
#include "wire/milter.h"

#include <errno.h>

#include "wire/filter.h"

enum { BATCH_BYTES = 32 * 1024 };

/* ------------------------------------------------------------------ header */

/* As libmilter gives it to a filter: lines end in LF, and one space behind the colon is not part of
 * the value unless the milter asked for it. */
static struct bytes field_value(const struct milter *milter, struct bytes value,
                                struct buffer *into)
{
    buffer_clear(into);
    if (!(milter->steps & MILTER_LEADING_SPACE) && value.count > 0 && value.at[0] == ' ')
        value = bytes_skip(value, 1);
    for (size_t i = 0; i < value.count; i++)
        if (value.at[i] != '\r')
            buffer_add_byte(into, value.at[i]);
    return buffer_view(into);
}

static struct milter_verdict field_say(struct milter *milter, const struct milter_call *call,
                                       const struct header_field *field, bool *skip)
{
    CLEANUP(buffer_free) struct buffer value = BUFFER_WITH_LIMIT(MIB);
    const struct bytes texts[] = {field->name, field_value(milter, field->value, &value)};

    if (value.failed)
        return milter_fail(milter, FILTER_FAULT_LOCAL, BYTES_LITERAL("out of memory"));
    milter_put_texts(milter, 'L', texts, 2);
    if (!(milter->steps & MILTER_MUTE_HEADERS))
        return milter_answer(milter, call, skip);
    if (milter->out.count >= BATCH_BYTES)
        return milter_send(milter, call);
    return milter_verdict_of(MILTER_CONTINUE);
}

static struct milter_verdict block_say(struct milter *milter, const struct milter_call *call,
                                       struct bytes block, bool *skip)
{
    struct header_walk walk = HEADER_WALK_OF(block);
    struct milter_verdict verdict = milter_verdict_of(MILTER_CONTINUE);
    struct header_field field;

    while (verdict.answer == MILTER_CONTINUE && !*skip && header_next(&walk, &field))
        verdict = field_say(milter, call, &field, skip);
    return verdict;
}

static struct milter_verdict header_say(struct milter *milter, const struct milter_call *call,
                                        const struct milter_headers *headers)
{
    bool skip = (milter->steps & MILTER_NO_HEADERS) != 0;
    struct milter_verdict verdict = block_say(milter, call, headers->above, &skip);

    if (verdict.answer == MILTER_CONTINUE)
        verdict = block_say(milter, call, headers->below, &skip);
    if (verdict.answer != MILTER_CONTINUE || (milter->steps & MILTER_NO_EOH))
        return verdict;
    milter_put_macros(milter, call, MILTER_AT_EOH, 'N');
    milter_put(milter, 'N', BYTES_EMPTY);
    if (milter->steps & MILTER_MUTE_EOH)
        return verdict;
    return milter_answer(milter, call, NULL);
}

/* ------------------------------------------------------------------ body */

static struct milter_verdict chunk_say(struct milter *milter, const struct milter_call *call,
                                       struct bytes chunk, bool *skip)
{
    milter_put(milter, 'B', chunk);
    if (milter->steps & MILTER_MUTE_BODY)
        return milter_send(milter, call);
    return milter_answer(milter, call, skip);
}

static struct milter_verdict body_say_with(struct milter *milter, const struct milter_call *call,
                                           const struct message_source *body, uint8_t *memory)
{
    struct milter_verdict verdict = milter_verdict_of(MILTER_CONTINUE);
    bool skip = false;

    for (uint64_t offset = 0; offset < body->size_bytes; offset += MILTER_CHUNK_BYTES) {
        const size_t count =
            (size_t)MIN_OF(body->size_bytes - offset, (uint64_t)MILTER_CHUNK_BYTES);
        const struct io_result got = filter_read_whole(body, (struct span){memory, count}, offset);
        if (got.status != IO_OK)
            return milter_fail(milter, FILTER_FAULT_LOCAL,
                               arena_print(call->arena, "%s", io_result_text(got)));
        verdict = chunk_say(milter, call, bytes_of(memory, count), &skip);
        if (verdict.answer != MILTER_CONTINUE || skip)
            return verdict;
    }
    return verdict;
}

static struct milter_verdict body_say(struct milter *milter, const struct milter_call *call,
                                      const struct message_source *body)
{
    if ((milter->steps & MILTER_NO_BODY) || body->size_bytes == 0)
        return milter_verdict_of(MILTER_CONTINUE);
    uint8_t *memory = malloc(MILTER_CHUNK_BYTES);
    if (!memory)
        return milter_fail(milter, FILTER_FAULT_LOCAL, BYTES_LITERAL("out of memory"));
    const struct milter_verdict verdict = body_say_with(milter, call, body, memory);
    free(memory);
    return verdict;
}

/* ------------------------------------------------------------------ the end, and the changes */

/* The new body as it comes: CR and LF alone become CR LF, NUL is left out. */
struct new_body {
    struct milter_changes *changes;
    struct buffer piece;
    bool after_cr;
    uint64_t bytes;
};

static void normalise(struct new_body *body, struct bytes data)
{
    for (size_t i = 0; i < data.count; i++) {
        const uint8_t byte = data.at[i];
        if (byte == '\n' || body->after_cr)
            buffer_add_text(&body->piece, "\r\n");
        body->after_cr = byte == '\r';
        if (byte != '\n' && byte != '\r' && byte != 0)
            buffer_add_byte(&body->piece, byte);
    }
}

static struct io_result body_flush(struct new_body *body)
{
    const struct bytes piece = buffer_view(&body->piece);
    const struct message_sink *sink = &body->changes->body;

    if (body->piece.failed)
        return io_failed(ENOMEM);
    if (piece.count == 0)
        return io_ok(0);
    const struct io_result written = sink->write(sink->argument, piece);
    buffer_clear(&body->piece);
    return written;
}

static struct milter_verdict body_take(struct milter *milter, const struct milter_call *call,
                                       struct new_body *body, const struct milter_packet *packet)
{
    body->changes->body_replaced = true;
    body->bytes += packet->data.count;
    if (!(milter->actions & MILTER_MAY_CHANGE_BODY))
        return milter_garbled(milter, call, "a change that was not agreed upon", packet);
    if (body->bytes > MILTER_BODY_TALK_MAX)
        return milter_garbled(milter, call, "a body without end", NULL);
    if (!body->changes->body.write)
        return milter_fail(milter, FILTER_FAULT_MISCONFIGURED,
                           BYTES_LITERAL("it changes the body, which is not possible here"));
    normalise(body, packet->data);
    const struct io_result written = body_flush(body);
    if (written.status != IO_OK)
        return milter_fail(milter, FILTER_FAULT_LOCAL,
                           arena_print(call->arena, "the new body: %s", io_result_text(written)));
    return milter_verdict_of(MILTER_CONTINUE);
}

/* True: the packet was a change, taken or not (then *verdict is FAILED). */
static bool change_take(struct milter *milter, const struct milter_call *call,
                        struct new_body *body, const struct milter_packet *packet,
                        struct milter_verdict *verdict)
{
    const char *why = "";

    if (packet->kind == MILTER_SAYS_REPLACE_BODY) {
        *verdict = body_take(milter, call, body, packet);
        return true;
    }
    switch (milter_parse_change(call->arena, milter, packet, body->changes, &why)) {
    case MILTER_PARSED_CHANGE:
        return true;
    case MILTER_PARSED_BAD:
        *verdict = milter_garbled(milter, call, why, packet);
        return true;
    case MILTER_PARSED_OTHER:
        break;
    }
    return false;
}

static struct milter_verdict end_listen(struct milter *milter, const struct milter_call *call,
                                        struct new_body *body)
{
    struct milter_packet packet;
    struct milter_verdict verdict = milter_send(milter, call);

    while (verdict.answer == MILTER_CONTINUE) {
        verdict = milter_receive(milter, call, &packet);
        if (verdict.answer != MILTER_CONTINUE)
            break;
        if (change_take(milter, call, body, &packet, &verdict))
            continue;
        if (packet.kind == MILTER_SAYS_CONNECTION_FAILED)
            return milter_fail(milter, FILTER_FAULT_OVERLOADED,
                               BYTES_LITERAL("it takes no connection now"));
        if (!milter_parse_answer(call->arena, &packet, &verdict))
            return milter_garbled(milter, call, "not an answer", &packet);
        break;
    }
    return verdict;
}

static bool has_changed(const struct milter_changes *changes)
{
    return changes->count > 0 || changes->body_replaced || changes->quarantined;
}

bool milter_is_awaited(const struct milter *milter)
{
    return milter->awaited;
}

struct milter_verdict milter_listen(struct milter *milter, const struct milter_call *call,
                                    struct milter_changes *changes)
{
    struct new_body body = {.changes = changes, .piece = BUFFER_WITH_LIMIT(4 * MIB)};

    milter->failed = milter_verdict_of(MILTER_CONTINUE);
    milter->awaited = false;
    const struct milter_verdict verdict = end_listen(milter, call, &body);
    buffer_free(&body.piece);
    return verdict;
}

static struct milter_verdict end_say(struct milter *milter, const struct milter_call *call,
                                     struct milter_changes *changes)
{
    struct new_body body = {.changes = changes, .piece = BUFFER_WITH_LIMIT(4 * MIB)};

    milter_put_macros(milter, call, MILTER_AT_END, 'E');
    milter_put(milter, 'E', BYTES_EMPTY);
    const struct milter_verdict verdict = end_listen(milter, call, &body);
    milter->awaited = verdict.answer == MILTER_FAILED && verdict.fault == FILTER_FAULT_TIMEOUT &&
                      !has_changed(changes) && milter->in.count == 0 && milter->out.count == 0;
    if (body.after_cr)
        buffer_add_text(&body.piece, "\r\n");
    const struct io_result written = body_flush(&body);
    buffer_free(&body.piece);
    if (written.status != IO_OK && verdict.answer != MILTER_FAILED)
        return milter_fail(milter, FILTER_FAULT_LOCAL, BYTES_LITERAL("the new body"));
    return verdict;
}

/* ------------------------------------------------------------------ all of it */

static struct milter_verdict message_say(struct milter *milter, const struct milter_call *call,
                                         const struct milter_message *message,
                                         struct milter_changes *changes)
{
    struct milter_verdict verdict = header_say(milter, call, &message->headers);

    if (verdict.answer == MILTER_CONTINUE)
        verdict = body_say(milter, call, message->body);
    if (verdict.answer == MILTER_CONTINUE && milter_out_of_step(milter))
        verdict = milter_garbled(milter, call, "spoke without being asked", NULL);
    if (verdict.answer != MILTER_CONTINUE)
        return verdict;
    verdict = end_say(milter, call, changes);
    milter->in_message = false; /* for the milter too: no ABORT is due */
    return verdict;
}

struct milter_verdict milter_message(struct milter *milter, const struct milter_call *call,
                                     const struct milter_message *message,
                                     struct milter_changes *changes)
{
    const struct milter_verdict standing = milter_standing(milter, call);

    if (standing.answer != MILTER_CONTINUE)
        return standing;
    const struct milter_verdict verdict = message_say(milter, call, message, changes);
    if (verdict.answer != MILTER_FAILED && verdict.answer != MILTER_CONTINUE)
        milter_keep_message(milter, &verdict);
    return verdict;
}
