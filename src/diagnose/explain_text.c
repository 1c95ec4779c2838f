/*
 * A reply made comparable, and the small language of the tables: alternatives parted by '|',
 * phrases in order parted by '*'. Linear in the text for each phrase; everything bounded by the
 * text's room.
 */
#include "diagnose/explain_text.h"

#include <string.h>

#define GAP_MAX 64 /* of bytes between two phrases of one alternative */

static void add(struct explain_text *text, char byte)
{
    if (text->count + 2 < sizeof text->at && (byte != ' ' || text->at[text->count - 1] != ' '))
        text->at[text->count++] = byte;
}

static bool is_word_byte(uint8_t byte)
{
    return ascii_is_alnum(byte) || byte == '.' || byte == '_' || byte == '%' || byte >= 0x80 ||
           byte == '@' || byte == '\'' || byte == '+';
}

bool explain_status_parse(struct bytes word, unsigned status[3])
{
    struct bytes rest = word, head;
    uint64_t value[3] = {0};

    for (unsigned i = 0; i < 3; i++) {
        rest = bytes_cut(rest, '.', &head);
        if (head.count > 3 || !bytes_to_u64(head, &value[i]))
            return false;
    }
    if (rest.count > 0 || (value[0] != 2 && value[0] != 4 && value[0] != 5))
        return false;
    for (unsigned i = 0; i < 3; i++)
        status[i] = (unsigned)value[i];
    return true;
}

static bool is_ip(struct bytes word)
{
    unsigned dots = 0;

    for (size_t i = 0; i < word.count; i++) {
        if (word.at[i] == '.')
            dots++;
        else if (!ascii_is_digit(word.at[i]))
            return false;
    }
    return dots == 3;
}

/* 4yz and 5yz; of the 2yz only those that end a delivery, so that exit codes are none. */
static unsigned reply_code(struct bytes word)
{
    uint64_t value = 0;

    if (word.count != 3 || !bytes_to_u64(word, &value))
        return 0;
    if ((value >= 400 && value < 460) || (value >= 500 && value < 600) ||
        (value >= 250 && value <= 252))
        return (unsigned)value;
    return 0;
}

static void take_word(struct explain_text *text, struct bytes word)
{
    unsigned status[3];

    while (word.count > 0 && word.at[word.count - 1] == '.')
        word.count--;
    while (word.count > 0 && word.at[0] == '.')
        word = bytes_skip(word, 1);
    const unsigned code = reply_code(word);
    if (code) {
        if (!text->code)
            text->code = code;
        return;
    }
    if (explain_status_parse(word, status)) {
        if (!text->status[0])
            memcpy(text->status, status, sizeof status);
        return;
    }
    const char *stand_in = bytes_find_byte(word, '@') < word.count ? "@"
                           : is_ip(word)                           ? "%ip"
                                                                   : NULL;
    for (const char *at = stand_in; at && *at; at++)
        add(text, *at);
    for (size_t i = 0; !stand_in && i < word.count; i++)
        if (word.at[i] != '\'')
            add(text, (char)ascii_lower(word.at[i]));
}

/* A local part may hold bytes that part words elsewhere: what touches an '@' belongs to it. */
static size_t word_length(struct bytes rest)
{
    size_t length = 0;

    while (length < rest.count && is_word_byte(rest.at[length]))
        length++;
    size_t longer = length;
    while (longer < rest.count && (is_word_byte(rest.at[longer]) || rest.at[longer] == '-' ||
                                   rest.at[longer] == '/' || rest.at[longer] == '='))
        longer++;
    return bytes_find_byte(bytes_slice(rest, 0, longer), '@') < longer ? longer : length;
}

void explain_text_make(struct explain_text *text, struct bytes reply)
{
    *text = (struct explain_text){.count = 1};
    text->at[0] = ' ';
    reply = bytes_slice(reply, 0, (size_t)4 * EXPLAIN_TEXT_MAX);
    while (reply.count > 0) {
        const size_t length = word_length(reply);

        if (length > 0)
            take_word(text, bytes_slice(reply, 0, length));
        else
            add(text, ' ');
        reply = bytes_skip(reply, MAX_OF(length, (size_t)1));
    }
    add(text, ' ');
    text->at[text->count] = '\0';
}

/* The phrases of one alternative, each behind the one before. */
static bool fits_in_order(const struct explain_text *text, struct bytes alternative)
{
    struct bytes rest = bytes_of(text->at, text->count), phrase;
    bool begun = false;

    while (alternative.count > 0) {
        alternative = bytes_cut(alternative, '*', &phrase);
        while (alternative.count > 0 && phrase.count > 0 && phrase.at[phrase.count - 1] == ' ')
            phrase.count--;
        if (alternative.count > 0 && alternative.at[0] == ' ')
            alternative = bytes_skip(alternative, 1);
        const size_t at = bytes_find(rest, phrase);
        if ((at == rest.count && phrase.count > 0) || (begun && at > GAP_MAX))
            return false;
        begun = true;
        rest = bytes_skip(rest, at + phrase.count);
    }
    return true;
}

bool explain_text_fits(const struct explain_text *text, const char *patterns, struct bytes *matched)
{
    struct bytes rest = bytes_of_text(patterns);

    *matched = BYTES_EMPTY;
    if (rest.count == 0)
        return true;
    while (rest.count > 0) {
        rest = bytes_cut(rest, '|', matched);
        if (matched->count > 0 && fits_in_order(text, *matched))
            return true;
    }
    return false;
}

static bool one_code_fits(unsigned code, const unsigned status[3], struct bytes wanted)
{
    char have[40];
    const bool is_status = bytes_find_byte(wanted, '.') < wanted.count;
    const bool any_class = wanted.count > 0 && wanted.at[0] == '.';

    if (is_status && !status[0])
        return false;
    if (!is_status)
        snprintf(have, sizeof have, "%u", code ? code : status[0]);
    else if (any_class)
        snprintf(have, sizeof have, ".%u.%u", status[1], status[2]);
    else
        snprintf(have, sizeof have, "%u.%u.%u", status[0], status[1], status[2]);
    if (!is_status)
        return bytes_starts_with(bytes_of_text(have), wanted);
    if (wanted.at[wanted.count - 1] == '*')
        return bytes_starts_with(bytes_of_text(have), bytes_slice(wanted, 0, wanted.count - 1));
    return bytes_equal_text(wanted, have);
}

bool explain_code_fits(unsigned code, const unsigned status[3], const char *codes)
{
    struct bytes rest = bytes_of_text(codes), wanted;

    if (rest.count == 0)
        return true;
    while (rest.count > 0) {
        rest = bytes_cut(rest, '|', &wanted);
        if (wanted.count > 0 && one_code_fits(code, status, wanted))
            return true;
    }
    return false;
}
