/*
 * A session with a hostile next hop, by SMTP and LMTP. What the peer says comes in parts, each
 * let out by something that we say, as on a wire. Whatever it is: every recipient gets an outcome;
 * nobody counts as delivered unless the whole body and its end went out and a 2yz came behind them;
 * no fault of the peer's is laid to us; and the same bytes in pieces mean the same.
 *
 * Input: one octet of options, then the parts, with 0xff between them. Where it is built with TLS
 * (FUZZ_TLS), two octets, and the peer shakes hands when we do.
 */
#include "../unit/fake_spool.h"
#include "hostile_peer.h"

#include "deliver/deliver.h"
#include "tls_peer.h"
#include "wire/wire.h"

#ifndef FUZZ_TLS
#define FUZZ_TLS 0 /* fuzz_deliver_tls.c has it otherwise */
#endif

enum { RECIPIENTS_MAX = 3, LMTP = 1, IN_PIECES = 2, EIGHT_BIT = 4, TWICE = 8 };
enum { TLS_MUST = 0x100, NO_HANDSHAKE = 0x200, OLDER_TLS = 0x400 };

#define BODY "Subject: x\r\n\r\n.a dot\r\n\r\nlast\r\n"
#define STUFFED "Subject: x\r\n\r\n..a dot\r\n\r\nlast\r\n.\r\n"

static struct hop {
    struct hostile_peer peer;
    size_t before_dot; /* what was readable before the last dot went out */
    unsigned dots;
    struct stream stream; /* with TLS around the peer's words, once a handshake was begun */
    struct tls_peer tls;
    bool shakes;         /* a handshake was begun on this connection */
    struct buffer clear; /* what we said in clear, on any */
} hop;

static struct bytes fuzz_input;
static size_t fuzz_fragment;
static unsigned fuzz_options;
static SSL_CTX *hop_context;
static struct tls_context *our_context;

static void hop_hears(struct hostile_peer *peer, struct bytes said)
{
    const struct bytes dot = BYTES_LITERAL("\r\n.\r\n"), last = BYTES_LITERAL(" LAST\r\n");

    if (!bytes_ends_with_nocase(buffer_view(&peer->written), dot) &&
        bytes_find(said, last) == said.count)
        return;
    hop.dots++;
    hop.before_dot = peer->released;
}

/* ------------------------------------------------------------------ TLS around it */

/* What was not read in clear by now is lost. Who does not know how to shake hands says his next
 * part as it is. */
static void hop_shake(void)
{
    hop.shakes = true;
    hop.peer.at = hop.peer.released;
    if (fuzz_options & NO_HANDSHAKE) {
        hostile_release(&hop.peer);
        return;
    }
    tls_peer_open(&hop.tls, hop_context, true);
    if (fuzz_options & OLDER_TLS)
        SSL_set_max_proto_version(hop.tls.ssl, TLS1_2_VERSION);
}

static struct io_result hop_read(struct stream *stream, struct span into, uint64_t deadline_us)
{
    uint8_t words[1024];
    size_t count = 0;

    (void)stream;
    if (!hop.tls.ssl)
        return hostile_read(&hop.peer.stream, into, deadline_us);
    while ((count = tls_peer_take(&hop.tls, into)) == 0) {
        const struct io_result said =
            hop.tls.shaken ? hostile_read(&hop.peer.stream, (struct span){words, sizeof words}, 0)
                           : io_status_only(IO_END);
        if (said.status != IO_OK)
            return said;
        tls_peer_say(&hop.tls, bytes_of(words, said.count));
    }
    return io_ok(count);
}

static struct io_result hop_write(struct stream *stream, struct bytes from, uint64_t deadline_us)
{
    CLEANUP(buffer_free) struct buffer heard = BUFFER_WITH_LIMIT(4 * MIB);

    (void)stream;
    if (FUZZ_TLS && !hop.shakes && bytes_starts_with(from, BYTES_LITERAL("\x16\x03")))
        hop_shake();
    if (!hop.shakes) {
        buffer_add(&hop.clear, from);
        return hostile_write(&hop.peer.stream, from, deadline_us);
    }
    if (hop.tls.ssl)
        tls_peer_hear(&hop.tls, from, &heard);
    if (heard.count > 0)
        hostile_write(&hop.peer.stream, buffer_view(&heard), deadline_us);
    return io_ok(from.count);
}

