/*
 * A segment takes its name only after its header is durable, and its records count only after its
 * name is: so the name never stands for a segment whose secret is unknown.
 */
#include "spool/segment.h"

#include <errno.h>
#include <string.h>

uint64_t position_of(uint64_t generation, uint64_t offset)
{
    return generation << 32 | offset;
}

uint64_t position_generation(uint64_t position)
{
    return position >> 32;
}

uint64_t position_offset(uint64_t position)
{
    return position & UINT32_MAX;
}

struct segment *segment_find(struct segment *segments, uint64_t generation)
{
    while (segments && segments->header.generation != generation)
        segments = segments->next;
    return segments;
}

void segment_count(struct segment *segments, uint64_t position, bool more)
{
    struct segment *segment = segment_find(segments, position_generation(position));

    if (segment)
        segment->live += more ? 1 : UINT64_MAX;
}

void segment_path(const char *directory, uint64_t generation, char *into, size_t room)
{
    snprintf(into, room, "%s/log/%08llx.seg", directory, (unsigned long long)generation);
}

void spare_path(const char *directory, unsigned spare, char *into, size_t room)
{
    snprintf(into, room, "%s/log/spare-%u", directory, spare);
}

static void log_path(const char *directory, char *into, size_t room)
{
    snprintf(into, room, "%s/log", directory);
}

static struct io_result write_headers(struct file *file, const struct segment_header *header)
{
    uint8_t block[BLOCK_BYTES];
    const struct bytes part = bytes_of(block, sizeof block);

    segment_header_encode(header, block);
    const struct io_result last = file_write_at(file, &part, 1, header->size_bytes - BLOCK_BYTES);
    if (last.status != IO_OK)
        return last;
    const struct io_result first = file_write_at(file, &part, 1, 0);
    return first.status == IO_OK ? file_sync(file) : first;
}

static struct io_result name_segment(const char *directory, unsigned spare, uint64_t generation)
{
    char from[SPOOL_PATH_MAX], to[SPOOL_PATH_MAX], log[SPOOL_PATH_MAX];
    struct file_facts facts;

    spare_path(directory, spare, from, sizeof from);
    segment_path(directory, generation, to, sizeof to);
    log_path(directory, log, sizeof log);
    const struct io_result there = disk_facts(to, &facts);
    if (there.status == IO_OK || there.error != ENOENT) /* never over a segment that exists */
        return io_failed(there.status == IO_OK ? EEXIST : there.error);
    const struct io_result renamed = disk_rename(from, to);
    return renamed.status == IO_OK ? disk_sync_directory(log) : renamed;
}

static struct io_result activate_file(const char *directory, unsigned spare,
                                      const struct segment_header *header, struct file *file)
{
    const struct io_result written = write_headers(file, header);

    return written.status == IO_OK ? name_segment(directory, spare, header->generation) : written;
}

struct io_result segment_activate(const char *directory, unsigned spare,
                                  const struct segment_header *header, struct segment **segment)
{
    char path[SPOOL_PATH_MAX];
    struct segment *made = calloc(1, sizeof *made);

    *segment = NULL;
    if (!made)
        return io_failed(ENOMEM);
    made->header = *header;
    spare_path(directory, spare, path, sizeof path);
    const struct io_result opened = file_open(path, FILE_WRITE, &made->file);
    const struct io_result result =
        opened.status == IO_OK ? activate_file(directory, spare, header, made->file) : opened;
    if (result.status == IO_OK)
        *segment = made;
    else
        segment_close(made);
    return result;
}

static struct io_result spare_fill(const char *path, uint64_t size_bytes)
{
    CLEANUP(file_close_ptr) struct file *file = NULL;
    const struct io_result opened = file_open(path, FILE_WRITE | FILE_NEW, &file);

    if (opened.status != IO_OK)
        return opened;
    const struct io_result reserved = file_reserve(file, size_bytes);
    return reserved.status == IO_OK ? file_sync(file) : reserved;
}

/* Made under another name, so that a spare by its name is always whole. */
struct io_result spare_make(const char *directory, unsigned spare, uint64_t size_bytes)
{
    char path[SPOOL_PATH_MAX], growing[SPOOL_PATH_MAX], log[SPOOL_PATH_MAX];

    spare_path(directory, spare, path, sizeof path);
    snprintf(growing, sizeof growing, "%s/log/growing-%u", directory, spare);
    log_path(directory, log, sizeof log);
    const struct io_result cleared = disk_remove(growing);
    if (cleared.status != IO_OK && cleared.error != ENOENT)
        return cleared;
    const struct io_result filled = spare_fill(growing, size_bytes);
    const struct io_result renamed =
        filled.status == IO_OK ? disk_rename(growing, path) : disk_remove(growing);
    if (filled.status != IO_OK)
        return filled;
    return renamed.status == IO_OK ? disk_sync_directory(log) : renamed;
}

void segment_close(struct segment *segment)
{
    if (segment->file)
        file_close(segment->file);
    free(segment);
}
