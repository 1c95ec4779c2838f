/*
 * The message as a program hands it to sendmail: lines that end in LF, half a header, and often no
 * From or Date (RFC 6409 8 lets a submitter's server complete it).
 */
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "app/sendmail.h"
#include "mail/mail.h"
#include "wire/wire.h"

enum { HEAD_MAX = 512 * 1024, PIECE = 32 * 1024 };

/* ------------------------------------------------------------------ addresses */

struct bytes sendmail_qualify(struct arena *arena, const struct drop_place *place,
                              struct bytes spec)
{
    struct address address;
    const bool bare = bytes_find_byte(spec, '@') == spec.count;
    const struct bytes whole =
        bare ? arena_print(arena, "%.*s@%s", BYTES_PRINT(spec), place->origin) : spec;

    return address_parse(arena, whole, &address) ? address_text(arena, address) : BYTES_EMPTY;
}

static bool rcpt_room(struct sendmail_envelope *envelope)
{
    if (envelope->rcpt_count < envelope->rcpt_room)
        return true;
    const unsigned room = MAX_OF(envelope->rcpt_room * 2, 64u);
    struct bytes *rows = room <= SENDMAIL_RECIPIENTS_MAX * 2
                             ? ARENA_NEW_ARRAY(&envelope->arena, room, struct bytes)
                             : NULL;
    if (!rows)
        return false;
    if (envelope->rcpt_count > 0)
        memcpy(rows, envelope->rcpts, envelope->rcpt_count * sizeof *rows);
    envelope->rcpts = rows;
    envelope->rcpt_room = room;
    return true;
}

static int add_recipient(const struct sendmail_options *options, const struct drop_place *place,
                         struct bytes spec, struct sendmail_envelope *envelope)
{
    const struct bytes address = sendmail_qualify(&envelope->arena, place, spec);

    if (address.count == 0) {
        fprintf(stderr, "sendmail: %.*s: this is no address\n", BYTES_PRINT(spec));
        return EX_DATAERR;
    }
    if (!rcpt_room(envelope)) {
        fputs("sendmail: too many recipients\n", stderr);
        return EX_DATAERR;
    }
    for (size_t i = 0; i < address.count; i++)
        envelope->smtputf8 = envelope->smtputf8 || address.at[i] >= 0x80;
    const struct bytes line =
        options->notify ? arena_print(&envelope->arena, "RCPT TO:<%.*s> NOTIFY=%s",
                                      BYTES_PRINT(address), options->notify)
                        : arena_print(&envelope->arena, "RCPT TO:<%.*s>", BYTES_PRINT(address));
    for (unsigned i = 0; i < envelope->rcpt_count; i++)
        if (envelope->rcpt_count < 200 && bytes_equal(envelope->rcpts[i], line))
            return EX_OK; /* named twice: gets it once */
    envelope->rcpts[envelope->rcpt_count++] = line;
    return EX_OK;
}

int sendmail_add_recipients(const struct sendmail_options *options, const struct drop_place *place,
                            struct bytes list, struct sendmail_envelope *envelope)
{
    CLEANUP(buffer_free) struct buffer spec = BUFFER_WITH_LIMIT(MAIL_ADDRESS_MAX);
    struct address_list walk = {.rest = list};

    while (address_list_next(&walk, &spec)) {
        const int code = add_recipient(options, place, buffer_view(&spec), envelope);
        if (code != EX_OK)
            return code;
    }
    if (!walk.malformed)
        return EX_OK;
    fprintf(stderr, "sendmail: %.*s: not a list of addresses\n", BYTES_PRINT(bytes_trim(list)));
    return EX_DATAERR;
}

/* ------------------------------------------------------------------ lines */

struct lines {
    FILE *in;
    bool keep_dots, stuffed, ended, failed;
    int pending; /* an octet read ahead; EOF: none */
    bool at_start;
};

