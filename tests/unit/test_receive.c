/* The session over byte arrays: the table, limits, faults of each room, every prefix, every cut. */
#include "world_check.h"

#include <malloc.h>

#include "receive_house.h"

#define MESSAGE ENVELOPE "DATA\r\nSubject: x\r\n\r\n..body\r\n.\r\n"

/* One conversation: `said` goes in, the first digits of the replies after the banner come out. */
struct outcome {
    char codes[512]; /* "250 354 250 " */
    struct buffer text;
};

static void codes_of(struct bytes text, struct outcome *outcome)
{
    size_t at = 0;

    outcome->codes[0] = '\0';
    while (text.count > 0 && at + 5 < sizeof outcome->codes) {
        struct bytes line = BYTES_EMPTY;
        text = bytes_cut(text, '\n', &line);
        if (line.count > 3 && line.at[3] == ' ')
            at += (size_t)snprintf(outcome->codes + at, sizeof outcome->codes - at, "%.*s ",
                                   BYTES_PRINT(bytes_slice(line, 0, 3)));
    }
}

static struct outcome talk_with(struct memory_stream *stream)
{
    struct outcome outcome = {.text = BUFFER_WITH_LIMIT(64 * MIB)};
    struct receive receive;

    house_open(&receive);
    house_play(&receive, stream);
    outcome.text = stream->written;
    codes_of(buffer_view(&outcome.text), &outcome);
    return outcome;
}

static bool talk_is(const char *said, const char *codes)
{
    struct memory_stream stream = memory_stream_of(bytes_of_text(said));
    struct outcome outcome = talk_with(&stream);
    const bool right = strcmp(outcome.codes, codes) == 0;

    if (!right)
        fprintf(stderr, "said:\n%s\nheard: %s\nright: %s\n", said, outcome.codes, codes);
    buffer_free(&outcome.text);
    return right;
}

static bool stored_contains(unsigned index, const char *text)
{
    const struct bytes whole = buffer_view(&house.stored[index]);

    return index < house.stored_count && bytes_find(whole, bytes_of_text(text)) < whole.count;
}

/* ------------------------------------------------------------------ the table */

/* What RFC 5321 4.1.4 and its extensions allow, written down once more: F fresh, G greeted, M after
 * MAIL, R after RCPT, C among chunks. */
static const struct {
    enum smtp_verb verb;
    const char *states;
} ALLOWED[] = {
    {SMTP_EHLO, "FGMRC"}, {SMTP_HELO, "FGMRC"},    {SMTP_MAIL, "G"},     {SMTP_RCPT, "MR"},
    {SMTP_DATA, "FGMRC"}, {SMTP_BDAT, "FGMRC"},    {SMTP_RSET, "FGMRC"}, {SMTP_NOOP, "FGMRC"},
    {SMTP_VRFY, "FGMRC"}, {SMTP_STARTTLS, "GMRC"}, {SMTP_AUTH, "G"},     {SMTP_QUIT, "FGMRC"},
    {SMTP_HELP, "FGMRC"}, {SMTP_FOREIGN, "FGMRC"},
};

static bool permits(enum listen_kind kind, enum session_state state,
                    const struct smtp_command *command, enum cause *cause)
{
    static struct session session;
    const struct config_listen listen = {.kind = kind};

    session = (struct session){.listen = &listen, .state = state};
    const struct verdict verdict = verb_permits(&session, command);
    *cause = verdict.cause;
    return verdict_accepts(&verdict);
}

static void test_table(void **unused)
{
    static const char letters[] = "FGMRC";

    (void)unused;
    for (size_t i = 0; i < COUNT_OF(ALLOWED); i++) {
        for (unsigned s = 0; s < 5; s++) {
            const struct smtp_command command = {.verb = ALLOWED[i].verb};
            enum cause cause = CAUSE_UNDECIDED;
            const bool right = strchr(ALLOWED[i].states, letters[s]) != NULL;

            assert_int_equal(permits(LISTEN_SMTP, (enum session_state)(1U << s), &command, &cause),
                             right);
            assert_int_equal(cause, right ? CAUSE_ACCEPTED : CAUSE_PROTOCOL_SEQUENCE);
        }
    }
}

