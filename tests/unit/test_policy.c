/*
 * policy: every answer of DNS, directory and filter, and the verdict it has to give. DNS is
 * scripted here in place of libunbound; clamd is a fiber on loopback that misbehaves as told.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "policy/policy.h"
#include "fake_resolver.h"

/* ------------------------------------------------------------------ scripted DNS */

struct dns_row {
    const char *name;
    enum dns_type type;
    enum lookup_status status;
    enum lookup_reason reason; /* with FAILED */
    bool nxdomain;             /* with ABSENT */
    const char *value;         /* host name or address, with FOUND */
};

static const struct dns_row *dns_rows;
static size_t dns_row_count;
static unsigned dns_asked;

struct resolver *resolver_open(const struct resolver_settings *settings, char *why, size_t why_room)
{
    (void)settings;
    snprintf(why, why_room, "scripted");
    return NULL;
}

void resolver_close(struct resolver *resolver)
{
    (void)resolver;
}

static struct lookup dns_answer_row(const struct dns_row *row, struct arena *arena,
                                    struct dns_answer *answer)
{
    switch (row->status) {
    case LOOKUP_FAILED:
        return lookup_failed(row->reason, BYTES_LITERAL("scripted"));
    case LOOKUP_ABSENT:
        answer->nxdomain = row->nxdomain;
        return lookup_absent();
    case LOOKUP_FOUND:
        break;
    }
    answer->records = ARENA_NEW(arena, struct dns_record);
    answer->count = 1;
    answer->records[0] = (struct dns_record){.type = row->type, .name = bytes_of_text(row->value)};
    if (row->type == DNS_A)
        assert_true(ip_parse(bytes_of_text(row->value), &answer->records[0].ip));
    return lookup_found();
}

/* The canary's labels are new each second: these stand for them, below the root and our name. */
#define CANARY "canary."
#define OWN_CANARY "canary.mx.ours.example"

static bool is_canary(const struct dns_row *row, struct bytes name)
{
    struct bytes label;
    const struct bytes rest = bytes_cut(name, '.', &label);

    return bytes_starts_with(label, BYTES_LITERAL("holdfast-")) &&
           strncmp(row->name, CANARY, strlen(CANARY)) == 0 &&
           bytes_equal_text(rest, row->name + strlen(CANARY));
}

/* What is not scripted does not exist. */
struct lookup resolve_ask(struct resolver *resolver, struct arena *arena, struct bytes name,
                          enum dns_type type, struct dns_answer *answer)
{
    (void)resolver;
    dns_asked++;
    *answer = (struct dns_answer){.nxdomain = true};
    for (size_t i = 0; i < dns_row_count; i++)
        if (dns_rows[i].type == type &&
            (bytes_equal_text(name, dns_rows[i].name) || is_canary(&dns_rows[i], name)))
            return dns_answer_row(&dns_rows[i], arena, answer);
    return lookup_absent();
}

static void dns_script(const struct dns_row *rows, size_t count)
{
    dns_rows = rows;
    dns_row_count = count;
}

/* ------------------------------------------------------------------ a clamd that does as told */

enum clamd_mood {
    MOOD_CLEAN,
    MOOD_FOUND,
    MOOD_HANG,
    MOOD_CRASH,
    MOOD_GARBLED,
    MOOD_LARGE,
    MOOD_ERROR
};

struct fake_clamd {
    struct listener *listener;
    struct fiber *fiber;
    enum clamd_mood mood;
    unsigned scans, pings;
    bool ended;
};

static const char *mood_answer(enum clamd_mood mood)
{
    switch (mood) {
    case MOOD_CLEAN:
        return "stream: OK";
    case MOOD_FOUND:
        return "stream: Test.Virus FOUND";
    case MOOD_GARBLED:
        return "HTTP/1.1 200 OK";
    case MOOD_LARGE:
        return "INSTREAM size limit exceeded. ERROR";
    case MOOD_ERROR:
        return "stream: Can't open database ERROR";
    case MOOD_HANG:
    case MOOD_CRASH:
        break;
    }
    return NULL;
}