static int octet_next(struct lines *lines)
{
    const int octet = lines->pending != EOF ? lines->pending : getc_unlocked(lines->in);

    lines->pending = EOF;
    lines->failed = lines->failed || (octet == EOF && ferror(lines->in));
    return octet;
}

/* A line with CR LF behind it, or what fits of a longer one; false at the end. CR, LF and CR LF end
 * a line; NUL is left out. */
static bool line_next(struct lines *lines, struct buffer *line)
{
    bool whole = false;

    buffer_clear(line);
    while (!whole && line->count < PIECE && !lines->ended) {
        const int octet = octet_next(lines);
        if (octet == EOF) {
            lines->ended = true;
            whole = line->count > 0 || !lines->at_start;
        } else if (octet == '\r' || octet == '\n') {
            const int next = octet == '\r' ? octet_next(lines) : EOF;
            if (next != '\n')
                lines->pending = next;
            whole = true;
        } else if (octet != '\0') {
            buffer_add_byte(line, (uint8_t)octet);
        }
    }
    const bool dot = whole && lines->at_start && !lines->keep_dots &&
                     bytes_equal(buffer_view(line), BYTES_LITERAL("."));
    if (dot)
        lines->ended = true;
    if (dot || (!whole && line->count == 0))
        return false;
    if (lines->at_start && lines->stuffed && line->count > 0 && line->at[0] == '.')
        buffer_drop_front(line, 1);
    if (whole)
        buffer_add_text(line, "\r\n");
    lines->at_start = whole;
    return true;
}

static bool is_field(struct bytes line)
{
    size_t i = 0;

    while (i < line.count && line.at[i] > ' ' && line.at[i] < 0x7f && line.at[i] != ':')
        i++;
    return i > 0 && i < line.count && line.at[i] == ':';
}

static bool is_mailbox_mark(struct bytes line)
{
    return bytes_starts_with(line, BYTES_LITERAL("From ")) ||
           bytes_starts_with(line, BYTES_LITERAL(">From "));
}

/* The header, up to the empty line, or up to the first line that is no field, which is then left in
 * `line`. False: there is no such line. */
static bool head_read(struct lines *lines, struct buffer *head, struct buffer *line)
{
    bool first = true;

    while (line_next(lines, line)) {
        const struct bytes text = buffer_view(line);
        const bool goes_on =
            head->count > 0 && (text.at[0] == ' ' || text.at[0] == '\t') && text.count > 2;

        if (first && is_mailbox_mark(text))
            continue;
        first = false;
        if (bytes_equal(text, BYTES_LITERAL("\r\n")))
            return false;
        if (!goes_on && !is_field(text))
            return true;
        buffer_add(head, text);
        if (head->failed)
            return false;
    }
    return false;
}

/* ------------------------------------------------------------------ fields */

static bool is_one_of(struct bytes name, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (bytes_equal_text_nocase(name, names[i]))
            return true;
    return false;
}

static const char *const TO_FIELDS[] = {"To", "Cc", "Bcc"};
static const char *const RESENT_FIELDS[] = {"Resent-To", "Resent-Cc", "Resent-Bcc"};
static const char *const BLIND_FIELDS[] = {"Bcc", "Resent-Bcc"};
static const char *const ADDRESS_FIELDS[] = {"From", "Sender", "Reply-To", "To", "Cc"};

/* With -t: of a message that is sent on, those of the one who sends it on (RFC 5322 3.6.6). */
static int recipients_of(const struct sendmail_options *options, const struct drop_place *place,
                         struct bytes head, struct sendmail_envelope *envelope)
{
    struct header_walk walk = HEADER_WALK_OF(head);
    struct header_field field;
    bool resent = false;

    while (header_next(&walk, &field))
        resent = resent || is_one_of(field.name, RESENT_FIELDS, COUNT_OF(RESENT_FIELDS));
    walk = (struct header_walk)HEADER_WALK_OF(head);
    while (header_next(&walk, &field)) {
        if (!is_one_of(field.name, resent ? RESENT_FIELDS : TO_FIELDS, COUNT_OF(TO_FIELDS)))
            continue;
        const int code = sendmail_add_recipients(options, place, field.value, envelope);
        if (code != EX_OK)
            return code;
    }
    return EX_OK;
}

