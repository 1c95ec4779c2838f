/*
 * Connections to a host with several addresses, in the simulated world, where a family leads
 * nowhere and time is exact: who is dialled when, who wins, what is left behind, and what is told.
 */
#include "seeded_world.h"
#include "fake_spool.h"

#include "deliver/deliver.h"

#define V6 "2001:db8::25"
#define V4 "192.0.2.25"
#define STEP_US (250 * US_PER_MS)
#define A_MOMENT_US (100 * US_PER_MS)
#define CONNECT_US (30 * US_PER_S)

static const char TAKES[] =
    "> 220 peer\n< EHLO\n> 250 peer\n< MAIL\n> 250 ok\n< RCPT\n> 250 ok\n< DATA\n> 354 go\n"
    "<~ .\n> 250 taken\n< QUIT\n> 221 bye\n";
static const char BUSY[] = "> 421 busy\n< QUIT\n> 221 bye\n";

/* One attempt and what came of it. */
struct scene {
    struct config config;
    struct config_sending sending;
    struct resolver *resolver;
    struct spool *spool;
    struct deliver *deliver;
    struct arena arena;
    struct outcome outcome;
    bool host_failed, ended;
    uint64_t took_us;
    char transcript[4096];
};

static struct endpoint at(const char *ip)
{
    struct endpoint endpoint = {.port = 25};

    CHECK(ip_parse(bytes_of_text(ip), &endpoint.ip));
    endpoint.family = endpoint.ip.family;
    return endpoint;
}

static void serve(const char *ip, const char *script)
{
    const struct endpoint endpoint = at(ip);

    CHECK(sim_serve_script(&endpoint, script));
}

static void net_fault(const char *ip, enum sim_net_kind kind, uint64_t delay_us)
{
    const struct endpoint endpoint = at(ip);
    const struct sim_net_fault fault = {.kind = kind, .at = &endpoint, .delay_us = delay_us};

    CHECK(sim_net_fault_add(&fault) >= 0);
}

static struct scene *scene_new(void)
{
    struct scene *scene = calloc(1, sizeof *scene);
    char why[256];

    INVARIANT(scene);
    scene->spool = calloc(1, sizeof *scene->spool);
    INVARIANT(scene->spool);
    scene->resolver = resolver_open(&(struct resolver_settings){0}, why, sizeof why);
    scene->config = (struct config){.hostname = "mx.test", .smtp_port = 25};
    scene->arena = ARENA_WITH_LIMIT(MIB);
    sim_zone_add("x.example", "MX", "10 mx.x.example");
    sim_zone_add("mx.x.example", "AAAA", V6);
    sim_zone_add("mx.x.example", "A", V4);
    return scene;
}

static void scene_send(struct scene *scene)
{
    struct recipient recipient = {.address = {BYTES_LITERAL("r"), BYTES_LITERAL("x.example")}};
    const struct envelope envelope = {.from = {BYTES_LITERAL("a"), BYTES_LITERAL("x.test")},
                                      .recipients = &recipient,
                                      .recipient_count = 1};
    const struct deliver_settings settings = {
        .config = &scene->config, .spool = scene->spool, .resolver = scene->resolver};
    const uint32_t index = 0;
    struct queued_message *message = NULL;
    struct destination to;
    char why[256];

    scene->config.relay_sending = scene->sending;
    scene->deliver = deliver_open(&settings, why, sizeof why);
    deliver_route(scene->deliver, &recipient, &to);
    struct deliver_channel *channel = deliver_channel_open(scene->deliver, &to);
    const uint64_t id = fake_add(scene->spool, &envelope, BYTES_LITERAL("A: b\r\n\r\nc\r\n"))->id;
    CHECK(spool_take_id(scene->spool, id, &message).status == LOOKUP_FOUND);
    struct attempt attempt = {.to = &to,
                              .message = message,
                              .recipients = &index,
                              .recipient_count = 1,
                              .outcomes = &scene->outcome,
                              .arena = &scene->arena};
    const uint64_t begun_us = clock_now_us();
    deliver_attempt(channel, &attempt, &scene->host_failed);
    scene->took_us = clock_now_us() - begun_us;
    snprintf(scene->transcript, sizeof scene->transcript, "%.*s", BYTES_PRINT(attempt.transcript));
    spool_release(scene->spool, message);
    deliver_channel_close(channel);
    scene->ended = true;
}

static void scene_end(struct scene *scene)
{
    deliver_close(scene->deliver);
    resolver_close(scene->resolver);
    arena_clear(&scene->arena);
    fake_free(scene->spool);
    free(scene);
}

