/* Base 64 (RFC 4648, 4). Decoding skips white space, wants full padding, refuses anything else. */
#include "crypto/crypto.h"

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
    size_t count = 0, taken = 0;

    for (; taken < text->count && count < 4; taken++)
        if (!is_blank(text->at[taken]))
            digits[count++] = text->at[taken];
    *text = bytes_skip(*text, taken);
    return count;
}

/* clang-format off */
/* A digit's value and one; 0: no digit. */
static const uint8_t VALUES[256] = {
    ['A'] = 1, ['B'] = 2, ['C'] = 3, ['D'] = 4, ['E'] = 5, ['F'] = 6, ['G'] = 7, ['H'] = 8,
    ['I'] = 9, ['J'] = 10, ['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14, ['O'] = 15, ['P'] = 16,
    ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20, ['U'] = 21, ['V'] = 22, ['W'] = 23, ['X'] = 24,
    ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28, ['c'] = 29, ['d'] = 30, ['e'] = 31, ['f'] = 32,
    ['g'] = 33, ['h'] = 34, ['i'] = 35, ['j'] = 36, ['k'] = 37, ['l'] = 38, ['m'] = 39, ['n'] = 40,
    ['o'] = 41, ['p'] = 42, ['q'] = 43, ['r'] = 44, ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48,
    ['w'] = 49, ['x'] = 50, ['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56,
    ['4'] = 57, ['5'] = 58, ['6'] = 59, ['7'] = 60, ['8'] = 61, ['9'] = 62, ['+'] = 63, ['/'] = 64,
};
/* clang-format on */

static int digit_value(uint8_t digit)
{
    return VALUES[digit] - 1;
}

/* The usual case: four digits side by side. */
static bool decode_plain_four(const uint8_t *at, uint8_t octets[3])
{
    const uint32_t a = VALUES[at[0]], b = VALUES[at[1]], c = VALUES[at[2]], d = VALUES[at[3]];
    const uint32_t group = (a - 1) << 18 | (b - 1) << 12 | (c - 1) << 6 | (d - 1);

    if (a == 0 || b == 0 || c == 0 || d == 0)
        return false;
    octets[0] = (uint8_t)(group >> 16);
    octets[1] = (uint8_t)(group >> 8);
    octets[2] = (uint8_t)group;
    return true;
}

/* Octets that the four digits stand for, 1 to 3; 0 when they are none. */
static size_t decode_four(const uint8_t digits[4], uint8_t octets[3])
{
    const size_t padding = digits[3] != '=' ? 0 : digits[2] != '=' ? 1 : 2;
    uint32_t group = 0;

    for (size_t k = 0; k < 4 - padding; k++) {
        const int value = digit_value(digits[k]);
        if (value < 0)
            return 0;
        group |= (uint32_t)value << (18 - 6 * k);
    }
    for (size_t k = 0; k < 3; k++)
        octets[k] = (uint8_t)(group >> (16 - 8 * k));
    return 3 - padding;
}

/* As many of those as stand at the front of *text; octets made. */
static size_t decode_plain(struct bytes *text, uint8_t *octets)
{
    const uint8_t *at = text->at;
    size_t left = text->count, done = 0;

    for (; left >= 4 && decode_plain_four(at, octets + done); at += 4, left -= 4)
        done += 3;
    *text = bytes_of(at, left);
    return done;
}

bool base64_decode(struct arena *arena, struct bytes text, struct bytes *plain)
{
    uint8_t digits[4], *octets = arena_take(arena, text.count / 4 * 3 + 3);
    size_t done = 0;
    bool ended = false;

    *plain = BYTES_EMPTY;
    while (octets && text.count > 0) {
        done += ended ? 0 : decode_plain(&text, octets + done);
        const size_t count = take_four(&text, digits);
        const size_t got = ended || count < 4 ? 0 : decode_four(digits, octets + done);
        if (got == 0 && count > 0)
            return false;
        ended = ended || (got > 0 && got < 3);
        done += got;
    }
    if (octets)
        *plain = bytes_of(octets, done);
    return octets != NULL;
}