/* Reads up to the zero length that ends an INSTREAM; these messages never hold four NULs. */
static bool read_stream(struct stream *stream, uint8_t *got, size_t room)
{
    size_t count = 0;

    while (count < 4 || memcmp(got + count - 4, "\0\0\0\0", 4) != 0) {
        const struct io_result result = stream_read(
            stream, (struct span){got + count, room - count}, deadline_in(10 * US_PER_S));

        if (result.status != IO_OK)
            return false;
        count += result.count;
        if (count >= 6 && memcmp(got, "zPING", 6) == 0)
            return true;
    }
    return true;
}

static void fake_talk(struct fake_clamd *fake, struct stream *stream)
{
    uint8_t got[4096];

    if (!read_stream(stream, got, sizeof got))
        return;
    const bool ping = memcmp(got, "zPING", 5) == 0;
    const char *answer = ping && fake->mood != MOOD_HANG ? "PONG" : mood_answer(fake->mood);

    fake->scans += !ping;
    fake->pings += ping;
    if (fake->mood == MOOD_HANG)
        fiber_sleep_until(deadline_in(2 * US_PER_S));
    else if (answer)
        stream_write(stream, bytes_of(answer, strlen(answer) + 1), deadline_in(10 * US_PER_S));
}

static void fake_main(void *argument)
{
    struct fake_clamd *fake = argument;

    while (!fiber_cancelled()) {
        CLEANUP(stream_close_ptr) struct stream *stream = NULL;
        const struct io_result result =
            listener_accept(fake->listener, deadline_in(60 * US_PER_S), &stream);

        if (result.status == IO_OK)
            fake_talk(fake, stream);
    }
    fake->ended = true;
}

static void fake_open(struct fake_clamd *fake)
{
    const struct endpoint any = {.family = ENDPOINT_IPV4, .ip = {ENDPOINT_IPV4, {127, 0, 0, 1}}};

    *fake = (struct fake_clamd){.mood = MOOD_CLEAN};
    assert_int_equal(listener_open(&any, false, &fake->listener).status, IO_OK);
    fake->fiber = fiber_start("test.clamd", fake_main, fake);
    assert_non_null(fake->fiber);
}

static void fake_close(struct fake_clamd *fake)
{
    fiber_cancel(fake->fiber);
    while (!fake->ended)
        fiber_yield();
    listener_close(fake->listener);
}

/* ------------------------------------------------------------------ a house with one filter */

struct house {
    struct config config;
    struct config_domain domain;
    struct config_filter filter;
    struct endpoint addresses[2];
    struct directory *directory;
    struct policy *policy;
    struct fake_clamd fakes[2];
    struct arena arena;
    struct client_facts client;
    struct transaction transaction;
    struct buffer headers;
    char users[64];
};

static void house_write_users(struct house *house)
{
    FILE *file = NULL;

    snprintf(house->users, sizeof house->users, "file:/tmp/holdfast-policy-XXXXXX");
    file = fdopen(mkstemp(house->users + 5), "w");
    assert_non_null(file);
    fputs("alice\nbob:disabled=yes\ncarol:full=yes\n", file);
    assert_int_equal(fclose(file), 0);
}

static int house_begin(void **state)
{
    static struct house house;
    char why[200];

    house =
        (struct house){.arena = ARENA_WITH_LIMIT(64 * MIB), .headers = BUFFER_WITH_LIMIT(64 * KIB)};
    house_write_users(&house);
    fake_open(&house.fakes[0]);
    fake_open(&house.fakes[1]);
    house.addresses[0] = *listener_endpoint(house.fakes[0].listener);
    house.addresses[1] = *listener_endpoint(house.fakes[1].listener);
    house.domain = (struct config_domain){
        .name = "ours.example", .users = house.users, .aliases = "", .catch_all = ""};
    house.filter = (struct config_filter){.name = "clamav",
                                          .addresses = house.addresses,
                                          .address_count = 1,
                                          .timeout_us = 300 * US_PER_MS,
                                          .connect_timeout_us = 300 * US_PER_MS};
    house.config =
        (struct config){.hostname = "mx.ours.example",
                        .domains = &house.domain,
                        .domain_count = 1,
                        .filters = &house.filter,
                        .filter_count = 1,
                        .checks = {.reverse_dns = CHECK_ENFORCE, .sender_domain = CHECK_ENFORCE},
                        .limits = {.recipients = 3}};
    house.directory = directory_open(&house.config, why, sizeof why);
    assert_non_null(house.directory);
    house.client = (struct client_facts){
        .remote = {.family = ENDPOINT_IPV4, .ip = {ENDPOINT_IPV4, {192, 0, 2, 1}}},
        .arena = &house.arena};
    house.transaction = (struct transaction){
        .client = &house.client, .arena = &house.arena, .headers = &house.headers};
    dns_script(NULL, 0);
    *state = &house;
    return 0;
}

