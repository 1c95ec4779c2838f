/*
 * Enumerations that may grow are written by name (causes) or as numbers fixed in docs/spool.md
 * (states), so that a later build reads what an earlier one wrote.
 */
#include "spool/codec.h"

enum {
    CODEC_VERSION = 1,
    /* Envelopes only: recipients have an owner and a way of delivery, too. Written where one has.
     */
    ENVELOPE_VERSION_OWNERS = 2,
    /* Accepted records only: a mark follows. Written where there is one. */
    ACCEPTED_VERSION_MARK = 2,
};

enum envelope_bits {
    BIT_SMTPUTF8 = 1,
    BIT_REQUIRETLS = 2,
    BIT_SUBMISSION = 4,
    BIT_HELD = 8,
    BIT_DSN = 16,
    BIT_UNSCANNED = 32
};

static void add_bytes(struct buffer *into, struct bytes bytes)
{
    buffer_add_u32(into, (uint32_t)bytes.count);
    buffer_add(into, bytes);
}

static struct bytes read_bytes(struct reader *reader)
{
    return reader_bytes(reader, reader_u32(reader));
}

static void add_address(struct buffer *into, struct address address)
{
    add_bytes(into, address.local);
    add_bytes(into, address.domain);
}

static struct address read_address(struct reader *reader)
{
    const struct bytes local = read_bytes(reader);

    return (struct address){local, read_bytes(reader)};
}

/* ------------------------------------------------------------------ envelope */

static unsigned envelope_bits(const struct envelope *envelope)
{
    return (envelope->smtputf8 ? BIT_SMTPUTF8 : 0u) | (envelope->requiretls ? BIT_REQUIRETLS : 0u) |
           (envelope->via_submission ? BIT_SUBMISSION : 0u) | (envelope->held ? BIT_HELD : 0u) |
           (envelope->kind == ENVELOPE_DSN ? BIT_DSN : 0u) |
           (envelope->unscanned ? BIT_UNSCANNED : 0u);
}

static bool envelope_has_owners(const struct envelope *envelope)
{
    for (uint32_t i = 0; i < envelope->recipient_count; i++)
        if (!address_is_null(envelope->recipients[i].owner) ||
            envelope->recipients[i].deliver.count > 0)
            return true;
    return false;
}

static void recipient_encode(struct buffer *into, const struct recipient *recipient, bool owners)
{
    add_address(into, recipient->address);
    add_bytes(into, recipient->original);
    add_address(into, recipient->asked);
    buffer_add_byte(into, (uint8_t)recipient->notify);
    if (!owners)
        return;
    add_address(into, recipient->owner);
    add_bytes(into, recipient->deliver);
}

/* The facts come first, at fixed places. */
void envelope_encode(struct buffer *into, const struct envelope *envelope)
{
    const bool owners = envelope_has_owners(envelope);

    buffer_add_byte(into, owners ? ENVELOPE_VERSION_OWNERS : CODEC_VERSION);
    buffer_add_byte(into, (uint8_t)envelope_bits(envelope));
    buffer_add_byte(into, (uint8_t)envelope->dsn_return);
    buffer_add_byte(into, (uint8_t)envelope->body);
    buffer_add_u32(into, envelope->recipient_count);
    buffer_add_u64(into, (uint64_t)envelope->accepted_wall_us);
    add_address(into, envelope->from);
    add_bytes(into, envelope->envelope_id);
    add_bytes(into, envelope->client);
    add_bytes(into, envelope->helo);
    add_bytes(into, envelope->user);
    add_bytes(into, envelope->held_why);
    for (uint32_t i = 0; i < envelope->recipient_count; i++)
        recipient_encode(into, &envelope->recipients[i], owners);
}

static void recipient_decode(struct reader *reader, struct recipient *recipient, bool owners)
{
    recipient->address = read_address(reader);
    recipient->original = read_bytes(reader);
    recipient->asked = read_address(reader);
    recipient->notify = reader_u8(reader);
    if (!owners)
        return;
    recipient->owner = read_address(reader);
    recipient->deliver = read_bytes(reader);
}

static bool envelope_begin(struct reader *reader, struct envelope *envelope, uint8_t *version)
{
    *version = reader_u8(reader);
    const unsigned bits = reader_u8(reader);

    *envelope = (struct envelope){0};
    envelope->smtputf8 = bits & BIT_SMTPUTF8;
    envelope->requiretls = bits & BIT_REQUIRETLS;
    envelope->via_submission = bits & BIT_SUBMISSION;
    envelope->held = bits & BIT_HELD;
    envelope->unscanned = bits & BIT_UNSCANNED;
    envelope->kind = bits & BIT_DSN ? ENVELOPE_DSN : ENVELOPE_MAIL;
    envelope->dsn_return = (enum envelope_return)reader_u8(reader);
    envelope->body = (enum body_kind)reader_u8(reader);
    envelope->recipient_count = reader_u32(reader);
    envelope->accepted_wall_us = (int64_t)reader_u64(reader);
    return !reader->failed && *version >= CODEC_VERSION && *version <= ENVELOPE_VERSION_OWNERS &&
           envelope->dsn_return <= RETURN_HEADERS && envelope->body <= BODY_BINARYMIME &&
           envelope->recipient_count > 0 && envelope->recipient_count <= ENVELOPE_RECIPIENTS_MAX;
}

