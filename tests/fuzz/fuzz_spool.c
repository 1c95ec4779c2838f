/* Recovery's readers on any bytes: as a segment's image, as each codec's input. The image's records
 * get right checksums first (as if our own writer had gone mad), else nothing would be reached. */
#include <string.h>

#include "spool/codec.h"
#include "spool/record.h"
#include "spool/table.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count);

struct image {
    struct bytes bytes;
};

static bool image_read(void *argument, uint64_t offset, struct span into)
{
    const struct image *image = argument;
    const struct bytes part = bytes_slice(image->bytes, (size_t)offset, into.count);

    memset(into.at, 0, into.count);
    if (part.count)
        memcpy(into.at, part.at, part.count);
    return true;
}

static void apply(struct table *table, const struct record *record, uint64_t offset,
                  struct bytes meta)
{
    const struct accepted accepted = {record->id, offset, record->flags, record->body_bytes, meta};
    struct entry *entry = table_find(table, record->id);
    struct bytes why;
    bool held;

    if (record->kind == RECORD_ACCEPTED && table_accept(table, &accepted))
        table_find(table, record->id)->indexed = true;
    else if (record->kind == RECORD_SETTLED && entry && !table_settle(table, entry, meta))
        return;
    else if (record->kind == RECORD_HELD && entry && held_meta_decode(meta, &held, &why))
        table_set_held(table, entry, held);
    else if (record->kind == RECORD_WITHDRAWN && entry)
        table_end(table, entry);
}

/* Wherever the input has the magic, a header that is sane and checks out is made of what follows.
 */
static void make_records(struct bytes image, const struct segment_header *segment, uint8_t *memory)
{
    for (size_t at = BLOCK_BYTES; at + RECORD_HEADER_BYTES < image.count; at += RECORD_ALIGN) {
        const uint8_t *in = image.at + at;
        const struct record record = {.kind = (enum record_kind)(1 + in[5] % 4),
                                      .flags = in[7],
                                      .sequence = in[20],
                                      .id = in[36] % 8,
                                      .meta_bytes = (uint32_t)(in[40] + in[41] * 8u),
                                      .body_bytes = in[44],
                                      .group_count = 1};
        const size_t rest = image.count - at - RECORD_HEADER_BYTES;
        if (memcmp(in, "HFR", 3) != 0 || record.meta_bytes + record.body_bytes > rest)
            continue;
        struct record whole = record;
        const struct bytes meta = bytes_of(in + RECORD_HEADER_BYTES, record.meta_bytes);
        whole.meta_checksum = record_checksum(segment, meta);
        whole.body_checksum =
            record_checksum(segment, bytes_of(meta.at + meta.count, record.body_bytes));
        record_encode(&whole, segment, memory + at);
    }
}

static void fuzz_scan(struct bytes data)
{
    struct segment_header segment = {.generation = 1, .size_bytes = 64 * 1024};
    uint8_t *memory = calloc(1, BLOCK_BYTES + data.count);
    struct table table;
    struct record record;
    struct bytes meta;
    uint64_t offset;

    if (!memory || !table_open(&table))
        abort();
    memcpy(memory + BLOCK_BYTES, data.at, data.count);
    struct image image = {bytes_of(memory, BLOCK_BYTES + data.count)};
    make_records(image.bytes, &segment, memory);
    struct scan scan =
        SCAN_OF(&segment, ((struct scan_source){image_read, &image}), (uint64_t)BLOCK_BYTES);
    for (enum scan_status status;
         (status = segment_scan_next(&scan, &record, &offset, &meta)) != SCAN_END;)
        if (status == SCAN_RECORD)
            apply(&table, &record, offset, meta);
    segment_scan_free(&scan);
    table_free(&table);
    free(memory);
}

static void fuzz_codecs(struct bytes data)
{
    struct arena arena = ARENA_WITH_LIMIT(16 * MIB);
    struct segment_header header;
    struct accepted_meta meta;
    struct envelope envelope;
    struct envelope_facts facts;
    struct status status;
    struct bytes why;
    uint32_t recipient;
    bool held;

    struct status_list list = status_list_read(data);
    while (status_list_next(&list, &recipient, &status))
        continue;
    const bool whole = envelope_decode(&arena, data, &envelope);
    if (whole &&
        (!envelope_facts(data, &facts) || facts.recipient_count != envelope.recipient_count))
        abort();
    if (accepted_meta_decode(data, &meta) && envelope_facts(meta.envelope, &facts))
        list = status_list_read(meta.status_list);
    if (held_meta_decode(data, &held, &why) && why.count > data.count)
        abort();
    if (segment_header_decode(data, &header) && header.size_bytes > UINT32_MAX)
        abort();
    arena_clear(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count)
{
    if (count > 60 * 1024)
        return 0;
    fuzz_scan(bytes_of(data, count));
    fuzz_codecs(bytes_of(data, count));
    return 0;
}
