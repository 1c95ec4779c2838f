/*
 * The human text and the machine's text of a DSN (RFC 3464 2.2 and 2.3; RFC 6533 3 for addresses
 * beyond ASCII). Foreign bytes come in through text_lines_add or text_add_safe only.
 */
#include "mail/dsn_parts.h"

#include <string.h>

#include "mail/text.h"

static enum text_set set_of(const struct dsn *dsn)
{
    return dsn->smtputf8 ? TEXT_UTF8 : TEXT_ASCII;
}

static const char *action_name(enum dsn_action action)
{
    switch (action) {
    case DSN_FAILED:
        return "failed";
    case DSN_DELAYED:
        return "delayed";
    case DSN_DELIVERED:
        return "delivered";
    case DSN_RELAYED:
        return "relayed";
    case DSN_EXPANDED:
        return "expanded";
    }
    return "failed";
}

/* ------------------------------------------------------------------ for people */

static const char *action_words(enum dsn_action action)
{
    switch (action) {
    case DSN_FAILED:
        return "could not be delivered, and no further attempt will be made.";
    case DSN_DELAYED:
        return "could not be delivered yet. Attempts go on; you need not send it again.";
    case DSN_DELIVERED:
        return "was delivered.";
    case DSN_RELAYED:
        return "was passed on to a host that does not report further.";
    case DSN_EXPANDED:
        return "was delivered to a list or an alias, which may pass it on.";
    }
    return "";
}

/* A paragraph of ours and theirs mixed: label, then the foreign words, wrapped. */
static void add_paragraph(struct text_lines *lines, const char *label, struct bytes foreign)
{
    if (foreign.count == 0)
        return;
    lines->column = strlen(lines->indent);
    buffer_add_text(lines->into, lines->indent);
    text_lines_add(lines, bytes_of_text(label));
    text_lines_add(lines, foreign);
    buffer_add_text(lines->into, "\r\n");
}

static void add_address(struct buffer *into, struct address address, enum text_set set)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(2 * MAIL_ADDRESS_MAX);

    address_print(&text, address);
    text_add_safe(into, buffer_view(&text), set);
}

/* Did a host say it, or we? */
static bool is_reply(struct bytes diagnostic)
{
    return diagnostic.count >= 3 && ascii_is_digit(diagnostic.at[0]) &&
           ascii_is_digit(diagnostic.at[1]) && ascii_is_digit(diagnostic.at[2]);
}

/* What a sender can do, by the subject of the enhanced code (RFC 3463 section 3). */
static const char *step_words(const struct dsn_recipient *recipient)
{
    const char subject = recipient->status.count > 2 && recipient->status.at[1] == '.'
                             ? (char)recipient->status.at[2]
                             : '0';

    if (recipient->action == DSN_DELAYED)
        return "nothing needs to be done now. If it is urgent, reach the recipient in another way.";
    if (recipient->action != DSN_FAILED)
        return "";
    switch (subject) {
    case '1':
        return "check the address for mistakes, or ask the recipient for the present one.";
    case '2':
        return "the mailbox cannot take mail now. Try again later, or reach the recipient in "
               "another "
               "way.";
    case '6':
        return "send it in another form, or smaller.";
    case '7':
        return "a rule stands against this message. Forward this report to your postmaster, who "
               "can "
               "ask the one of the recipient.";
    default:
        return "send it again later. If it comes back once more, forward this report to your "
               "postmaster.";
    }
}

static void print_recipient_words(struct buffer *into, const struct dsn *dsn,
                                  const struct dsn_recipient *recipient)
{
    struct text_lines lines = {.into = into, .indent = "    ", .set = set_of(dsn)};
    char date[TIME_TEXT_MAX];

    buffer_add_byte(into, '<');
    add_address(into, recipient->final, set_of(dsn));
    buffer_add_text(into, ">\r\n");
    add_paragraph(&lines, "Your message", bytes_of_text(action_words(recipient->action)));
    add_paragraph(&lines, "", recipient->explanation);
    add_paragraph(&lines, "", recipient->side);
    if (recipient->action == DSN_DELAYED && recipient->retry_until_wall_us > 0)
        add_paragraph(
            &lines, "It will be returned if it cannot be delivered until",
            bytes_of_text(time_print_rfc5322(recipient->retry_until_wall_us, date, sizeof date)));
    if (recipient->diagnostic.count > 0) {
        add_paragraph(&lines, is_reply(recipient->diagnostic) ? "Answered by" : "Tried:",
                      recipient->remote_mta);
        lines.indent = "      ";
        add_paragraph(&lines, "", recipient->diagnostic);
        lines.indent = "    ";
    }
    add_paragraph(&lines, "What you can do:", bytes_of_text(step_words(recipient)));
    add_paragraph(&lines, "For a postmaster:", recipient->advice);
    add_paragraph(&lines, "Cause:", recipient->cause_name);
    buffer_add_text(into, "\r\n");
}