bool envelope_decode(struct arena *arena, struct bytes encoded, struct envelope *envelope)
{
    enum { RECIPIENT_LEAST = 5 * 4 + 1 };
    struct reader reader = READER_OF(encoded);
    uint8_t version = 0;

    if (!envelope_begin(&reader, envelope, &version))
        return false;
    envelope->from = read_address(&reader);
    envelope->envelope_id = read_bytes(&reader);
    envelope->client = read_bytes(&reader);
    envelope->helo = read_bytes(&reader);
    envelope->user = read_bytes(&reader);
    envelope->held_why = read_bytes(&reader);
    if (reader.failed || reader.rest.count / RECIPIENT_LEAST < envelope->recipient_count)
        return false;
    envelope->recipients = ARENA_NEW_ARRAY(arena, envelope->recipient_count, struct recipient);
    if (!envelope->recipients)
        return false;
    for (uint32_t i = 0; i < envelope->recipient_count; i++)
        recipient_decode(&reader, &envelope->recipients[i], version == ENVELOPE_VERSION_OWNERS);
    return !reader.failed && reader_at_end(&reader);
}

bool envelope_facts(struct bytes encoded, struct envelope_facts *facts)
{
    struct reader reader = READER_OF(encoded);
    struct envelope envelope;
    uint8_t version = 0;

    if (!envelope_begin(&reader, &envelope, &version))
        return false;
    *facts = (struct envelope_facts){.recipient_count = envelope.recipient_count,
                                     .accepted_wall_us = envelope.accepted_wall_us,
                                     .held = envelope.held,
                                     .from = read_address(&reader)};
    for (unsigned i = 0; i < 3; i++)
        read_bytes(&reader); /* ENVID, client, HELO */
    facts->user = read_bytes(&reader);
    read_bytes(&reader); /* why held */
    facts->first_domain = read_address(&reader).domain;
    return !reader.failed;
}

/* ------------------------------------------------------------------ states of recipients */

void status_list_begin(struct buffer *into, uint32_t count)
{
    buffer_add_byte(into, CODEC_VERSION);
    buffer_add_u32(into, count);
}

void status_list_add(struct buffer *into, uint32_t recipient, const struct status *status)
{
    buffer_add_u32(into, recipient);
    buffer_add_byte(into, (uint8_t)status->state);
    buffer_add_byte(into, status->delay_notified);
    buffer_add_u32(into, status->attempts);
    buffer_add_u64(into, (uint64_t)status->next_wall_us);
    buffer_add_u64(into, (uint64_t)status->last_attempt_wall_us);
    add_bytes(into, bytes_of_text(cause_name(status->cause)));
    add_bytes(into, bytes_slice(status->reply, 0, REPLY_MAX));
}

struct status_list status_list_read(struct bytes encoded)
{
    struct status_list list = {.reader = READER_OF(encoded)};

    if (encoded.count == 0)
        return list;
    const uint8_t version = reader_u8(&list.reader);
    list.left = reader_u32(&list.reader);
    list.failed = list.reader.failed || version != CODEC_VERSION;
    return list;
}

bool status_list_next(struct status_list *list, uint32_t *recipient, struct status *status)
{
    struct reader *reader = &list->reader;

    if (list->failed || list->left == 0) {
        list->failed = list->failed || !reader_at_end(reader);
        return false;
    }
    list->left--;
    *recipient = reader_u32(reader);
    const uint8_t state = reader_u8(reader);
    *status = (struct status){.state = (enum recipient_state)state};
    status->delay_notified = reader_u8(reader) != 0;
    status->attempts = reader_u32(reader);
    status->next_wall_us = (int64_t)reader_u64(reader);
    status->last_attempt_wall_us = (int64_t)reader_u64(reader);
    const struct bytes cause = read_bytes(reader);
    status->reply = read_bytes(reader);
    list->failed = reader->failed || state > RECIPIENT_DROPPED;
    /* A cause that this build does not know is from a newer one: the state still holds. */
    if (!list->failed && !cause_parse(cause, &status->cause))
        status->cause = CAUSE_UNDECIDED;
    return !list->failed;
}

/* ------------------------------------------------------------------ meta parts */

void accepted_meta_encode(struct buffer *into, const struct accepted_meta *meta)
{
    buffer_add_byte(into, meta->mark.count > 0 ? ACCEPTED_VERSION_MARK : CODEC_VERSION);
    buffer_add_u64(into, meta->extent_bytes);
    buffer_add_u64(into, meta->extent_checksum);
    add_bytes(into, meta->envelope);
    add_bytes(into, meta->status_list);
    if (meta->mark.count > 0)
        add_bytes(into, meta->mark);
}

bool accepted_meta_decode(struct bytes encoded, struct accepted_meta *meta)
{
    struct reader reader = READER_OF(encoded);
    const uint8_t version = reader_u8(&reader);

    meta->extent_bytes = reader_u64(&reader);
    meta->extent_checksum = reader_u64(&reader);
    meta->envelope = read_bytes(&reader);
    meta->status_list = read_bytes(&reader);
    meta->mark = version == ACCEPTED_VERSION_MARK ? read_bytes(&reader) : BYTES_EMPTY;
    return !reader.failed && version >= CODEC_VERSION && version <= ACCEPTED_VERSION_MARK &&
           reader_at_end(&reader);
}

void held_meta_encode(struct buffer *into, bool held, struct bytes why)
{
    buffer_add_byte(into, CODEC_VERSION);
    buffer_add_byte(into, held);
    add_bytes(into, bytes_slice(why, 0, REPLY_MAX));
}

bool held_meta_decode(struct bytes encoded, bool *held, struct bytes *why)
{
    struct reader reader = READER_OF(encoded);
    const uint8_t version = reader_u8(&reader);

    *held = reader_u8(&reader) != 0;
    *why = read_bytes(&reader);
    return !reader.failed && version == CODEC_VERSION && reader_at_end(&reader);
}
