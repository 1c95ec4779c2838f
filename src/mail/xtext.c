/* xtext (RFC 3461 4): "+" and two upper-case hexadecimal digits stand for a byte. */
#include "mail/mail.h"

static int hex_pair(struct bytes text, size_t at)
{
    if (text.count - at < 2)
        return -1;
    const int high = ascii_hex_value(text.at[at]), low = ascii_hex_value(text.at[at + 1]);

    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

bool xtext_decode(struct arena *arena, struct bytes text, struct bytes *decoded)
{
    uint8_t *plain = arena_take(arena, text.count + 1);
    size_t count = 0;

    *decoded = BYTES_EMPTY;
    for (size_t i = 0; plain && i < text.count; i++) {
        int byte = text.at[i];

        if (byte == '+') {
            byte = hex_pair(text, i + 1);
            i += 2;
        } else if (byte <= ' ' || byte == '=' || byte == 0x7f) {
            byte = -1;
        }
        if (byte <= 0 || byte == '\r' || byte == '\n')
            return false;
        plain[count++] = (uint8_t)byte;
    }
    *decoded = bytes_of(plain, count);
    return plain != NULL;
}

void xtext_encode(struct buffer *into, struct bytes plain)
{
    for (size_t i = 0; i < plain.count; i++) {
        const uint8_t byte = plain.at[i];

        if (byte > ' ' && byte < 0x7f && byte != '+' && byte != '=')
            buffer_add_byte(into, byte);
        else
            buffer_print(into, "+%02X", byte);
    }
}
