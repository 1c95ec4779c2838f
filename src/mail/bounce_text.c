/*
 * Free-form bounces (Exim, qmail, Sendmail, Exchange, providers): which addresses failed, and what
 * is said of each. No form is assumed beyond lines: an address leads a stretch of text, a reply is
 * a line with a code, and the returned message begins at a ruler or a trace field.
 */
#include "mail/bounce_private.h"

#define LINES_MAX 2000
#define STRETCH_MAX 4096

static bool is_local_byte(uint8_t byte)
{
    return ascii_is_alnum(byte) || byte >= 0x80 ||
           bytes_find_byte(BYTES_LITERAL(".!#$%&'*+/=?^_`{|}~-"), byte) < 20;
}

struct bytes bounce_address_find(struct bytes text, struct bytes *rest)
{
    size_t from = 0;

    *rest = BYTES_EMPTY;
    while (from < text.count) {
        const size_t at = from + bytes_find_byte(bytes_skip(text, from), '@');
        size_t begin = at, end = at + 1;

        if (at >= text.count)
            return BYTES_EMPTY;
        while (begin > from && at - begin < MAIL_ADDRESS_MAX && is_local_byte(text.at[begin - 1]))
            begin--;
        while (end < text.count && end - at < MAIL_DOMAIN_MAX &&
               (ascii_is_alnum(text.at[end]) || text.at[end] == '-' || text.at[end] == '.' ||
                text.at[end] >= 0x80))
            end++;
        while (end > at && (text.at[end - 1] == '.' || text.at[end - 1] == '-'))
            end--;
        if (begin < at && end > at + 1) {
            *rest = bytes_skip(text, end);
            return bytes_slice(text, begin, end - begin);
        }
        from = at + 1;
    }
    return BYTES_EMPTY;
}

/* Where the returned message begins. */
static bool begins_original(struct bytes line)
{
    const struct bytes bare = bytes_trim(line);
    const bool ruler = bytes_starts_with(bare, BYTES_LITERAL("--")) ||
                       bytes_starts_with(bare, BYTES_LITERAL("==")) ||
                       bytes_starts_with(bare, BYTES_LITERAL("**")) ||
                       bytes_starts_with(bare, BYTES_LITERAL("__"));

    if (ruler && bounce_has_word(bare, "copy of|original message|returned message|unsent message|"
                                       "header|message follows|undelivered message|your message"))
        return !bounce_has_word(bare, "was received|transcript|reason");
    return bytes_starts_with_nocase(line, BYTES_LITERAL("Received:")) ||
           bytes_starts_with_nocase(line, BYTES_LITERAL("Return-Path:")) ||
           bytes_starts_with_nocase(line, BYTES_LITERAL("DKIM-Signature:")) ||
           bytes_starts_with_nocase(bare, BYTES_LITERAL("Message headers follow")) ||
           bytes_starts_with_nocase(bare, BYTES_LITERAL("Original message follows")) ||
           bytes_starts_with_nocase(bare, BYTES_LITERAL("Below is a copy of"));
}

static struct bytes report_only(struct bytes text)
{
    struct bytes rest = text, line;

    for (unsigned lines = 0; rest.count > 0 && lines < LINES_MAX; lines++) {
        const size_t offset = (size_t)(rest.at - text.at);

        rest = bytes_cut(rest, '\n', &line);
        if (lines > 0 && begins_original(line))
            return bytes_slice(text, 0, offset);
    }
    return text;
}

/* "550 " or "550-" at the front of the view. */
static bool is_code(struct bytes text)
{
    return text.count > 3 && (text.at[0] == '4' || text.at[0] == '5') && text.at[1] <= '5' &&
           ascii_is_digit(text.at[1]) && ascii_is_digit(text.at[2]) &&
           (text.at[3] == ' ' || text.at[3] == '-');
}

/* Behind the first reply code that stands as a word; the text itself when there is none. */
static struct bytes from_code(struct bytes text)
{
    for (size_t i = 0; i + 4 < text.count; i++) {
        const uint8_t before = i > 0 ? text.at[i - 1] : ' ';

        if (is_code(bytes_skip(text, i)) && !ascii_is_alnum(before) && before != '.' &&
            before != '-' && before != '+' && before != '/')
            return bytes_skip(text, i);
    }
    return BYTES_EMPTY;
}

/* To the empty line. */
static struct bytes paragraph(struct bytes text)
{
    struct bytes rest = text, line;

    while (rest.count > 0) {
        const size_t offset = (size_t)(rest.at - text.at);

        rest = bytes_cut(rest, '\n', &line);
        if (bytes_trim(line).count == 0 && offset > 0)
            return bytes_trim(bytes_slice(text, 0, offset));
    }
    return bytes_trim(text);
}

