/*
 * Every checksum is XXH3 under the segment's random secret: what somebody mails inside a body, or
 * what an earlier life of a recycled file left behind, cannot carry a right one.
 */
#include "spool/record.h"

#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* the state on the stack */
#include <xxhash.h>

#define SEGMENT_MAGIC UINT64_C(0x4846534547000001) /* "HFSEG" 0 0 1 */
enum { HEADER_CHECKED_BYTES = RECORD_HEADER_BYTES - 8, SEGMENT_CHECKED_BYTES = 64 + SECRET_BYTES };

_Static_assert(SECRET_BYTES >= XXH3_SECRET_SIZE_MIN, "XXH3 wants a longer secret");

static uint8_t *put_big_endian(uint8_t *into, uint64_t value, unsigned octets)
{
    for (unsigned i = octets; i-- > 0;)
        *into++ = (uint8_t)(value >> (8 * i));
    return into;
}

uint64_t record_checksum(const struct segment_header *segment, struct bytes data)
{
    return XXH3_64bits_withSecret(data.at, data.count, segment->secret, SECRET_BYTES);
}

uint64_t record_checksum_parts(const struct segment_header *segment, const struct bytes *parts,
                               size_t count)
{
    XXH3_state_t state; /* on the stack: what is sealed must not want for memory */

    XXH3_INITSTATE(&state);
    XXH3_64bits_reset_withSecret(&state, segment->secret, SECRET_BYTES);
    for (size_t i = 0; i < count; i++)
        if (parts[i].count)
            XXH3_64bits_update(&state, parts[i].at, parts[i].count);
    return XXH3_64bits_digest(&state);
}

void record_encode(const struct record *record, const struct segment_header *segment, uint8_t *into)
{
    uint8_t *at = put_big_endian(into, RECORD_MAGIC, 4);

    at = put_big_endian(at, 1, 1);
    at = put_big_endian(at, (uint64_t)record->kind, 1);
    at = put_big_endian(at, record->flags, 2);
    at = put_big_endian(at, segment->generation, 8);
    at = put_big_endian(at, record->sequence, 8);
    at = put_big_endian(at, record->proven, 8);
    at = put_big_endian(at, record->id, 8);
    at = put_big_endian(at, record->meta_bytes, 4);
    at = put_big_endian(at, record->body_bytes, 4);
    at = put_big_endian(at, record->group_index, 2);
    at = put_big_endian(at, record->group_count, 2);
    at = put_big_endian(at, 0, 4);
    at = put_big_endian(at, record->meta_checksum, 8);
    at = put_big_endian(at, record->body_checksum, 8);
    put_big_endian(at, record_checksum(segment, bytes_of(into, HEADER_CHECKED_BYTES)), 8);
}

static bool record_is_sane(const struct record *record)
{
    return record->kind > RECORD_NONE && record->kind < RECORD_KIND_COUNT &&
           record->meta_bytes <= RECORD_META_MAX && record->body_bytes <= RECORD_BODY_MAX &&
           record->group_count >= 1 && record->group_count <= RECORD_GROUP_MAX &&
           record->group_index < record->group_count;
}

bool record_decode(struct bytes data, const struct segment_header *segment, struct record *record)
{
    struct reader reader = READER_OF(data);

    if (reader_u32(&reader) != RECORD_MAGIC || reader_u8(&reader) != 1)
        return false;
    record->kind = (enum record_kind)reader_u8(&reader);
    record->flags = reader_u16(&reader);
    const uint64_t generation = reader_u64(&reader);
    record->sequence = reader_u64(&reader);
    record->proven = reader_u64(&reader);
    record->id = reader_u64(&reader);
    record->meta_bytes = reader_u32(&reader);
    record->body_bytes = reader_u32(&reader);
    record->group_index = reader_u16(&reader);
    record->group_count = reader_u16(&reader);
    reader_u32(&reader);
    record->meta_checksum = reader_u64(&reader);
    record->body_checksum = reader_u64(&reader);
    const uint64_t checksum = reader_u64(&reader);
    return !reader.failed && generation == segment->generation &&
           checksum == record_checksum(segment, bytes_slice(data, 0, HEADER_CHECKED_BYTES)) &&
           record_is_sane(record);
}

static uint64_t round_up(uint64_t size, uint64_t step)
{
    return (size + step - 1) / step * step;
}

uint64_t record_span(const struct record *record)
{
    return round_up(RECORD_HEADER_BYTES + (uint64_t)record->meta_bytes + record->body_bytes,
                    RECORD_ALIGN);
}

/* ------------------------------------------------------------------ segment headers */

static uint64_t header_checksum(const uint8_t *block)
{
    return XXH3_64bits_withSeed(block, SEGMENT_CHECKED_BYTES, SEGMENT_MAGIC);
}

void segment_header_encode(const struct segment_header *header, uint8_t *into)
{
    memset(into, 0, BLOCK_BYTES);
    uint8_t *at = put_big_endian(into, SEGMENT_MAGIC, 8);
    at = put_big_endian(at, header->spool, 8);
    at = put_big_endian(at, header->generation, 8);
    at = put_big_endian(at, header->first_sequence, 8);
    at = put_big_endian(at, header->proven, 8);
    at = put_big_endian(at, header->id_floor, 8);
    at = put_big_endian(at, header->incarnation, 8);
    at = put_big_endian(at, header->size_bytes, 8);
    memcpy(at, header->secret, SECRET_BYTES);
    put_big_endian(at + SECRET_BYTES, header_checksum(into), 8);
}

