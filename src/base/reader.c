#include "base/reader.h"

struct bytes reader_bytes(struct reader *reader, size_t count)
{
    if (reader->failed || reader->rest.count < count) {
        reader->failed = true;
        reader->rest.count = 0;
        return BYTES_EMPTY;
    }
    const struct bytes taken = bytes_slice(reader->rest, 0, count);
    reader->rest = bytes_skip(reader->rest, count);
    return taken;
}

static uint64_t reader_big_endian(struct reader *reader, size_t octets)
{
    const struct bytes taken = reader_bytes(reader, octets);
    uint64_t value = 0;

    for (size_t i = 0; i < taken.count; i++)
        value = (value << 8) | taken.at[i];
    return value;
}

uint8_t reader_u8(struct reader *reader)
{
    return (uint8_t)reader_big_endian(reader, 1);
}

uint16_t reader_u16(struct reader *reader)
{
    return (uint16_t)reader_big_endian(reader, 2);
}

uint32_t reader_u32(struct reader *reader)
{
    return (uint32_t)reader_big_endian(reader, 4);
}

uint64_t reader_u64(struct reader *reader)
{
    return reader_big_endian(reader, 8);
}

struct bytes reader_until(struct reader *reader, uint8_t separator)
{
    const size_t end = bytes_find_byte(reader->rest, separator);

    if (end == reader->rest.count) {
        reader->failed = true;
        reader->rest.count = 0;
        return BYTES_EMPTY;
    }
    const struct bytes taken = reader_bytes(reader, end);
    reader->rest = bytes_skip(reader->rest, 1);
    return taken;
}

bool reader_at_end(const struct reader *reader)
{
    return reader->rest.count == 0;
}
