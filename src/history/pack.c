/*
 * One event as octets: a plain copy for the queue in memory, a dense form for the disk. Reading
 * either is bounded: a row that was damaged gives fewer events, never a fault.
 */
#include "history/inside.h"

#include <string.h>

/* Most octets of each text that are kept. */
static const uint16_t TEXT_MAX[KEPT_TEXTS] = {[KEPT_CLIENT] = 128,
                                              [KEPT_HELO] = 255,
                                              [KEPT_FROM] = 400,
                                              [KEPT_TO] = 400,
                                              [KEPT_MX] = 255,
                                              [KEPT_FILTER] = 255,
                                              [KEPT_TEXT] = 2000,
                                              [KEPT_ENHANCED] = 16,
                                              [KEPT_TLS] = 96,
                                              [KEPT_DESTINATION] = 320,
                                              [KEPT_TRANSCRIPT] = HISTORY_TRANSCRIPT_MAX};

struct head {
    uint64_t kind, message, mail;
    int64_t wall_us;
    uint64_t numbers[KEPT_NUMBERS];
    uint16_t lengths[KEPT_TEXTS];
};

static void kept_texts(const struct event *event, struct bytes texts[KEPT_TEXTS])
{
    texts[KEPT_CLIENT] = event->client;
    texts[KEPT_HELO] = event->helo;
    texts[KEPT_FROM] = event->from;
    texts[KEPT_TO] = event->to;
    texts[KEPT_MX] = event->mx;
    texts[KEPT_FILTER] = event->filter;
    texts[KEPT_TEXT] = event->text;
    texts[KEPT_ENHANCED] = event->enhanced;
    texts[KEPT_TLS] = event->tls;
    texts[KEPT_DESTINATION] = event->destination;
    texts[KEPT_TRANSCRIPT] = event->transcript;
    for (size_t i = 0; i < KEPT_TEXTS; i++)
        texts[i] = bytes_slice(texts[i], 0, TEXT_MAX[i]);
}

size_t kept_size(const struct event *event)
{
    struct bytes texts[KEPT_TEXTS];
    size_t size = sizeof(struct head);

    kept_texts(event, texts);
    for (size_t i = 0; i < KEPT_TEXTS; i++)
        size += texts[i].count;
    return size;
}

/* A cause is kept as its number and one, so that zero stands for "none". */
void kept_write(const struct event *event, uint8_t *at)
{
    struct bytes texts[KEPT_TEXTS];
    const bool fate = event->has_verdict && event->verdict.kind != VERDICT_ACCEPT;
    struct head head = {.kind = event->kind,
                        .message = event->message ? event->message : event->incident,
                        .mail = event->mail,
                        .wall_us = event->wall_us,
                        .numbers = {[KEPT_STAGE] = event->stage,
                                    [KEPT_CAUSE] = fate ? (uint64_t)event->verdict.cause + 1 : 0,
                                    [KEPT_CODE] = event->code,
                                    [KEPT_ATTEMPT] = event->attempt,
                                    [KEPT_NEXT] = (uint64_t)event->next_wall_us,
                                    [KEPT_TOOK] = event->took_us,
                                    [KEPT_SIZE] = event->size_bytes,
                                    [KEPT_SESSION] = event->session}};

    kept_texts(event, texts);
    for (size_t i = 0; i < KEPT_TEXTS; i++)
        head.lengths[i] = (uint16_t)texts[i].count;
    memcpy(at, &head, sizeof head);
    at += sizeof head;
    for (size_t i = 0; i < KEPT_TEXTS; i++) {
        if (texts[i].count > 0)
            memcpy(at, texts[i].at, texts[i].count);
        at += texts[i].count;
    }
}