bool segment_header_decode(struct bytes data, struct segment_header *header)
{
    struct reader reader = READER_OF(data);

    if (data.count < SEGMENT_CHECKED_BYTES + 8 || reader_u64(&reader) != SEGMENT_MAGIC)
        return false;
    header->spool = reader_u64(&reader);
    header->generation = reader_u64(&reader);
    header->first_sequence = reader_u64(&reader);
    header->proven = reader_u64(&reader);
    header->id_floor = reader_u64(&reader);
    header->incarnation = reader_u64(&reader);
    header->size_bytes = reader_u64(&reader);
    const struct bytes secret = reader_bytes(&reader, SECRET_BYTES);
    if (reader_u64(&reader) != header_checksum(data.at) || reader.failed)
        return false;
    memcpy(header->secret, secret.at, SECRET_BYTES);
    return header->size_bytes >= 4 * BLOCK_BYTES && header->size_bytes <= UINT32_MAX;
}

/* ------------------------------------------------------------------ the scan */

static uint64_t scan_limit(const struct scan *scan)
{
    return scan->segment->size_bytes - BLOCK_BYTES; /* the second header */
}

static bool scan_fill(struct scan *scan, uint64_t offset, size_t wanted)
{
    buffer_clear(&scan->window);
    uint8_t *memory = buffer_reserve(&scan->window, wanted);
    if (!memory || !scan->source.read(scan->source.argument, offset, (struct span){memory, wanted}))
        return false;
    buffer_claim(&scan->window, wanted);
    scan->window_at = offset;
    return true;
}

/* At least `count` bytes at `offset` as one view, through the window; empty when unreadable. One
 * bad block does not hide its readable neighbours: then only what is needed is read. */
static struct bytes scan_view(struct scan *scan, uint64_t offset, size_t count)
{
    const uint64_t end = scan->window_at + scan->window.count;

    if ((offset < scan->window_at || offset + count > end) &&
        !scan_fill(scan, offset, (size_t)MIN_OF(scan_limit(scan) - offset, MIB)) &&
        !scan_fill(scan, offset, count))
        return BYTES_EMPTY;
    return bytes_slice(buffer_view(&scan->window), (size_t)(offset - scan->window_at), count);
}

/* The payload may be larger than the window, so it has a buffer of its own. */
static bool scan_load(struct scan *scan, const struct record *record, uint64_t offset)
{
    const size_t count = (size_t)record->meta_bytes + record->body_bytes;

    buffer_clear(&scan->payload);
    if (count == 0)
        return true;
    if (count < KIB * 512) {
        const struct bytes view = scan_view(scan, offset + RECORD_HEADER_BYTES, count);
        buffer_add(&scan->payload, view);
        return view.count == count && !scan->payload.failed;
    }
    uint8_t *memory = buffer_reserve(&scan->payload, count);
    if (!memory || !scan->source.read(scan->source.argument, offset + RECORD_HEADER_BYTES,
                                      (struct span){memory, count}))
        return false;
    buffer_claim(&scan->payload, count);
    return true;
}

static enum scan_status scan_judge(struct scan *scan, const struct record *record, uint64_t offset,
                                   struct bytes *meta)
{
    if (scan->headers_only)
        return SCAN_RECORD;
    if (!scan_load(scan, record, offset))
        return SCAN_UNREADABLE;
    const struct bytes payload = buffer_view(&scan->payload);
    *meta = bytes_slice(payload, 0, record->meta_bytes);
    if (record_checksum(scan->segment, *meta) != record->meta_checksum)
        return SCAN_DAMAGED;
    return record_checksum(scan->segment, bytes_skip(payload, record->meta_bytes)) ==
                   record->body_checksum
               ? SCAN_RECORD
               : SCAN_DAMAGED_BODY;
}

enum scan_status segment_scan_next(struct scan *scan, struct record *record, uint64_t *offset,
                                   struct bytes *meta)
{
    static const uint8_t magic[4] = {0x48, 0x46, 0x52, 0x01};
    const uint64_t limit = scan_limit(scan);

    *meta = BYTES_EMPTY;
    for (; scan->at + RECORD_HEADER_BYTES <= limit; scan->at += RECORD_ALIGN) {
        const struct bytes data = scan_view(scan, scan->at, RECORD_HEADER_BYTES);
        if (data.count < RECORD_HEADER_BYTES) {
            scan->at = round_up(scan->at + 1, BLOCK_BYTES);
            return SCAN_UNREADABLE;
        }
        if (memcmp(data.at, magic, sizeof magic) != 0 ||
            !record_decode(data, scan->segment, record) || scan->at + record_span(record) > limit)
            continue;
        *offset = scan->at;
        scan->at += record_span(record);
        return scan_judge(scan, record, *offset, meta);
    }
    return SCAN_END;
}

struct bytes segment_scan_payload(const struct scan *scan)
{
    return buffer_view(&scan->payload);
}

void segment_scan_free(struct scan *scan)
{
    buffer_free(&scan->window);
    buffer_free(&scan->payload);
}