static struct policy *house_policy(struct house *house)
{
    const struct policy_settings settings = {.config = &house->config,
                                             .directory = house->directory};
    char why[200];

    house->policy = policy_open(&settings, why, sizeof why);
    assert_non_null(house->policy);
    return house->policy;
}

static int house_end(void **state)
{
    struct house *house = *state;

    policy_close(house->policy);
    directory_close(house->directory);
    fake_close(&house->fakes[0]);
    fake_close(&house->fakes[1]);
    arena_clear(&house->arena);
    buffer_free(&house->headers);
    return unlink(house->users + 5);
}

/* ------------------------------------------------------------------ the connection */

#define DOWN LOOKUP_FAILED, LOOKUP_REASON_TIMEOUT, false, NULL
#define GONE LOOKUP_ABSENT, 0, true, NULL
#define BARE LOOKUP_ABSENT, 0, false, NULL
#define HAS(value) LOOKUP_FOUND, 0, false, value

static const char *connect_cause(struct house *house, const struct dns_row *rows, size_t count)
{
    dns_script(rows, count);
    house->policy = house_policy(house);
    const struct verdict verdict = policy_connect(house->policy, &house->client);

    policy_close(house->policy);
    house->policy = NULL;
    return cause_name(verdict.cause);
}

#define CONNECT_CAUSE(house, ...)                                                                  \
    connect_cause(house, (const struct dns_row[]){__VA_ARGS__},                                    \
                  COUNT_OF(((const struct dns_row[]){__VA_ARGS__})))

#define PTR_NAME "1.2.0.192.in-addr.arpa"

static void test_connect(void **state)
{
    struct house *house = *state;

    assert_string_equal(CONNECT_CAUSE(house, {PTR_NAME, DNS_PTR, HAS("c.example")},
                                      {"c.example", DNS_A, HAS("192.0.2.1")}),
                        "accepted");
    assert_true(bytes_equal_text(house->client.reverse_name, "c.example"));
    assert_string_equal(CONNECT_CAUSE(house, {PTR_NAME, DNS_PTR, HAS("c.example")},
                                      {"c.example", DNS_A, HAS("192.0.2.9")}),
                        "reverse.absent");
    assert_string_equal(CONNECT_CAUSE(house, {PTR_NAME, DNS_PTR, GONE}), "reverse.absent");
    assert_string_equal(CONNECT_CAUSE(house, {PTR_NAME, DNS_PTR, DOWN}), "dns.reverse.temperror");
    assert_string_equal(
        CONNECT_CAUSE(house, {PTR_NAME, DNS_PTR, HAS("c.example")}, {"c.example", DNS_A, DOWN}),
        "dns.reverse.temperror");
    assert_string_equal(CONNECT_CAUSE(house, {PTR_NAME, DNS_PTR, DOWN}, {CANARY, DNS_A, DOWN}),
                        "dns.reverse.temperror"); /* below our own name there is an answer */
    assert_string_equal(CONNECT_CAUSE(house, {PTR_NAME, DNS_PTR, DOWN}, {CANARY, DNS_A, DOWN},
                                      {OWN_CANARY, DNS_A, DOWN}),
                        "dns.resolver.down");
}

static void test_connect_exempt(void **state)
{
    struct house *house = *state;
    struct ip_network own = {.base = {ENDPOINT_IPV4, {192, 0, 2, 0}}, .prefix_bits = 24};

    house->config.checks.reverse_dns = CHECK_RECORD;
    assert_string_equal(CONNECT_CAUSE(house, {PTR_NAME, DNS_PTR, DOWN}), "accepted");
    house->config.checks.reverse_dns = CHECK_ENFORCE;
    house->config.relay_from = &own;
    house->config.relay_from_count = 1;
    assert_string_equal(CONNECT_CAUSE(house, {PTR_NAME, DNS_PTR, DOWN}), "accepted");
    assert_true(house->client.may_relay);
}