static struct io_result hop_wait(struct stream *stream, uint64_t deadline_us)
{
    (void)stream;
    return hop.tls.ssl && BIO_ctrl_pending(hop.tls.out) > 0
               ? io_ok(0)
               : hostile_wait(&hop.peer.stream, deadline_us);
}

static const struct stream_ops hop_ops = {
    .read = hop_read, .write = hop_write, .wait_readable = hop_wait, .close = hostile_close};

/* The linker puts this in the place of stream_dial. */
struct io_result __wrap_stream_dial(const struct endpoint *at, const struct endpoint *from,
                                    uint64_t deadline_us, struct stream **stream);
struct io_result __wrap_stream_dial(const struct endpoint *at, const struct endpoint *from,
                                    uint64_t deadline_us, struct stream **stream)
{
    struct hostile_peer before = hop.peer;

    (void)at, (void)from, (void)deadline_us;
    hostile_open(&hop.peer, before.input.at ? before.input : fuzz_input, fuzz_fragment);
    if (before.input.at) { /* a second connection hears what comes next */
        hop.peer.at = hop.peer.released = before.released;
        hostile_release(&hop.peer);
        hop.peer.written = before.written;
    }
    hop.peer.hears = hop_hears;
    if (hop.tls.ssl)
        tls_peer_close(&hop.tls);
    hop.shakes = false;
    hop.stream.ops = &hop_ops;
    *stream = &hop.stream;
    return io_ok(0);
}

/* ------------------------------------------------------------------ one attempt */

static bool consent_after_dot(void)
{
    struct bytes rest = bytes_slice(hop.peer.input, hop.before_dot, hop.peer.at - hop.before_dot);

    while (rest.count > 0) {
        struct bytes line;
        rest = bytes_cut(rest, '\n', &line);
        while (line.count > 0 && line.at[0] == PART_END)
            line = bytes_skip(line, 1);
        if (line.count > 0 && line.at[0] == '2')
            return true;
    }
    return false;
}

static void check_outcome(const struct outcome *outcome)
{
    const struct cause_row *row = cause_row(outcome->verdict.cause);

    INVARIANT(outcome->verdict.cause != CAUSE_UNDECIDED);
    INVARIANT(row->side != SIDE_OURS);
    if (outcome->verdict.cause != CAUSE_DELIVERED)
        return;
    INVARIANT(hop.dots > 0 && consent_after_dot());
    const struct bytes written = buffer_view(&hop.peer.written);
    const bool chunked = bytes_find(written, BYTES_LITERAL(" LAST\r\n" BODY)) < written.count;
    INVARIANT(chunked || bytes_find(written, BYTES_LITERAL(STUFFED)) < written.count);
}

static void attempt_once(struct deliver *deliver, struct deliver_channel *channel,
                         struct spool *spool, const struct envelope *envelope,
                         struct destination *to, enum cause *causes)
{
    struct arena arena = ARENA_WITH_LIMIT(16 * MIB);
    uint32_t indexes[RECIPIENTS_MAX] = {0, 1, 2};
    struct outcome outcomes[RECIPIENTS_MAX] = {0};
    struct queued_message *message = NULL;
    bool host_failed = false;
    const struct fake_message *stored = fake_add(spool, envelope, BYTES_LITERAL(BODY));

    (void)deliver;
    INVARIANT(spool_take_id(spool, stored->id, &message).status == LOOKUP_FOUND);
    struct attempt attempt = {.to = to,
                              .message = message,
                              .recipients = indexes,
                              .recipient_count = envelope->recipient_count,
                              .outcomes = outcomes,
                              .arena = &arena};
    deliver_attempt(channel, &attempt, &host_failed);
    for (uint32_t i = 0; i < envelope->recipient_count; i++) {
        check_outcome(&outcomes[i]);
        causes[i] = outcomes[i].verdict.cause;
    }
    spool_release(spool, message);
    arena_clear(&arena);
}

