/*
 * The bounded reader: all untrusted binary input goes through it. After the first short read every
 * further one gives zeroes, so code runs straight and checks reader.failed once at the end.
 */
#ifndef BASE_READER_H
#define BASE_READER_H

#include "base/bytes.h"

struct reader {
    struct bytes rest;
    bool failed; /* sticky */
};

#define READER_OF(view) ((struct reader){.rest = (view)})

uint8_t reader_u8(struct reader *reader);
uint16_t reader_u16(struct reader *reader); /* big endian */
uint32_t reader_u32(struct reader *reader);
uint64_t reader_u64(struct reader *reader);
struct bytes reader_bytes(struct reader *reader, size_t count);
/* Up to the separator, which is consumed and not part of the view; fails when there is none. */
struct bytes reader_until(struct reader *reader, uint8_t separator);
bool reader_at_end(const struct reader *reader);

#endif
