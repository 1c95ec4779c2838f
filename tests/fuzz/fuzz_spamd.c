/* spamd's answer: judged only by a whole one, however it is cut. */
#include "../unit/memory_stream.h"
#include "wire/spamd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct io_result read_body(void *argument, struct span into, uint64_t offset)
{
    (void)argument;
    (void)offset;
    memset(into.at, 'x', into.count);
    return io_ok(into.count);
}

/* The first byte chooses the cut, and the second whether writing fails half-way. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    const struct message_source body = {read_body, NULL, 100};

    if (size < 2)
        return 0;
    struct memory_stream memory = memory_stream_of(bytes_of(data + 2, size - 2));
    memory.fragment = data[0];
    memory.write_limit = data[1] % 2 ? 50 : SIZE_MAX;
    const struct spamd_verdict verdict =
        spamd_talk_scan(&arena, &memory.stream, &body, DEADLINE_NEVER);
    INVARIANT((verdict.result == SPAMD_FAILED) == (verdict.fault != FILTER_FAULT_NONE));
    if (verdict.result == SPAMD_JUDGED) {
        struct header_walk walk = HEADER_WALK_OF(verdict.headers);
        struct header_field field;
        INVARIANT(memory.write_limit == SIZE_MAX);
        while (header_next(&walk, &field))
            INVARIANT(bytes_starts_with_nocase(field.name, BYTES_LITERAL("X-Spam-")));
        INVARIANT(!walk.malformed && walk.rest.count == 0);
    }
    memory.at = 0; /* the same as the answer to a ping */
    const struct spamd_verdict pinged = spamd_talk_ping(&arena, &memory.stream, DEADLINE_NEVER);
    INVARIANT((pinged.result == SPAMD_FAILED) == (pinged.fault != FILTER_FAULT_NONE));
    buffer_free(&memory.written);
    arena_clear(&arena);
    return 0;
}
