/*
 * A message made fit for 7-bit hosts: the result has no octet beyond ASCII, is the same however the
 * input is cut, and needs no change when it is made fit once more.
 */
#include "mail/mail.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct made {
    enum mime7_fault fault;
    bool changes;
    struct buffer text;
};

static void pass(struct mime7 *mime7, struct buffer *into, struct bytes text, size_t piece)
{
    for (struct bytes rest = text; rest.count > 0; rest = bytes_skip(rest, piece))
        mime7_add(mime7, into, bytes_slice(rest, 0, piece));
    mime7_end(mime7, into);
}

static struct made convert(struct bytes text, size_t piece)
{
    struct made made = {.text = BUFFER_WITH_LIMIT(64 * MIB)};
    struct mime7 mime7 = {0};

    mime7_begin(&mime7, false);
    pass(&mime7, &made.text, text, piece);
    made.fault = mime7.fault;
    made.changes = mime7_changes(&mime7);
    if (made.fault == MIME7_FINE) {
        mime7_begin(&mime7, true);
        pass(&mime7, &made.text, text, piece);
        INVARIANT(mime7.fault == MIME7_FINE);
    }
    mime7_free(&mime7);
    INVARIANT(!made.text.failed);
    return made;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct bytes input = bytes_of(data + (size > 0), size - (size > 0));
    struct made whole = convert(input, 1 << 20), cut = convert(input, size > 0 ? data[0] + 1u : 1);
    const struct bytes made = buffer_view(&whole.text);

    INVARIANT(whole.fault == cut.fault && bytes_equal(made, buffer_view(&cut.text)));
    for (size_t i = 0; whole.fault == MIME7_FINE && i < made.count; i++)
        INVARIANT(made.at[i] < 0x80);
    if (whole.fault == MIME7_FINE && !whole.changes)
        INVARIANT(bytes_equal(made, input));
    if (whole.fault == MIME7_FINE) {
        struct made again = convert(made, 1 << 20);
        INVARIANT(again.fault == MIME7_FINE && bytes_equal(made, buffer_view(&again.text)));
        buffer_free(&again.text);
    }
    buffer_free(&whole.text);
    buffer_free(&cut.text);
    return 0;
}
