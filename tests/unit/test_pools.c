/*
 * Domains that share their mail hosts, in the simulated world: how many connections the hosts see,
 * what one domain's troubles do to the other, and what a session opened for one may not carry.
 */
#include "seeded_world.h"
#include "fake_spool.h"

#include "schedule/schedule.h"
#include "wire/wire.h"

#define HOST "192.0.2.25"
#define OTHER "192.0.2.26"

/* A mail host that counts. */
struct host {
    unsigned connections, open, most_open, messages;
    unsigned per_session[64]; /* messages of each connection, in order */
    bool mute;                /* it never greets */
    uint64_t takes_us;        /* for each message */
    char heard[64 * 1024];    /* MAIL and RCPT lines; "--" parts connections */
    size_t heard_count;
};

struct house {
    struct config config;
    struct config_route route;
    struct config_retry_step step;
    struct resolver *resolver;
    struct spool *spool;
    struct deliver *deliver;
    struct schedule *schedule;
    struct host host, other;
};

static struct endpoint at(const char *ip)
{
    struct endpoint endpoint = {.port = 25};

    CHECK(ip_parse(bytes_of_text(ip), &endpoint.ip));
    endpoint.family = endpoint.ip.family;
    return endpoint;
}

static void hear(struct host *host, struct bytes line)
{
    const int more = snprintf(host->heard + host->heard_count,
                              sizeof host->heard - host->heard_count, "%.*s\n", BYTES_PRINT(line));
    host->heard_count = MIN_OF(host->heard_count + (size_t)more, sizeof host->heard - 1);
}

static const char *answer_to(struct bytes line)
{
    if (bytes_starts_with_nocase(line, BYTES_LITERAL("QUIT")))
        return "221 bye\r\n";
    if (bytes_starts_with_nocase(line, BYTES_LITERAL("DATA")))
        return "354 go\r\n";
    return "250 ok\r\n";
}

static bool take_body(struct host *host, struct wire_input *input)
{
    struct bytes line = BYTES_EMPTY;

    do {
        if (wire_read_line(input, SOON_ENOUGH, &line) != WIRE_OK)
            return false;
    } while (!bytes_equal_text(line, "."));
    const enum io_status slept = fiber_sleep_until(deadline_in(host->takes_us));
    (void)slept;
    host->messages++;
    host->per_session[MIN_OF(host->connections, 64u) - 1]++;
    return true;
}

static bool host_answers(struct host *host, struct stream *stream, struct wire_input *input)
{
    struct bytes line = BYTES_EMPTY;

    if (wire_read_line(input, SOON_ENOUGH, &line) != WIRE_OK)
        return false;
    if (bytes_starts_with(line, BYTES_LITERAL("MAIL")) ||
        bytes_starts_with(line, BYTES_LITERAL("RCPT")))
        hear(host, line);
    const char *answer = answer_to(line);
    bool on = stream_write(stream, bytes_of_text(answer), SOON_ENOUGH).status == IO_OK;
    if (on && *answer == '3')
        on = take_body(host, input) &&
             stream_write(stream, BYTES_LITERAL("250 taken\r\n"), SOON_ENOUGH).status == IO_OK;
    return on && answer[1] != '2';
}

static void host_serve(void *argument, struct stream *stream)
{
    struct host *host = argument;
    struct wire_input input;

    host->connections++;
    host->open++;
    host->most_open = MAX_OF(host->most_open, host->open);
    hear(host, BYTES_LITERAL("--"));
    wire_input_open(&input, stream);
    if (host->mute) {
        struct bytes line;
        const enum wire_status status = wire_read_line(&input, SOON_ENOUGH, &line);
        (void)status;
    } else if (stream_write(stream, BYTES_LITERAL("220 host\r\n"), SOON_ENOUGH).status == IO_OK) {
        while (host_answers(host, stream, &input))
            ;
    }
    wire_input_close(&input);
    host->open--;
}

static struct house *house_new(void)
{
    struct house *house = calloc(1, sizeof(*house));
    const struct endpoint host = at(HOST), other = at(OTHER);
    char why[256];