/* "root", "root (Cron Daemon)", "Cron <root>": one address without a domain, which gets ours. Lists
 * and what is quoted stay as they are. */
static bool field_complete(const struct drop_place *place, const struct header_field *field,
                           struct buffer *into)
{
    const struct bytes value = field->value;
    const size_t bracket = bytes_find_byte(value, '>');
    const struct bytes trimmed = bytes_trim(value);
    size_t end = bracket;

    for (size_t i = 0; i < value.count; i++)
        if (strchr("@,:;\"[", (char)value.at[i]))
            return false;
    if (trimmed.count == 0)
        return false;
    if (bracket == value.count) {
        end = (size_t)(trimmed.at - value.at);
        while (end < value.count && value.at[end] > ' ' && value.at[end] != '(')
            end++;
    }
    if (end == 0 || value.at[end - 1] == '<')
        return false;
    buffer_add(into, field->name);
    buffer_add_byte(into, ':');
    buffer_add(into, bytes_slice(value, 0, end));
    buffer_print(into, "@%s", place->origin);
    buffer_add(into, bytes_skip(value, end));
    buffer_add_text(into, "\r\n");
    return true;
}

/* The name of the user, or what -F says; only what needs no quotes within quotes. */
static void name_print(const struct sendmail_options *options, struct buffer *into)
{
    const struct passwd *user = options->full_name ? NULL : getpwuid(getuid());
    const char *name = user ? user->pw_gecos : options->full_name;
    const struct bytes text = bytes_of_text(name ? name : "");
    const struct bytes first = bytes_slice(text, 0, bytes_find_byte(text, ','));
    const struct bytes said = options->full_name ? text : first;

    if (said.count == 0)
        return;
    buffer_add_byte(into, '"');
    for (size_t i = 0; i < said.count; i++)
        if (said.at[i] != '"' && said.at[i] != '\\' && said.at[i] >= 0x20 && said.at[i] != 0x7f)
            buffer_add_byte(into, said.at[i]);
    buffer_add_text(into, "\" ");
}

