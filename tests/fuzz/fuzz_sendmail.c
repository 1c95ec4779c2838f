/*
 * A message as any program hands it to sendmail. Whatever it is: it is refused with an exit code,
 * or what is left in the drop directory is a transaction as the server's pickup reads it, for the
 * same recipients; its lines end in CR LF; it has one header; and with -t no Bcc field goes out.
 *
 * Input: one octet of options, then the message.
 */
#include "app/sendmail_message.c"
#include "receive/pickup.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FROM_HEADER = 1, KEEP_DOTS = 2, STUFFED = 4 };

static struct buffer left; /* in the drop directory */

/* In the place of app/drop.c: into memory. */
int drop_add(struct drop_message *message, struct bytes piece)
{
    buffer_add(&message->pending, piece);
    return message->pending.failed ? EX_OSERR : EX_OK;
}

int drop_commit(struct drop_message *message, const struct drop_envelope *envelope)
{
    buffer_add(&left, envelope->mail);
    for (unsigned i = 0; i < envelope->rcpt_count; i++) {
        buffer_add_text(&left, "\r\n");
        buffer_add(&left, envelope->rcpts[i]);
    }
    buffer_add_text(&left, "\r\nDATA\r\n");
    buffer_add(&left, buffer_view(&message->pending));
    return left.failed ? EX_OSERR : EX_OK;
}

static void check_lines(struct bytes message)
{
    for (size_t i = 0; i < message.count; i++) {
        const uint8_t octet = message.at[i];
        INVARIANT(octet != 0 && (octet != '\n' || (i > 0 && message.at[i - 1] == '\r')));
        INVARIANT(octet != '\r' || (i + 1 < message.count && message.at[i + 1] == '\n'));
    }
}

static void check_header(const struct sendmail_options *options, struct bytes message)
{
    INVARIANT(header_count(message, "From") >= 1 && header_count(message, "Date") >= 1 &&
              header_count(message, "Message-ID") >= 1);
    INVARIANT(!options->from_header ||
              (header_count(message, "Bcc") == 0 && header_count(message, "Resent-Bcc") == 0));
}

/* The server's side of what was left. */
static void check_left(const struct sendmail_envelope *envelope, struct bytes message)
{
    struct dropped it = {.arena = ARENA_WITH_LIMIT(ARENA_BYTES), .head = buffer_view(&left)};

    if (left.count <= HEAD_BYTES) {
        INVARIANT(dropped_parse(&it));
        INVARIANT(it.rcpt_count == envelope->rcpt_count);
        INVARIANT(bytes_equal(bytes_skip(it.head, it.body), message));
    }
    arena_clear(&it.arena);
}

static void hand_over(const struct sendmail_options *options, FILE *in)
{
    static const struct drop_place place = {
        .directory = "/drop", .origin = "host.example", .recipients_max = 100};
    struct drop_message message = {.place = &place, .pending = BUFFER_WITH_LIMIT(MIB)};
    struct sendmail_envelope envelope = {.arena = ARENA_WITH_LIMIT(4 * MIB),
                                         .sender = BYTES_LITERAL("user@host.example")};

    left = BUFFER_WITH_LIMIT(2 * MIB);
    int code = options->from_header
                   ? EX_OK
                   : sendmail_add_recipients(options, &place, BYTES_LITERAL("root"), &envelope);
    if (code == EX_OK)
        code = sendmail_read(options, in, &message, &envelope);
    if (code == EX_OK && envelope.rcpt_count > 0)
        code = sendmail_commit(options, &message, &envelope);
    INVARIANT(code == EX_OK || code == EX_DATAERR || code == EX_OSERR || code == EX_USAGE);
    if (code == EX_OK && envelope.rcpt_count > 0) {
        const struct bytes whole = buffer_view(&message.pending);
        check_lines(whole);
        check_header(options, whole);
        check_left(&envelope, whole);
    }
    buffer_free(&left);
    buffer_free(&message.pending);
    arena_clear(&envelope.arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static FILE *silence; /* takes sendmail's words for its caller */

    if (size < 2)
        return 0;
    if (!silence)
        stderr = silence = fopen("/dev/null", "w");
    const struct sendmail_options options = {.from_header = data[0] & FROM_HEADER,
                                             .keep_dots = data[0] & KEEP_DOTS,
                                             .stuffed = data[0] & STUFFED,
                                             .full_name = "A \"quoted\" name"};
    FILE *in = fmemopen((void *)(uintptr_t)(data + 1), MIN_OF(size - 1, (size_t)32768), "r");
    INVARIANT(in != NULL);
    hand_over(&options, in);
    fclose(in);
    return 0;
}
