/*
 * Packets of the milter protocol: four octets of length, a kind, data. What comes in is bounded
 * before memory is taken for it; a reply is read to its own end and not further than what was sent.
 */
#include "wire/milter.h"

#include <errno.h>
#include <string.h>

#include "wire/filter.h"

enum { READ_BYTES = 4096, SEND_BYTES = 64 * 1024 };

struct milter_verdict milter_fail(struct milter *milter, enum filter_fault fault,
                                  struct bytes words)
{
    const size_t count = MIN_OF(words.count, sizeof milter->session_words);

    if (milter->failed.answer != MILTER_FAILED) {
        if (count > 0)
            memcpy(milter->session_words, words.at, count);
        milter->failed = (struct milter_verdict){.fault = fault,
                                                 .words = bytes_of(milter->session_words, count)};
    }
    return (struct milter_verdict){.fault = fault, .words = words};
}

static struct milter_verdict fail_io(struct milter *milter, const struct milter_call *call,
                                     struct io_result result)
{
    return milter_fail(milter, filter_fault_of(result, FILTER_FAULT_CRASHED),
                       arena_print(call->arena, "%s", io_result_text(result)));
}

struct milter_verdict milter_garbled(struct milter *milter, const struct milter_call *call,
                                     const char *what, const struct milter_packet *packet)
{
    if (!packet)
        return milter_fail(milter, FILTER_FAULT_GARBLED, arena_print(call->arena, "%s", what));
    const struct bytes kind = filter_safe_copy(call->arena, bytes_of(&packet->kind, 1), 1);
    const struct bytes data = filter_safe_copy(call->arena, packet->data, 80);

    return milter_fail(milter, FILTER_FAULT_GARBLED,
                       arena_print(call->arena, "%s: '%.*s' \"%.*s\"", what, BYTES_PRINT(kind),
                                   BYTES_PRINT(data)));
}

/* ------------------------------------------------------------------ sending */

void milter_put(struct milter *milter, uint8_t kind, struct bytes data)
{
    buffer_add_u32(&milter->out, (uint32_t)(data.count + 1));
    buffer_add_byte(&milter->out, kind);
    buffer_add(&milter->out, data);
}

static size_t text_length(struct bytes text)
{
    size_t count = 0;

    for (size_t i = 0; i < text.count; i++)
        count += text.at[i] != 0;
    return count + 1;
}

static void put_text(struct buffer *out, struct bytes text)
{
    for (struct bytes piece; text.count > 0;) {
        text = bytes_cut(text, 0, &piece);
        buffer_add(out, piece);
    }
    buffer_add_byte(out, 0);
}

void milter_put_texts(struct milter *milter, uint8_t kind, const struct bytes *texts,
                      unsigned count)
{
    size_t total = 1;

    for (unsigned i = 0; i < count; i++)
        total += text_length(texts[i]);
    buffer_add_u32(&milter->out, (uint32_t)total);
    buffer_add_byte(&milter->out, kind);
    for (unsigned i = 0; i < count; i++)
        put_text(&milter->out, texts[i]);
}

static void wait_anew(struct milter *milter, const struct milter_call *call)
{
    milter->wait_until_us = call->deadline_us;
    if (call->reply_us > 0)
        milter->wait_until_us = MIN_OF(call->deadline_us, deadline_in(call->reply_us));
}

struct milter_verdict milter_send(struct milter *milter, const struct milter_call *call)
{
    const struct bytes all = buffer_view(&milter->out);

    wait_anew(milter, call);
    if (milter->out.failed)
        return milter_fail(milter, FILTER_FAULT_LOCAL, BYTES_LITERAL("out of memory"));
    if (all.count > 0) {
        const struct io_result sent = stream_write(milter->stream, all, milter->wait_until_us);
        if (sent.status != IO_OK)
            return fail_io(milter, call, sent);
    }
    if (all.count > SEND_BYTES)
        buffer_free(&milter->out);
    else
        buffer_clear(&milter->out);
    return milter_verdict_of(MILTER_CONTINUE);
}

/* ------------------------------------------------------------------ receiving */

/* More bytes in `in`. Sleeps. */
static struct io_result fill(struct milter *milter, uint64_t deadline_us)
{
    uint8_t *room = buffer_reserve(&milter->in, READ_BYTES);

    if (!room)
        return io_failed(ENOMEM);
    const struct io_result got =
        stream_read(milter->stream, (struct span){room, READ_BYTES}, deadline_us);
    if (got.status == IO_OK)
        buffer_claim(&milter->in, got.count);
    return got;
}

/* The end of the stream between packets is a crash, within one it is half an answer. */
static struct milter_verdict fill_failed(struct milter *milter, const struct milter_call *call,
                                         struct io_result result)
{
    const bool within = buffer_view(&milter->in).count > 0;
    const bool ended = result.status == IO_END || result.status == IO_FAILED;

    if (within && ended && filter_fault_of(result, FILTER_FAULT_CRASHED) == FILTER_FAULT_CRASHED)
        return milter_garbled(milter, call, "half a packet", NULL);
    return fail_io(milter, call, result);
}

/* 0: not known yet. */
static size_t packet_length(struct milter *milter)
{
    struct reader reader = READER_OF(buffer_view(&milter->in));
    const uint32_t length = reader_u32(&reader);

    return reader.failed ? 0 : (size_t)length + 4;
}

/* The packet given out last is in the way no longer. */
static void drop_taken(struct milter *milter)
{
    buffer_drop_front(&milter->in, milter->taken);
    milter->taken = 0;
    if (milter->in.count == 0 && milter->in.room > SEND_BYTES)
        buffer_free(&milter->in);
}

struct milter_verdict milter_receive(struct milter *milter, const struct milter_call *call,
                                     struct milter_packet *packet)
{
    wait_anew(milter, call);
    for (;;) {
        drop_taken(milter);
        const size_t length = packet_length(milter);
        if (length != 0 && (length < 5 || length > MILTER_PACKET_MAX + 4))
            return milter_garbled(milter, call, "a packet of an impossible length", NULL);
        if (length != 0 && milter->in.count >= length) {
            *packet =
                (struct milter_packet){milter->in.at[4], bytes_of(milter->in.at + 5, length - 5)};
            milter->taken = length;
            if (packet->kind != MILTER_SAYS_PROGRESS)
                return milter_verdict_of(MILTER_CONTINUE);
            wait_anew(milter, call);
            continue;
        }
        const struct io_result got = fill(milter, milter->wait_until_us);
        if (got.status != IO_OK)
            return fill_failed(milter, call, got);
    }
}

bool milter_out_of_step(struct milter *milter)
{
    drop_taken(milter);
    return milter->in.count > 0 || fill(milter, 0).status == IO_OK;
}