/* By its probes, long before this gives up. */
static bool breaker_closes(struct policy *policy, unsigned which)
{
    const uint64_t until_us = deadline_in(60 * US_PER_S);
    struct breaker_row rows[4];

    do {
        assert_int_equal(fiber_sleep_until(deadline_in(20 * US_PER_MS)), IO_OK);
        assert_int_equal(policy_breakers(policy, rows, COUNT_OF(rows)), 2);
    } while (rows[which].open && clock_now_us() < until_us);
    return !rows[which].open;
}

/* While DNS is down, connections are answered at once; a probe ends that by itself. */
static void test_resolver_breaker(void **state)
{
    static const struct dns_row down[] = {
        {PTR_NAME, DNS_PTR, DOWN}, {CANARY, DNS_A, DOWN}, {OWN_CANARY, DNS_A, DOWN}};
    static const struct dns_row up[] = {{PTR_NAME, DNS_PTR, HAS("c.example")},
                                        {"c.example", DNS_A, HAS("192.0.2.1")}};
    struct house *house = *state;
    struct policy *policy = house_policy(house);

    dns_script(down, COUNT_OF(down));
    const struct verdict first = policy_connect(policy, &house->client);
    const unsigned asked = dns_asked;
    const struct verdict second = policy_connect(policy, &house->client);

    assert_int_equal(first.cause, CAUSE_DNS_RESOLVER_DOWN);
    assert_int_equal(second.cause, CAUSE_DNS_RESOLVER_DOWN);
    assert_int_equal(dns_asked, asked);
    dns_script(up, COUNT_OF(up));
    assert_true(breaker_closes(policy, 1));
    const struct verdict third = policy_connect(policy, &house->client);

    assert_int_equal(third.cause, CAUSE_ACCEPTED);
}

/* ------------------------------------------------------------------ the sender */

static const char *sender_cause(struct house *house, const char *domain)
{
    const struct address from = {BYTES_LITERAL("a"), bytes_of_text(domain)};
    const struct verdict verdict = policy_sender(house->policy, &house->transaction, from);

    policy_transaction_end(&house->transaction);
    return cause_name(verdict.cause);
}

static void test_sender(void **state)
{
    static const struct dns_row rows[] = {
        {"mx.example", DNS_MX, HAS("host.mx.example")},
        {"null.example", DNS_MX, HAS("")},
        {"only-a.example", DNS_MX, BARE},
        {"only-a.example", DNS_A, HAS("192.0.2.7")},
        {"bare.example", DNS_MX, BARE},
        {"bare.example", DNS_A, BARE},
        {"bare.example", DNS_AAAA, BARE},
        {"sick.example", DNS_MX, DOWN},
        {"half.example", DNS_MX, BARE},
        {"half.example", DNS_A, DOWN},
        {"half.example", DNS_AAAA, BARE},
        {"gone.example", DNS_MX, GONE},
    };
    struct house *house = *state;
    struct address null_sender = {0};

    house_policy(house);
    dns_script(rows, COUNT_OF(rows));
    assert_string_equal(sender_cause(house, "mx.example"), "accepted");
    assert_string_equal(sender_cause(house, "only-a.example"), "accepted");
    assert_string_equal(sender_cause(house, "ours.example"), "accepted");
    assert_string_equal(sender_cause(house, "[192.0.2.1]"), "accepted");
    assert_string_equal(sender_cause(house, "null.example"), "sender.null_mx");
    assert_string_equal(sender_cause(house, "gone.example"), "sender.unresolvable");
    assert_string_equal(sender_cause(house, "bare.example"), "sender.unresolvable");
    assert_string_equal(sender_cause(house, "sick.example"), "dns.sender.temperror");
    assert_string_equal(sender_cause(house, "half.example"), "dns.sender.temperror");
    const struct verdict bounce = policy_sender(house->policy, &house->transaction, null_sender);

    assert_true(verdict_accepts(&bounce));
    house->config.checks.sender_domain = CHECK_RECORD;
    assert_string_equal(sender_cause(house, "gone.example"), "accepted");
}

/* A resolver that answers nothing is told as ours, with the first mail and while the breaker is
 * open; a moment after it is back, a failure may still be its doing. */
