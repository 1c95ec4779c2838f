/*
 * Replies of the next hop (RFC 5321 4.2) and what its EHLO offers. A reply that breaks the grammar
 * is named, never guessed at: guessing is how a 250 for one command is taken for another's.
 */
#include "wire/wire.h"

static unsigned code_of(struct bytes line)
{
    if (line.count < 3 || line.at[0] < '2' || line.at[0] > '5' || !ascii_is_digit(line.at[1]) ||
        !ascii_is_digit(line.at[2]))
        return 0;
    if (line.count > 3 && line.at[3] != ' ' && line.at[3] != '-')
        return 0;
    return (unsigned)(line.at[0] - '0') * 100 + (unsigned)(line.at[1] - '0') * 10 +
           (unsigned)(line.at[2] - '0');
}

static size_t digits_length(struct bytes text)
{
    size_t length = 0;

    while (length < text.count && length < 3 && ascii_is_digit(text.at[length]))
        length++;
    return length;
}

/* RFC 2034: class.subject.detail at the front of the text, of the same class as the code. */
static struct bytes enhanced_of(struct bytes text)
{
    const struct bytes words = bytes_skip(text, 4);
    size_t length = 0;

    if (words.count < 5 || words.at[0] != text.at[0] || words.at[1] != '.')
        return BYTES_EMPTY;
    length = 2;
    const size_t subject = digits_length(bytes_skip(words, length));
    length += subject;
    if (subject == 0 || length >= words.count || words.at[length] != '.')
        return BYTES_EMPTY;
    const size_t detail = digits_length(bytes_skip(words, ++length));
    length += detail;
    const bool ends = length == words.count || words.at[length] == ' ' || words.at[length] == '\n';
    return detail > 0 && ends ? bytes_slice(words, 0, length) : BYTES_EMPTY;
}

struct reply_reading {
    struct buffer text;
    unsigned code, line_count;
    bool last;
};

static void reply_reading_end(struct reply_reading *reading)
{
    buffer_free(&reading->text);
}

static enum wire_status reply_take_line(struct reply_reading *reading, struct bytes line)
{
    const unsigned code = code_of(line);

    if (reading->line_count > 0)
        buffer_add_byte(&reading->text, '\n');
    buffer_add(&reading->text, line);
    if (reading->text.failed || ++reading->line_count > SMTP_REPLY_LINES_MAX)
        return WIRE_TOO_LONG;
    if (code == 0 || (reading->code != 0 && reading->code != code))
        return WIRE_MALFORMED;
    reading->code = code;
    reading->last = line.count == 3 || line.at[3] == ' ';
    return WIRE_OK;
}

enum wire_status smtp_read_reply(struct wire_input *input, struct arena *arena,
                                 uint64_t deadline_us, struct smtp_reply *reply)
{
    CLEANUP(reply_reading_end)
    struct reply_reading reading = {.text = BUFFER_WITH_LIMIT(SMTP_REPLY_BYTES_MAX)};
    enum wire_status status = WIRE_OK;

    *reply = (struct smtp_reply){0};
    while (status == WIRE_OK && !reading.last) {
        struct bytes line = BYTES_EMPTY;

        status = wire_read_line(input, deadline_us, &line);
        if (status == WIRE_OK)
            status = reply_take_line(&reading, line);
    }
    reply->text = arena_copy(arena, buffer_view(&reading.text));
    reply->line_count = reading.line_count;
    if (status != WIRE_OK)
        return status;
    if (reply->text.count != reading.text.count)
        return WIRE_FAILED;
    reply->code = reading.code;
    reply->enhanced = enhanced_of(reply->text);
    return WIRE_OK;
}

/* ------------------------------------------------------------------ EHLO */

static const struct {
    const char *keyword;
    enum smtp_extension extension;
} EXTENSIONS[] = {
    {"PIPELINING", EXTENSION_PIPELINING},
    {"SIZE", EXTENSION_SIZE},
    {"8BITMIME", EXTENSION_8BITMIME},
    {"SMTPUTF8", EXTENSION_SMTPUTF8},
    {"DSN", EXTENSION_DSN},
    {"STARTTLS", EXTENSION_STARTTLS},
    {"CHUNKING", EXTENSION_CHUNKING},
    {"ENHANCEDSTATUSCODES", EXTENSION_ENHANCEDSTATUSCODES},
    {"AUTH", EXTENSION_AUTH},
    {"REQUIRETLS", EXTENSION_REQUIRETLS},
    {"BINARYMIME", EXTENSION_BINARYMIME},
};

static size_t keyword_length(struct bytes line)
{
    size_t length = 0;

    while (length < line.count && line.at[length] != ' ' && line.at[length] != '=')
        length++;
    return length;
}

static unsigned extension_of(struct bytes keyword)
{
    for (size_t i = 0; i < COUNT_OF(EXTENSIONS); i++)
        if (bytes_equal_text_nocase(keyword, EXTENSIONS[i].keyword))
            return EXTENSIONS[i].extension;
    return 0;
}

unsigned smtp_parse_extensions(struct bytes reply_text, uint64_t *size_limit)
{
    unsigned extensions = 0;
    struct bytes line = BYTES_EMPTY;
    struct bytes rest = bytes_cut(reply_text, '\n', &line); /* the first one greets */

    *size_limit = 0;
    while (rest.count > 0) {
        rest = bytes_cut(rest, '\n', &line);
        line = bytes_trim(bytes_skip(line, 4));
        const size_t length = keyword_length(line);
        const unsigned extension = extension_of(bytes_slice(line, 0, length));
        extensions |= extension;
        if (extension == EXTENSION_SIZE &&
            !bytes_to_u64(bytes_trim(bytes_skip(line, length + 1)), size_limit))
            *size_limit = 0;
    }
    return extensions;
}
