/* The spool's bytes: records, segment headers, codecs, the scan and the replay's rules, on images
 * in memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "spool/codec.h"
#include "spool/record.h"
#include "spool/table.h"

enum { IMAGE_BYTES = 64 * 1024 };
static uint8_t image[IMAGE_BYTES];

static struct segment_header header_of(uint64_t generation)
{
    struct segment_header header = {.spool = 7,
                                    .generation = generation,
                                    .first_sequence = 1,
                                    .id_floor = 1000,
                                    .incarnation = 3,
                                    .size_bytes = IMAGE_BYTES};
    for (size_t i = 0; i < SECRET_BYTES; i++)
        header.secret[i] = (uint8_t)(i * 37 + generation * 11);
    return header;
}

static bool image_read(void *argument, uint64_t offset, struct span into)
{
    (void)argument;
    if (offset + into.count > IMAGE_BYTES)
        return false;
    memcpy(into.at, image + offset, into.count);
    return true;
}

/* Writes a record into the image; returns the offset behind it. */
static uint64_t put_record(const struct segment_header *segment, uint64_t offset,
                           struct record record, const char *meta, const char *body)
{
    record.meta_bytes = (uint32_t)strlen(meta);
    record.body_bytes = (uint32_t)strlen(body);
    record.group_count = record.group_count ? record.group_count : 1;
    record.meta_checksum = record_checksum(segment, bytes_of_text(meta));
    record.body_checksum = record_checksum(segment, bytes_of_text(body));
    record_encode(&record, segment, image + offset);
    memcpy(image + offset + RECORD_HEADER_BYTES, meta, strlen(meta));
    memcpy(image + offset + RECORD_HEADER_BYTES + strlen(meta), body, strlen(body));
    return offset + record_span(&record);
}

/* ------------------------------------------------------------------ headers */

static void test_segment_header(void **state)
{
    const struct segment_header header = header_of(5);
    struct segment_header back;
    uint8_t block[BLOCK_BYTES];

    (void)state;
    segment_header_encode(&header, block);
    assert_true(segment_header_decode(bytes_of(block, sizeof block), &back));
    uint8_t again[BLOCK_BYTES];
    segment_header_encode(&back, again);
    assert_memory_equal(block, again, sizeof block);
    for (size_t count = 0; count < 64 + SECRET_BYTES + 8; count++)
        assert_false(segment_header_decode(bytes_of(block, count), &back));
    for (size_t at = 0; at < 64 + SECRET_BYTES + 8; at++) {
        block[at] ^= 1;
        assert_false(segment_header_decode(bytes_of(block, sizeof block), &back));
        block[at] ^= 1;
    }
}

