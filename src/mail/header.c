/*
 * Header fields (RFC 5322 2.2): one pass over the bytes, linear in their number whatever they are.
 * A line may end in LF alone, since stored test messages and BDAT bodies may; a line that is no
 * field is skipped and remembered in `malformed`.
 */
#include "mail/mail.h"

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t';
}

/* Length of the first line with its end. */
static size_t line_length(struct bytes rest)
{
    const size_t end = bytes_find_byte(rest, '\n');

    return end == rest.count ? end : end + 1;
}

static bool is_empty_line(struct bytes rest)
{
    return (rest.count >= 1 && rest.at[0] == '\n') ||
           (rest.count >= 2 && rest.at[0] == '\r' && rest.at[1] == '\n');
}

static size_t field_length(struct bytes rest)
{
    size_t length = line_length(rest);

    while (length < rest.count && is_blank(rest.at[length]))
        length += line_length(bytes_skip(rest, length));
    return length;
}

static bool field_split(struct bytes whole, struct header_field *field)
{
    size_t name = 0;

    while (name < whole.count && whole.at[name] > ' ' && whole.at[name] < 0x7f &&
           whole.at[name] != ':')
        name++;
    size_t colon = name;
    while (colon < whole.count && is_blank(whole.at[colon]))
        colon++;
    if (name == 0 || colon == whole.count || whole.at[colon] != ':')
        return false;
    struct bytes value = bytes_skip(whole, colon + 1);
    if (value.count > 0 && value.at[value.count - 1] == '\n')
        value.count--;
    if (value.count > 0 && value.at[value.count - 1] == '\r')
        value.count--;
    *field = (struct header_field){bytes_slice(whole, 0, name), value, whole};
    return true;
}

bool header_next(struct header_walk *walk, struct header_field *field)
{
    while (walk->rest.count > 0 && !is_empty_line(walk->rest)) {
        const struct bytes whole = bytes_slice(walk->rest, 0, field_length(walk->rest));

        walk->rest = bytes_skip(walk->rest, whole.count);
        if (field_split(whole, field))
            return true;
        walk->malformed = true;
    }
    return false;
}

bool header_find(struct bytes message, const char *name, struct header_field *field)
{
    struct header_walk walk = HEADER_WALK_OF(message);

    while (header_next(&walk, field))
        if (bytes_equal_text_nocase(field->name, name))
            return true;
    *field = (struct header_field){0};
    return false;
}

uint32_t header_count(struct bytes message, const char *name)
{
    struct header_walk walk = HEADER_WALK_OF(message);
    struct header_field field;
    uint32_t count = 0;

    while (header_next(&walk, &field))
        count += bytes_equal_text_nocase(field.name, name);
    return count;
}

struct bytes header_unfold(struct arena *arena, struct bytes value)
{
    const struct bytes folded = bytes_trim(value);
    uint8_t *line = arena_take(arena, folded.count + 1);
    size_t count = 0;

    if (!line)
        return BYTES_EMPTY;
    for (size_t i = 0; i < folded.count; i++) {
        const uint8_t byte = folded.at[i];
        const bool line_end = byte == '\n' || (byte == '\r' && folded.at[i + 1] == '\n');

        /* A line end before a blank is folding and goes; any other one must not stay one. */
        if (line_end && (byte == '\r' || is_blank(folded.at[i + 1])))
            continue;
        line[count++] = byte == '\r' || byte == '\n' || byte == 0 ? ' ' : byte;
    }
    return bytes_of(line, count);
}

size_t header_end(struct bytes message)
{
    size_t offset = 0;

    while (offset < message.count) {
        const struct bytes rest = bytes_skip(message, offset);

        offset += line_length(rest);
        if (is_empty_line(rest))
            return offset;
    }
    return message.count;
}
