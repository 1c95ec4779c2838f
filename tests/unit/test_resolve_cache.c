/*
 * resolve's memory, over an asker that is scripted here: what is kept and for how long, who asks
 * and who waits with whom, what is recalled when the server fails, and that all of it is bounded.
 */
#include "world_check.h"

#include <string.h>

#include "resolve/cache.h"

/* ------------------------------------------------------------------ a server by script */

static struct server {
    struct lookup lookup;
    struct dns_record record;
    uint32_t ttl_s;
    bool nxdomain, hangs, secure;
    unsigned asked; /* since the last look */
    struct waitlist released;
    unsigned waiting;
} server;

static struct lookup ask_server(void *argument UNUSED, struct arena *arena UNUSED,
                                const struct dns_question *question, struct dns_answer *answer)
{
    struct waiter waiter;
    enum io_status status = IO_OK;

    server.asked++;
    waitlist_join(&server.released, &waiter);
    while (server.hangs && status == IO_OK)
        status = fiber_park(question->deadline_us);
    waitlist_leave(&server.released, &waiter);
    if (status == IO_CANCELLED)
        return lookup_failed(LOOKUP_REASON_CANCELLED, BYTES_EMPTY);
    if (status != IO_OK)
        return lookup_failed(LOOKUP_REASON_TIMEOUT, BYTES_EMPTY);
    *answer = (struct dns_answer){.records = &server.record,
                                  .count = server.lookup.status == LOOKUP_FOUND ? 1 : 0,
                                  .ttl_s = server.ttl_s,
                                  .secure = server.secure,
                                  .nxdomain = server.nxdomain};
    return server.lookup;
}

static void serve(enum lookup_status status, uint32_t ttl_s)
{
    server = (struct server){.ttl_s = ttl_s};
    server.record =
        (struct dns_record){.type = DNS_MX, .raw = BYTES_LITERAL("\0\12\2mx\7example\0")};
    server.lookup = status == LOOKUP_FOUND ? lookup_found()
                    : status == LOOKUP_ABSENT
                        ? lookup_absent()
                        : lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_LITERAL("SERVFAIL"));
}

static void release(void)
{
    server.hangs = false;
    waitlist_wake_all(&server.released);
}

static struct dns_asker asker(void)
{
    return (struct dns_asker){ask_server, NULL, 20 * US_PER_S, &server.waiting};
}

static struct dns_cache *cache_with(uint64_t stale_us, size_t bytes_max, unsigned questions)
{
    const struct dns_cache_settings settings = {stale_us, bytes_max, questions};
    struct dns_cache *cache = dns_cache_open(&settings);

    CHECK(cache != NULL);
    return cache;
}

/* Asks, and says whether the answer holds what the server has. */
static struct lookup ask(struct dns_cache *cache, const char *name, struct dns_answer *answer)
{
    static struct arena arena = ARENA_WITH_LIMIT(1 * MIB);
    const struct dns_question question = {name, DNS_MX, SOON_ENOUGH};
    const struct dns_asker from = asker();
    const struct lookup lookup = dns_cache_ask(cache, &from, &arena, &question, answer);

    CHECK(lookup.status != LOOKUP_FOUND ||
          (answer->count == 1 && (answer->records[0].raw.count == 0 ||
                                  answer->records[0].preference == 10 || !answer->from_memory)));
    arena_clear(&arena);
    return lookup;
}

static enum lookup_status status_of(struct dns_cache *cache, const char *name)
{
    struct dns_answer answer;

    return ask(cache, name, &answer).status;
}

static void wait_us(uint64_t duration_us)
{
    CHECK(fiber_sleep_until(deadline_in(duration_us)) == IO_OK);
}

/* ------------------------------------------------------------------ what is kept */