/* The address that a line is about: it leads the line (behind a code), or a phrase names it. */
static struct bytes led_by(struct bytes line)
{
    struct bytes rest, bare = bytes_trim(line);
    const bool coded = is_code(bare);

    if (coded)
        bare = bytes_trim(bytes_skip(bare, 4));
    while (bare.count > 0 && (bare.at[0] == '<' || bare.at[0] == '"' || bare.at[0] == '*' ||
                              bare.at[0] == '[' || bare.at[0] == ' ' || bare.at[0] == '\''))
        bare = bytes_skip(bare, 1);
    const struct bytes address = bounce_address_find(bare, &rest);
    if (address.count > 0 && address.at == bare.at)
        return address;
    if (coded || !bounce_has_word(line, "recipient address|delivered to|your mail to|rcpt to|"
                                        "address:|recipient:|deliver to|delivery to|failed:|to:"))
        return BYTES_EMPTY;
    return address;
}

static struct bounce_recipient *known(struct bounce *bounce, struct bytes address)
{
    for (uint32_t i = 0; i < bounce->recipient_count; i++)
        if (bytes_equal_nocase(bounce->recipients[i].address, address))
            return &bounce->recipients[i];
    return NULL;
}

static struct bounce_recipient *add(struct bounce *bounce, struct bytes address)
{
    struct bounce_recipient *found = known(bounce, address);

    if (!found && bounce->recipient_count < BOUNCE_RECIPIENTS_MAX) {
        found = &bounce->recipients[bounce->recipient_count++];
        *found = (struct bounce_recipient){.address = address};
    }
    return found;
}

/* A coded line speaks for itself; else what follows belongs to the address, to the next one. */
static void stretches_read(struct bounce *bounce, struct bytes sender, bool add_new)
{
    struct bytes rest = bounce->text, line;
    struct bounce_recipient *current = NULL;

    for (unsigned lines = 0; rest.count > 0 && lines < LINES_MAX; lines++) {
        rest = bytes_cut(rest, '\n', &line);
        const struct bytes address = led_by(line);
        if (address.count > 0 && !bytes_equal_nocase(address, sender)) {
            struct bounce_recipient *found =
                add_new ? add(bounce, address) : known(bounce, address);
            if (found && (found->text.count == 0 || is_code(bytes_trim(line)))) {
                const bool whole = is_code(bytes_trim(line));
                found->text = line;
                current = whole ? NULL : found;
                continue;
            }
        }
        if (current && current->text.count < STRETCH_MAX)
            current->text.count = (size_t)(line.at + line.count - current->text.at);
    }
}

static void failed_header_read(struct arena *arena, struct bytes header, struct bounce *bounce)
{
    struct header_field field;
    struct bytes rest;

    if (bounce->recipient_count > 0 || !header_find(header, "X-Failed-Recipients", &field))
        return;
    rest = header_unfold(arena, field.value);
    while (rest.count > 0 && bounce->recipient_count < BOUNCE_RECIPIENTS_MAX) {
        const struct bytes address = bounce_address_find(rest, &rest);
        if (address.count > 0 && !add(bounce, address))
            return;
    }
}

/* "550 ..." of the recipient's own stretch, else of the report when it is about one recipient. */
static void replies_read(struct bounce *bounce)
{
    for (uint32_t i = 0; i < bounce->recipient_count; i++) {
        struct bounce_recipient *one = &bounce->recipients[i];

        if (one->diagnostic.count == 0)
            one->diagnostic = paragraph(from_code(one->text));
        if (one->diagnostic.count == 0 && bounce->recipient_count == 1)
            one->diagnostic = paragraph(from_code(bounce->text));
        if (one->text.count == 0 || bounce->recipient_count == 1)
            one->text = bounce->text;
    }
}

void bounce_text_read(struct arena *arena, struct bytes header, struct bounce *bounce)
{
    struct header_field field;
    struct bytes sender = BYTES_EMPTY, rest;

    if (bounce->form == BOUNCE_VACATION || bounce->form == BOUNCE_COMPLAINT)
        return;
    if (header_find(header, "To", &field))
        sender = bounce_address_find(header_unfold(arena, field.value), &rest);
    bounce->text = report_only(bounce->text);
    failed_header_read(arena, header, bounce);
    stretches_read(bounce, sender, bounce->recipient_count == 0);
    if (bounce->recipient_count == 0) {
        const struct bytes any = bounce_address_find(bounce->text, &rest);
        struct bounce_recipient *only = add(bounce, any);
        only->text = bounce->text;
    }
    replies_read(bounce);
}