void dsn_print_words(struct buffer *into, const struct dsn *dsn)
{
    char id[ID_TEXT_MAX], date[TIME_TEXT_MAX];

    buffer_print(into,
                 "This is the mail system at host %s.\r\n\r\n"
                 "It reports on the message that you sent and that arrived here\r\n"
                 "on %s (our id %s).\r\n\r\n",
                 dsn->hostname, time_print_rfc5322(dsn->arrival_wall_us, date, sizeof date),
                 id_print(dsn->message, id, sizeof id));
    for (uint32_t i = 0; i < dsn->recipient_count; i++)
        print_recipient_words(into, dsn, &dsn->recipients[i]);
    buffer_add_text(into, "If you need help, forward this report to your postmaster.\r\n");
}

/* ------------------------------------------------------------------ for programs */

static void add_field(struct buffer *into, const char *name, struct bytes value, enum text_set set)
{
    struct text_lines lines = {.into = into, .indent = " ", .set = set, .column = strlen(name) + 1};

    if (value.count == 0)
        return;
    buffer_print(into, "%s:", name);
    buffer_add_byte(into, ' ');
    lines.column++;
    /* The first word goes behind the name even when long: a field must not begin with a fold. */
    const size_t first = MIN_OF(bytes_find_byte(value, ' '), (size_t)TEXT_WORD_MAX);
    text_add_safe(into, bytes_slice(value, 0, first), set);
    lines.column += first;
    text_lines_add(&lines, bytes_skip(value, first));
    buffer_add_text(into, "\r\n");
}

static void add_date(struct buffer *into, const char *name, int64_t wall_us)
{
    char date[TIME_TEXT_MAX];

    if (wall_us > 0)
        buffer_print(into, "%s: %s\r\n", name, time_print_rfc5322(wall_us, date, sizeof date));
}

/* One character of valid UTF-8 from the front; the caller checked validity. */
static uint32_t take_code_point(struct bytes *text)
{
    const uint8_t lead = text->at[0];
    const size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    uint32_t code = length == 1 ? lead : lead & (0x7fU >> length);

    for (size_t i = 1; i < length && i < text->count; i++)
        code = (code << 6) | (text->at[i] & 0x3fU);
    *text = bytes_skip(*text, length);
    return code;
}

/* utf-8-addr-xtext of RFC 6533 3: what is not ASCII, and backslash and blank, as \x{HEX}. */
static void add_utf8_xtext(struct buffer *into, struct bytes text)
{
    if (!bytes_is_utf8(text)) {
        text_add_safe(into, text, TEXT_ASCII);
        return;
    }
    while (text.count > 0) {
        const uint32_t code = take_code_point(&text);

        if (code > ' ' && code < 0x7f && code != '\\')
            buffer_add_byte(into, (uint8_t)code);
        else
            buffer_print(into, "\\x{%02X}", code);
    }
}

static void add_final_recipient(struct buffer *into, const struct dsn *dsn, struct address final)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(2 * MAIL_ADDRESS_MAX);

    address_print(&text, final);
    buffer_add_text(into, "Final-Recipient: ");
    if (address_is_ascii(final)) {
        buffer_add_text(into, "rfc822; ");
        text_add_safe(into, buffer_view(&text), TEXT_ASCII);
    } else {
        buffer_add_text(into, "utf-8; ");
        if (dsn->smtputf8)
            text_add_safe(into, buffer_view(&text), TEXT_UTF8);
        else
            add_utf8_xtext(into, buffer_view(&text));
    }
    buffer_add_text(into, "\r\n");
}

