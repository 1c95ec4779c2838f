/*
 * The table of settings, made from options.def and words.def.
 */
#include "config/options.h"

#define WORDS(table) static const struct word WORDS_##table[] = {
#define WORD_OF(text, value) {text, (unsigned)(value)},
#define WORDS_END                                                                                  \
    {                                                                                              \
        NULL, 0                                                                                    \
    }                                                                                              \
    }                                                                                              \
    ;
#include "config/words.def"
#undef WORDS
#undef WORD_OF
#undef WORDS_END

const struct section_row SECTIONS[SECTION_COUNT] = {
#define SECTION(symbol, section_name, type, has_title, words)                                      \
    [SECTION_##symbol] = {                                                                         \
        .name = section_name, .help = words, .size = sizeof(type), .titled = has_title},
#define OPTION(section, name, type, member, fallback, min, max, help)
#define LIST(section, name, type, member, count, fallback, help)
#define WORD(section, name, words, member, fallback, help)
#include "config/options.def"
#undef SECTION
#undef OPTION
#undef LIST
#undef WORD
};

/* The struct that each section fills, so that a member's offset can be taken. */
#define SECTION(symbol, name, type, titled, help) typedef type filled_by_##symbol;
#define OPTION(section, name, type, member, fallback, min, max, help)
#define LIST(section, name, type, member, count, fallback, help)
#define WORD(section, name, words, member, fallback, help)
#include "config/options.def"
#undef SECTION
#undef OPTION
#undef LIST
#undef WORD

const struct option_row OPTIONS[] = {
#define SECTION(symbol, name, type, titled, help)
#define OPTION(in, option_name, kind, member, otherwise, least, most, words_of_help)               \
    {.section = SECTION_##in,                                                                      \
     .name = option_name,                                                                          \
     .type = OPTION_##kind,                                                                        \
     .offset = offsetof(filled_by_##in, member),                                                   \
     .fallback = otherwise,                                                                        \
     .min = least,                                                                                 \
     .max = most,                                                                                  \
     .help = words_of_help},
#define LIST(in, option_name, kind, member, count, otherwise, words_of_help)                       \
    {.section = SECTION_##in,                                                                      \
     .name = option_name,                                                                          \
     .type = OPTION_##kind,                                                                        \
     .offset = offsetof(filled_by_##in, member),                                                   \
     .count_offset = offsetof(filled_by_##in, count),                                              \
     .fallback = otherwise,                                                                        \
     .help = words_of_help},
#define WORD(in, option_name, table, member, otherwise, words_of_help)                             \
    {.section = SECTION_##in,                                                                      \
     .name = option_name,                                                                          \
     .type = OPTION_WORD,                                                                          \
     .offset = offsetof(filled_by_##in, member),                                                   \
     .words = WORDS_##table,                                                                       \
     .fallback = otherwise,                                                                        \
     .help = words_of_help},
#include "config/options.def"
#undef SECTION
#undef OPTION
#undef LIST
#undef WORD
};
const size_t OPTIONS_COUNT = COUNT_OF(OPTIONS);

bool option_is_list(const struct option_row *row)
{
    return row->type >= OPTION_NETWORKS;
}

enum section section_find(struct bytes name)
{
    for (unsigned i = SECTION_ROOT + 1; i < SECTION_COUNT; i++)
        if (bytes_equal_text(name, SECTIONS[i].name))
            return (enum section)i;
    return SECTION_COUNT;
}

const struct option_row *option_find(enum section section, struct bytes name)
{
    for (size_t i = 0; i < OPTIONS_COUNT; i++)
        if (OPTIONS[i].section == section && bytes_equal_text(name, OPTIONS[i].name))
            return &OPTIONS[i];
    return NULL;
}