static int keeping_main(void *argument UNUSED)
{
    struct dns_cache *cache = cache_with(0, 0, 0);
    struct dns_answer answer;

    serve(LOOKUP_FOUND, 300);
    CHECK(ask(cache, "a.example", &answer).status == LOOKUP_FOUND && !answer.from_memory);
    CHECK(ask(cache, "a.example", &answer).status == LOOKUP_FOUND && answer.from_memory);
    CHECK(server.asked == 1 && answer.ttl_s >= 298 && answer.ttl_s <= 300 && !answer.stale);
    CHECK(status_of(cache, "b.example") == LOOKUP_FOUND && server.asked == 2);
    serve(LOOKUP_ABSENT, 60);
    server.nxdomain = true;
    CHECK(status_of(cache, "gone.example") == LOOKUP_ABSENT);
    CHECK(ask(cache, "gone.example", &answer).status == LOOKUP_ABSENT && answer.nxdomain);
    CHECK(server.asked == 1);
    serve(LOOKUP_FOUND, 0); /* not to be kept */
    CHECK(status_of(cache, "c.example") == LOOKUP_FOUND && status_of(cache, "c.example"));
    CHECK(server.asked == 2);
    serve(LOOKUP_FAILED, 300); /* neither is a failure */
    CHECK(status_of(cache, "d.example") == LOOKUP_FAILED);
    serve(LOOKUP_FOUND, 300);
    CHECK(status_of(cache, "d.example") == LOOKUP_FOUND && server.asked == 1);
    CHECK(status_of(cache, ".") == LOOKUP_FOUND && status_of(cache, ".") == LOOKUP_FOUND);
    CHECK(server.asked == 3); /* the root is a canary */
    dns_cache_close(cache);
    return 0;
}

static void test_keeping(void **state UNUSED)
{
    in_world(keeping_main, NULL, 1);
}

/* A TTL of years counts as an hour, that of an absence as five minutes. */
static int caps_main(void *argument UNUSED)
{
    struct dns_cache *cache = cache_with(0, 0, 0);
    struct dns_answer answer;

    serve(LOOKUP_FOUND, 100000000);
    CHECK(status_of(cache, "a.example") == LOOKUP_FOUND);
    CHECK(ask(cache, "a.example", &answer).status == LOOKUP_FOUND && answer.ttl_s <= 3600);
    serve(LOOKUP_ABSENT, 100000000);
    CHECK(status_of(cache, "b.example") == LOOKUP_ABSENT);
    CHECK(ask(cache, "b.example", &answer).status == LOOKUP_ABSENT && answer.ttl_s <= 300);
    dns_cache_close(cache);
    return 0;
}

static void test_caps(void **state UNUSED)
{
    in_world(caps_main, NULL, 1);
}

static int bounds_main(void *argument UNUSED)
{
    struct dns_cache *cache = cache_with(0, 64 * KIB, 0);
    char name[64];

    serve(LOOKUP_FOUND, 300);
    for (unsigned i = 0; i < 20000; i++) {
        snprintf(name, sizeof name, "name%u.example", i);
        CHECK(status_of(cache, name) == LOOKUP_FOUND);
    }
    CHECK(dns_cache_bytes(cache) <= 64 * KIB && dns_cache_bytes(cache) > 16 * KIB);
    server.asked = 0;
    CHECK(status_of(cache, name) == LOOKUP_FOUND && server.asked == 0); /* the newest is there */
    dns_cache_close(cache);
    return 0;
}

static void test_bounds(void **state UNUSED)
{
    in_world(bounds_main, NULL, 1);
}

/* ------------------------------------------------------------------ recalling */

static struct lookup recall(struct dns_cache *cache, const char *name, struct dns_answer *answer)
{
    static struct arena arena = ARENA_WITH_LIMIT(1 * MIB);
    const struct dns_question question = {.name = name, .type = DNS_MX};
    const struct lookup lookup = dns_cache_recall(cache, &arena, &question, answer);

    CHECK(lookup.status != LOOKUP_FOUND || answer->records[0].preference == 10);
    arena_clear(&arena);
    return lookup;
}

