/* The table of settings as data, and what the files of this room share. */
#ifndef CONFIG_OPTIONS_H
#define CONFIG_OPTIONS_H

#include "config/config.h"

enum section {
#define SECTION(symbol, name, type, titled, help) SECTION_##symbol,
#define OPTION(section, name, type, member, fallback, min, max, help)
#define LIST(section, name, type, member, count, fallback, help)
#define WORD(section, name, words, member, fallback, help)
#include "config/options.def"
#undef SECTION
#undef OPTION
#undef LIST
#undef WORD
    SECTION_COUNT
};

enum option_type {
    OPTION_TEXT = 0,
    OPTION_PATH,
    OPTION_HOSTNAME,
    OPTION_ADDRESS,
    OPTION_CHARACTER,
    OPTION_USERS,
    OPTION_ALIASES,
    OPTION_DELIVER,
    OPTION_NEXT_HOP,
    OPTION_ENDPOINT,
    OPTION_ENDPOINT_OR_NONE,
    OPTION_PASSWORDS,
    OPTION_IP, /* or empty; `min` is 4 or 6 */
    OPTION_DURATION,
    OPTION_SIZE,
    OPTION_COUNT,
    OPTION_PORT,
    OPTION_SCORE,
    OPTION_FLAG,
    OPTION_WORD,
    OPTION_NETWORKS, /* from here on: lists */
    OPTION_RESOLVERS,
    OPTION_ENDPOINTS,
    OPTION_STEPS,
    OPTION_TEXTS,
};

struct word {
    const char *text; /* NULL ends a table */
    unsigned value;
};

struct section_row {
    const char *name, *help;
    size_t size; /* of the struct that one instance fills */
    bool titled;
};

struct option_row {
    enum section section;
    const char *name;
    enum option_type type;
    size_t offset, count_offset; /* into the section's struct */
    const struct word *words;
    const char *fallback; /* NULL: must be given */
    uint64_t min, max;
    const char *help;
};

extern const struct section_row SECTIONS[SECTION_COUNT];
extern const struct option_row OPTIONS[];
extern const size_t OPTIONS_COUNT;

bool option_is_list(const struct option_row *row);
enum section section_find(struct bytes name); /* SECTION_COUNT: none */
const struct option_row *option_find(enum section section, struct bytes name); /* or NULL */

struct place {
    const char *file;
    unsigned line;
};

/* Appends "FILE:LINE: what". */
void errors_add(struct config_errors *errors, struct place place, const char *format, ...)
    PRINTF_LIKE(3, 4);

#define QUOTED_PRINT(view)                                                                         \
    (int)MIN_OF((view).count, (size_t)80),                                                         \
        (const char *)((view).count ? (view).at : (const uint8_t *)"")

/*
 * One value as written -> its member of the struct at `base`. False with the reason in why.
 * A list gets its values one call after the other; *room was reserved by value_list_begin.
 */
struct value_target {
    struct arena *arena;
    void *base;
    char why[256];
};
MUST_USE bool value_set(struct value_target *target, const struct option_row *row,
                        struct bytes text);
MUST_USE bool value_list_begin(struct value_target *target, const struct option_row *row,
                               size_t count);
MUST_USE bool value_set_fallback(struct value_target *target, const struct option_row *row);
void value_print(struct buffer *into, const struct option_row *row, const void *base);

/* Letters, digits, hyphens, dots; at most 253. */
bool hostname_is_valid(struct bytes name);
void deliver_print(struct buffer *into, const struct config_deliver *deliver);

#endif