static void fields_add(const struct sendmail_options *options, const struct drop_place *place,
                       const struct sendmail_envelope *envelope, struct buffer *head)
{
    struct header_field field;
    const time_t now = time(NULL);
    struct tm parts;
    char date[64];

    if (!header_find(buffer_view(head), "From", &field)) {
        buffer_add_text(head, "From: ");
        name_print(options, head);
        buffer_print(head, "<%.*s>\r\n",
                     BYTES_PRINT(envelope->sender.count ? envelope->sender
                                                        : bytes_of_text("MAILER-DAEMON")));
    }
    if (!header_find(buffer_view(head), "Date", &field) && localtime_r(&now, &parts) &&
        strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S %z", &parts) > 0)
        buffer_print(head, "Date: %s\r\n", date);
    if (!header_find(buffer_view(head), "Message-ID", &field))
        buffer_print(head, "Message-ID: <%llx.%llx@%s>\r\n", (unsigned long long)now,
                     (unsigned long long)getpid(), place->origin);
}

static void head_complete(const struct sendmail_options *options, const struct drop_place *place,
                          const struct sendmail_envelope *envelope, struct bytes raw,
                          struct buffer *head)
{
    struct header_walk walk = HEADER_WALK_OF(raw);
    struct header_field field;

    while (header_next(&walk, &field)) {
        if (options->from_header && is_one_of(field.name, BLIND_FIELDS, COUNT_OF(BLIND_FIELDS)))
            continue;
        if (!is_one_of(field.name, ADDRESS_FIELDS, COUNT_OF(ADDRESS_FIELDS)) ||
            !field_complete(place, &field, head))
            buffer_add(head, field.whole);
    }
    fields_add(options, place, envelope, head);
}

/* ------------------------------------------------------------------ all of it */

static void note_8bit(struct sendmail_envelope *envelope, struct bytes text)
{
    for (size_t i = 0; i < text.count && !envelope->is_8bit; i++)
        envelope->is_8bit = text.at[i] >= 0x80;
}

static int body_read(struct lines *lines, struct buffer *line, bool has_line,
                     struct drop_message *message, struct sendmail_envelope *envelope)
{
    int code = EX_OK;

    while (code == EX_OK && (has_line || line_next(lines, line))) {
        has_line = false;
        note_8bit(envelope, buffer_view(line));
        code = drop_add(message, buffer_view(line));
    }
    if (code == EX_OK && lines->failed) {
        fputs("sendmail: standard input cannot be read\n", stderr);
        return EX_IOERR;
    }
    return code;
}

int sendmail_read(const struct sendmail_options *options, FILE *in, struct drop_message *message,
                  struct sendmail_envelope *envelope)
{
    const struct drop_place *place = message->place;
    struct lines lines = {.in = in,
                          .keep_dots = options->keep_dots,
                          .stuffed = options->stuffed,
                          .pending = EOF,
                          .at_start = true};
    CLEANUP(buffer_free) struct buffer line = BUFFER_WITH_LIMIT(2 * PIECE);
    CLEANUP(buffer_free) struct buffer raw = BUFFER_WITH_LIMIT(HEAD_MAX);
    CLEANUP(buffer_free) struct buffer head = BUFFER_WITH_LIMIT(2 * HEAD_MAX);
    const bool has_line = head_read(&lines, &raw, &line);
    int code = EX_OK;

    if (raw.failed) {
        fputs("sendmail: the header is too large\n", stderr);
        return EX_DATAERR;
    }
    if (options->from_header)
        code = recipients_of(options, place, buffer_view(&raw), envelope);
    if (code != EX_OK)
        return code;
    head_complete(options, place, envelope, buffer_view(&raw), &head);
    buffer_add_text(&head, "\r\n");
    note_8bit(envelope, buffer_view(&head));
    code = head.failed ? EX_OSERR : drop_add(message, buffer_view(&head));
    return code == EX_OK ? body_read(&lines, &line, has_line, message, envelope) : code;
}

int sendmail_commit(const struct sendmail_options *options, struct drop_message *message,
                    struct sendmail_envelope *envelope)
{
    CLEANUP(buffer_free) struct buffer mail = BUFFER_WITH_LIMIT(4 * KIB);

    for (size_t i = 0; i < envelope->sender.count; i++)
        envelope->smtputf8 = envelope->smtputf8 || envelope->sender.at[i] >= 0x80;
    buffer_print(&mail, "MAIL FROM:<%.*s>", BYTES_PRINT(envelope->sender));
    if (envelope->is_8bit)
        buffer_add_text(&mail, " BODY=8BITMIME");
    if (envelope->smtputf8)
        buffer_add_text(&mail, " SMTPUTF8");
    if (options->dsn_return)
        buffer_print(&mail, " RET=%s",
                     strcasecmp(options->dsn_return, "full") == 0 ? "FULL" : "HDRS");
    if (options->envelope_id) {
        buffer_add_text(&mail, " ENVID=");
        xtext_encode(&mail, bytes_of_text(options->envelope_id));
    }
    if (mail.failed || envelope->arena.failed)
        return EX_OSERR;
    /* -N, -R and -V are the caller's words. */
    struct smtp_command command;
    smtp_parse_command(&envelope->arena, buffer_view(&mail), &command);
    if (command.fault == SMTP_FINE)
        smtp_parse_command(&envelope->arena, envelope->rcpts[0], &command);
    if (command.fault != SMTP_FINE) {
        fputs("sendmail: -N, -R or -V is not understood\n", stderr);
        return EX_USAGE;
    }
    const struct drop_envelope lines = {
        .mail = buffer_view(&mail), .rcpts = envelope->rcpts, .rcpt_count = envelope->rcpt_count};
    return drop_commit(message, &lines);
}
