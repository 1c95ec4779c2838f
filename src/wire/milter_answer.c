/*
 * A milter's answers, read from one packet. Pure. What lets mail pass has to be exact; a reply of
 * its own has to be one in itself: a class of 4 or 5, in the code and in the enhanced code alike
 * (RFC 2034 4, RFC 3463 2).
 */
#include "wire/filter.h"
#include "wire/milter.h"

enum { REPLY_LINES_MAX = 32, REPLY_LINE_BYTES = 480 };

struct milter_verdict milter_verdict_of(enum milter_answer answer)
{
    return (struct milter_verdict){.answer = answer};
}

/* ------------------------------------------------------------------ a reply of its own */

struct reply_line {
    unsigned code;      /* 0: none */
    bool more;          /* a hyphen behind the code */
    char class;         /* of the enhanced code; 0: none */
    struct bytes words; /* all behind the separator */
};

static size_t count_digits(struct bytes text)
{
    size_t count = 0;

    while (count < text.count && ascii_is_digit(text.at[count]))
        count++;
    return count;
}

/* The class of "5.7.1" at the front, or 0 (RFC 3463 2). */
static char enhanced_class(struct bytes words)
{
    const char class = words.count > 0 ? (char)words.at[0] : 0;
    struct bytes rest = words;

    for (unsigned part = 0; part < 3; part++) {
        const size_t digits = count_digits(rest);
        if (digits == 0 || digits > 3 || (part == 0 && digits != 1))
            return 0;
        rest = bytes_skip(rest, digits);
        if (part < 2 && (rest.count == 0 || rest.at[0] != '.'))
            return 0;
        rest = part < 2 ? bytes_skip(rest, 1) : rest;
    }
    return rest.count == 0 || rest.at[0] == ' ' ? class : 0;
}

static struct reply_line line_split(struct bytes line)
{
    struct reply_line split = {0};
    uint64_t code = 0;

    if (count_digits(line) != 3 || !bytes_to_u64(bytes_slice(line, 0, 3), &code))
        return split;
    if (line.count > 3 && line.at[3] != ' ' && line.at[3] != '-')
        return split;
    split.code = (unsigned)code;
    split.more = line.count > 3 && line.at[3] == '-';
    split.words = bytes_skip(line, 4);
    split.class = enhanced_class(split.words);
    return split;
}

/* "%%" stands for "%", since milters write for an MTA that prints the text as a format. */
static void add_words(struct buffer *into, struct bytes words)
{
    for (size_t i = 0; i < words.count; i++) {
        if (words.at[i] == '%' && i + 1 < words.count && words.at[i + 1] == '%')
            i++;
        buffer_add_byte(into, ascii_is_print(words.at[i]) ? words.at[i] : ' ');
    }
}

static struct bytes next_line(struct bytes text, struct bytes *line)
{
    const struct bytes rest = bytes_cut(text, '\n', line);

    if (line->count > 0 && line->at[line->count - 1] == '\r')
        line->count--;
    return rest;
}

static bool is_class(unsigned digit)
{
    return digit == 4 || digit == 5;
}

/* Do all lines agree? Prints them, the hyphens put right. The code is 0 when they do not. */
static unsigned reply_lines(struct bytes text, struct buffer *into)
{
    unsigned code = 0, count = 0;

    for (struct bytes line; text.count > 0; count++) {
        text = next_line(text, &line);
        const struct reply_line split = line_split(line);
        const bool fits = line.count <= REPLY_LINE_BYTES && count < REPLY_LINES_MAX;
        const bool agrees = count == 0 || split.code == code;
        if (!fits || !agrees || !is_class(split.code / 100) ||
            (split.class && (unsigned)(split.class - '0') != split.code / 100))
            return 0;
        code = split.code;
        buffer_print(into, "%s%u%c", count ? "\n" : "", code, text.count > 0 ? '-' : ' ');
        add_words(into, split.words);
    }
    return code;
}

struct milter_verdict milter_parse_reply(struct arena *arena, struct bytes text)
{
    CLEANUP(buffer_free)
    struct buffer lines = BUFFER_WITH_LIMIT(REPLY_LINES_MAX * (REPLY_LINE_BYTES + 8));
    const unsigned code = reply_lines(text, &lines);

    if (code == 0 || lines.failed)
        return (struct milter_verdict){.answer = MILTER_REPLY_INVALID,
                                       .words = filter_safe_copy(arena, text, 200)};
    return (struct milter_verdict){.answer = code / 100 == 4 ? MILTER_REPLY_4 : MILTER_REPLY_5,
                                   .words = arena_copy(arena, buffer_view(&lines))};
}

/* ------------------------------------------------------------------ the answers */

static bool parse_reply_packet(struct arena *arena, struct bytes data,
                               struct milter_verdict *verdict)
{
    struct reader reader = READER_OF(data);
    const struct bytes text = reader_until(&reader, 0);

    *verdict = milter_parse_reply(arena, text);
    return !reader.failed && reader_at_end(&reader);
}

bool milter_parse_answer(struct arena *arena, const struct milter_packet *packet,
                         struct milter_verdict *verdict)
{
    const bool alone = packet->data.count == 0;

    switch (packet->kind) {
    case MILTER_SAYS_CONTINUE:
        *verdict = milter_verdict_of(MILTER_CONTINUE);
        return alone;
    case MILTER_SAYS_ACCEPT:
        *verdict = milter_verdict_of(MILTER_ACCEPT);
        return alone;
    case MILTER_SAYS_DISCARD:
        *verdict = milter_verdict_of(MILTER_DISCARD);
        return alone;
    case MILTER_SAYS_REJECT:
        *verdict = milter_verdict_of(MILTER_REJECT);
        return alone;
    case MILTER_SAYS_TEMPFAIL:
        *verdict = milter_verdict_of(MILTER_TEMPFAIL);
        return alone;
    case MILTER_SAYS_SHUTDOWN:
        *verdict = milter_verdict_of(MILTER_SHUTDOWN);
        return alone;
    case MILTER_SAYS_REPLY:
        return parse_reply_packet(arena, packet->data, verdict);
    default:
        return false;
    }
}