static bool told(const struct scene *scene, const char *text)
{
    const bool found = strstr(scene->transcript, text) != NULL;

    if (!found)
        fprintf(stderr, "not in the transcript: %s\n%s\n", text, scene->transcript);
    return found;
}

static bool went_to(const struct scene *scene, const char *ip)
{
    const bool there =
        bytes_find(scene->outcome.host, bytes_of_text(ip)) < scene->outcome.host.count;

    if (!there)
        fprintf(stderr, "went to %.*s: %.*s\n", BYTES_PRINT(scene->outcome.host),
                BYTES_PRINT(scene->outcome.reply));
    return there && scene->outcome.verdict.cause == CAUSE_DELIVERED && !scene->host_failed;
}

/* ------------------------------------------------------------------ who wins */

WORLD(test_first_family_answers)
{
    struct scene *scene = scene_new();

    serve(V6, TAKES);
    serve(V4, TAKES);
    scene_send(scene);
    CHECK(went_to(scene, V6));
    CHECK(sim_net_connections() == 1); /* nobody else was bothered */
    scene_end(scene);
    return 0;
}

WORLD(test_first_family_leads_nowhere)
{
    struct scene *scene = scene_new();

    net_fault(V6, SIM_NET_BLACK_HOLE, 0);
    serve(V4, TAKES);
    scene_send(scene);
    CHECK(went_to(scene, V4));
    CHECK(scene->took_us >= STEP_US && scene->took_us < STEP_US + A_MOMENT_US);
    CHECK(sim_net_connections() == 2);
    CHECK(fiber_count() <= 3); /* no attempt outlives the race: main, the peer's two at most */
    scene_end(scene);
    return 0;
}

WORLD(test_first_family_refuses)
{
    struct scene *scene = scene_new();

    serve(V4, TAKES); /* nobody listens at the other address */
    scene_send(scene);
    CHECK(went_to(scene, V4));
    CHECK(scene->took_us < A_MOMENT_US); /* the second did not wait for its turn */
    scene_end(scene);
    return 0;
}

/* It would have answered, but later than the other that began a step behind it. */
WORLD(test_first_family_is_slow)
{
    struct scene *scene = scene_new();

    serve(V6, "hang\n");
    net_fault(V6, SIM_NET_SLOW, 2 * STEP_US);
    serve(V4, TAKES);
    scene_send(scene);
    CHECK(went_to(scene, V4));
    CHECK(scene->took_us < STEP_US + A_MOMENT_US);
    CHECK(sim_net_open() == 0 || fiber_sleep_until(deadline_in(US_PER_S)) == IO_OK);
    CHECK(sim_net_open() == 0); /* the slow one was closed, not forgotten */
    scene_end(scene);
    return 0;
}

/* Both stand in the same instant: one is used, and the other is closed. */
WORLD(test_both_answer_at_once)
{
    struct scene *scene = scene_new();

    sim_net_weather(&(struct sim_net_weather){.latency_us = 100, .buffer_bytes = 64 * KIB});
    serve(V6, TAKES);
    net_fault(V6, SIM_NET_SLOW, 2 * STEP_US);
    serve(V4, TAKES);
    net_fault(V4, SIM_NET_SLOW, STEP_US);
    scene_send(scene);
    CHECK(scene->outcome.verdict.cause == CAUSE_DELIVERED && sim_net_connections() == 2);
    sim_net_fault_clear();
    CHECK(sim_net_open() == 0 || fiber_sleep_until(deadline_in(5 * US_PER_S)) == IO_OK);
    CHECK(sim_net_open() == 0);
    scene_end(scene);
    return 0;
}

/* ------------------------------------------------------------------ who does not */

/* The session of the winner comes to nothing: the other address is tried as well. */
WORLD(test_winner_is_busy)
{
    struct scene *scene = scene_new();

    serve(V6, BUSY);
    serve(V4, TAKES);
    scene_send(scene);
    CHECK(went_to(scene, V4));
    scene_end(scene);
    return 0;
}

WORLD(test_nobody_answers)
{
    struct scene *scene = scene_new();

    net_fault(V6, SIM_NET_BLACK_HOLE, 0);
    net_fault(V4, SIM_NET_BLACK_HOLE, 0);
    scene_send(scene);
    CHECK(scene->outcome.verdict.cause == CAUSE_CONNECT_TIMEOUT && scene->host_failed);
    CHECK(scene->took_us >= CONNECT_US + STEP_US && scene->took_us < CONNECT_US + 2 * STEP_US);
    CHECK(told(scene, "no connection to mx.x.example[" V6 "]:25: timeout"));
    CHECK(told(scene, "no connection to mx.x.example[" V4 "]:25: timeout"));
    scene_end(scene);
    return 0;
}