static int recalling_main(void *argument UNUSED)
{
    struct dns_cache *cache = cache_with(60 * US_PER_S, 0, 0), *plain = cache_with(0, 0, 0);
    struct dns_answer answer;

    serve(LOOKUP_FOUND, 1);
    server.secure = true;
    CHECK(status_of(cache, "a.example") == LOOKUP_FOUND);
    CHECK(status_of(plain, "a.example") == LOOKUP_FOUND);
    serve(LOOKUP_ABSENT, 1);
    CHECK(status_of(cache, "gone.example") == LOOKUP_ABSENT);
    CHECK(recall(cache, "never.example", &answer).status == LOOKUP_FAILED);
    wait_us(1100 * US_PER_MS);
    serve(LOOKUP_FAILED, 0);
    CHECK(status_of(cache, "a.example") ==
          LOOKUP_FAILED); /* asking alone never gives what is old */
    CHECK(recall(cache, "a.example", &answer).status == LOOKUP_FOUND && answer.stale);
    CHECK(!answer.secure && answer.ttl_s == 0 && answer.from_memory);
    CHECK(recall(cache, "gone.example", &answer).status == LOOKUP_FAILED); /* never an old "no" */
    CHECK(recall(plain, "a.example", &answer).status == LOOKUP_FAILED);    /* not asked for */
    server.asked = 0;
    CHECK(status_of(cache, "a.example") == LOOKUP_FAILED && server.asked == 0); /* a pause */
    CHECK(recall(cache, "a.example", &answer).status == LOOKUP_FOUND);
    dns_cache_close(cache);
    dns_cache_close(plain);
    return 0;
}

static void test_recalling(void **state UNUSED)
{
    in_world(recalling_main, NULL, 1);
}

/* ------------------------------------------------------------------ together */

static struct {
    struct dns_cache *cache;
    struct gate gate;
    enum lookup_status wanted;
    uint64_t patience_us;
    struct fiber *first;
    enum lookup_reason first_reason;
} crowd;

static void crowd_member(void *argument)
{
    struct arena arena = ARENA_WITH_LIMIT(1 * MIB);
    const bool first = argument != NULL;
    const struct dns_question question = {"crowd.example", DNS_MX,
                                          first ? deadline_in(crowd.patience_us) : SOON_ENOUGH};
    const struct dns_asker from = asker();
    struct dns_answer answer;
    const struct lookup lookup = dns_cache_ask(crowd.cache, &from, &arena, &question, &answer);

    if (first)
        crowd.first_reason = lookup.reason;
    else
        CHECK(lookup.status == crowd.wanted);
    CHECK(lookup.status != LOOKUP_FOUND || answer.count == 1);
    arena_clear(&arena);
    gate_pass(&crowd.gate);
}

/* Two hundred ask one thing; `first` leads them. */
static void crowd_begin(uint64_t first_patience_us, enum lookup_status wanted)
{
    crowd.gate = (struct gate){.left = 200};
    crowd.wanted = wanted;
    crowd.patience_us = first_patience_us;
    server.hangs = true;
    crowd.first = fiber_start("first", crowd_member, &crowd);
    CHECK(crowd.first != NULL);
    fiber_yield();
    for (unsigned i = 1; i < 200; i++)
        CHECK(fiber_start("member", crowd_member, NULL) != NULL);
    fiber_yield();
    CHECK(server.asked == 1);
}

static int crowd_main(void *argument UNUSED)
{
    crowd.cache = cache_with(0, 0, 0);
    serve(LOOKUP_FOUND, 0);
    crowd_begin(30 * US_PER_S, LOOKUP_FOUND);
    release();
    CHECK(gate_wait(&crowd.gate, 0) && server.asked == 1);
    serve(LOOKUP_FAILED, 0); /* the failure is for all who waited */
    crowd_begin(30 * US_PER_S, LOOKUP_FAILED);
    release();
    CHECK(gate_wait(&crowd.gate, 0) && server.asked == 1);
    serve(LOOKUP_FOUND, 0); /* the leader goes: another one leads */
    crowd_begin(30 * US_PER_S, LOOKUP_FOUND);
    fiber_cancel(crowd.first);
    CHECK(gate_wait(&crowd.gate, 199) && crowd.first_reason == LOOKUP_REASON_CANCELLED);
    while (server.asked < 2)
        fiber_yield();
    release();
    CHECK(gate_wait(&crowd.gate, 0) && server.asked == 2);
    serve(LOOKUP_FOUND, 0); /* so it is when the leader had less time than a question takes */
    crowd_begin(50 * US_PER_MS, LOOKUP_FOUND);
    CHECK(gate_wait(&crowd.gate, 199) && crowd.first_reason == LOOKUP_REASON_TIMEOUT);
    while (server.asked < 2)
        fiber_yield();
    release();
    CHECK(gate_wait(&crowd.gate, 0) && server.asked == 2);
    CHECK(server.waiting == 0);
    dns_cache_close(crowd.cache);
    return 0;
}

