#include "base/bytes.h"

#include <string.h>

bool bytes_equal_nocase(struct bytes a, struct bytes b)
{
    return a.count == b.count && bytes_starts_with_nocase(a, b);
}

bool bytes_equal_text_nocase(struct bytes a, const char *text)
{
    return bytes_equal_nocase(a, bytes_of_text(text));
}

int bytes_compare(struct bytes a, struct bytes b)
{
    const size_t common = MIN_OF(a.count, b.count);
    const int order = common == 0 ? 0 : memcmp(a.at, b.at, common);

    return order != 0 ? order : (a.count > b.count) - (a.count < b.count);
}

bool bytes_starts_with(struct bytes whole, struct bytes prefix)
{
    return bytes_equal(bytes_slice(whole, 0, prefix.count), prefix);
}

bool bytes_starts_with_nocase(struct bytes whole, struct bytes prefix)
{
    if (whole.count < prefix.count)
        return false;
    for (size_t i = 0; i < prefix.count; i++)
        if (ascii_lower(whole.at[i]) != ascii_lower(prefix.at[i]))
            return false;
    return true;
}

bool bytes_ends_with_nocase(struct bytes whole, struct bytes suffix)
{
    return whole.count >= suffix.count &&
           bytes_equal_nocase(bytes_skip(whole, whole.count - suffix.count), suffix);
}

size_t bytes_find_byte(struct bytes whole, uint8_t byte)
{
    const uint8_t *found = whole.count ? memchr(whole.at, byte, whole.count) : NULL;

    return found ? (size_t)(found - whole.at) : whole.count;
}

size_t bytes_find_last_byte(struct bytes whole, uint8_t byte)
{
    const uint8_t *found = whole.count ? memrchr(whole.at, byte, whole.count) : NULL;

    return found ? (size_t)(found - whole.at) : whole.count;
}

size_t bytes_find(struct bytes whole, struct bytes needle)
{
    const uint8_t *found =
        whole.count ? memmem(whole.at, whole.count, needle.at, needle.count) : NULL;

    return found ? (size_t)(found - whole.at) : whole.count;
}

size_t bytes_find_nocase(struct bytes whole, struct bytes needle)
{
    for (size_t i = 0; i + needle.count <= whole.count; i++)
        if (bytes_starts_with_nocase(bytes_skip(whole, i), needle))
            return i;
    return whole.count;
}

/* Sixteen octets at a time. */
typedef uint8_t octets __attribute__((vector_size(16)));

static bool any_control(const uint8_t *at)
{
    octets here;
    uint64_t halves[2];

    memcpy(&here, at, sizeof here);
    const octets controls = (octets)((here < 0x20) | (here == 0x7f));
    memcpy(halves, &controls, sizeof halves);
    return (halves[0] | halves[1]) != 0;
}

size_t bytes_find_control(struct bytes whole)
{
    size_t i = 0;

    while (i + sizeof(octets) <= whole.count && !any_control(whole.at + i))
        i += sizeof(octets);
    while (i < whole.count && whole.at[i] >= 0x20 && whole.at[i] != 0x7f)
        i++;
    return i;
}

struct bytes bytes_cut(struct bytes whole, uint8_t separator, struct bytes *head)
{
    const size_t end = bytes_find_byte(whole, separator);

    *head = bytes_slice(whole, 0, end);
    return bytes_skip(whole, end == whole.count ? end : end + 1);
}

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

struct bytes bytes_trim(struct bytes whole)
{
    while (whole.count > 0 && is_blank(whole.at[0]))
        whole = bytes_skip(whole, 1);
    while (whole.count > 0 && is_blank(whole.at[whole.count - 1]))
        whole.count--;
    return whole;
}

bool bytes_to_u64(struct bytes digits, uint64_t *value)
{
    uint64_t sum = 0;

    if (digits.count == 0)
        return false;
    for (size_t i = 0; i < digits.count; i++) {
        if (!ascii_is_digit(digits.at[i]))
            return false;
        if (__builtin_mul_overflow(sum, UINT64_C(10), &sum) ||
            __builtin_add_overflow(sum, (uint64_t)(digits.at[i] - '0'), &sum))
            return false;
    }
    *value = sum;
    return true;
}

int ascii_hex_value(uint8_t byte)
{
    const uint8_t lower = ascii_lower(byte);

    if (ascii_is_digit(byte))
        return byte - '0';
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

uint64_t bytes_hash_nocase(struct bytes whole)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < whole.count; i++)
        hash = (hash ^ ascii_lower(whole.at[i])) * UINT64_C(0x100000001b3);
    return hash;
}

/* Bytes that follow a lead byte, with the smallest code point that form may encode; -1 for a bad
 * lead. */
static int utf8_tail(uint8_t lead, uint32_t *code, uint32_t *smallest)
{
    static const struct {
        uint8_t mask, lead, tail;
        uint32_t smallest;
    } forms[] = {{0x80, 0x00, 0, 0},
                 {0xe0, 0xc0, 1, 0x80},
                 {0xf0, 0xe0, 2, 0x800},
                 {0xf8, 0xf0, 3, 0x10000}};

    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        if ((lead & forms[i].mask) != forms[i].lead)
            continue;
        *code = (uint32_t)(lead & (uint8_t)~forms[i].mask);
        *smallest = forms[i].smallest;
        return forms[i].tail;
    }
    return -1;
}

/* The length of the character at the front; 0: it is none. */
static size_t utf8_take(struct bytes rest, uint32_t *code)
{
    uint32_t smallest = 0;
    const int tail = rest.count > 0 ? utf8_tail(rest.at[0], code, &smallest) : -1;

    if (tail < 0 || rest.count - 1 < (size_t)tail)
        return 0;
    for (int k = 1; k <= tail; k++) {
        if ((rest.at[k] & 0xc0) != 0x80)
            return 0;
        *code = (*code << 6) | (rest.at[k] & 0x3f);
    }
    const bool valid = *code >= smallest && *code <= 0x10ffff && (*code < 0xd800 || *code > 0xdfff);
    return valid ? (size_t)tail + 1 : 0;
}

bool bytes_is_utf8(struct bytes whole)
{
    uint32_t code = 0;

    while (whole.count > 0) {
        const size_t length = utf8_take(whole, &code);
        if (length == 0)
            return false;
        whole = bytes_skip(whole, length);
    }
    return true;
}

size_t bytes_utf8_length(uint8_t lead)
{
    return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

size_t bytes_unfit(struct bytes rest, uint32_t *code)
{
    static const uint32_t ranges[][2] = {
        {0x00, 0x1f},      {0x7f, 0x9f},
        {0x061c, 0x061c},                    /* ARABIC LETTER MARK */
        {0x180e, 0x180e},                    /* MONGOLIAN VOWEL SEPARATOR, unseen */
        {0x200b, 0x200f},  {0x2028, 0x202e}, /* of no width; lines; embedding and override */
        {0x2060, 0x206f},  {0xfeff, 0xfeff},
        {0xfff9, 0xfffb},    /* isolates; byte order mark; notes */
        {0xe0000, 0xe007f}}; /* tags */
    const size_t length = utf8_take(rest, code);

    if (length == 0) {
        *code = 0xfffd;
        return MIN_OF(rest.count, (size_t)1);
    }
    for (size_t i = 0; i < COUNT_OF(ranges); i++)
        if (*code >= ranges[i][0] && *code <= ranges[i][1])
            return length;
    return 0;
}
