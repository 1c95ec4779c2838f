/* A file that any user of this host left in the drop directory: it is a transaction or it is set
 * aside; each recipient is one line that stood there. */
#include "receive/pickup.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct bytes text = bytes_of(data, MIN_OF(size, (size_t)65536));
    struct dropped it = {.arena = ARENA_WITH_LIMIT(ARENA_BYTES), .head = text};

    if (dropped_parse(&it)) {
        INVARIANT(it.rcpt_count > 0 && it.mail.count > 0);
        INVARIANT(it.body >= it.rcpt_count * sizeof "RCPT TO:<>" && it.body <= text.count);
        for (unsigned i = 0; i < it.rcpt_count; i++) {
            INVARIANT(it.rcpts[i].at > text.at && it.rcpts[i].at < text.at + it.body);
            INVARIANT(bytes_find_byte(it.rcpts[i], '\n') == it.rcpts[i].count);
            INVARIANT(bytes_find_byte(it.rcpts[i], '\r') == it.rcpts[i].count);
            INVARIANT(it.paths[i].local.count > 0);
        }
    }
    arena_clear(&it.arena);
    return 0;
}