    INVARIANT(house);
    house->spool = calloc(1, sizeof(*house->spool));
    INVARIANT(house->spool);
    house->step = (struct config_retry_step){3600 * US_PER_S, 0};
    house->config = (struct config){.hostname = "mx.test",
                                    .spool = "/nowhere",
                                    .smtp_port = 25,
                                    .retry = {.steps = &house->step,
                                              .step_count = 1,
                                              .warn_after_us = 86400 * US_PER_S,
                                              .expire_after_us = 5 * 86400 * US_PER_S}};
    house->resolver = resolver_open(&(struct resolver_settings){0}, why, sizeof why);
    CHECK(sim_serve(&host, host_serve, &house->host));
    CHECK(sim_serve(&other, host_serve, &house->other));
    sim_zone_add("mx.shared.example", "A", HOST);
    sim_zone_add("mx2.shared.example", "A", OTHER);
    sim_zone_add("a.example", "MX", "10 mx.shared.example");
    sim_zone_add("b.example", "MX", "99 MX.shared.example"); /* the numbers alone do not matter */
    fake_viewed = house->spool;
    return house;
}

static void house_open(struct house *house)
{
    const struct deliver_settings deliver = {
        .config = &house->config, .spool = house->spool, .resolver = house->resolver};
    char why[256];

    house->deliver = deliver_open(&deliver, why, sizeof why);
    INVARIANT(house->deliver);
    const struct schedule_settings settings = {
        .config = &house->config, .spool = house->spool, .deliver = house->deliver};
    house->schedule = schedule_open(&settings, why, sizeof why);
    INVARIANT(house->schedule);
}

static void house_end(struct house *house)
{
    schedule_stop(house->schedule, SOON_ENOUGH);
    CHECK(schedule_close(house->schedule));
    deliver_close(house->deliver);
    resolver_close(house->resolver);
    fake_viewed = NULL;
    fake_free(house->spool);
    free(house);
}

static struct fake_message *send_to(struct house *house, const char *domain)
{
    struct recipient recipient = {.address = {BYTES_LITERAL("r"), bytes_of_text(domain)}};
    const struct envelope envelope = {.from = {bytes_of_text(domain), BYTES_LITERAL("from.test")},
                                      .recipients = &recipient,
                                      .recipient_count = 1,
                                      .accepted_wall_us = clock_wall_us()};

    return fake_add(house->spool, &envelope, BYTES_LITERAL("Subject: hi\r\n\r\nbody\r\n"));
}

static void pass(uint64_t duration_us)
{
    CHECK(fiber_sleep_until(deadline_in(duration_us)) == IO_OK);
}

static bool delivered(const struct fake_message *message)
{
    return message->recipients[0].state == RECIPIENT_DELIVERED;
}

static unsigned failures_of(struct house *house, const char *key)
{
    struct destination_row rows[16];
    const unsigned count = schedule_destinations(house->schedule, rows, 16);

    for (unsigned i = 0; i < count; i++)
        if (strcmp(rows[i].key, key) == 0)
            return rows[i].failures;
    return 0;
}

/* ------------------------------------------------------------------ sharing */

/* What follows within the second finds the connection that the other domain's mail went by; each
 * has a transaction of its own. */
WORLD(test_one_session_for_both)
{
    struct house *house = house_new();

    house_open(house);
    const struct fake_message *a = send_to(house, "a.example");
    pass(US_PER_S / 2);
    const struct fake_message *b = send_to(house, "b.example");
    pass(US_PER_S / 2);
    const struct fake_message *again = send_to(house, "a.example");
    pass(US_PER_S / 2);
    CHECK(delivered(a) && delivered(b) && delivered(again));
    CHECK(house->host.connections == 1 && house->host.messages == 3);
    CHECK(strcmp(house->host.heard,
                 "--\nMAIL FROM:<a.example@from.test>\nRCPT TO:<r@a.example>\n"
                 "MAIL FROM:<b.example@from.test>\nRCPT TO:<r@b.example>\n"
                 "MAIL FROM:<a.example@from.test>\nRCPT TO:<r@a.example>\n") == 0);
    house_end(house);
    return 0;
}

