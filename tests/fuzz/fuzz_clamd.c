/* clamd's answer: clean only for the one complete word, however it is cut. */
#include "../unit/memory_stream.h"
#include "wire/clamd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct io_result read_body(void *argument, struct span into, uint64_t offset)
{
    (void)argument;
    (void)offset;
    memset(into.at, 'x', into.count);
    return (struct io_result){.status = IO_OK, .count = into.count};
}

/* The first byte chooses the cut, and the second whether writing fails half-way. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    const struct message_source body = {read_body, NULL, 100};

    if (size < 2)
        return 0;
    const struct bytes answer = bytes_of(data + 2, size - 2);
    struct memory_stream memory = memory_stream_of(answer);
    memory.fragment = data[0];
    memory.write_limit = data[1] % 2 ? 50 : SIZE_MAX;
    const struct clamd_verdict verdict =
        clamd_talk_scan(&arena, &memory.stream, &body, DEADLINE_NEVER);
    if (verdict.result == CLAMD_CLEAN) {
        INVARIANT(memory.write_limit == SIZE_MAX);
        INVARIANT(bytes_starts_with(answer, BYTES_LITERAL("stream: OK")));
        INVARIANT(answer.at[10] == 0 || answer.at[10] == '\n');
    }
    INVARIANT((verdict.result == CLAMD_FAILED) == (verdict.fault != FILTER_FAULT_NONE));
    memory.at = 0; /* the same as the answer to a ping */
    const struct clamd_verdict pinged = clamd_talk_ping(&arena, &memory.stream, DEADLINE_NEVER);
    if (pinged.result == CLAMD_CLEAN)
        INVARIANT(bytes_starts_with(answer, BYTES_LITERAL("PONG")));
    buffer_free(&memory.written);
    arena_clear(&arena);
    return 0;
}
