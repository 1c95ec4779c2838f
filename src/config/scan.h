/*
 * The check before libconfuse, which overlooks unclosed braces, NULs and duplicates, expands ${X},
 * reads includes relative to the working directory and miscounts lines behind a block comment. The
 * scan answers for all of that and remembers where each setting stands.
 */
#ifndef CONFIG_SCAN_H
#define CONFIG_SCAN_H

#include "config/options.h"

/* A setting, or (option NULL) the head of a section. */
struct statement {
    enum section section;
    unsigned instance; /* the how-many-th of its kind in the file */
    const struct option_row *option;
    const char *title; /* of a head; else NULL */
    struct place at;
};

struct scan {
    struct arena *arena; /* owns names, titles and the statements */
    struct config_errors *errors;
    struct buffer flat;  /* the text for libconfuse: no comments, includes in their place */
    struct place *lines; /* where each line of flat comes from */
    size_t line_count, line_room;
    struct statement *statements;
    size_t count, room;
    unsigned instances[SECTION_COUNT];
    /* Heads of sections by (section, instance) and by (section, title): open addressing, each place
     * the statement's number and one. */
    uint32_t *heads, *titles;
    size_t head_count, head_room;
    unsigned files;
};

/* Scans a text and all that it includes. Errors go to scan->errors. */
void scan_text(struct scan *scan, const char *name, struct bytes text);
void scan_file(struct scan *scan, const char *path);
void scan_free(struct scan *scan);
/* Where a setting was given; NULL when it was not. */
const struct statement *scan_find(const struct scan *scan, enum section section, unsigned instance,
                                  const struct option_row *option);

#endif