static void test_sender_while_resolver_is_down(void **state)
{
    static const struct dns_row down[] = {
        {"sick.example", DNS_MX, DOWN}, {CANARY, DNS_A, DOWN}, {OWN_CANARY, DNS_A, DOWN}};
    struct house *house = *state;
    struct policy *policy = house_policy(house);
    struct breaker_row rows[4];

    dns_script(down, 1);
    assert_string_equal(sender_cause(house, "sick.example"), "dns.sender.temperror");
    dns_script(down, COUNT_OF(down));
    assert_string_equal(sender_cause(house, "sick.example"), "dns.resolver.failed");
    assert_string_equal(sender_cause(house, "other.example"), "dns.resolver.failed");
    dns_script(down, 1);
    do {
        assert_int_equal(fiber_sleep_until(deadline_in(20 * US_PER_MS)), IO_OK);
        assert_int_equal(policy_breakers(policy, rows, COUNT_OF(rows)), 2);
    } while (rows[1].open);
    assert_string_equal(sender_cause(house, "sick.example"), "dns.resolver.failed");
}

/* ------------------------------------------------------------------ recipients */

static const char *recipient_cause(struct house *house, const char *local, const char *domain)
{
    const struct recipient recipient = {.address = {bytes_of_text(local), bytes_of_text(domain)}};
    const struct verdict verdict = policy_recipient(house->policy, &house->transaction, &recipient);

    house->transaction.accepted_commands += verdict_accepts(&verdict); /* as receive does */
    return cause_name(verdict.cause);
}

static void test_recipient(void **state)
{
    struct house *house = *state;
    const struct envelope *envelope = &house->transaction.envelope;

    house_policy(house);
    assert_string_equal(recipient_cause(house, "nobody", "ours.example"), "recipient.unknown");
    assert_string_equal(recipient_cause(house, "bob", "ours.example"), "recipient.disabled");
    assert_string_equal(recipient_cause(house, "carol", "ours.example"), "recipient.full");
    assert_string_equal(recipient_cause(house, "x", "far.example"), "relay.denied");
    assert_int_equal(envelope->recipient_count, 0);
    assert_string_equal(recipient_cause(house, "ALICE", "ours.example"), "accepted");
    assert_true(bytes_equal_text(envelope->recipients[0].address.local, "alice"));
    assert_true(bytes_equal_text(envelope->recipients[0].asked.local, "ALICE"));
    assert_string_equal(recipient_cause(house, "alice", "ours.example"), "accepted");
    assert_int_equal(envelope->recipient_count, 1); /* one copy */
    house->client.may_relay = true;
    assert_string_equal(recipient_cause(house, "x", "far.example"), "accepted");
    assert_int_equal(envelope->recipient_count, 2);
    assert_string_equal(recipient_cause(house, "y", "far.example"), "recipient.too_many");
}

/* Of many recipients each gets one copy, those that were taken back (as greylisting does) are gone,
 * and come again. */
static void test_recipients_many(void **state)
{
    enum { MANY = 3000, BACK = 7 };
    struct house *house = *state;
    struct envelope *envelope = &house->transaction.envelope;

    house_policy(house);
    house->client.may_relay = true;
    house->config.limits.recipients = 1000000;
    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < MANY; i++) {
            const uint32_t before = envelope->recipient_count;
            const char *local = (const char *)arena_print(&house->arena, "r%u", i).at;
            assert_string_equal(
                recipient_cause(house, local, i % 2 ? "far.example" : "FAR.example"), "accepted");
            if (round == 0)
                assert_int_equal(envelope->recipient_count, before + 1);
            if (round == 0 && i % BACK == 0)
                envelope->recipient_count = before;
        }
    assert_int_equal(envelope->recipient_count, MANY);
    for (unsigned i = 0; i < 20 * MANY; i++) { /* taken back again and again */
        const char *local = (const char *)arena_print(&house->arena, "s%u", i).at;
        assert_string_equal(recipient_cause(house, local, "far.example"), "accepted");
        assert_int_equal(envelope->recipient_count, MANY + 1);
        envelope->recipient_count = MANY;
    }
    assert_string_equal(recipient_cause(house, "r1", "far.example"), "accepted");
    assert_int_equal(envelope->recipient_count, MANY);
}

