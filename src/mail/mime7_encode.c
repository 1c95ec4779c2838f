/* Quoted-printable and base64 (RFC 2045 6.7, 6.8), octet by octet, so that pieces may end anywhere.
 */
#include "mail/mime7_inside.h"

enum { LINE_MOST = 76 };

static void quoted_put(struct mime7 *mime7, struct buffer *into, uint8_t byte, bool as_it_is)
{
    static const char digits[] = "0123456789ABCDEF";
    const unsigned width = as_it_is ? 1 : 3;

    if (mime7->column + width > LINE_MOST - 1) {
        buffer_add_text(into, "=\r\n");
        mime7->column = 0;
    }
    if (as_it_is) {
        buffer_add_byte(into, byte);
    } else {
        buffer_add_byte(into, '=');
        buffer_add_byte(into, (uint8_t)digits[byte >> 4]);
        buffer_add_byte(into, (uint8_t)digits[byte & 15]);
    }
    mime7->column += width;
}

/* A blank that ends a line would be lost on the way. */
static void quoted_flush_blank(struct mime7 *mime7, struct buffer *into, bool ends_line)
{
    if (mime7->held_blank)
        quoted_put(mime7, into, mime7->held_blank, !ends_line);
    mime7->held_blank = 0;
}

static void quoted_add(struct mime7 *mime7, struct buffer *into, uint8_t byte)
{
    if (mime7->held_cr && byte == '\n') {
        mime7->held_cr = false;
        quoted_flush_blank(mime7, into, true);
        buffer_add_text(into, "\r\n");
        mime7->column = 0;
        return;
    }
    if (mime7->held_cr) {
        quoted_flush_blank(mime7, into, false);
        quoted_put(mime7, into, '\r', false);
    }
    mime7->held_cr = byte == '\r';
    if (mime7->held_cr)
        return;
    quoted_flush_blank(mime7, into, false);
    if (byte == ' ' || byte == '\t')
        mime7->held_blank = byte;
    else
        quoted_put(mime7, into, byte, byte > ' ' && byte < 0x7f && byte != '=');
}

static void base64_put(struct mime7 *mime7, struct buffer *into, unsigned value)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";

    if (mime7->column == LINE_MOST) {
        buffer_add_text(into, "\r\n");
        mime7->column = 0;
    }
    buffer_add_byte(into, (uint8_t)alphabet[value]);
    mime7->column++;
}

static void base64_add(struct mime7 *mime7, struct buffer *into, uint8_t byte)
{
    mime7->bits = mime7->bits << 8 | byte;
    mime7->bit_count += 8;
    while (mime7->bit_count >= 6) {
        mime7->bit_count -= 6;
        base64_put(mime7, into, mime7->bits >> mime7->bit_count & 63);
    }
    mime7->bits &= 63;
}

void mime7_encoder_begin(struct mime7 *mime7)
{
    mime7->column = mime7->bits = mime7->bit_count = 0;
    mime7->held_blank = 0;
    mime7->held_cr = false;
}

void mime7_encode(struct mime7 *mime7, struct buffer *into, struct bytes text)
{
    for (size_t i = 0; i < text.count; i++) {
        if (mime7->encoding == MIME7_QUOTED)
            quoted_add(mime7, into, text.at[i]);
        else
            base64_add(mime7, into, text.at[i]);
    }
}

void mime7_encoder_end(struct mime7 *mime7, struct buffer *into)
{
    enum { PADDING = 64 };

    if (mime7->encoding == MIME7_QUOTED) {
        quoted_flush_blank(mime7, into, !mime7->held_cr);
        if (mime7->held_cr)
            quoted_put(mime7, into, '\r', false);
    } else if (mime7->bit_count > 0) {
        base64_put(mime7, into, mime7->bits << (6 - mime7->bit_count) & 63);
        for (unsigned have = mime7->bit_count == 2 ? 2 : 3; have < 4; have++)
            base64_put(mime7, into, PADDING);
    }
    mime7_encoder_begin(mime7);
}
