/*
 * A delivery status notification as a whole message: multipart/report (RFC 6522) of the text for
 * people, the status for programs (RFC 3464, RFC 6533) and what is given back of the original.
 */
#include "mail/mail.h"

#include "mail/dsn_parts.h"
#include "mail/text.h"

#define PART_LIMIT_BYTES (64 * MIB) /* a report on very many recipients; more marks it failed */
#define BOUNDARY_MAX 64
#define BOUNDARY_TRIES 1000

struct dsn_parts {
    struct buffer words, status;
    struct bytes original;
    char boundary[BOUNDARY_MAX];
    bool eight_bit, original_eight_bit;
};

static void parts_free(struct dsn_parts *parts)
{
    buffer_free(&parts->words);
    buffer_free(&parts->status);
}

static bool is_seven_bit(struct bytes text)
{
    for (size_t i = 0; i < text.count; i++)
        if (text.at[i] >= 0x80)
            return false;
    return true;
}

static bool occurs(const struct dsn_parts *parts, struct bytes boundary)
{
    const struct bytes all[] = {buffer_view(&parts->words), buffer_view(&parts->status),
                                parts->original};

    for (size_t i = 0; i < COUNT_OF(all); i++)
        if (bytes_find(all[i], boundary) < all[i].count)
            return true;
    return false;
}

/* The id alone is nearly always unique; the count is for originals that quote an earlier report. */
static bool choose_boundary(struct dsn_parts *parts, const struct dsn *dsn)
{
    char id[ID_TEXT_MAX];

    id_print(dsn->own_message, id, sizeof id);
    for (unsigned i = 0; i < BOUNDARY_TRIES; i++) {
        snprintf(parts->boundary, sizeof parts->boundary, "=_holdfast_%s_%u", id, i);
        if (!occurs(parts, bytes_of_text(parts->boundary)))
            return true;
    }
    return false;
}

static const char *subject_of(const struct dsn *dsn)
{
    bool failed = false, delayed = false;

    for (uint32_t i = 0; i < dsn->recipient_count; i++) {
        failed |= dsn->recipients[i].action == DSN_FAILED;
        delayed |= dsn->recipients[i].action == DSN_DELAYED;
    }
    return failed    ? "Undelivered mail returned to sender"
           : delayed ? "Mail is delayed (still being retried)"
                     : "Mail delivery report";
}

/* So that mail programs show the report under the message; only a well-formed id is repeated. */
static void add_reference(struct buffer *into, const struct dsn *dsn)
{
    struct header_field field;

    if (!header_find(dsn->original, "Message-ID", &field))
        return;
    const struct bytes id = bytes_trim(field.value);
    if (id.count < 3 || id.count > 250 || id.at[0] != '<' || id.at[id.count - 1] != '>')
        return;
    for (size_t i = 0; i < id.count; i++)
        if (!ascii_is_print(id.at[i]) || id.at[i] == ' ')
            return;
    buffer_print(into, "References: %.*s\r\nIn-Reply-To: %.*s\r\n", BYTES_PRINT(id),
                 BYTES_PRINT(id));
}

static void add_to(struct buffer *into, const struct dsn *dsn)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(2 * MAIL_ADDRESS_MAX);

    address_print(&text, dsn->to);
    buffer_add_text(into, "To: <");
    text_add_safe(into, buffer_view(&text), TEXT_UTF8);
    buffer_add_text(into, ">\r\n");
}

static void print_header(struct buffer *into, const struct dsn *dsn, const struct dsn_parts *parts)
{
    char id[ID_TEXT_MAX], date[TIME_TEXT_MAX];

    buffer_print(into, "Date: %s\r\n", time_print_rfc5322(dsn->now_wall_us, date, sizeof date));
    buffer_print(into, "From: Mail Delivery System <MAILER-DAEMON@%s>\r\n", dsn->hostname);
    add_to(into, dsn);
    buffer_print(into, "Subject: %s\r\n", subject_of(dsn));
    buffer_print(into, "Message-ID: <%s@%s>\r\n", id_print(dsn->own_message, id, sizeof id),
                 dsn->hostname);
    add_reference(into, dsn);
    buffer_print(into,
                 "Auto-Submitted: auto-replied\r\n"
                 "MIME-Version: 1.0\r\n"
                 "Content-Type: multipart/report; report-type=%s;\r\n"
                 "\tboundary=\"%s\"\r\n",
                 dsn->smtputf8 ? "global-delivery-status" : "delivery-status", parts->boundary);
    if (parts->eight_bit)
        buffer_add_text(into, "Content-Transfer-Encoding: 8bit\r\n");
    buffer_add_text(into, "\r\nThis is a delivery status notification in MIME format.\r\n");
}

static void begin_part(struct buffer *into, const struct dsn_parts *parts, const char *type,
                       bool eight_bit)
{
    buffer_print(into, "\r\n--%s\r\nContent-Type: %s\r\n", parts->boundary, type);
    buffer_print(into, "Content-Transfer-Encoding: %s\r\n\r\n", eight_bit ? "8bit" : "7bit");
}

static const char *original_type(const struct dsn *dsn, bool eight_bit)
{
    if (dsn->original_is_whole)
        return dsn->smtputf8 ? "message/global" : "message/rfc822";
    if (dsn->smtputf8)
        return "message/global-headers";
    return eight_bit ? "text/rfc822-headers; charset=utf-8" : "text/rfc822-headers";
}

static void print_parts(struct buffer *into, const struct dsn *dsn, const struct dsn_parts *parts)
{
    const bool words_eight = !is_seven_bit(buffer_view(&parts->words));
    const bool status_eight = !is_seven_bit(buffer_view(&parts->status));

    begin_part(into, parts,
               words_eight ? "text/plain; charset=utf-8" : "text/plain; charset=us-ascii",
               words_eight);
    buffer_add(into, buffer_view(&parts->words));
    begin_part(into, parts,
               dsn->smtputf8 ? "message/global-delivery-status" : "message/delivery-status",
               status_eight);
    buffer_add(into, buffer_view(&parts->status));
    if (parts->original.count > 0) {
        begin_part(into, parts, original_type(dsn, parts->original_eight_bit),
                   parts->original_eight_bit);
        buffer_add(into, parts->original);
    }
    buffer_print(into, "\r\n--%s--\r\n", parts->boundary);
}

void dsn_print(struct buffer *into, const struct dsn *dsn)
{
    CLEANUP(parts_free)
    struct dsn_parts parts = {.words = BUFFER_WITH_LIMIT(PART_LIMIT_BYTES),
                              .status = BUFFER_WITH_LIMIT(PART_LIMIT_BYTES)};

    parts.original = dsn->original_is_whole
                         ? dsn->original
                         : bytes_slice(dsn->original, 0, header_end(dsn->original));
    dsn_print_words(&parts.words, dsn);
    dsn_print_status(&parts.status, dsn);
    parts.original_eight_bit = !is_seven_bit(parts.original);
    parts.eight_bit = parts.original_eight_bit || !is_seven_bit(buffer_view(&parts.words)) ||
                      !is_seven_bit(buffer_view(&parts.status));
    if (parts.words.failed || parts.status.failed || !choose_boundary(&parts, dsn)) {
        into->failed = true;
        return;
    }
    print_header(into, dsn, &parts);
    print_parts(into, dsn, &parts);
}