/* Two domains with different filters, an alias from one to the other, and three ways to reply. */
static void test_recipient_classes(void **state)
{
    struct house *house = *state;
    struct config_domain domains[2] = {house->domain, house->domain};
    struct config_filter filters[2] = {house->filter, house->filter};
    struct transaction *transaction = &house->transaction;

    domains[0].name = "other.example"; /* in order of name */
    domains[0].spared_filters = 2;
    filters[1].partial = true;
    house->config.domains = domains;
    house->config.domain_count = 2;
    house->config.filters = filters;
    house->config.filter_count = 2;
    house_policy(house);
    assert_string_equal(recipient_cause(house, "alice", "ours.example"), "accepted");
    assert_string_equal(recipient_cause(house, "alice", "other.example"), "recipient.other_class");
    assert_int_equal(transaction->envelope.recipient_count, 1);
    /* A client of our own: the filters of both. */
    house->client.may_relay = true;
    transaction->envelope.recipient_count = 0;
    assert_string_equal(recipient_cause(house, "alice", "other.example"), "accepted");
    assert_int_equal(transaction->classes[0], 1);
    assert_string_equal(recipient_cause(house, "x", "far.example"), "accepted");
    assert_int_equal(transaction->class_count, 1);
    assert_int_equal(transaction->classes[0], 3);
    /* A reply to each. */
    house->client.may_relay = false;
    *transaction = (struct transaction){.client = &house->client,
                                        .arena = &house->arena,
                                        .headers = &house->headers,
                                        .replies = REPLY_TO_EACH};
    assert_string_equal(recipient_cause(house, "alice", "ours.example"), "accepted");
    assert_string_equal(recipient_cause(house, "alice", "other.example"), "accepted");
    assert_int_equal(transaction->class_count, 2);
    assert_int_equal(transaction->command_classes[0], 0);
    assert_int_equal(transaction->command_classes[1], 1);
    assert_int_equal(transaction->envelope.recipients[1].policy_class, 1);
    house->config.domains = &house->domain;
    house->config.domain_count = 1;
}

static void test_recipient_faults(void **state)
{
    struct house *house = *state;
    char former[64];

    house_policy(house);
    snprintf(former, sizeof former, "%s.away", house->users + 5);
    assert_int_equal(rename(house->users + 5, former), 0);
    assert_string_equal(recipient_cause(house, "alice", "ours.example"), "directory.misconfigured");
    assert_string_equal(recipient_cause(house, "nobody", "ours.example"),
                        "directory.misconfigured");
    assert_int_equal(rename(former, house->users + 5), 0);
}

/* ------------------------------------------------------------------ filters */

static struct io_result read_message(void *argument, struct span into, uint64_t offset)
{
    const struct bytes message = BYTES_LITERAL("Subject: x\r\n\r\nbody\r\n");
    const struct bytes piece = bytes_slice(message, (size_t)offset, into.count);

    if (argument)
        return io_failed(5 /* EIO */);
    memcpy(into.at, piece.at, piece.count);
    return io_ok(piece.count);
}

static const char *judge_with(struct house *house, void *fault, uint64_t deadline_us)
{
    const struct policy_message message = {.source = {read_message, fault, 20},
                                           .deadline_us = deadline_us};
    const struct verdict verdict = policy_judge(house->policy, &house->transaction, &message);

    policy_transaction_end(&house->transaction);
    return cause_name(verdict.cause);
}

static const char *judge(struct house *house)
{
    return judge_with(house, NULL, deadline_in(20 * US_PER_S));
}

static void test_judge_moods(void **state)
{
    static const struct {
        enum clamd_mood mood;
        const char *cause;
    } rows[] = {{MOOD_CLEAN, "accepted"},           {MOOD_FOUND, "filter.refused"},
                {MOOD_CRASH, "filter.crashed"},     {MOOD_GARBLED, "filter.garbled"},
                {MOOD_LARGE, "filter.unscannable"}, {MOOD_ERROR, "filter.misconfigured"},
                {MOOD_HANG, "filter.timeout"}};
    struct house *house = *state;

    house_policy(house);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        house->fakes[0].mood = rows[i].mood;
        assert_string_equal(judge(house), rows[i].cause);
        assert_int_equal(house->transaction.filter.count, rows[i].mood == MOOD_CLEAN ? 0 : 6);
    }
    house->addresses[0].port = 1; /* nobody listens there */
    assert_string_equal(judge(house), "filter.unreachable");
    assert_string_equal(judge_with(house, NULL, clock_now_us()), "filter.timeout");
}

/* A fault of our own spool is not the filter's, and no setting of the filter excuses it. */
static void test_judge_own_fault(void **state)
{
    struct house *house = *state;

    house_policy(house);
    house->filter.on_fault = ON_FAULT_ACCEPT;
    assert_string_equal(judge_with(house, house, deadline_in(20 * US_PER_S)), "spool.failed");
}

