/*
 * The small vocabulary of journal lines: numbers, times, and foreign text made safe. Never
 * allocates, never fails: it cuts.
 */
#include "observe/line.h"

#include <string.h>

/* Room that free text may not use, so that the numbers and the closing brace always fit. */
enum { LINE_RESERVE = 64 };

static size_t line_room(const struct line *line)
{
    return sizeof line->at - LINE_RESERVE - MIN_OF(line->count, sizeof line->at - LINE_RESERVE);
}

void line_add(struct line *line, struct bytes plain)
{
    const size_t count = MIN_OF(plain.count, sizeof line->at - line->count);

    if (count == 0)
        return;
    memcpy(line->at + line->count, plain.at, count);
    line->count += count;
}

void line_add_text(struct line *line, const char *plain)
{
    line_add(line, bytes_of_text(plain));
}

void line_add_u64(struct line *line, uint64_t value)
{
    char digits[20];
    size_t first = sizeof digits;

    do {
        digits[--first] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    line_add(line, bytes_of(digits + first, sizeof digits - first));
}

static void line_add_digits(struct line *line, uint64_t value, size_t width)
{
    char digits[20];

    for (size_t i = width; i-- > 0; value /= 10)
        digits[i] = (char)('0' + value % 10);
    line_add(line, bytes_of(digits, width));
}

void line_add_ms(struct line *line, uint64_t duration_us)
{
    line_add_u64(line, duration_us / US_PER_MS);
    line_add_text(line, ".");
    line_add_digits(line, duration_us % US_PER_MS, 3);
}

void line_add_id(struct line *line, uint64_t id)
{
    static const char alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    char text[13];

    for (size_t i = sizeof text; i-- > 0; id >>= 5)
        text[i] = alphabet[id & 31];
    line_add(line, bytes_of(text, sizeof text));
}

void line_add_time(struct line *line, int64_t wall_us)
{
    static _Thread_local int64_t known_second = INT64_MIN;
    static _Thread_local char known[TIME_TEXT_MAX];
    const int64_t second = wall_us / 1000000 - (wall_us % 1000000 < 0 ? 1 : 0);

    if (second != known_second) {
        time_print_rfc3339(second * 1000000, known, sizeof known);
        char *fraction = strrchr(known, '.');
        if (fraction)
            fraction[1] = 0;
        known_second = second;
    }
    line_add_text(line, known);
    line_add_digits(line, (uint64_t)(wall_us - second * 1000000), 6);
    line_add_text(line, "Z");
}

/* The escaped form of what stands at the front of `rest`; *taken bytes of it are used up. */
static size_t json_escape(struct bytes rest, char into[8], size_t *taken)
{
    const uint8_t byte = rest.at[0];
    uint32_t code = 0;

    if (byte == '"' || byte == '\\') {
        *taken = 1;
        into[0] = '\\';
        into[1] = (char)byte;
        return 2;
    }
    *taken = bytes_unfit(rest, &code);
    if (*taken > 0) /* many readers of JSON stumble over \u0000 */
        return (size_t)snprintf(into, 8, "\\u%04x", code == 0 || code > 0xffff ? 0xfffdu : code);
    *taken = bytes_utf8_length(byte); /* well-formed, or it is unfit */
    memcpy(into, rest.at, *taken);
    return *taken;
}

void line_add_json(struct line *line, struct bytes foreign, size_t most)
{
    size_t left = MIN_OF(most, line_room(line));

    while (foreign.count > 0) {
        char escaped[8];
        size_t taken = 1;
        const uint8_t byte = foreign.at[0];

        if (byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\') {
            if (left == 0)
                return;
            line->at[line->count++] = (char)byte;
            left--;
        } else {
            const size_t count = json_escape(foreign, escaped, &taken);
            if (count > left)
                return;
            line_add(line, bytes_of(escaped, count));
            left -= count;
        }
        foreign = bytes_skip(foreign, taken);
    }
}

void line_add_safe(struct line *line, struct bytes foreign, size_t most)
{
    const size_t count = MIN_OF(MIN_OF(most, foreign.count), line_room(line));

    for (size_t i = 0; i < count; i++)
        line->at[line->count++] = ascii_is_print(foreign.at[i]) ? (char)foreign.at[i] : '?';
}

struct bytes line_view(const struct line *line)
{
    return bytes_of(line->at, line->count);
}