static void test_table_services(void **unused)
{
    enum cause cause = CAUSE_UNDECIDED;

    (void)unused;
    for (int verb = SMTP_HELO; verb <= SMTP_LHLO; verb++) {
        const struct smtp_command command = {.verb = (enum smtp_verb)verb};
        const bool lmtp = verb == SMTP_LHLO;

        assert_int_equal(permits(LISTEN_LMTP, STATE_FRESH, &command, &cause), lmtp);
        assert_int_equal(permits(LISTEN_SMTP, STATE_FRESH, &command, &cause), !lmtp);
        assert_int_equal(permits(LISTEN_SUBMISSION, STATE_FRESH, &command, &cause), !lmtp);
    }
}

static void test_table_faults(void **unused)
{
    static const enum cause right[] = {CAUSE_ACCEPTED,         CAUSE_PROTOCOL_SYNTAX,
                                       CAUSE_PROTOCOL_ADDRESS, CAUSE_PROTOCOL_PARAMETER,
                                       CAUSE_PROTOCOL_UTF8,    CAUSE_MESSAGE_TOO_BIG};
    enum cause cause = CAUSE_UNDECIDED;

    (void)unused;
    for (unsigned fault = SMTP_FINE; fault <= SMTP_FAULT_TOO_BIG; fault++) {
        const struct smtp_command command = {.verb = SMTP_MAIL, .fault = (enum smtp_fault)fault};
        permits(LISTEN_SMTP, STATE_GREETED, &command, &cause);
        assert_int_equal(cause, right[fault]);
    }
    /* Every verb the parser knows has a row. */
    for (int verb = SMTP_UNKNOWN; verb <= SMTP_FOREIGN; verb++)
        assert_true(verb_row((enum smtp_verb)verb)->handle != NULL);
}

/* ------------------------------------------------------------------ dialogues */

static int dialogues_main(void *unused)
{
    (void)unused;
    CHECK(talk_is(GREETING MESSAGE "QUIT\r\n", "220 250 250 250 354 250 221 "));
    CHECK(house.stored_count == 1 && stored_contains(0, "Subject: x\r\n\r\n.body\r\n"));
    CHECK(bytes_starts_with(buffer_view(&house.stored[0]), BYTES_LITERAL("Received: ")));
    CHECK(bytes_equal_text(buffer_view(&house.envelopes[0]), "a@b.test>u@rcpt.test,"));
    house_clear();
    CHECK(talk_is(GREETING MESSAGE MESSAGE "RSET\r\nNOOP\r\n",
                  "220 250 250 250 354 250 250 250 354 250 250 250 "));
    CHECK(house.stored_count == 2);
    house_clear();
    CHECK(talk_is(
        "MAIL FROM:<a@b>\r\nHELO x\r\nMAIL FROM:<a@b> SIZE=1\r\nMAIL FROM:<a@b>\r\nDATA\r\n",
        "220 503 250 555 250 554 "));
    CHECK(talk_is(GREETING "STARTTLS\r\nAUTH PLAIN x\r\nEXPN x\r\nVRFY x\r\nHELP\r\n",
                  "220 250 502 503 502 252 214 "));
    CHECK(talk_is("GET / HTTP/1.1\r\nEHLO x\r\n", "220 554 "));
    CHECK(talk_is(GREETING "DATA\r\nNOOP\r\n", "220 250 503 ")); /* nothing behind DATA */
    house_clear();
    return 0;
}

