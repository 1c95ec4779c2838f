/*
 * A message on its way through three filters that say anything: clamd, spamd and a milter, asked by
 * policy itself. It is accepted only when each of them got all of it and said a whole word that
 * lets it pass; a fault of any of them defers; and what they add is a header and nothing else.
 *
 * Input: one octet of options, the lengths of what clamd and spamd say (two octets each), what
 * those say, and what the milter says; each in parts with 0xff between them.
 */
#include "hostile_peer.h"
#include "policy/policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CLAMD, SPAMD, MILTER, FILTERS, IN_PIECES = 1, CUT_WRITES = 2 };

#define MESSAGE "Subject: x\r\nX-A: b\r\n\r\nbody\r\n.dot\r\n"

static struct {
    struct bytes said[FILTERS];
    struct hostile_peer peers[FILTERS];
    unsigned dials[FILTERS];
    unsigned options;
} act;

/* The linker puts this in the place of stream_dial. Who is dialled again has nothing more to say.
 */
struct io_result __wrap_stream_dial(const struct endpoint *at, const struct endpoint *from,
                                    uint64_t deadline_us, struct stream **stream);
struct io_result __wrap_stream_dial(const struct endpoint *at, const struct endpoint *from,
                                    uint64_t deadline_us, struct stream **stream)
{
    struct hostile_peer *peer = &act.peers[at->port];

    (void)from, (void)deadline_us;
    INVARIANT(at->port < FILTERS);
    if (act.dials[at->port]++ > 0)
        return (struct io_result){.status = IO_FAILED, .error = ECONNREFUSED};
    hostile_open(peer, act.said[at->port], act.options & IN_PIECES ? 1 : 0);
    peer->write_limit = act.options & CUT_WRITES ? 60 : SIZE_MAX;
    *stream = &peer->stream;
    return io_ok(0);
}

static struct io_result read_message(void *argument, struct span into, uint64_t offset)
{
    const struct bytes piece = bytes_slice(BYTES_LITERAL(MESSAGE), (size_t)offset, into.count);

    (void)argument;
    if (piece.count > 0)
        memcpy(into.at, piece.at, piece.count);
    return io_ok(piece.count);
}

/* ------------------------------------------------------------------ what has to hold */

static bool says(unsigned filter, const char *words)
{
    const struct bytes said = bytes_slice(act.said[filter], 0, act.peers[filter].at);

    return bytes_find(said, bytes_of_text(words)) < said.count;
}

static bool heard_all(unsigned filter, struct bytes what)
{
    const struct bytes written = buffer_view(&act.peers[filter].written);

    return bytes_find(written, what) < written.count;
}

static void check_accepted(void)
{
    INVARIANT(says(CLAMD, "stream: OK") && heard_all(CLAMD, BYTES_LITERAL(MESSAGE)));
    INVARIANT(says(SPAMD, "SPAMD/") && heard_all(SPAMD, BYTES_LITERAL(MESSAGE)));
    INVARIANT(act.dials[MILTER] == 1 && act.peers[MILTER].at > 0);
}

/* Lines that policy adds are whole fields. */
static void check_fields(struct bytes headers)
{
    struct header_walk walk = HEADER_WALK_OF(headers);
    struct header_field field;

    while (header_next(&walk, &field))
        continue;
    INVARIANT(!walk.malformed && walk.rest.count == 0);
    for (size_t i = 0; i < headers.count; i++) {
        const uint8_t octet = headers.at[i];
        INVARIANT(octet != 0 && (octet != '\n' || (i > 0 && headers.at[i - 1] == '\r')));
        INVARIANT(octet != '\r' || (i + 1 < headers.count && headers.at[i + 1] == '\n'));
    }
}

static void check_refused(const struct verdict *verdict)
{
    const struct cause_row *row = cause_row(verdict->cause);

    INVARIANT(verdict->cause != CAUSE_UNDECIDED);
    INVARIANT(row->side != SIDE_OURS || row->kind == VERDICT_DEFER);
}

/* ------------------------------------------------------------------ one message */