static void test_crowd(void **state UNUSED)
{
    in_world(crowd_main, NULL, 1);
}

/* ------------------------------------------------------------------ too many */

static void different_member(void *argument)
{
    struct arena arena = ARENA_WITH_LIMIT(1 * MIB);
    const struct dns_question question = {argument, DNS_MX, SOON_ENOUGH};
    const struct dns_asker from = asker();
    struct dns_answer answer;
    const struct lookup lookup = dns_cache_ask(crowd.cache, &from, &arena, &question, &answer);

    CHECK(lookup.status == LOOKUP_FOUND);
    arena_clear(&arena);
    gate_pass(&crowd.gate);
}

static int flood_main(void *argument UNUSED)
{
    static char names[8][32];
    struct dns_answer answer;

    crowd.cache = cache_with(0, 0, 8);
    crowd.gate = (struct gate){.left = 8};
    serve(LOOKUP_FOUND, 0);
    server.hangs = true;
    for (unsigned i = 0; i < 8; i++) {
        snprintf(names[i], sizeof names[i], "n%u.example", i);
        CHECK(fiber_start("member", different_member, names[i]) != NULL);
    }
    fiber_yield();
    CHECK(server.asked == 8);
    const struct lookup ninth = ask(crowd.cache, "ninth.example", &answer);
    CHECK(ninth.status == LOOKUP_FAILED && ninth.reason == LOOKUP_REASON_OVERLOADED);
    release();
    CHECK(gate_wait(&crowd.gate, 0));
    CHECK(status_of(crowd.cache, "ninth.example") == LOOKUP_FOUND);
    dns_cache_close(crowd.cache);
    return 0;
}

static void test_flood(void **state UNUSED)
{
    in_world(flood_main, NULL, 1);
}

/* ------------------------------------------------------------------ on several loops */

static struct gate loops_gate;

static void loops_member(void *argument)
{
    struct arena arena = ARENA_WITH_LIMIT(1 * MIB);
    char name[32];

    for (unsigned i = 0; i < 2000; i++) {
        unsigned waiting = 0;
        const struct dns_asker from = {argument, NULL, 20 * US_PER_S, &waiting};
        struct dns_answer answer;

        snprintf(name, sizeof name, "n%u.example", (unsigned)(random_u64() % 64));
        const struct dns_question question = {name, DNS_MX, SOON_ENOUGH};
        const struct lookup lookup = dns_cache_ask(crowd.cache, &from, &arena, &question, &answer);

        CHECK(lookup.status == LOOKUP_FOUND && answer.records[0].raw.count == 14);
        arena_clear(&arena);
        if (i % 16 == 0)
            fiber_yield();
    }
    gate_pass(&loops_gate);
}

static struct lookup ask_yielding(void *argument UNUSED, struct arena *arena UNUSED,
                                  const struct dns_question *question UNUSED,
                                  struct dns_answer *answer)
{
    static struct dns_record record = {.type = DNS_MX};

    record.raw = BYTES_LITERAL("\0\12\2mx\7example\0");
    fiber_yield();
    *answer = (struct dns_answer){.records = &record, .count = 1, .ttl_s = 0};
    return lookup_found();
}

static int loops_main(void *argument UNUSED)
{
    crowd.cache = cache_with(0, 0, 0);
    loops_gate = (struct gate){.left = 40};
    for (unsigned i = 0; i < 40; i++)
        CHECK(fiber_start_on(loop_session(i % loop_session_count()), "member", loops_member,
                             ask_yielding) != NULL);
    CHECK(gate_wait(&loops_gate, 0));
    dns_cache_close(crowd.cache);
    return 0;
}

static void test_loops(void **state UNUSED)
{
    in_world(loops_main, NULL, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keeping), cmocka_unit_test(test_caps),
        cmocka_unit_test(test_bounds),  cmocka_unit_test(test_recalling),
        cmocka_unit_test(test_crowd),   cmocka_unit_test(test_flood),
        cmocka_unit_test(test_loops),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
