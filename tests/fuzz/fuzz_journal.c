/* Foreign text in every field of an event: the journal's line stays one line, JSON that can be read
 * back, and nothing in it moves a terminal's cursor. */
#include <jansson.h>

#include "observe/line.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_json(const struct line *line)
{
    const struct bytes text = line_view(line);
    json_error_t fault;

    for (size_t i = 0; i < text.count; i++)
        INVARIANT(text.at[i] >= 0x20 || i + 1 == text.count);
    json_t *read = json_loadb((const char *)text.at, text.count, 0, &fault);
    INVARIANT(json_is_object(read));
    json_decref(read);
}

/* An event may take several lines there; each begins with the time, and nothing else begins one. */
static void check_postfix(const struct line *line)
{
    const struct bytes text = line_view(line);

    for (size_t i = 0; i + 1 < text.count; i++)
        INVARIANT(text.at[i] == '\n' ? bytes_starts_with(bytes_skip(text, i + 1),
                                                         BYTES_LITERAL("Jan  1 00:00:00 "))
                                     : text.at[i] >= 0x20 && text.at[i] < 0x7f);
}

/* The first octet chooses the kind, the second the stage and the cause. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const struct bytes text = bytes_of(data + 2, MIN_OF(size - 2, (size_t)16384));
    const struct bytes half = bytes_slice(text, 0, text.count / 2);
    const struct event event = {.kind = (enum event_kind)(data[0] % EVENT_KIND_COUNT),
                                .stage = (enum stage)(data[1] % STAGE_COUNT),
                                .verdict = verdict_with((enum cause)(data[1] % CAUSE_COUNT), half),
                                .has_verdict = data[0] & 1,
                                .message = text.count,
                                .session = text.count * 3,
                                .client = half,
                                .helo = text,
                                .from = half,
                                .to = text,
                                .mx = text,
                                .filter = half,
                                .destination = half,
                                .tls = text,
                                .text = text,
                                .enhanced = half,
                                .code = data[1] * 3U};
    struct line line = {.count = 0};

    line_of_event_json(&line, &event, -1);
    check_json(&line);
    line.count = 0;
    line_of_event_postfix(&line, &event, 1);
    check_postfix(&line);
    line.count = 0;
    line_of_note_json(&line, LOG_ERROR, "room", text);
    check_json(&line);
    line.count = 0;
    line_of_note_postfix(&line, "room", text);
    check_postfix(&line);
    return 0;
}