static void test_record_header(void **state)
{
    const struct segment_header segment = header_of(5), other = header_of(6);
    const struct record record = {.kind = RECORD_SETTLED,
                                  .flags = RECORD_COPY,
                                  .sequence = 77,
                                  .proven = 76,
                                  .id = UINT64_C(0x1234567890abcdef),
                                  .meta_bytes = 10,
                                  .body_bytes = 20,
                                  .group_index = 1,
                                  .group_count = 2,
                                  .meta_checksum = 1,
                                  .body_checksum = 2};
    struct record back;
    uint8_t bytes[RECORD_HEADER_BYTES];

    (void)state;
    record_encode(&record, &segment, bytes);
    assert_true(record_decode(bytes_of(bytes, sizeof bytes), &segment, &back));
    /* Field by field through the encoder: padding between fields has no value. */
    uint8_t again[RECORD_HEADER_BYTES];
    record_encode(&back, &segment, again);
    assert_memory_equal(bytes, again, sizeof bytes);
    assert_int_equal(back.sequence, record.sequence);
    assert_int_equal(back.body_bytes, record.body_bytes);
    assert_false(record_decode(bytes_of(bytes, sizeof bytes), &other, &back));
    for (size_t count = 0; count < sizeof bytes; count++)
        assert_false(record_decode(bytes_of(bytes, count), &segment, &back));
    for (size_t bit = 0; bit < sizeof bytes * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(record_decode(bytes_of(bytes, sizeof bytes), &segment, &back));
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

/* ------------------------------------------------------------------ the scan */

static unsigned scan_count(const struct segment_header *segment, uint64_t *ids)
{
    struct scan scan =
        SCAN_OF(segment, ((struct scan_source){image_read, NULL}), (uint64_t)BLOCK_BYTES);
    struct record record;
    struct bytes meta;
    uint64_t offset;
    unsigned count = 0;

    while (segment_scan_next(&scan, &record, &offset, &meta) != SCAN_END)
        ids[count++] = record.id;
    segment_scan_free(&scan);
    return count;
}

/* Somebody mails the bytes of a record, magic and all, in a body: for another secret it is nothing;
 * and even our own record's bytes inside a body are stepped over. */
static void test_forged_record(void **state)
{
    const struct segment_header ours = header_of(5);
    struct segment_header forger = header_of(5);
    uint64_t ids[16];
    char body[4096];

    (void)state;
    memset(image, 0, sizeof image);
    memset(forger.secret, 0, sizeof forger.secret); /* all but the secret is known to the forger */
    memset(body, 'x', sizeof body);
    body[sizeof body - 1] = '\0';
    const struct record forged = {
        .kind = RECORD_WITHDRAWN, .sequence = 2, .id = 666, .group_count = 1};
    uint64_t at =
        put_record(&ours, BLOCK_BYTES,
                   (struct record){.kind = RECORD_ACCEPTED, .sequence = 1, .id = 1}, "meta", body);
    /* At every place of the aligned grid inside the body. */
    for (uint64_t inside = BLOCK_BYTES + 2 * RECORD_ALIGN; inside + 200 < at; inside += 128)
        record_encode(&forged, &forger, image + inside);
    at = put_record(&ours, at, (struct record){.kind = RECORD_ACCEPTED, .sequence = 2, .id = 2},
                    "meta", "body");
    assert_int_equal(scan_count(&ours, ids),
                     2); /* the first is damaged by our scribbling, and named */
    assert_int_equal(ids[0], 1);
    assert_int_equal(ids[1], 2);
    /* Also when the record around it is lost: its header destroyed, the scan walks through the
     * body. */
    memset(image + BLOCK_BYTES, 0, RECORD_HEADER_BYTES);
    assert_int_equal(scan_count(&ours, ids), 1);
    assert_int_equal(ids[0], 2);
}

/* What an earlier life of a recycled file left behind counts for nothing. */
static void test_recycled_remnants(void **state)
{
    const struct segment_header before = header_of(5), now = header_of(9);
    struct segment_header same_secret = header_of(5);
    uint64_t ids[16], at = BLOCK_BYTES;

    (void)state;
    memset(image, 0, sizeof image);
    for (uint64_t i = 1; i <= 10; i++)
        at = put_record(&before, at,
                        (struct record){.kind = RECORD_ACCEPTED, .sequence = i, .id = i},
                        "old meta", "old body");
    put_record(&now, BLOCK_BYTES,
               (struct record){.kind = RECORD_ACCEPTED, .sequence = 11, .id = 11}, "meta", "body");
    assert_int_equal(scan_count(&now, ids), 1);
    assert_int_equal(ids[0], 11);
    same_secret.generation = 6; /* not even with the secret of that life */
    assert_int_equal(scan_count(&same_secret, ids), 0);
}

static void test_scan_goes_on(void **state)
{
    const struct segment_header segment = header_of(5);
    struct record record;
    struct bytes meta;
    uint64_t offset, at = BLOCK_BYTES, second = 0;

    (void)state;
    memset(image, 0, sizeof image);
    for (uint64_t i = 1; i <= 3; i++) {
        second = i == 2 ? at : second;
        at = put_record(&segment, at,
                        (struct record){.kind = RECORD_ACCEPTED, .sequence = i, .id = i}, "meta",
                        "the body");
    }
    image[second + RECORD_HEADER_BYTES + 6] ^= 1; /* in the body */
    struct scan scan =
        SCAN_OF(&segment, ((struct scan_source){image_read, NULL}), (uint64_t)BLOCK_BYTES);
    assert_int_equal(segment_scan_next(&scan, &record, &offset, &meta), SCAN_RECORD);
    assert_int_equal(segment_scan_next(&scan, &record, &offset, &meta), SCAN_DAMAGED_BODY);
    assert_int_equal(record.id, 2);
    assert_true(bytes_equal_text(meta, "meta"));
    assert_int_equal(segment_scan_next(&scan, &record, &offset, &meta), SCAN_RECORD);
    assert_int_equal(record.id, 3);
    assert_int_equal(segment_scan_next(&scan, &record, &offset, &meta), SCAN_END);
    segment_scan_free(&scan);
    image[second + RECORD_HEADER_BYTES] ^= 1; /* in the meta part */
    scan = SCAN_OF(&segment, ((struct scan_source){image_read, NULL}), second);
    assert_int_equal(segment_scan_next(&scan, &record, &offset, &meta), SCAN_DAMAGED);
    assert_int_equal(segment_scan_next(&scan, &record, &offset, &meta), SCAN_RECORD);
    segment_scan_free(&scan);
}

/* ------------------------------------------------------------------ codecs */

static struct envelope full_envelope(struct recipient *recipients)
{
    recipients[0] =
        (struct recipient){.address = {bytes_of_text("one"), bytes_of_text("a.example")},
                           .original = bytes_of_text("rfc822;alias@a.example"),
                           .asked = {bytes_of_text("alias"), bytes_of_text("a.example")},
                           .notify = NOTIFY_FAILURE | NOTIFY_DELAY};
    recipients[1] =
        (struct recipient){.address = {bytes_of_text("two"), bytes_of_text("b.example")}};
    return (struct envelope){.from = {bytes_of_text("me"), bytes_of_text("here.example")},
                             .recipients = recipients,
                             .recipient_count = 2,
                             .envelope_id = bytes_of_text("QQ314"),
                             .dsn_return = RETURN_HEADERS,
                             .body = BODY_8BITMIME,
                             .smtputf8 = true,
                             .requiretls = true,
                             .client = bytes_of_text("192.0.2.1:25"),
                             .helo = bytes_of_text("client.example"),
                             .user = bytes_of_text("me"),
                             .via_submission = true,
                             .accepted_wall_us = 1234567890123,
                             .held = true,
                             .held_why = bytes_of_text("poison"),
                             .kind = ENVELOPE_DSN};
}

static void test_envelope_codec(void **state)
{
    struct recipient recipients[2];
    struct envelope envelope = full_envelope(recipients), back;
    struct buffer encoded = BUFFER_WITH_LIMIT(MIB);
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct envelope_facts facts;

    (void)state;
    envelope_encode(&encoded, &envelope);
    const struct bytes view = buffer_view(&encoded);
    assert_true(envelope_decode(&arena, view, &back));
    assert_true(address_equal(back.from, envelope.from));
    assert_int_equal(back.recipient_count, 2);
    assert_true(bytes_equal(back.recipients[0].original, recipients[0].original));
    assert_true(address_equal(back.recipients[0].asked, recipients[0].asked));
    assert_int_equal(back.recipients[0].notify, NOTIFY_FAILURE | NOTIFY_DELAY);
    assert_true(address_equal(back.recipients[1].address, recipients[1].address));
    assert_true(bytes_equal_text(back.envelope_id, "QQ314"));
    assert_true(back.smtputf8 && back.requiretls && back.via_submission && back.held);
    assert_int_equal(back.dsn_return, RETURN_HEADERS);
    assert_int_equal(back.body, BODY_8BITMIME);
    assert_int_equal(back.kind, ENVELOPE_DSN);
    assert_int_equal(back.accepted_wall_us, 1234567890123);
    assert_true(bytes_equal_text(back.held_why, "poison"));
    assert_true(envelope_facts(view, &facts));
    assert_int_equal(facts.recipient_count, 2);
    assert_true(facts.held);
    for (size_t count = 0; count < view.count; count++)
        assert_false(envelope_decode(&arena, bytes_slice(view, 0, count), &back));
    /* A count that the bytes cannot hold allocates nothing. */
    encoded.at[4] = 0xff;
    assert_false(envelope_decode(&arena, view, &back));
    arena_clear(&arena);
    buffer_free(&encoded);
}

/* Lists with owners and users with their own delivery need the second form; all else keeps the
 * first, which earlier builds read. */
static void test_envelope_owners(void **state)
{
    struct recipient recipients[2];
    struct envelope envelope = full_envelope(recipients), back;
    struct buffer encoded = BUFFER_WITH_LIMIT(MIB);
    struct arena arena = ARENA_WITH_LIMIT(MIB);

    (void)state;
    envelope_encode(&encoded, &envelope);
    assert_int_equal(encoded.at[0], 1);
    buffer_clear(&encoded);
    recipients[0].owner = (struct address){bytes_of_text("owner-list"), bytes_of_text("a.example")};
    recipients[1].deliver = bytes_of_text("lmtp:unix:/run/lmtp");
    envelope_encode(&encoded, &envelope);
    assert_int_equal(encoded.at[0], 2);
    const struct bytes view = buffer_view(&encoded);

    assert_true(envelope_decode(&arena, view, &back));
    assert_true(address_equal(back.recipients[0].owner, recipients[0].owner));
    assert_true(address_is_null(back.recipients[1].owner));
    assert_true(bytes_equal(back.recipients[1].deliver, recipients[1].deliver));
    assert_true(
        address_equal(envelope_return_path(&back, &back.recipients[0]), recipients[0].owner));
    assert_true(address_equal(envelope_return_path(&back, &back.recipients[1]), envelope.from));
    back.from = (struct address){0};
    assert_true(address_is_null(envelope_return_path(&back, &back.recipients[0])));
    for (size_t count = 0; count < view.count; count++)
        assert_false(envelope_decode(&arena, bytes_slice(view, 0, count), &back));
    encoded.at[0] = 3;
    assert_false(envelope_decode(&arena, view, &back));
    arena_clear(&arena);
    buffer_free(&encoded);
}

static void test_status_codec(void **state)
{
    struct buffer encoded = BUFFER_WITH_LIMIT(MIB);
    const struct status status = {.state = RECIPIENT_WAITING,
                                  .cause = CAUSE_GREYLISTED,
                                  .attempts = 9,
                                  .delay_notified = true,
                                  .next_wall_us = -5,
                                  .last_attempt_wall_us = 12,
                                  .reply = bytes_of_text("451 later")};
    struct status back;
    uint32_t recipient;

    (void)state;
    status_list_begin(&encoded, 2);
    status_list_add(&encoded, 3, &status);
    status_list_add(&encoded, 4, &(struct status){.state = RECIPIENT_FAILED});
    struct status_list list = status_list_read(buffer_view(&encoded));
    assert_true(status_list_next(&list, &recipient, &back));
    assert_int_equal(recipient, 3);
    assert_int_equal(back.cause, CAUSE_GREYLISTED);
    assert_int_equal(back.attempts, 9);
    assert_int_equal(back.next_wall_us, -5);
    assert_true(back.delay_notified && bytes_equal_text(back.reply, "451 later"));
    assert_true(status_list_next(&list, &recipient, &back));
    assert_int_equal(back.state, RECIPIENT_FAILED);
    assert_false(status_list_next(&list, &recipient, &back));
    assert_false(list.failed);
    for (size_t count = 1; count < encoded.count; count++) {
        list = status_list_read(bytes_of(encoded.at, count));
        while (status_list_next(&list, &recipient, &back))
            continue;
        assert_true(list.failed);
    }
    buffer_free(&encoded);
}

static void test_meta_codecs(void **state)
{
    struct buffer encoded = BUFFER_WITH_LIMIT(MIB);
    struct accepted_meta meta;
    struct bytes why;
    bool held;

    (void)state;
    accepted_meta_encode(&encoded, &(struct accepted_meta){5, 6, bytes_of_text("envelope"),
                                                           bytes_of_text("list"), BYTES_EMPTY});
    assert_true(accepted_meta_decode(buffer_view(&encoded), &meta));
    assert_int_equal(meta.extent_bytes, 5);
    assert_int_equal(meta.extent_checksum, 6);
    assert_true(bytes_equal_text(meta.envelope, "envelope"));
    for (size_t count = 0; count < encoded.count; count++)
        assert_false(accepted_meta_decode(bytes_of(encoded.at, count), &meta));
    assert_int_equal(meta.mark.count, 0);
    buffer_clear(&encoded);
    accepted_meta_encode(&encoded, &(struct accepted_meta){.envelope = bytes_of_text("envelope"),
                                                           .mark = bytes_of_text("mark")});
    assert_true(accepted_meta_decode(buffer_view(&encoded), &meta));
    assert_true(bytes_equal_text(meta.mark, "mark"));
    for (size_t count = 0; count < encoded.count; count++)
        assert_false(accepted_meta_decode(bytes_of(encoded.at, count), &meta));
    buffer_clear(&encoded);
    held_meta_encode(&encoded, true, bytes_of_text("why"));
    assert_true(held_meta_decode(buffer_view(&encoded), &held, &why));
    assert_true(held && bytes_equal_text(why, "why"));
    for (size_t count = 0; count < encoded.count; count++)
        assert_false(held_meta_decode(bytes_of(encoded.at, count), &held, &why));
    buffer_free(&encoded);
}

/* ------------------------------------------------------------------ the table */

static struct entry *accept_one(struct table *table, uint64_t id)
{
    struct recipient recipients[2];
    struct envelope envelope = full_envelope(recipients);
    struct buffer encoded = BUFFER_WITH_LIMIT(MIB), meta = BUFFER_WITH_LIMIT(MIB);

    envelope.held = false;
    envelope_encode(&encoded, &envelope);
    accepted_meta_encode(&meta, &(struct accepted_meta){.envelope = buffer_view(&encoded)});
    struct entry *entry = table_accept(
        table, &(struct accepted){
                   .id = id, .position = id << 32, .body_bytes = 100, .meta = buffer_view(&meta)});
    buffer_free(&encoded);
    buffer_free(&meta);
    return entry;
}

static bool settle_one(struct table *table, struct entry *entry, uint32_t recipient,
                       struct status status)
{
    struct buffer list = BUFFER_WITH_LIMIT(MIB);

    status_list_begin(&list, 1);
    status_list_add(&list, recipient, &status);
    const bool settled = table_settle(table, entry, buffer_view(&list));
    buffer_free(&list);
    return settled;
}

static void test_table(void **state)
{
    struct table table;

    (void)state;
    assert_true(table_open(&table));
    table.counting = true;
    for (uint64_t id = 1; id <= 5000; id++)
        assert_non_null(accept_one(&table, id));
    assert_int_equal(table.messages, 5000);
    assert_int_equal(table.bytes, 500000);
    struct entry *entry = table_find(&table, 17);
    assert_non_null(entry);
    assert_int_equal(entry->waiting_count, 2);
    /* A recipient that is not there changes nothing. */
    assert_false(settle_one(&table, entry, 2, (struct status){.state = RECIPIENT_FAILED}));
    assert_true(settle_one(&table, entry, 0, (struct status){.state = RECIPIENT_DELIVERED}));
    assert_int_equal(entry->waiting_count, 1);
    assert_true(settle_one(&table, entry, 1,
                           (struct status){.state = RECIPIENT_WAITING, .next_wall_us = 99}));
    assert_int_equal(entry->due_wall_us, 99);
    /* Twice the same is as once: replay may repeat what the index has. */
    assert_non_null(accept_one(&table, 18));
    assert_int_equal(table.messages, 5000);
    /* The end of what the index never saw leaves nothing behind. */
    assert_true(settle_one(&table, entry, 1, (struct status){.state = RECIPIENT_DELIVERED}));
    assert_null(table_find(&table, 17));
    assert_int_equal(table.messages, 4999);
    assert_int_equal(table.dirty_count, 4999);
    /* What the index saw stays until its row is gone. */
    entry = table_find(&table, 18);
    table_clear_dirty(&table, entry);
    entry->indexed = true;
    table_end(&table, entry);
    assert_true(table_find(&table, 18) == entry && entry->ended && entry->dirty);
    table_free(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_segment_header),  cmocka_unit_test(test_record_header),
        cmocka_unit_test(test_forged_record),   cmocka_unit_test(test_recycled_remnants),
        cmocka_unit_test(test_scan_goes_on),    cmocka_unit_test(test_envelope_codec),
        cmocka_unit_test(test_envelope_owners), cmocka_unit_test(test_status_codec),
        cmocka_unit_test(test_meta_codecs),     cmocka_unit_test(test_table),
    };
    return cmocka_run_group_tests_name("spool", tests, NULL, NULL);
}