static int limits_main(void *unused)
{
    (void)unused;
    CHECK(talk_is("a\r\nb\r\nc\r\nd\r\ne\r\nNOOP\r\n", "220 500 500 500 500 421 "));
    CHECK(talk_is(GREETING "MAIL FROM:<a@b> SIZE=1001\r\nMAIL FROM:<a@b> SIZE=1000\r\n",
                  "220 250 552 250 "));
    house_clear();
    CHECK(talk_is(GREETING ENVELOPE
                  "RCPT TO:<v@r>\r\nRCPT TO:<w@r>\r\nRCPT TO:<x@r>\r\nDATA\r\n.\r\n",
                  "220 250 250 250 250 250 452 354 250 "));
    CHECK(bytes_equal_text(buffer_view(&house.envelopes[0]), "a@b.test>u@rcpt.test,v@r,w@r,"));
    house_clear();
    return 0;
}

/* A body of so many octets, then NOOP. */
static bool body_is(size_t octets, const char *codes)
{
    CLEANUP(buffer_free) struct buffer said = BUFFER_WITH_LIMIT(64 * MIB);

    buffer_add_text(&said, GREETING ENVELOPE "DATA\r\nS: x\r\n\r\n");
    for (size_t i = 8; i < octets - 2; i++)
        buffer_add_byte(&said, 'x');
    buffer_add_text(&said, "\r\n.\r\nNOOP\r\n");
    struct memory_stream stream = memory_stream_of(buffer_view(&said));
    struct outcome outcome = talk_with(&stream);
    const bool right = strcmp(outcome.codes, codes) == 0;
    if (!right)
        fprintf(stderr, "%zu octets: heard %s, right %s\n", octets, outcome.codes, codes);
    buffer_free(&outcome.text);
    return right;
}

static int sizes_main(void *unused)
{
    (void)unused;
    CHECK(body_is(999, "220 250 250 250 354 250 250 "));
    CHECK(body_is(1000, "220 250 250 250 354 250 250 "));
    CHECK(house.stored_count == 2);
    CHECK(body_is(1001, "220 250 250 250 354 552 250 "));
    CHECK(body_is(100000, "220 250 250 250 354 552 250 "));
    CHECK(body_is(3 * MIB, "220 250 250 250 354 552 ")); /* beyond reason: said and closed */
    CHECK(house.stored_count == 2);
    house_clear();
    return 0;
}

static int chunks_main(void *unused)
{
    (void)unused;
    CHECK(talk_is(GREETING "BDAT 4 LAST\r\nRSETNOOP\r\n", "220 250 503 250 "));
    CHECK(talk_is(GREETING ENVELOPE "BDAT 5\r\nHelloBDAT 0 LAST\r\nNOOP\r\n",
                  "220 250 250 250 250 250 250 "));
    CHECK(house.stored_count == 1 && stored_contains(0, "Hello"));
    house_clear();
    CHECK(talk_is(GREETING ENVELOPE "BDAT 3\r\nabcMAIL FROM:<a@b>\r\nRSET\r\nBDAT 1 LAST\r\nx",
                  "220 250 250 250 250 503 250 503 "));
    CHECK(talk_is(GREETING ENVELOPE "BDAT 3\r\na\nbBDAT 2 LAST\r\n\r\nNOOP\r\n",
                  "220 250 250 250 550 503 250 "));
    CHECK(talk_is(GREETING ENVELOPE "BDAT 1 LAST\r\n\rNOOP\r\n", "220 250 250 250 550 250 "));
    CHECK(talk_is(GREETING ENVELOPE "BDAT 2000 LAST\r\nshort", "220 250 250 250 "));
    CHECK(talk_is(GREETING ENVELOPE "BDAT 99999999 LAST\r\n", "220 250 250 250 552 "));
    CHECK(talk_is(GREETING ENVELOPE "BDAT x\r\nNOOP\r\n", "220 250 250 250 501 "));
    /* The first chunk is refused: the last must not become a message without its beginning. */
    house_clear();
    house.admits = CAUSE_SPOOL_FULL;
    house.admits_at = 3; /* after connect and MAIL */
    CHECK(talk_is(GREETING ENVELOPE "BDAT 3\r\nabcBDAT 3 LAST\r\nd\r\nNOOP\r\n",
                  "220 250 250 250 452 503 250 "));
    CHECK(house.stored_count == 0);
    house_clear();
    return 0;
}