/* Each cause is told, and the host fails by what an address said that a way led to. */
WORLD(test_each_for_its_own_reason)
{
    struct scene *scene = scene_new();

    net_fault(V6, SIM_NET_REFUSE, 0);
    serve(V4, BUSY);
    scene_send(scene);
    CHECK(told(scene, "no connection to mx.x.example[" V6 "]:25: Connection refused"));
    CHECK(told(scene, "connected to mx.x.example[" V4 "]:25"));
    CHECK(told(scene, "421 busy"));
    CHECK(scene->host_failed);
    scene_end(scene);
    return 0;
}

/* A host that is less preferred is not raced: it is tried when the better one has failed. */
WORLD(test_preference_is_no_race)
{
    struct scene *scene = scene_new();

    sim_zone_add("x.example", "MX", "20 second.x.example");
    sim_zone_add("second.x.example", "A", "192.0.2.26");
    net_fault(V6, SIM_NET_BLACK_HOLE, 0);
    net_fault(V4, SIM_NET_BLACK_HOLE, 0);
    serve("192.0.2.26", TAKES);
    scene_send(scene);
    CHECK(went_to(scene, "192.0.2.26"));
    CHECK(scene->took_us >= CONNECT_US);
    scene_end(scene);
    return 0;
}

/* Not more than three at once, however many addresses. */
WORLD(test_many_addresses)
{
    struct scene *scene = scene_new();

    for (unsigned i = 0; i < 5; i++) {
        char ip[32];
        snprintf(ip, sizeof ip, "192.0.2.%u", 100 + i);
        sim_zone_add("mx.x.example", "A", ip);
        net_fault(ip, SIM_NET_BLACK_HOLE, 0);
    }
    net_fault(V6, SIM_NET_BLACK_HOLE, 0);
    net_fault(V4, SIM_NET_BLACK_HOLE, 0);
    scene_send(scene);
    CHECK(scene->outcome.verdict.cause == CAUSE_CONNECT_TIMEOUT);
    CHECK(scene->took_us >= 3 * CONNECT_US && scene->took_us < 4 * CONNECT_US); /* 7 by threes */
    scene_end(scene);
    return 0;
}

/* ------------------------------------------------------------------ from where; the end */

struct seen {
    struct endpoint from;
};

static void look(void *argument, struct stream *stream)
{
    ((struct seen *)argument)->from = stream->remote;
    const bool played = sim_play(stream, bytes_of_text(BUSY), SOON_ENOUGH);
    (void)played;
}

/* Each family has its own source address. */
WORLD(test_source_addresses)
{
    struct scene *scene = scene_new();
    struct seen by6 = {0}, by4 = {0};
    const struct endpoint at6 = at(V6), at4 = at(V4);

    scene->sending.source6 = at("2001:db8::99").ip;
    scene->sending.source4 = at("192.0.2.99").ip;
    CHECK(sim_serve(&at6, look, &by6) && sim_serve(&at4, look, &by4));
    scene_send(scene);
    CHECK(ip_equal(&by6.from.ip, &scene->sending.source6));
    CHECK(ip_equal(&by4.from.ip, &scene->sending.source4));
    scene_end(scene);
    return 0;
}

static void send_main(void *argument)
{
    scene_send(argument);
}

/* Who races is cancelled: it ends at once, and leaves nobody behind. */
WORLD(test_cancelled_in_a_race)
{
    struct scene *scene = scene_new();

    net_fault(V6, SIM_NET_BLACK_HOLE, 0);
    net_fault(V4, SIM_NET_BLACK_HOLE, 0);
    struct fiber *sender = fiber_start("sender", send_main, scene);
    CHECK(sender && fiber_sleep_until(deadline_in(US_PER_S)) == IO_OK);
    CHECK(!scene->ended);
    fiber_cancel(sender);
    CHECK(fiber_sleep_until(deadline_in(US_PER_S)) == IO_OK);
    CHECK(scene->ended && scene->outcome.verdict.cause == CAUSE_UNDECIDED && !scene->host_failed);
    CHECK(sim_net_open() == 0);
    scene_end(scene);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_family_answers),
        cmocka_unit_test(test_first_family_leads_nowhere),
        cmocka_unit_test(test_first_family_refuses),
        cmocka_unit_test(test_first_family_is_slow),
        cmocka_unit_test(test_both_answer_at_once),
        cmocka_unit_test(test_winner_is_busy),
        cmocka_unit_test(test_nobody_answers),
        cmocka_unit_test(test_each_for_its_own_reason),
        cmocka_unit_test(test_preference_is_no_race),
        cmocka_unit_test(test_many_addresses),
        cmocka_unit_test(test_source_addresses),
        cmocka_unit_test(test_cancelled_in_a_race),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
