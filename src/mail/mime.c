/*
 * Content-Transfer-Encoding undone (RFC 2045 6.7, 6.8), leniently: what is no code is skipped, so
 * any bytes give some text. Output is never longer than the input.
 */
#include "mail/bounce_private.h"

static int base64_value(uint8_t byte)
{
    if (byte >= 'A' && byte <= 'Z')
        return byte - 'A';
    if (byte >= 'a' && byte <= 'z')
        return byte - 'a' + 26;
    if (ascii_is_digit(byte))
        return byte - '0' + 52;
    return byte == '+' ? 62 : byte == '/' ? 63 : -1;
}

struct bytes mime_decode_base64(struct arena *arena, struct bytes text)
{
    uint8_t *plain = arena_take(arena, text.count + 1);
    unsigned bits = 0, held = 0;
    size_t count = 0;

    for (size_t i = 0; plain && i < text.count; i++) {
        const int value = base64_value(text.at[i]);

        if (value < 0)
            continue;
        bits = (bits << 6 | (unsigned)value) & 0xffffffu;
        held += 6;
        if (held < 8)
            continue;
        held -= 8;
        plain[count++] = (uint8_t)(bits >> held);
    }
    return bytes_of(plain, count);
}

/* Blanks at a line's end are transport padding, and so is "=" before the line end. */
static size_t soft_break(struct bytes rest)
{
    size_t length = 1;

    while (length < rest.count && (rest.at[length] == ' ' || rest.at[length] == '\t'))
        length++;
    if (length < rest.count && rest.at[length] == '\r')
        length++;
    return length < rest.count && rest.at[length] == '\n' ? length + 1 : 0;
}

struct bytes mime_decode_quoted(struct arena *arena, struct bytes text)
{
    uint8_t *plain = arena_take(arena, text.count + 1);
    size_t count = 0;

    while (plain && text.count > 0) {
        const bool escape = text.at[0] == '=';
        const size_t gone = escape ? soft_break(text) : 0;
        const int high = escape && text.count > 2 ? ascii_hex_value(text.at[1]) : -1;
        const int low = escape && text.count > 2 ? ascii_hex_value(text.at[2]) : -1;
        size_t taken = MAX_OF(gone, (size_t)1);

        if (gone == 0 && high >= 0 && low >= 0) {
            plain[count++] = (uint8_t)(high << 4 | low);
            taken = 3;
        } else if (gone == 0) {
            plain[count++] = text.at[0];
        }
        text = bytes_skip(text, taken);
    }
    return bytes_of(plain, count);
}

struct bytes bounce_html_text(struct arena *arena, struct bytes html)
{
    uint8_t *plain = arena_take(arena, html.count + 1);
    size_t count = 0;

    while (plain && html.count > 0) {
        const size_t end = html.at[0] == '<' ? bytes_find_byte(html, '>') : html.count;

        if (end < html.count) {
            plain[count++] = bytes_starts_with_nocase(html, BYTES_LITERAL("<br")) ||
                                     bytes_starts_with_nocase(html, BYTES_LITERAL("</p")) ||
                                     bytes_starts_with_nocase(html, BYTES_LITERAL("</t")) ||
                                     bytes_starts_with_nocase(html, BYTES_LITERAL("</d"))
                                 ? '\n'
                                 : ' ';
            html = bytes_skip(html, end + 1);
            continue;
        }
        plain[count++] = html.at[0];
        html = bytes_skip(html, 1);
    }
    return bytes_of(plain, count);
}
