/* Replies and the EHLO list: bounded, and the same however the bytes are cut. */
#include "../unit/memory_stream.h"
#include "wire/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum wire_status read_one(struct arena *arena, struct bytes input, size_t fragment,
                                 struct smtp_reply *reply)
{
    struct memory_stream memory = memory_stream_of(input);
    struct wire_input from;

    memory.fragment = fragment;
    wire_input_open(&from, &memory.stream);
    const enum wire_status status = smtp_read_reply(&from, arena, DEADLINE_NEVER, reply);
    wire_input_close(&from);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct smtp_reply whole, cut;
    uint64_t limit;

    if (size == 0)
        return 0;
    const struct bytes input = bytes_of(data + 1, size - 1);
    const enum wire_status status = read_one(&arena, input, 0, &whole);
    INVARIANT(read_one(&arena, input, data[0] + 1U, &cut) == status);
    INVARIANT(whole.code == cut.code && bytes_equal(whole.text, cut.text));
    INVARIANT((status == WIRE_OK) == (whole.code >= 200 && whole.code <= 599));
    INVARIANT(whole.text.count <= SMTP_REPLY_BYTES_MAX);
    (void)smtp_parse_extensions(input, &limit);
    arena_clear(&arena);
    return 0;
}