/* A hundred messages to five domains are met by one window, not by five, and their order is fair.
 */
WORLD(test_one_window_for_all)
{
    static const char *const DOMAINS[] = {"a.example", "b.example", "c.example", "d.example",
                                          "e.example"};
    struct house *house = house_new();

    house->host.takes_us = 100 * US_PER_MS;
    for (unsigned i = 2; i < COUNT_OF(DOMAINS); i++)
        sim_zone_add(DOMAINS[i], "MX", "10 mx.shared.example");
    for (unsigned i = 0; i < 200; i++)
        send_to(house, DOMAINS[i % COUNT_OF(DOMAINS)]);
    house_open(house);
    pass(30 * US_PER_S);
    CHECK(house->host.messages == 200);
    CHECK(house->host.most_open > 5 && house->host.most_open <= 20); /* it grew to the cap */
    CHECK(house->host.connections <= 25);
    house_end(house);
    return 0;
}

/* The same hosts by other preferences are another set. */
WORLD(test_preferences_part)
{
    struct house *house = house_new();

    sim_zone_add("c.example", "MX", "10 mx.shared.example");
    sim_zone_add("c.example", "MX", "20 mx2.shared.example");
    sim_zone_add("d.example", "MX", "20 mx.shared.example");
    sim_zone_add("d.example", "MX", "10 mx2.shared.example");
    house_open(house);
    const struct fake_message *c = send_to(house, "c.example");
    pass(US_PER_S / 2);
    const struct fake_message *d = send_to(house, "d.example");
    pass(US_PER_S / 2);
    CHECK(delivered(c) && delivered(d));
    CHECK(house->host.messages == 1 && house->other.messages == 1);
    house_end(house);
    return 0;
}

/* ------------------------------------------------------------------ trouble */

/* Dead hosts are dead for all domains there, and all are tried when they are back. */
WORLD(test_death_and_recovery_are_shared)
{
    struct house *house = house_new();
    const struct endpoint host = at(HOST);
    const struct sim_net_fault fault = {.kind = SIM_NET_REFUSE, .at = &host};
    const struct fake_message *messages[12];

    house->step.every_us = 60 * US_PER_S;
    const int slot = sim_net_fault_add(&fault);
    house_open(house);
    for (unsigned i = 0; i < COUNT_OF(messages); i++)
        messages[i] = send_to(house, i % 2 ? "a.example" : "b.example");
    pass(10 * US_PER_S);
    const uint64_t dialled = sim_net_connections();
    CHECK(dialled >= 3 && dialled <= 8); /* then the pause holds for both */
    CHECK(failures_of(house, "mx:a.example") >= 3);
    CHECK(failures_of(house, "mx:a.example") == failures_of(house, "mx:b.example"));
    sim_net_fault_end(slot);
    pass(130 * US_PER_S);
    for (unsigned i = 0; i < COUNT_OF(messages); i++)
        CHECK(delivered(messages[i]));
    CHECK(failures_of(house, "mx:a.example") == 0);
    house_end(house);
    return 0;
}

/* A domain whose names fail does not slow the other one. */
WORLD(test_names_are_its_own)
{
    struct house *house = house_new();

    house->step.every_us = 5 * US_PER_S;
    house_open(house);
    const struct fake_message *b = send_to(house, "b.example");
    pass(US_PER_S / 2);
    CHECK(delivered(b)); /* it is among those who share */
    sim_zone_fault("b.example", SIM_ZONE_SERVFAIL, 0);
    pass(61 * US_PER_S);
    for (unsigned i = 0; i < 6; i++)
        send_to(house, "b.example");
    pass(20 * US_PER_S);
    CHECK(failures_of(house, "mx:b.example") >= 3);
    CHECK(failures_of(house, "mx:a.example") == 0);
    const struct fake_message *a = send_to(house, "a.example");
    pass(US_PER_S);
    CHECK(delivered(a));
    sim_zone_fault("b.example", SIM_ZONE_FINE, 0);
    pass(40 * US_PER_S);
    CHECK(house->host.messages == 8); /* its queue was brought back as well */
    house_end(house);
    return 0;
}