static bool said_in_clear(const char *words)
{
    return bytes_find(buffer_view(&hop.clear), bytes_of_text(words)) < hop.clear.count;
}

static void hop_end(void)
{
    if (hop.tls.ssl)
        tls_peer_close(&hop.tls);
    if (fuzz_options & TLS_MUST)
        INVARIANT(!said_in_clear("MAIL FROM") && !said_in_clear("Subject"));
    buffer_free(&hop.clear);
    buffer_free(&hop.peer.written);
}

static void play(unsigned options, size_t fragment, enum cause *causes)
{
    struct recipient recipients[RECIPIENTS_MAX] = {
        {.address = {BYTES_LITERAL("a"), BYTES_LITERAL("x.test")}},
        {.address = {BYTES_LITERAL("b"), BYTES_LITERAL("x.test")}, .notify = NOTIFY_NEVER},
        {.address = {BYTES_LITERAL("c"), BYTES_LITERAL("x.test")}}};
    const struct envelope envelope = {.from = {BYTES_LITERAL("s"), BYTES_LITERAL("sender.test")},
                                      .recipients = recipients,
                                      .recipient_count = 1 + (options >> 4 & 15) % RECIPIENTS_MAX,
                                      .body = options & EIGHT_BIT ? BODY_8BITMIME : BODY_7BIT,
                                      .accepted_wall_us = clock_wall_us()};
    struct config config = {.hostname = "mx.test", .smtp_port = 25};
    struct spool *spool = calloc(1, sizeof *spool);
    char why[256];

    config.relay_via = (struct config_deliver){
        .kind = options & LMTP ? DELIVER_LMTP : DELIVER_SMTP,
        .target = BYTES_LITERAL("127.0.0.1"),
        .endpoint = {.family = ENDPOINT_IPV4, .ip = {ENDPOINT_IPV4, {127, 0, 0, 1}}, .port = 25}};
    config.relay_tls = options & TLS_MUST ? TLS_USE_MUST : TLS_USE_MAY;
    hop = (struct hop){.clear = BUFFER_WITH_LIMIT(4 * MIB)};
    fuzz_fragment = fragment;
    const struct deliver_settings settings = {
        .config = &config, .spool = spool, .tls = our_context};
    struct deliver *deliver = deliver_open(&settings, why, sizeof why);
    struct destination to;
    INVARIANT(spool && deliver);
    deliver_route(deliver, &recipients[0], &to);
    struct deliver_channel *channel = deliver_channel_open(deliver, &to);
    for (unsigned i = 0; i < (options & TWICE ? 2U : 1U); i++) /* a kept connection, too */
        attempt_once(deliver, channel, spool, &envelope, &to, causes + i * RECIPIENTS_MAX);
    deliver_channel_close(channel);
    deliver_close(deliver);
    fake_free(spool);
    hop_end();
}

static int fuzz_main(void *argument)
{
    const unsigned options = *(const unsigned *)argument;
    enum cause whole[2 * RECIPIENTS_MAX] = {0}, pieces[2 * RECIPIENTS_MAX] = {0};

    play(options, 0, whole);
    if (!(options & IN_PIECES))
        return 0;
    play(options, 1, pieces);
    INVARIANT(memcmp(whole, pieces, sizeof whole) == 0);
    return 0;
}

static void prepare(void)
{
    char why[200];

    tls_peer_prepare();
    hop_context = tls_peer_server();
    tls_peer_tidy();
    our_context = tls_context_client(why, sizeof why);
    INVARIANT(our_context != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader reader = READER_OF(bytes_of(data, MIN_OF(size, (size_t)4096)));

    observe_configure(LOG_NONE, LOG_ERROR);
    if (FUZZ_TLS && !our_context)
        prepare();
    fuzz_options = reader_u8(&reader);
    if (FUZZ_TLS)
        fuzz_options |= (unsigned)reader_u8(&reader) << 8;
    fuzz_input = reader.rest;
    INVARIANT(world_run(fuzz_main, &fuzz_options, 1) == 0);
    return 0;
}
