/*
 * Records and segment headers of the log: bytes to structs and back, checksums, and the scan that
 * finds records in a segment. Pure: what is read comes through a source. docs/spool.md has the
 * tables.
 */
#ifndef SPOOL_RECORD_H
#define SPOOL_RECORD_H

#include "base/base.h"

#define RECORD_MAGIC UINT32_C(0x48465201) /* "HFR" 1 */
#define RECORD_HEADER_BYTES 80
#define RECORD_ALIGN 64
#define RECORD_META_MAX (8 * MIB)
#define RECORD_BODY_MAX (8 * MIB)
#define RECORD_GROUP_MAX 2
#define BLOCK_BYTES 4096 /* a batch begins on one, so an acknowledged block is never rewritten */
#define SECRET_BYTES 192 /* at least XXH3_SECRET_SIZE_MIN */

enum record_kind {
    RECORD_NONE = 0,
    RECORD_ACCEPTED, /* envelope and body, or a reference to an extent */
    RECORD_SETTLED,
    RECORD_HELD,      /* held or released */
    RECORD_WITHDRAWN, /* its session was not told 250 */
    RECORD_KIND_COUNT
};

enum record_flags {
    RECORD_COPY = 1,      /* carried forward from an older segment, with its recipients' state */
    RECORD_DISCARDED = 2, /* accepted and settled at once */
    RECORD_DAMAGED = 4,   /* a copy whose body was found damaged; the body is not here */
    RECORD_COPY_HELD = 8, /* a copy of a message that is held now */
};

struct record {
    enum record_kind kind;
    uint16_t flags;
    uint64_t sequence; /* one a record, across segments */
    uint64_t proven;   /* the highest sequence under a sync that had returned 0 by then */
    uint64_t id;       /* of the message */
    uint32_t meta_bytes, body_bytes;
    uint16_t group_index, group_count;
    uint64_t meta_checksum, body_checksum;
};

struct segment_header {
    uint64_t spool;          /* identity of the spool: an index of another one is not ours */
    uint64_t generation;     /* never used twice */
    uint64_t first_sequence; /* older segments' records from here on never happened */
    uint64_t proven;
    uint64_t id_floor; /* ids of this incarnation begin here */
    uint64_t incarnation;
    uint64_t size_bytes;
    uint8_t secret[SECRET_BYTES];
};

uint64_t record_checksum(const struct segment_header *segment, struct bytes data);
uint64_t record_checksum_parts(const struct segment_header *segment, const struct bytes *parts,
                               size_t count);
/* `into` has RECORD_HEADER_BYTES. */
void record_encode(const struct record *record, const struct segment_header *segment,
                   uint8_t *into);
/* False when it is no record of this very segment. */
MUST_USE bool record_decode(struct bytes data, const struct segment_header *segment,
                            struct record *record);
uint64_t record_span(const struct record *record); /* header, payload and padding */

/* `into` has BLOCK_BYTES. The header stands in the first and in the last block of the segment. */
void segment_header_encode(const struct segment_header *header, uint8_t *into);
MUST_USE bool segment_header_decode(struct bytes data, struct segment_header *header);

/* ------------------------------------------------------------------ the scan */

struct scan_source {
    /* Reads exactly that much at `offset`; false: it cannot be read. */
    bool (*read)(void *argument, uint64_t offset, struct span into);
    void *argument;
};

enum scan_status { SCAN_END = 0, SCAN_RECORD, SCAN_DAMAGED_BODY, SCAN_DAMAGED, SCAN_UNREADABLE };

struct scan {
    const struct segment_header *segment;
    struct scan_source source;
    uint64_t at; /* where the search goes on */
    bool headers_only;
    struct buffer window, payload;
    uint64_t window_at;
};

#define SCAN_OF(header, from, where)                                                               \
    ((struct scan){.segment = (header),                                                            \
                   .source = (from),                                                               \
                   .at = (where),                                                                  \
                   .window = BUFFER_WITH_LIMIT(MIB),                                               \
                   .payload = BUFFER_WITH_LIMIT(RECORD_META_MAX + RECORD_BODY_MAX)})

/* The next record from scan->at on. The views live until the next call. Damaged: header good, meta
 * bad; damaged body: meta good. */
enum scan_status segment_scan_next(struct scan *scan, struct record *record, uint64_t *offset,
                                   struct bytes *meta);
struct bytes segment_scan_payload(const struct scan *scan); /* raw, of the last record */
void segment_scan_free(struct scan *scan);

#endif