static void test_judge_on_fault(void **state)
{
    struct house *house = *state;

    house_policy(house);
    house->filter.on_fault = ON_FAULT_REFUSE;
    house->fakes[0].mood = MOOD_LARGE;
    assert_string_equal(judge(house), "filter.unscannable.final");
    house->fakes[0].mood = MOOD_CRASH;
    assert_string_equal(judge(house), "filter.crashed"); /* an outage never refuses */
    house->filter.on_fault = ON_FAULT_ACCEPT;
    assert_string_equal(judge(house), "accepted");
    assert_true(
        bytes_equal_text(buffer_view(&house->headers),
                         "X-Holdfast-Filter: clamav; not scanned; cause=filter.crashed\r\n"));
    house->filter.on_fault = ON_FAULT_HOLD;
    assert_string_equal(judge(house), "accepted");
    assert_int_equal(house->transaction.disposition, DISPOSITION_HOLD);
    assert_true(bytes_equal_text(house->transaction.hold_why, "filter clamav: filter.crashed"));
    house->fakes[0].mood = MOOD_FOUND;
    assert_string_equal(judge(house), "filter.refused");
}

static void test_judge_failover(void **state)
{
    struct house *house = *state;

    house->filter.address_count = 2;
    house_policy(house);
    house->fakes[0].mood = MOOD_CRASH;
    house->fakes[1].mood = MOOD_FOUND;
    assert_string_equal(judge(house), "filter.refused");
    house->fakes[0].mood = MOOD_FOUND;
    house->fakes[1].mood = MOOD_CLEAN;
    assert_string_equal(judge(house), "filter.refused"); /* a verdict is never shopped around */
    assert_int_equal(house->fakes[1].scans, 1);
}

static void test_judge_breaker(void **state)
{
    struct house *house = *state;
    struct breaker_row rows[4];

    house_policy(house);
    house->fakes[0].mood = MOOD_HANG; /* its pings hang, too */
    house->filter.timeout_us = 50 * US_PER_MS;
    for (int i = 0; i < 5; i++)
        assert_string_equal(judge(house), "filter.timeout");
    assert_int_equal(policy_breakers(house->policy, rows, COUNT_OF(rows)), 2);
    assert_true(rows[0].open);
    assert_string_equal(rows[0].dependency, "clamav");
    const unsigned scans = house->fakes[0].scans;

    assert_string_equal(judge(house), "filter.timeout"); /* at once */
    assert_string_equal(sender_cause(house, "ours.example"), "filter.timeout");
    assert_true(house->fakes[0].scans - scans <= 5); /* only those that were waiting in its queue */
    house->filter.timeout_us = 5 * US_PER_S;
    house->fakes[0].mood = MOOD_CLEAN;
    assert_true(breaker_closes(house->policy, 0));
    assert_true(house->fakes[0].pings > 0);
    assert_string_equal(judge(house), "accepted");
    assert_string_equal(sender_cause(house, "ours.example"), "accepted");
}

static void test_filter_test(void **state)
{
    struct house *house = *state;

    house_policy(house);
    house->fakes[0].mood = MOOD_FOUND;
    const struct verdict found = policy_test_filter(house->policy, &house->arena, "clamav");

    assert_int_equal(found.cause, CAUSE_ACCEPTED);
    assert_true(bytes_find(found.detail, BYTES_LITERAL("Test.Virus")) < found.detail.count);
    house->fakes[0].mood = MOOD_CRASH;
    const struct verdict crashed = policy_test_filter(house->policy, &house->arena, "clamav");

    assert_int_equal(crashed.cause, CAUSE_FILTER_CRASHED);
    const struct verdict unknown = policy_test_filter(house->policy, &house->arena, "other");

    assert_int_equal(unknown.cause, CAUSE_FILTER_MISCONFIGURED);
}

static int run(void *nothing)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_connect, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_connect_exempt, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_resolver_breaker, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_sender_while_resolver_is_down, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_sender, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_recipient, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_recipients_many, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_recipient_classes, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_recipient_faults, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_judge_moods, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_judge_own_fault, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_judge_on_fault, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_judge_failover, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_judge_breaker, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_filter_test, house_begin, house_end),
    };
    (void)nothing;

    return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}

int main(void)
{
    return world_run(run, NULL, 1);
}
