/* A view of bytes: never owns, never ends in NUL by itself. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <string.h>

#include "base/macros.h"

struct bytes {
    const uint8_t *at;
    size_t count;
};

/* Writable memory that a caller lends. */
struct span {
    uint8_t *at;
    size_t count;
};

#define BYTES_LITERAL(text) ((struct bytes){(const uint8_t *)(text), sizeof(text) - 1})
#define BYTES_EMPTY ((struct bytes){NULL, 0})
/* printf("%.*s", BYTES_PRINT(view)) */
#define BYTES_PRINT(view)                                                                          \
    (int)(view).count, (const char *)((view).at ? (view).at : (const uint8_t *)"")

static inline struct bytes bytes_of(const void *at, size_t count)
{
    return (struct bytes){at, count};
}
static inline struct bytes bytes_of_text(const char *text) /* NULL gives the empty view */
{
    return text ? bytes_of(text, strlen(text)) : BYTES_EMPTY;
}
static inline bool bytes_equal(struct bytes a, struct bytes b)
{
    return a.count == b.count && (a.count == 0 || memcmp(a.at, b.at, a.count) == 0);
}
static inline bool bytes_equal_text(struct bytes a, const char *text)
{
    return bytes_equal(a, bytes_of_text(text));
}
bool bytes_equal_nocase(struct bytes a, struct bytes b); /* ASCII only */
bool bytes_equal_text_nocase(struct bytes a, const char *text);
int bytes_compare(struct bytes a, struct bytes b); /* <0, 0, >0 as memcmp, shorter first */
bool bytes_starts_with(struct bytes whole, struct bytes prefix);
bool bytes_starts_with_nocase(struct bytes whole, struct bytes prefix);
bool bytes_ends_with_nocase(struct bytes whole, struct bytes suffix);

/* What is behind the first `count` octets. */
static inline struct bytes bytes_skip(struct bytes whole, size_t count)
{
    if (count >= whole.count)
        return bytes_of(whole.at ? whole.at + whole.count : NULL, 0);
    return bytes_of(whole.at + count, whole.count - count);
}
/* The part from `from` on, at most `count` long; clamped to the view. */
static inline struct bytes bytes_slice(struct bytes whole, size_t from, size_t count)
{
    const struct bytes rest = bytes_skip(whole, from);

    return bytes_of(rest.at, MIN_OF(rest.count, count));
}

/* Index of the first occurrence, or whole.count. */
size_t bytes_find_byte(struct bytes whole, uint8_t byte);
size_t bytes_find_last_byte(struct bytes whole, uint8_t byte);
size_t bytes_find(struct bytes whole, struct bytes needle);
size_t bytes_find_nocase(struct bytes whole, struct bytes needle);
size_t bytes_find_control(struct bytes whole); /* below 0x20, or 0x7f */

/* Cuts at the first `separator`: *head gets what is before it; the rest is returned (empty at the
 * end). */
struct bytes bytes_cut(struct bytes whole, uint8_t separator, struct bytes *head);

struct bytes bytes_trim(struct bytes whole); /* space, tab, CR, LF at both ends */

/* Whole view as an unsigned decimal, digits only, no sign, no overflow. */
MUST_USE bool bytes_to_u64(struct bytes digits, uint64_t *value);

static inline uint8_t ascii_lower(uint8_t byte)
{
    return byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte + ('a' - 'A')) : byte;
}
static inline bool ascii_is_alpha(uint8_t byte)
{
    return ascii_lower(byte) >= 'a' && ascii_lower(byte) <= 'z';
}
static inline bool ascii_is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}
static inline bool ascii_is_alnum(uint8_t byte)
{
    return ascii_is_alpha(byte) || ascii_is_digit(byte);
}
static inline bool ascii_is_print(uint8_t byte)
{
    return byte >= 0x20 && byte <= 0x7e;
}
int ascii_hex_value(uint8_t byte); /* -1 when it is none */

/* FNV-1a over lower-cased ASCII: for hash tables only, never for trust. */
uint64_t bytes_hash_nocase(struct bytes whole);
bool bytes_is_utf8(struct bytes whole); /* strict: no overlong forms, no surrogates */
/* Does something stand at the front that a terminal or a reader of logs must not get as it is: a
 * control character (C0, DEL, C1), one that turns the direction of text or cannot be seen, or no
 * UTF-8? Its length, and `code`, with U+FFFD for what is none; 0: no. */
size_t bytes_unfit(struct bytes rest, uint32_t *code);
size_t bytes_utf8_length(uint8_t lead); /* of a character that is sound */

#endif
