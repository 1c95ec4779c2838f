/*
 * A session with a hostile next hop, by SMTP and LMTP. What the peer says comes in parts, each
 * let out by something that we say, as on a wire. Whatever it is: every recipient gets an outcome;
 * nobody counts as delivered unless the whole body and its end went out and a 2yz came behind them;
 * no fault of the peer's is laid to us; and the same bytes in pieces mean the same.
 *
 * Input: one octet of options, then the parts, with 0xff between them.
 */
#include "../unit/fake_spool.h"
#include "hostile_peer.h"

#include "deliver/deliver.h"
#include "wire/wire.h"

enum { RECIPIENTS_MAX = 3, LMTP = 1, IN_PIECES = 2, EIGHT_BIT = 4, TWICE = 8 };

#define BODY "Subject: x\r\n\r\n.a dot\r\n\r\nlast\r\n"
#define STUFFED "Subject: x\r\n\r\n..a dot\r\n\r\nlast\r\n.\r\n"

static struct hop {
    struct hostile_peer peer;
    size_t before_dot; /* what was readable before the last dot went out */
    unsigned dots;
} hop;

static struct bytes fuzz_input;
static size_t fuzz_fragment;

static void hop_hears(struct hostile_peer *peer, struct bytes said)
{
    const struct bytes dot = BYTES_LITERAL("\r\n.\r\n"), last = BYTES_LITERAL(" LAST\r\n");

    if (!bytes_ends_with_nocase(buffer_view(&peer->written), dot) &&
        bytes_find(said, last) == said.count)
        return;
    hop.dots++;
    hop.before_dot = peer->released;
}

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
    *stream = &hop.peer.stream;
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

static void play(unsigned options, size_t fragment, enum cause *causes)
{
    struct recipient recipients[RECIPIENTS_MAX] = {
        {.address = {BYTES_LITERAL("a"), BYTES_LITERAL("x.test")}},
        {.address = {BYTES_LITERAL("b"), BYTES_LITERAL("x.test")}, .notify = NOTIFY_NEVER},
        {.address = {BYTES_LITERAL("c"), BYTES_LITERAL("x.test")}}};
    const struct envelope envelope = {.from = {BYTES_LITERAL("s"), BYTES_LITERAL("sender.test")},
                                      .recipients = recipients,
                                      .recipient_count = 1 + (options >> 4) % RECIPIENTS_MAX,
                                      .body = options & EIGHT_BIT ? BODY_8BITMIME : BODY_7BIT,
                                      .accepted_wall_us = clock_wall_us()};
    struct config config = {.hostname = "mx.test", .smtp_port = 25};
    struct spool *spool = calloc(1, sizeof *spool);
    char why[256];

    config.relay_via = (struct config_deliver){
        .kind = options & LMTP ? DELIVER_LMTP : DELIVER_SMTP,
        .target = BYTES_LITERAL("127.0.0.1"),
        .endpoint = {.family = ENDPOINT_IPV4, .ip = {ENDPOINT_IPV4, {127, 0, 0, 1}}, .port = 25}};
    hop = (struct hop){0};
    fuzz_fragment = fragment;
    const struct deliver_settings settings = {.config = &config, .spool = spool};
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
    buffer_free(&hop.peer.written);
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned options = size ? data[0] : 0;

    observe_configure(LOG_NONE, LOG_ERROR);
    fuzz_input = bytes_skip(bytes_of(data, MIN_OF(size, (size_t)4096)), 1);
    INVARIANT(world_run(fuzz_main, &options, 1) == 0);
    return 0;
}
