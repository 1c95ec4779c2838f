/* A view of bytes: never owns, never ends in NUL by itself. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

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

struct bytes bytes_of_text(const char *text); /* NULL gives the empty view */
struct bytes bytes_of(const void *at, size_t count);
bool bytes_equal(struct bytes a, struct bytes b);
bool bytes_equal_nocase(struct bytes a, struct bytes b); /* ASCII only */
bool bytes_equal_text(struct bytes a, const char *text);
bool bytes_equal_text_nocase(struct bytes a, const char *text);
int bytes_compare(struct bytes a, struct bytes b); /* <0, 0, >0 as memcmp, shorter first */
bool bytes_starts_with(struct bytes whole, struct bytes prefix);
bool bytes_starts_with_nocase(struct bytes whole, struct bytes prefix);
bool bytes_ends_with_nocase(struct bytes whole, struct bytes suffix);

/* The part from `from` on, at most `count` long; clamped to the view. */
struct bytes bytes_slice(struct bytes whole, size_t from, size_t count);
struct bytes bytes_skip(struct bytes whole, size_t count);

/* Index of the first occurrence, or whole.count. */
size_t bytes_find_byte(struct bytes whole, uint8_t byte);
size_t bytes_find_last_byte(struct bytes whole, uint8_t byte);
size_t bytes_find(struct bytes whole, struct bytes needle);
size_t bytes_find_nocase(struct bytes whole, struct bytes needle);

/* Cuts at the first `separator`: *head gets what is before it; the rest is returned (empty at the
 * end). */
struct bytes bytes_cut(struct bytes whole, uint8_t separator, struct bytes *head);

struct bytes bytes_trim(struct bytes whole); /* space, tab, CR, LF at both ends */

/* Whole view as an unsigned decimal, digits only, no sign, no overflow. */
MUST_USE bool bytes_to_u64(struct bytes digits, uint64_t *value);

bool ascii_is_alpha(uint8_t byte);
bool ascii_is_digit(uint8_t byte);
bool ascii_is_alnum(uint8_t byte);
bool ascii_is_print(uint8_t byte); /* 0x20..0x7e */
uint8_t ascii_lower(uint8_t byte);
int ascii_hex_value(uint8_t byte); /* -1 when it is none */

/* FNV-1a over lower-cased ASCII: for hash tables only, never for trust. */
uint64_t bytes_hash_nocase(struct bytes whole);
bool bytes_is_utf8(struct bytes whole); /* strict: no overlong forms, no surrogates */

#endif
