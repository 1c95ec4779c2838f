/*
 * Segment files: spool/log/GGGGGGGG.seg (generation in hexadecimal) and the two spares
 * spool/log/spare-0 and spare-1, which hold zeros or old records of no standing.
 */
#ifndef SPOOL_SEGMENT_H
#define SPOOL_SEGMENT_H

#include "runtime/runtime.h"
#include "spool/record.h"

#define SPOOL_PATH_MAX 600
#define SPARE_COUNT 2

struct segment {
    struct segment *next; /* the next newer one */
    struct segment_header header;
    struct file *file;
    uint64_t live; /* messages whose accepted record is here */
    uint32_t readers;
    bool poisoned; /* a write or sync failed: never written, synced or recycled again */
    bool suspect;  /* recovery found damage: kept aside instead of recycled */
};

uint64_t position_of(uint64_t generation, uint64_t offset);
uint64_t position_generation(uint64_t position);
uint64_t position_offset(uint64_t position);

void segment_count(struct segment *segments, uint64_t position, bool more);
struct segment *segment_find(struct segment *segments, uint64_t generation);

void segment_path(const char *directory, uint64_t generation, char *into, size_t room);
void spare_path(const char *directory, unsigned spare, char *into, size_t room);

/* Writes both headers into the spare, syncs it, gives it its name, syncs the directory. From then
 * on everything that `header` says stands, the cut of older records included. Sleeps. */
struct io_result segment_activate(const char *directory, unsigned spare,
                                  const struct segment_header *header, struct segment **segment);
/* Makes a spare of that size: allocated, zero-filled, synced, named. Sleeps. */
struct io_result spare_make(const char *directory, unsigned spare, uint64_t size_bytes);
void segment_close(struct segment *segment);

#endif