/* Users with a next hop of their own wait for it as others do for their domain's, and are brought
 * back as well. */
WORLD(test_own_next_hop_recovers)
{
    struct house *house = house_new();
    struct config_domain domain = {.name = "home.example", .users = ""};
    struct config_retry_step steps[] = {{US_PER_S, 4 * US_PER_S}, {3600 * US_PER_S, 0}};
    const struct endpoint host = at(HOST);
    const struct sim_net_fault fault = {.kind = SIM_NET_REFUSE, .at = &host};
    struct fake_message *messages[8];
    uint64_t touched = 0;

    house->config.domains = &domain;
    house->config.domain_count = 1;
    house->config.retry.steps = steps;
    house->config.retry.step_count = COUNT_OF(steps);
    const int slot = sim_net_fault_add(&fault);
    for (unsigned i = 0; i < COUNT_OF(messages); i++) {
        messages[i] = send_to(house, "home.example");
        messages[i]->envelope.recipients[0].deliver = BYTES_LITERAL("smtp:192.0.2.25:25");
    }
    house_open(house);
    pass(30 * US_PER_S);
    sim_net_fault_end(slot);
    pass(30 * US_PER_S);
    CHECK(house->host.messages == 0); /* their next time is far */
    const struct schedule_request retry = {.action = ACTION_RETRY, .id = messages[0]->id};
    CHECK(schedule_act(house->schedule, &retry, &touched).status == LOOKUP_FOUND);
    pass(30 * US_PER_S);
    for (unsigned i = 0; i < COUNT_OF(messages); i++)
        CHECK(delivered(messages[i]));
    house_end(house);
    return 0;
}

/* ------------------------------------------------------------------ what is not shared */

/* A domain that demands TLS is never served by a session in clear, and its failures are its own. */
WORLD(test_policy_is_not_shared)
{
    struct house *house = house_new();

    house->route = (struct config_route){.domain = "b.example", .tls = TLS_USE_MUST};
    house->config.routes = &house->route;
    house->config.route_count = 1;
    house_open(house);
    for (unsigned i = 0; i < 6; i++) {
        const struct fake_message *a = send_to(house, "a.example");
        pass(US_PER_S / 4);
        const struct fake_message *b = send_to(house, "b.example");
        pass(US_PER_S / 4);
        CHECK(delivered(a));
        CHECK(!delivered(b) && b->recipients[0].cause == CAUSE_TLS_POLICY_UNMET);
    }
    CHECK(strstr(house->host.heard, "b.example") == NULL);
    CHECK(failures_of(house, "mx:a.example") == 0 && failures_of(house, "mx:b.example") >= 3);
    house_end(house);
    return 0;
}

/* Who shows up by another name does not use a session that was opened by ours. */
WORLD(test_how_we_show_up_is_not_shared)
{
    struct house *house = house_new();

    house->route = (struct config_route){.domain = "b.example", .sending = {.helo = "other.test"}};
    house->config.routes = &house->route;
    house->config.route_count = 1;
    house_open(house);
    const struct fake_message *a = send_to(house, "a.example");
    pass(US_PER_S / 4);
    const struct fake_message *b = send_to(house, "b.example");
    pass(US_PER_S / 4);
    CHECK(delivered(a) && delivered(b));
    CHECK(house->host.connections == 2);
    house_end(house);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_session_for_both),
        cmocka_unit_test(test_one_window_for_all),
        cmocka_unit_test(test_preferences_part),
        cmocka_unit_test(test_death_and_recovery_are_shared),
        cmocka_unit_test(test_names_are_its_own),
        cmocka_unit_test(test_own_next_hop_recovers),
        cmocka_unit_test(test_policy_is_not_shared),
        cmocka_unit_test(test_how_we_show_up_is_not_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
