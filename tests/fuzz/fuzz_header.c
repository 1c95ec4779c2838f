/* Header fields: the walk stays inside the header; and a report on any message is one safe message.
 */
#include "mail/mail.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk_all(struct arena *arena, struct bytes message)
{
    struct header_walk walk = HEADER_WALK_OF(message);
    struct header_field field;
    const size_t end = header_end(message);

    while (header_next(&walk, &field)) {
        const struct bytes line = header_unfold(arena, field.value);

        INVARIANT(bytes_find_byte(line, '\n') == line.count);
        INVARIANT(bytes_find_byte(line, '\r') == line.count);
        INVARIANT((size_t)(field.whole.at - message.at) + field.whole.count <= end);
    }
}

static void report_on(struct bytes message)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(8 * MIB);
    const struct dsn_recipient recipient = {.final = {bytes_slice(message, 0, 64), message},
                                            .original = message,
                                            .status = message,
                                            .remote_mta = message,
                                            .diagnostic = message,
                                            .cause_name = message,
                                            .explanation = message};
    const struct dsn dsn = {.hostname = "mx.example",
                            .to = {bytes_slice(message, 0, 64), BYTES_LITERAL("a.example")},
                            .envelope_id = message,
                            .recipients = &recipient,
                            .recipient_count = 1,
                            .smtputf8 = message.count % 2};

    dsn_print(&text, &dsn);
    const struct bytes view = buffer_view(&text);
    for (size_t i = 0; i < view.count; i++)
        INVARIANT(view.at[i] != 0 && (view.at[i] != '\n' || view.at[i - 1] == '\r'));
    INVARIANT(header_count(view, "Content-Type") == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(16 * MIB);
    const struct bytes message = bytes_of(data, MIN_OF(size, (size_t)65536));

    walk_all(&arena, message);
    report_on(message);
    arena_clear(&arena);
    return 0;
}