/* As ORCPT gave it; what a host of ASCII only could not read is encoded (RFC 6533 3). */
static void add_original_recipient(struct buffer *into, const struct dsn *dsn,
                                   struct bytes original)
{
    struct bytes type = BYTES_EMPTY;
    const bool typed = bytes_find_byte(original, ';') < original.count;
    struct bytes address = bytes_slice(original, 0, TEXT_WORD_MAX);

    if (original.count == 0)
        return;
    if (typed)
        address = bytes_cut(address, ';', &type);
    buffer_add_text(into, "Original-Recipient: ");
    text_add_safe(into, typed ? type : BYTES_LITERAL("rfc822"), TEXT_ASCII);
    buffer_add_byte(into, ';');
    if (bytes_equal_text_nocase(type, "utf-8") && !dsn->smtputf8)
        add_utf8_xtext(into, address);
    else
        text_add_safe(into, address, set_of(dsn));
    buffer_add_text(into, "\r\n");
}

static bool status_is_valid(struct bytes status)
{
    unsigned dots = 0;

    for (size_t i = 0; i < status.count; i++) {
        dots += status.at[i] == '.';
        if (!ascii_is_digit(status.at[i]) && (status.at[i] != '.' || i == 0))
            return false;
    }
    return dots == 2 && status.count >= 5 && status.count <= 9 && status.at[1] == '.';
}

static const char *status_of_action(enum dsn_action action)
{
    return action == DSN_FAILED ? "5.0.0" : action == DSN_DELAYED ? "4.0.0" : "2.0.0";
}

/* "smtp" only for what a host really said; our own words get a type of our own (RFC 3464 2.3.6). */
static void add_diagnostic(struct buffer *into, const struct dsn *dsn, struct bytes diagnostic)
{
    CLEANUP(buffer_free) struct buffer value = BUFFER_WITH_LIMIT(64 * KIB);

    if (diagnostic.count == 0)
        return;
    buffer_add_text(&value, is_reply(diagnostic) ? "smtp; " : "X-Holdfast; ");
    buffer_add(&value, bytes_slice(diagnostic, 0, 32 * KIB));
    add_field(into, "Diagnostic-Code", buffer_view(&value), set_of(dsn));
}

static void print_recipient_status(struct buffer *into, const struct dsn *dsn,
                                   const struct dsn_recipient *recipient)
{
    add_original_recipient(into, dsn, recipient->original);
    add_final_recipient(into, dsn, recipient->final);
    buffer_print(into, "Action: %s\r\n", action_name(recipient->action));
    if (status_is_valid(recipient->status))
        buffer_print(into, "Status: %.*s\r\n", BYTES_PRINT(recipient->status));
    else
        buffer_print(into, "Status: %s\r\n", status_of_action(recipient->action));
    if (recipient->remote_mta.count > 0) {
        buffer_add_text(into, "Remote-MTA: dns; ");
        text_add_safe(into, bytes_slice(recipient->remote_mta, 0, MAIL_DOMAIN_MAX), TEXT_ASCII);
        buffer_add_text(into, "\r\n");
    }
    add_diagnostic(into, dsn, recipient->diagnostic);
    add_date(into, "Last-Attempt-Date", recipient->last_attempt_wall_us);
    if (recipient->action == DSN_DELAYED)
        add_date(into, "Will-Retry-Until", recipient->retry_until_wall_us);
    add_field(into, "X-Holdfast-Cause", recipient->cause_name, TEXT_ASCII);
}

void dsn_print_status(struct buffer *into, const struct dsn *dsn)
{
    char id[ID_TEXT_MAX];

    if (dsn->envelope_id.count > 0) {
        buffer_add_text(into, "Original-Envelope-Id: ");
        text_add_safe(into, bytes_slice(dsn->envelope_id, 0, TEXT_WORD_MAX), TEXT_ASCII);
        buffer_add_text(into, "\r\n");
    }
    buffer_print(into, "Reporting-MTA: dns; %s\r\n", dsn->hostname);
    add_date(into, "Arrival-Date", dsn->arrival_wall_us);
    buffer_print(into, "X-Holdfast-Message: %s\r\n", id_print(dsn->message, id, sizeof id));
    for (uint32_t i = 0; i < dsn->recipient_count; i++) {
        buffer_add_text(into, "\r\n");
        print_recipient_status(into, dsn, &dsn->recipients[i]);
    }
}