/* ------------------------------------------------------------------ faults of the other rooms */

static bool fault_is(enum cause *place, enum cause cause, const char *codes)
{
    unsigned at = 0;

    *place = cause;
    const bool talked = talk_is(GREETING MESSAGE "NOOP\r\n", codes);
    *place = CAUSE_UNDECIDED;
    const enum event_kind kind =
        cause_row(cause)->kind == VERDICT_REFUSE ? EVENT_MESSAGE_REFUSED : EVENT_MESSAGE_DEFERRED;
    const bool told = house_events(kind, &at) == 1 && house.events[at].code > 0;
    const bool nothing = house.stored_count == 0;
    house_clear();
    return talked && told && nothing;
}

static int faults_main(void *unused)
{
    (void)unused;
    CHECK(observe_add_sink(house_event, NULL));
    CHECK(fault_is(&house.welcome, CAUSE_FILTER_DOWN, "421 "));
    CHECK(fault_is(&house.connect, CAUSE_DNS_RESOLVER_DOWN, "421 ")); /* in place of the banner */
    CHECK(fault_is(&house.judge, CAUSE_FILTER_TIMEOUT, "220 250 250 250 354 451 250 "));
    CHECK(fault_is(&house.judge, CAUSE_FILTER_REFUSED, "220 250 250 250 354 550 250 "));
    CHECK(fault_is(&house.judge, CAUSE_FILTER_MILTER_SHUTDOWN, "220 250 250 250 354 421 "));
    CHECK(fault_is(&house.commit, CAUSE_SPOOL_FAILED, "220 250 250 250 354 451 250 "));
    CHECK(fault_is(&house.commit, CAUSE_SPOOL_DOWN, "220 250 250 250 354 421 "));
    CHECK(fault_is(&house.write, CAUSE_SPOOL_FULL, "220 250 250 250 354 452 250 "));
    house.write_fails_after = 5;
    CHECK(fault_is(&house.write, CAUSE_SPOOL_FAILED, "220 250 250 250 354 451 250 "));
    observe_remove_sinks();
    return 0;
}

/* An objection before 354: what the client sent as body all the same is not executed. */
static int early_main(void *unused)
{
    (void)unused;
    house.sender = CAUSE_SENDER_UNRESOLVABLE;
    CHECK(talk_is(GREETING MESSAGE "NOOP\r\n", "220 250 550 503 503 "));
    house_clear();
    house.admits = CAUSE_SPOOL_FULL;
    CHECK(talk_is(GREETING MESSAGE "NOOP\r\n", "220 250 452 503 503 "));
    house_clear();
    house.recipient = CAUSE_DIRECTORY_UNAVAILABLE;
    CHECK(talk_is(GREETING MESSAGE "NOOP\r\n", "220 250 250 451 554 "));
    house_clear();
    house.connect = CAUSE_REVERSE_ABSENT;
    CHECK(
        talk_is(GREETING "MAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\nQUIT\r\n", "220 250 550 550 221 "));
    house_clear();
    return 0;
}

/* ------------------------------------------------------------------ the client goes or sleeps */

static bool ends_is(const char *said, struct io_result at_end, const char *codes)
{
    struct memory_stream stream = memory_stream_of(bytes_of_text(said));

    stream.at_end = at_end;
    struct outcome outcome = talk_with(&stream);
    const bool right = strcmp(outcome.codes, codes) == 0;
    if (!right)
        fprintf(stderr, "said:\n%s\nheard: %s\nright: %s\n", said, outcome.codes, codes);
    buffer_free(&outcome.text);
    return right && house.stored_count == 0;
}

