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

bool bytes_is_utf8(struct bytes whole)
{
    for (size_t i = 0; i < whole.count;) {
        uint32_t code = 0, smallest = 0;
        const int tail = utf8_tail(whole.at[i++], &code, &smallest);

        if (tail < 0 || whole.count - i < (size_t)tail)
            return false;
        for (int k = 0; k < tail; k++, i++) {
            if ((whole.at[i] & 0xc0) != 0x80)
                return false;
            code = (code << 6) | (whole.at[i] & 0x3f);
        }
        if (code < smallest || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
            return false;
    }
    return true;
}