bool kept_read(struct bytes *rest, struct kept *kept)
{
    struct head head;

    if (rest->count < sizeof head)
        return false;
    memcpy(&head, rest->at, sizeof head);
    *rest = bytes_skip(*rest, sizeof head);
    *kept = (struct kept){
        .kind = head.kind, .message = head.message, .mail = head.mail, .wall_us = head.wall_us};
    memcpy(kept->numbers, head.numbers, sizeof kept->numbers);
    for (size_t i = 0; i < KEPT_TEXTS; i++) {
        kept->texts[i] = bytes_slice(*rest, 0, head.lengths[i]);
        *rest = bytes_skip(*rest, head.lengths[i]);
    }
    return true;
}

/* ------------------------------------------------------------------ the disk form */

static void add_varint(struct buffer *into, uint64_t value)
{
    while (value >= 0x80) {
        buffer_add_byte(into, (uint8_t)(value | 0x80));
        value >>= 7;
    }
    buffer_add_byte(into, (uint8_t)value);
}

static uint64_t read_varint(struct reader *reader)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 64; shift += 7) {
        const uint8_t byte = reader_u8(reader);
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return value;
    }
    reader->failed = true;
    return 0;
}

/* Differences may be negative: the sign goes last, so that small ones stay short. */
static uint64_t fold_sign(int64_t value)
{
    return ((uint64_t)value << 1) ^ (value < 0 ? UINT64_MAX : 0);
}

/* Unsigned differences: a clock that was set may be any distance away. */
static uint64_t fold_distance(int64_t time_us, int64_t base_us)
{
    return fold_sign((int64_t)((uint64_t)time_us - (uint64_t)base_us));
}

static int64_t unfold_sign(uint64_t value)
{
    return (int64_t)((value >> 1) ^ (value & 1 ? UINT64_MAX : 0));
}

static uint64_t fields_present(const struct kept *kept)
{
    uint64_t mask = 0;

    for (unsigned i = 0; i < KEPT_NUMBERS; i++)
        mask |= (uint64_t)(kept->numbers[i] != 0) << i;
    for (unsigned i = 0; i < KEPT_TRANSCRIPT; i++)
        mask |= (uint64_t)(kept->texts[i].count != 0) << (KEPT_NUMBERS + i);
    return mask;
}

/* The next try is kept as its distance from the event. */
void kept_pack(struct buffer *into, const struct kept *kept, int64_t base_us)
{
    const uint64_t mask = fields_present(kept);

    add_varint(into, kept->kind);
    add_varint(into, fold_distance(kept->wall_us, base_us));
    add_varint(into, mask);
    for (unsigned i = 0; i < KEPT_NUMBERS; i++) {
        if (kept->numbers[i] == 0)
            continue;
        add_varint(into, i == KEPT_NEXT ? fold_distance((int64_t)kept->numbers[i], kept->wall_us)
                                        : kept->numbers[i]);
    }
    for (unsigned i = 0; i < KEPT_TRANSCRIPT; i++) {
        if (kept->texts[i].count == 0)
            continue;
        add_varint(into, kept->texts[i].count);
        buffer_add(into, kept->texts[i]);
    }
}

bool kept_unpack(struct bytes *rest, struct kept *kept, int64_t base_us)
{
    struct reader reader = READER_OF(*rest);

    *kept = (struct kept){.kind = read_varint(&reader)};
    /* Unsigned sums: a damaged row may hold any distance. */
    kept->wall_us = (int64_t)((uint64_t)base_us + (uint64_t)unfold_sign(read_varint(&reader)));
    const uint64_t mask = read_varint(&reader);
    for (unsigned i = 0; i < KEPT_NUMBERS; i++)
        if (mask >> i & 1)
            kept->numbers[i] = read_varint(&reader);
    if (mask >> KEPT_NEXT & 1)
        kept->numbers[KEPT_NEXT] =
            (uint64_t)kept->wall_us + (uint64_t)unfold_sign(kept->numbers[KEPT_NEXT]);
    for (unsigned i = 0; i < KEPT_TRANSCRIPT; i++)
        if (mask >> (KEPT_NUMBERS + i) & 1)
            kept->texts[i] = reader_bytes(&reader, read_varint(&reader));
    *rest = reader.rest;
    return !reader.failed;
}