static int ends_main(void *unused)
{
    const struct io_result idle = {.status = IO_TIMEOUT}, gone = {.status = IO_END};
    const struct io_result reset = {.status = IO_FAILED, .error = 104};
    unsigned at = 0;

    (void)unused;
    CHECK(observe_add_sink(house_event, NULL));
    CHECK(ends_is(GREETING, idle, "220 250 421 "));
    CHECK(ends_is(GREETING, gone, "220 250 "));
    CHECK(house_events(EVENT_MESSAGE_DEFERRED, &at) == 1);
    CHECK(house.events[at].cause == CAUSE_CLIENT_IDLE && house.events[at].code == 421);
    CHECK(ends_is(GREETING ENVELOPE "DATA\r\nhalf", idle, "220 250 250 250 354 421 "));
    CHECK(ends_is(GREETING ENVELOPE "DATA\r\nhalf", gone, "220 250 250 250 354 "));
    CHECK(house_events(EVENT_MESSAGE_DEFERRED, &at) == 3);
    CHECK(house.events[at].cause == CAUSE_CLIENT_LOST && house.events[at].stage == STAGE_DATA);
    CHECK(strcmp(house.events[at].from, "a@b.test") == 0);
    CHECK(strcmp(house.events[at].to, "u@rcpt.test") == 0);
    CHECK(ends_is(GREETING ENVELOPE "BDAT 10\r\nhalf", reset, "220 250 250 250 "));
    observe_remove_sinks();
    house_clear();
    return 0;
}

/* The reply to a committed message does not get through: nothing bad happens. */
static int unread_main(void *unused)
{
    struct memory_stream stream = memory_stream_of(bytes_of_text(GREETING MESSAGE MESSAGE));

    (void)unused;
    stream.write_limit = 300;
    struct outcome outcome = talk_with(&stream);
    CHECK(house.stored_count >= 1);
    buffer_free(&outcome.text);
    house_clear();
    return 0;
}

/* Shutdown: a command that was read is not begun, and says so. */
static int stopping_main(void *unused)
{
    struct memory_stream stream = memory_stream_of(bytes_of_text(GREETING MESSAGE));
    struct receive receive;
    struct guest *guest = NULL;

    (void)unused;
    house_open(&receive);
    const struct verdict admitted = receive_admit(&receive, &house_listen, &stream.stream, &guest);
    CHECK(verdict_accepts(&admitted));
    atomic_store(&receive.stopping, true);
    session_run(guest);
    const struct bytes said = buffer_view(&stream.written);
    CHECK(bytes_find(said, BYTES_LITERAL("421 4.3.2 ")) < said.count);
    CHECK(bytes_find(said, BYTES_LITERAL("(server.stopping)\r\n")) < said.count);
    CHECK(house.stored_count == 0);
    guest = NULL;
    const struct verdict late = receive_admit(&receive, &house_listen, &stream.stream, &guest);
    CHECK(late.cause == CAUSE_SERVER_STOPPING && guest == NULL);
    buffer_free(&stream.written);
    house_clear();
    return 0;
}

/* ------------------------------------------------------------------ every prefix, every cut */

#define WHOLE GREETING MESSAGE ENVELOPE "BDAT 4\r\nS: xBDAT 4 LAST\r\n\r\n\r\nQUIT\r\n"

static int prefixes_main(void *unused)
{
    const struct bytes whole = bytes_of_text(WHOLE);
    const size_t first_end = strlen(GREETING MESSAGE),
                 second_end = whole.count - strlen("QUIT\r\n");

    (void)unused;
    for (size_t count = 0; count <= whole.count; count++) {
        struct memory_stream stream = memory_stream_of(bytes_slice(whole, 0, count));
        struct outcome outcome = talk_with(&stream);
        const unsigned right = (count >= first_end ? 1U : 0U) + (count >= second_end ? 1U : 0U);

        if (house.stored_count != right)
            fprintf(stderr, "prefix of %zu: %u stored, right %u\n", count, house.stored_count,
                    right);
        CHECK(house.stored_count == right);
        buffer_free(&outcome.text);
        house_clear();
    }
    return 0;
}

