/* A command line: parsed without harm, and what was taken as an address goes out and comes back. */
#include "wire/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_path(struct arena *arena, struct address path)
{
    struct address again;

    if (path.domain.count == 0)
        return;
    const struct bytes text = address_text(arena, path);
    INVARIANT(bytes_find_byte(text, '\r') == text.count &&
              bytes_find_byte(text, '\n') == text.count);
    INVARIANT(arena->failed || address_parse(arena, text, &again));
    INVARIANT(arena->failed || address_equal(path, again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct smtp_command command;

    smtp_parse_command(&arena, bytes_of(data, size), &command);
    if (command.fault == SMTP_FINE && (command.verb == SMTP_MAIL || command.verb == SMTP_RCPT))
        check_path(&arena, command.path);
    INVARIANT(command.fault != SMTP_FINE || bytes_find_byte(command.original_recipient, '\n') ==
                                                command.original_recipient.count);
    arena_clear(&arena);
    return 0;
}
