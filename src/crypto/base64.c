/* Base 64 (RFC 4648, 4). Decoding skips white space, wants full padding, refuses anything else. */
#include "crypto/crypto.h"

#include <string.h>

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_encode(struct buffer *into, struct bytes plain)
{
    for (size_t i = 0; i < plain.count; i += 3) {
        const struct bytes part = bytes_slice(plain, i, 3);
        uint32_t group = 0;
        for (size_t k = 0; k < 3; k++)
            group = group << 8 | (k < part.count ? part.at[k] : 0U);
        for (size_t k = 0; k < 4; k++)
            buffer_add_byte(into, k <= part.count ? (uint8_t)ALPHABET[group >> (18 - 6 * k) & 63]
                                                  : (uint8_t)'=');
    }
}

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

/* The next four digits without white space; fewer at the end. */
static size_t take_four(struct bytes *text, uint8_t digits[4])
{
    size_t count = 0;

    while (text->count > 0 && count < 4) {
        if (!is_blank(text->at[0]))
            digits[count++] = text->at[0];
        *text = bytes_skip(*text, 1);
    }
    return count;
}

/* Octets that the four digits stand for, 1 to 3; 0 when they are none. */
static size_t decode_four(const uint8_t digits[4], uint8_t octets[3])
{
    const size_t padding = digits[3] != '=' ? 0 : digits[2] != '=' ? 1 : 2;
    uint32_t group = 0;

    for (size_t k = 0; k < 4 - padding; k++) {
        const char *found = digits[k] ? strchr(ALPHABET, digits[k]) : NULL;
        if (!found)
            return 0;
        group |= (uint32_t)(found - ALPHABET) << (18 - 6 * k);
    }
    for (size_t k = 0; k < 3; k++)
        octets[k] = (uint8_t)(group >> (16 - 8 * k));
    return 3 - padding;
}

bool base64_decode(struct arena *arena, struct bytes text, struct bytes *plain)
{
    uint8_t digits[4], *octets = arena_take(arena, text.count / 4 * 3 + 3);
    size_t done = 0, count = 0;
    bool ended = false;

    *plain = BYTES_EMPTY;
    while (octets && (count = take_four(&text, digits)) > 0) {
        const size_t got = ended || count < 4 ? 0 : decode_four(digits, octets + done);
        if (got == 0)
            return false;
        ended = got < 3;
        done += got;
    }
    if (octets)
        *plain = bytes_of(octets, done);
    return octets != NULL;
}