static int cuts_main(void *unused)
{
    (void)unused;
    for (size_t fragment = 1; fragment < 40; fragment++) {
        struct memory_stream stream = memory_stream_of(bytes_of_text(WHOLE));

        stream.fragment = fragment;
        struct outcome outcome = talk_with(&stream);
        CHECK(strcmp(outcome.codes, "220 250 250 250 354 250 250 250 250 250 221 ") == 0);
        CHECK(house.stored_count == 2 && stored_contains(1, "S: x\r\n\r\n"));
        buffer_free(&outcome.text);
        house_clear();
    }
    return 0;
}

/* One read for a pipelined message, and its input buffer and replies are gone while it waits. */
static int lean_main(void *unused)
{
    struct memory_stream stream = memory_stream_of(bytes_of_text(GREETING MESSAGE));

    (void)unused;
    struct outcome outcome = talk_with(&stream);
    CHECK(stream.reads <= 2); /* all of it, and the end */
    CHECK(house.stored_count == 1);
    buffer_free(&outcome.text);
    house_clear();
    return 0;
}

/* A session leaves nothing behind: a hundred of them take no more than one. */
static int memory_main(void *unused)
{
    size_t before = 0;

    (void)unused;
    for (unsigned i = 0; i < 101; i++) {
        CHECK(talk_is(GREETING MESSAGE, "220 250 250 250 354 250 "));
        house_clear();
        if (i == 0)
            before = mallinfo2().uordblks;
    }
    CHECK(mallinfo2().uordblks < before + 50 * KIB);
    return 0;
}

/* ------------------------------------------------------------------ what policy decides */

static int dispositions_main(void *unused)
{
    (void)unused;
    house.headers = "X-Seen: yes\r\n";
    house.hold = true;
    CHECK(talk_is(GREETING MESSAGE MESSAGE, "220 250 250 250 354 250 250 250 354 250 "));
    CHECK(house.stored_count == 2);
    CHECK(bytes_starts_with(buffer_view(&house.stored[1]), BYTES_LITERAL("Received: ")));
    CHECK(stored_contains(1, "\r\nX-Seen: yes\r\nSubject: x\r\n"));
    CHECK(!stored_contains(1, "X-Seen: yes\r\nX-Seen"));
    house_clear();
    house.discard = true;
    CHECK(talk_is(GREETING MESSAGE, "220 250 250 250 354 250 "));
    house_clear();
    CHECK(
        talk_is(GREETING ENVELOPE "DATA\r\nA: 1\r\njunk\r\n\r\n.\r\n", "220 250 250 250 354 550 "));
    CHECK(talk_is(GREETING ENVELOPE "DATA\r\njunk only\r\n.\r\n", "220 250 250 250 354 250 "));
    CHECK(talk_is(GREETING ENVELOPE "DATA\r\nReceived: a\r\nReceived: b\r\nReceived: c\r\n"
                                    "Received: d\r\nReceived: e\r\nReceived: f\r\n\r\n.\r\n",
                  "220 250 250 250 354 554 "));
    house_clear();
    return 0;
}

/* What policy added to the header does not fit: without it the message is not what was judged. */
static int header_that_does_not_fit_main(void *unused)
{
    static char headers[300 * 1024];

    (void)unused;
    memset(headers, 'x', sizeof headers - 1);
    memcpy(headers, "X-Added: ", 9);
    house.headers = headers;
    CHECK(talk_is(GREETING MESSAGE, "220 250 250 250 354 421 "));
    CHECK(house.stored_count == 0);
    house_clear();
    return 0;
}

