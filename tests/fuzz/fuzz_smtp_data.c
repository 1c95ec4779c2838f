/* DATA read in pieces of a chosen size equals DATA read at once; stuffed again it reads back whole.
 */
#include "../unit/memory_stream.h"
#include "wire/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
    struct buffer body;
    struct wire_data data;
    size_t rest;
};

static struct outcome read_all(struct bytes input, size_t first, size_t fragment)
{
    struct memory_stream memory = memory_stream_of(input);
    struct wire_input from;
    struct outcome outcome = {.body = BUFFER_WITH_LIMIT(64 * MIB)};
    enum wire_status status = WIRE_OK;

    memory.first = first;
    memory.fragment = fragment;
    wire_input_open(&from, &memory.stream);
    outcome.data.input = &from;
    while (status == WIRE_OK && !outcome.data.ended) {
        struct bytes piece;

        status = wire_read_data(&outcome.data, DEADLINE_NEVER, &piece);
        buffer_add(&outcome.body, piece);
    }
    outcome.rest = from.end - from.start + (input.count - memory.at);
    wire_input_close(&from);
    return outcome;
}

static void check_same(const struct outcome *a, const struct outcome *b)
{
    INVARIANT(a->data.ended == b->data.ended);
    if (!a->data.ended)
        return;
    INVARIANT(bytes_equal(buffer_view(&a->body), buffer_view(&b->body)));
    INVARIANT(a->data.malformed == b->data.malformed);
    INVARIANT(a->data.longest_line == b->data.longest_line);
    INVARIANT(a->rest == b->rest);
}

static void check_stuffing(struct bytes body, size_t fragment)
{
    struct buffer whole = BUFFER_WITH_LIMIT(64 * MIB), cut = BUFFER_WITH_LIMIT(64 * MIB);
    struct wire_stuffer stuffer = {0};

    wire_stuff(&stuffer, &whole, body);
    wire_stuff_end(&stuffer, &whole);
    stuffer = (struct wire_stuffer){0};
    for (size_t at = 0; at < body.count; at += fragment)
        wire_stuff(&stuffer, &cut, bytes_slice(body, at, fragment));
    wire_stuff_end(&stuffer, &cut);
    INVARIANT(bytes_equal(buffer_view(&whole), buffer_view(&cut)));

    struct outcome back = read_all(buffer_view(&whole), 0, 0);
    INVARIANT(back.data.ended && !back.data.malformed && back.rest == 0);
    buffer_free(&back.body);
    buffer_free(&whole);
    buffer_free(&cut);
}

/* The first two bytes choose the cuts. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const struct bytes input = bytes_of(data + 2, size - 2);
    struct outcome whole = read_all(input, 0, 0);
    struct outcome cut = read_all(input, data[0], data[1] + 1U);

    check_same(&whole, &cut);
    check_stuffing(input, data[1] + 1U);
    if (whole.data.ended)
        check_stuffing(buffer_view(&whole.body), data[0] + 1U);
    buffer_free(&whole.body);
    buffer_free(&cut.body);
    return 0;
}
