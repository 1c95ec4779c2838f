/*
 * A slate: a small table of fixed rows in one file, each written in its place and without a sync.
 * It outlives the process that wrote it; what a power cut takes away, or tears, is a free row.
 */
#include <string.h>
#include <xxhash.h>

#include "runtime/runtime.h"

enum { CHECK_BYTES = 8, SLATE_BYTES_MOST = 4 * 1024 * 1024 };

struct slate {
    struct file *file;
    uint32_t row_bytes;
};

static uint64_t slate_offset(const struct slate *slate, uint32_t row)
{
    return (uint64_t)row * (slate->row_bytes + CHECK_BYTES);
}

/* A row is good at its own place only. */
static uint64_t slate_check(const struct slate *slate, uint32_t row, struct bytes content)
{
    return XXH3_64bits_withSeed(content.at, content.count, (uint64_t)slate->row_bytes << 32 | row);
}

static void slate_load(const struct slate *slate, uint32_t rows, const struct slate_reader *reader,
                       struct span all)
{
    const struct io_result got = file_read_at(slate->file, all, 0);

    for (uint32_t row = 0; row < rows && got.status == IO_OK; row++) {
        const uint64_t at = slate_offset(slate, row);
        uint64_t check;
        if (at + slate->row_bytes + CHECK_BYTES > got.count)
            break;
        const struct bytes content = bytes_of(all.at + at, slate->row_bytes);
        memcpy(&check, all.at + at + slate->row_bytes, sizeof check);
        if (check == slate_check(slate, row, content))
            reader->each(reader->argument, row, content);
    }
}

struct slate *slate_open(const char *path, uint32_t row_bytes, uint32_t rows,
                         const struct slate_reader *reader)
{
    const size_t size = (size_t)rows * (row_bytes + CHECK_BYTES);
    struct slate *slate = size <= SLATE_BYTES_MOST ? calloc(1, sizeof *slate) : NULL;
    uint8_t *all = slate ? malloc(size) : NULL;

    if (!all || file_open(path, FILE_WRITE | FILE_CREATE, &slate->file).status != IO_OK) {
        free(all);
        free(slate);
        return NULL;
    }
    slate->row_bytes = row_bytes;
    slate_load(slate, rows, reader, (struct span){all, size});
    free(all);
    return slate;
}

bool slate_write(struct slate *slate, uint32_t row, struct bytes content)
{
    INVARIANT(content.count == slate->row_bytes);
    const uint64_t check = slate_check(slate, row, content);
    const struct bytes parts[] = {content, bytes_of(&check, sizeof check)};

    return file_write_at(slate->file, parts, 2, slate_offset(slate, row)).status == IO_OK;
}

bool slate_erase(struct slate *slate, uint32_t row)
{
    static const uint8_t nothing[CHECK_BYTES];
    const struct bytes part = bytes_of(nothing, sizeof nothing);

    return file_write_at(slate->file, &part, 1, slate_offset(slate, row) + slate->row_bytes)
               .status == IO_OK;
}

void slate_close(struct slate *slate)
{
    if (!slate)
        return;
    file_close(slate->file);
    free(slate);
}