static int lmtp_main(void *unused)
{
    (void)unused;
    house_listen.kind = LISTEN_LMTP;
    CHECK(talk_is("LHLO x\r\n" ENVELOPE
                  "RCPT TO:<nobody@r>\r\nRCPT TO:<v@r>\r\nDATA\r\n.\r\nNOOP\r\n",
                  "220 250 250 250 550 250 354 250 250 250 "));
    house.commit = CAUSE_SPOOL_FAILED;
    CHECK(talk_is("LHLO x\r\n" ENVELOPE "RCPT TO:<v@r>\r\nDATA\r\n.\r\nNOOP\r\n",
                  "220 250 250 250 250 354 451 451 250 "));
    house.commit = CAUSE_UNDECIDED;
    CHECK(talk_is("LHLO x\r\n" ENVELOPE "RCPT TO:<v@r>\r\nBDAT 1\r\naBDAT 1 LAST\r\n\nNOOP\r\n",
                  "220 250 250 250 250 250 550 550 250 "));
    house_listen.kind = LISTEN_SMTP;
    house_clear();
    return 0;
}

/* ------------------------------------------------------------------ several classes */

#define SECOND "RCPT TO:<x@second.test>\r\n"
#define LETTER "DATA\r\nSubject: x\r\n\r\nbody\r\n.\r\nNOOP\r\n"

static bool envelope_is(unsigned index, const char *names)
{
    return bytes_equal_text(buffer_view(&house.envelopes[index]), names);
}

/* Each class is stored with its own recipients and fields; replies come in the order of RCPT. */
static int classes_lmtp_main(void *unused)
{
    (void)unused;
    house_listen.kind = LISTEN_LMTP;
    CHECK(talk_is("LHLO x\r\n" ENVELOPE SECOND "RCPT TO:<w@r>\r\n" LETTER,
                  "220 250 250 250 250 250 354 250 250 250 250 "));
    CHECK(house.stored_count == 2 && house.drafts_open == 0);
    CHECK(envelope_is(0, "a@b.test>u@rcpt.test,w@r,") && envelope_is(1, "a@b.test>x@second.test,"));
    CHECK(stored_contains(0, "X-Sender: judged\r\nX-Class: 0\r\nSubject: x\r\n\r\nbody\r\n"));
    CHECK(stored_contains(1, "X-Sender: judged\r\nX-Class: 1\r\nSubject: x\r\n\r\nbody\r\n"));
    house_clear();
    house.judge = CAUSE_FILTER_REFUSED;
    CHECK(talk_is("LHLO x\r\n" ENVELOPE SECOND "RCPT TO:<w@r>\r\n" LETTER,
                  "220 250 250 250 250 250 354 250 550 250 250 "));
    CHECK(house.stored_count == 1 && envelope_is(0, "a@b.test>u@rcpt.test,w@r,"));
    house_clear();
    house.judge_sender = CAUSE_DMARC_REJECT; /* about the sender: to all */
    CHECK(talk_is("LHLO x\r\n" ENVELOPE SECOND LETTER, "220 250 250 250 250 354 550 550 250 "));
    house_clear();
    house.commit = CAUSE_SPOOL_FAILED;
    CHECK(talk_is("LHLO x\r\n" ENVELOPE SECOND LETTER, "220 250 250 250 250 354 451 451 250 "));
    CHECK(house.stored_count == 0 && house.drafts_open == 0);
    house_clear();
    house_listen.kind = LISTEN_SMTP;
    return 0;
}

static int classes_smtp_main(void *unused)
{
    (void)unused;
    CHECK(talk_is(GREETING ENVELOPE SECOND "RCPT TO:<w@r>\r\n" LETTER,
                  "220 250 250 250 452 250 354 250 250 "));
    CHECK(house.stored_count == 1 && envelope_is(0, "a@b.test>u@rcpt.test,w@r,"));
    house_clear();
    house.judge = CAUSE_FILTER_TIMEOUT;
#define PRDR "MAIL FROM:<a@b.test> PRDR\r\nRCPT TO:<u@rcpt.test>\r\n"
    CHECK(talk_is(GREETING PRDR SECOND LETTER, "220 250 250 250 250 354 353 250 451 250 250 "));
    CHECK(house.stored_count == 1 && envelope_is(0, "a@b.test>u@rcpt.test,"));
    house_clear();
    house.judge = CAUSE_FILTER_REFUSED; /* nobody gets it, and one may yet: the whole is deferred */
    house.commit = CAUSE_SPOOL_FAILED;
    CHECK(talk_is(GREETING PRDR SECOND LETTER, "220 250 250 250 250 354 353 451 550 451 250 "));
    CHECK(house.stored_count == 0 && house.drafts_open == 0);
    house_clear();
    return 0;
}