static struct verdict transact(struct policy *policy, struct transaction *transaction)
{
    const struct recipient recipient = {.address = {BYTES_LITERAL("u"), BYTES_LITERAL("r.test")}};
    const struct policy_message message = {.source = {read_message, NULL, sizeof MESSAGE - 1},
                                           .head = BYTES_LITERAL(MESSAGE),
                                           .deadline_us = deadline_in(50 * US_PER_S)};

    REQUIRE(policy_connect(policy, transaction->client));
    transaction->envelope.from = (struct address){BYTES_LITERAL("s"), BYTES_LITERAL("s.test")};
    REQUIRE(policy_sender(policy, transaction, transaction->envelope.from));
    REQUIRE(policy_recipient(policy, transaction, &recipient));
    return policy_judge(policy, transaction, &message);
}

static struct config *config_made(void)
{
    static struct endpoint at[FILTERS];
    static struct config_filter filters[FILTERS];
    static struct config config;
    static const enum filter_speaks speaks[FILTERS] = {FILTER_CLAMD, FILTER_SPAMD, FILTER_MILTER};
    static const char *const names[FILTERS] = {"clamd", "spamd", "milter"};

    for (unsigned i = 0; i < FILTERS; i++) {
        at[i] = (struct endpoint){ENDPOINT_IPV4, {ENDPOINT_IPV4, {127, 0, 0, 1}}, (uint16_t)i, ""};
        filters[i] = (struct config_filter){.name = names[i],
                                            .speaks = speaks[i],
                                            .addresses = &at[i],
                                            .address_count = 1,
                                            .timeout_us = 10 * US_PER_S,
                                            .connect_timeout_us = US_PER_S,
                                            .command_timeout_us = US_PER_S,
                                            .reject_score = 10};
    }
    config = (struct config){.hostname = "mx.test",
                             .filters = filters,
                             .filter_count = FILTERS,
                             .limits = {.recipients = 3}};
    return &config;
}

static int fuzz_main(void *unused)
{
    struct arena arena = ARENA_WITH_LIMIT(8 * MIB);
    struct buffer headers = BUFFER_WITH_LIMIT(64 * KIB);
    struct client_facts client = {
        .remote = {ENDPOINT_IPV4, {ENDPOINT_IPV4, {192, 0, 2, 1}}, 25, ""},
        .helo = BYTES_LITERAL("c.test"),
        .may_relay = true,
        .arena = &arena};
    struct transaction transaction = {
        .client = &client, .arena = &arena, .headers = &headers, .message = 1};
    const struct policy_settings settings = {.config = config_made()};
    char why[200];

    (void)unused;
    struct policy *policy = policy_open(&settings, why, sizeof why);
    INVARIANT(policy != NULL);
    const struct verdict verdict = transact(policy, &transaction);
    if (!verdict_accepts(&verdict))
        check_refused(&verdict);
    else if (transaction.disposition != DISPOSITION_DISCARD)
        check_accepted();
    check_fields(buffer_view(&headers));
    policy_transaction_end(&transaction);
    policy_client_end(&client);
    policy_close(policy);
    arena_clear(&arena);
    buffer_free(&headers);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader reader = READER_OF(bytes_of(data, MIN_OF(size, (size_t)8192)));
    const unsigned options = reader_u8(&reader);
    const size_t clamd = reader_u16(&reader), spamd = reader_u16(&reader);

    if (reader.failed)
        return 0;
    observe_configure(LOG_NONE, LOG_ERROR);
    memset(&act, 0, sizeof act);
    act.options = options;
    act.said[CLAMD] = bytes_slice(reader.rest, 0, clamd);
    reader.rest = bytes_skip(reader.rest, act.said[CLAMD].count);
    act.said[SPAMD] = bytes_slice(reader.rest, 0, spamd);
    act.said[MILTER] = bytes_skip(reader.rest, act.said[SPAMD].count);
    INVARIANT(world_run(fuzz_main, NULL, 1) == 0);
    for (unsigned i = 0; i < FILTERS; i++)
        buffer_free(&act.peers[i].written);
    return 0;
}