/* ------------------------------------------------------------------ the register */

static void stream_from(struct memory_stream *stream, const char *ip)
{
    *stream = memory_stream_of(BYTES_EMPTY);
    assert_true(ip_parse(bytes_of_text(ip), &stream->stream.remote.ip));
    stream->stream.remote.family = stream->stream.remote.ip.family;
}

static void test_register(void **unused)
{
    static const struct {
        const char *ip;
        enum cause cause;
    } arrivals[] = {
        {"192.0.2.1", CAUSE_ACCEPTED},      {"192.0.2.1", CAUSE_ACCEPTED},
        {"192.0.2.1", CAUSE_CLIENT_BUSY},   {"192.0.2.2", CAUSE_ACCEPTED},
        {"2001:db8::1", CAUSE_ACCEPTED},    {"2001:db8::2", CAUSE_ACCEPTED},
        {"2001:db8::3", CAUSE_CLIENT_BUSY}, {"2001:db8:1::3", CAUSE_ACCEPTED},
        {"192.0.2.3", CAUSE_ACCEPTED},      {"192.0.2.4", CAUSE_ACCEPTED},
        {"192.0.2.5", CAUSE_ACCEPTED},      {"192.0.2.6", CAUSE_ACCEPTED},
        {"192.0.2.7", CAUSE_SERVER_BUSY},
    };
    struct guest *guests[COUNT_OF(arrivals)] = {0};
    struct memory_stream stream;
    struct receive receive;

    (void)unused;
    house_open(&receive);
    for (size_t i = 0; i < COUNT_OF(arrivals); i++) {
        stream_from(&stream, arrivals[i].ip);
        const struct verdict verdict =
            receive_admit(&receive, &house_listen, &stream.stream, &guests[i]);
        assert_int_equal(verdict.cause, arrivals[i].cause);
    }
    assert_int_equal(receive_session_count(&receive), 10);
    for (size_t i = COUNT_OF(arrivals); i-- > 0;)
        if (guests[i])
            receive_leave(guests[i]);
    assert_int_equal(receive_session_count(&receive), 0);
}

#define IN_WORLD(name)                                                                             \
    static void test_##name(void **unused)                                                         \
    {                                                                                              \
        (void)unused;                                                                              \
        in_world(name##_main, NULL, 1);                                                            \
    }
IN_WORLD(dialogues)
IN_WORLD(limits)
IN_WORLD(sizes)
IN_WORLD(chunks)
IN_WORLD(faults)
IN_WORLD(early)
IN_WORLD(ends)
IN_WORLD(unread)
IN_WORLD(stopping)
IN_WORLD(prefixes)
IN_WORLD(cuts)
IN_WORLD(lean)
IN_WORLD(memory)
IN_WORLD(dispositions)
IN_WORLD(header_that_does_not_fit)
IN_WORLD(lmtp)
IN_WORLD(classes_lmtp)
IN_WORLD(classes_smtp)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),        cmocka_unit_test(test_table_services),
        cmocka_unit_test(test_table_faults), cmocka_unit_test(test_dialogues),
        cmocka_unit_test(test_limits),       cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_chunks),       cmocka_unit_test(test_faults),
        cmocka_unit_test(test_early),        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_unread),       cmocka_unit_test(test_stopping),
        cmocka_unit_test(test_prefixes),     cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_lean),         cmocka_unit_test(test_memory),
        cmocka_unit_test(test_dispositions), cmocka_unit_test(test_header_that_does_not_fit),
        cmocka_unit_test(test_lmtp),         cmocka_unit_test(test_classes_lmtp),
        cmocka_unit_test(test_classes_smtp), cmocka_unit_test(test_register),
    };

    observe_configure(LOG_NONE, LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
