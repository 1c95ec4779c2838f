/* Incidents over virtual time: what opens one, its marks at 15 min, 4 h and 24 h, what ends it, a
 * restart in between, and the bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "history/history.h"
#include "sim/sim.h"

static struct history *history;
static char why[300];
static unsigned opened, marked, closed;

static void count_sink(void *argument UNUSED, const struct event *event)
{
    opened += event->kind == EVENT_INCIDENT_OPEN;
    marked += event->kind == EVENT_INCIDENT_MARK;
    closed += event->kind == EVENT_INCIDENT_CLOSED;
}

static void start(void)
{
    const struct history_settings settings = {.directory = "/spool"};

    assert_int_equal(disk_make_directory("/spool").status, IO_OK);
    history = history_open(&settings, why, sizeof why);
    assert_non_null(history);
    assert_true(observe_add_sink(count_sink, NULL));
}

static void stop(void)
{
    history_close(history);
    observe_remove_sinks();
}

static void pass(uint64_t seconds)
{
    assert_int_equal(fiber_sleep_until(deadline_in(seconds * US_PER_S)), IO_OK);
    history_flush(history);
}

static struct incident_row seen[700];
static unsigned seen_count;

static bool see(void *argument UNUSED, const struct incident_row *row)
{
    seen[seen_count] = *row; /* its views are gone afterwards: numbers only */
    seen_count++;
    return seen_count < COUNT_OF(seen);
}

static unsigned look(enum incident_choice choice)
{
    history_flush(history);
    seen_count = 0;
    const bool read = incident_view("/spool", (struct incident_query){.choice = choice}, see, NULL,
                                    why, sizeof why);
    assert_true(read);
    return seen_count;
}

static void deferred_in(enum cause cause, const char *filter, const char *from)
{
    observe_event(&(struct event){.kind = EVENT_MESSAGE_DEFERRED,
                                  .session = 7,
                                  .stage = STAGE_DOT,
                                  .verdict = verdict_of(cause),
                                  .has_verdict = true,
                                  .client = BYTES_LITERAL("192.0.2.1:1000"),
                                  .from = bytes_of_text(from),
                                  .to = BYTES_LITERAL("b@home.example"),
                                  .filter = bytes_of_text(filter)});
}

static void accepted(const char *from)
{
    observe_event(&(struct event){.kind = EVENT_MESSAGE_ACCEPTED,
                                  .message = random_u64(),
                                  .client = BYTES_LITERAL("192.0.2.1:1000"),
                                  .from = bytes_of_text(from),
                                  .to = BYTES_LITERAL("b@home.example")});
}

struct
try {
    enum event_kind kind;
    uint64_t message;
    enum cause cause;
    enum stage stage;
    uint32_t attempt;
};

static void tried(struct try try)
{
    observe_event(&(struct event){.kind = try.kind,
                                  .message = try.message,
                                  .stage = try.stage,
                                  .verdict = verdict_of(try.cause),
                                  .has_verdict = true,
                                  .from = BYTES_LITERAL("a@home.example"),
                                  .to = BYTES_LITERAL("b@far.example"),
                                  .mx = BYTES_LITERAL("mx.far.example[192.0.2.9]:25"),
                                  .destination = BYTES_LITERAL("mx:far.example"),
                                  .text = BYTES_LITERAL("451 4.3.0 Try again later"),
                                  .attempt = try.attempt,
                                  .next_wall_us = clock_wall_us() + 300 * 1000000});
}

static void refused(uint64_t message, uint32_t attempt)
{
    tried(
        (struct try){EVENT_DELIVERY_DEFERRED, message, CAUSE_REMOTE_DEFERRED, STAGE_MAIL, attempt});
}

static void delivered(uint64_t message)
{
    tried((struct try){EVENT_DELIVERY_DONE, message, CAUSE_DELIVERED, STAGE_DOT, 9});
}

static int in_world(int (*life)(void *argument))
{
    opened = marked = closed = 0;
    sim_open(11);
    const int code = world_run(life, NULL, 1);
    sim_close();
    return code;
}

/* ------------------------------------------------------------------ receiving */

static int life_in(void *argument UNUSED)
{
    start();
    deferred_in(CAUSE_FILTER_TIMEOUT, "clamav", "a@b.example");
    deferred_in(CAUSE_GREYLISTED, "", "g@b.example");              /* a rule, no fault */
    deferred_in(CAUSE_DNS_SENDER_TEMPERROR, "", "a@sick.example"); /* once: bad luck */
    assert_int_equal(look(INCIDENTS_OPEN), 1);
    assert_int_equal(seen[0].state, INCIDENT_OPEN);
    assert_int_equal(seen[0].waiting, 1); /* the ledger's row that has not come back */
    assert_int_equal(look(INCIDENTS_TO_TELL), 0);
    deferred_in(CAUSE_DNS_SENDER_TEMPERROR, "", "a@sick.example");
    assert_int_equal(look(INCIDENTS_OPEN), 2);
    pass(880);
    deferred_in(CAUSE_FILTER_TIMEOUT, "clamav", "a@b.example");
    assert_int_equal(look(INCIDENTS_TO_TELL), 0);
    pass(30);
    assert_int_equal(look(INCIDENTS_TO_TELL), 2);
    assert_int_equal(seen[0].state, INCIDENT_NOTICE);
    assert_int_equal(marked, 2);
    /* Something passes, but the filter still fails for others within a minute. */
    accepted("x@c.example");
    deferred_in(CAUSE_FILTER_TIMEOUT, "clamav", "a@b.example");
    pass(20);
    assert_int_equal(look(INCIDENTS_OPEN), 2);
    accepted("x@c.example"); /* says nothing of sick.example */
    pass(120);
    assert_int_equal(closed, 1);
    assert_int_equal(look(INCIDENTS_OPEN), 1);
    /* It flutters: the same incident again, not a new one. */
    deferred_in(CAUSE_FILTER_TIMEOUT, "clamav", "a@b.example");
    assert_int_equal(look(INCIDENTS_OPEN), 2);
    assert_int_equal(look(INCIDENTS_ALL), 2);
    assert_int_equal(opened, 2);
    accepted("x@c.example");
    pass(7 * 3600); /* sick.example never came back: nothing of it is known any more */
    assert_int_equal(look(INCIDENTS_OPEN), 0);
    deferred_in(CAUSE_FILTER_TIMEOUT, "clamav", "a@b.example");
    assert_int_equal(look(INCIDENTS_ALL), 3);
    stop();
    return 0;
}

static void test_in(void **state UNUSED)
{
    assert_int_equal(in_world(life_in), 0);
}

static void breaker(enum event_kind kind, enum cause cause)
{
    observe_event(&(struct event){.kind = kind,
                                  .verdict = verdict_of(cause),
                                  .has_verdict = kind == EVENT_BREAKER_OPEN,
                                  .filter = BYTES_LITERAL("clamav")});
}

/* While the breaker is open nothing ends it, though nobody comes; its end is the incident's. */
static int life_breaker(void *argument UNUSED)
{
    start();
    deferred_in(CAUSE_FILTER_UNREACHABLE, "clamav", "a@b.example");
    breaker(EVENT_BREAKER_OPEN, CAUSE_FILTER_UNREACHABLE);
    deferred_in(CAUSE_FILTER_DOWN, "", ""); /* told at connect */
    assert_int_equal(look(INCIDENTS_OPEN), 1);
    assert_int_equal(seen[0].count, 2);
    pass(25 * 3600);
    assert_int_equal(look(INCIDENTS_OPEN), 1);
    assert_int_equal(seen[0].state, INCIDENT_ESCALATED);
    assert_int_equal(marked, 3);
    breaker(EVENT_BREAKER_CLOSED, CAUSE_ACCEPTED);
    assert_int_equal(look(INCIDENTS_OPEN), 0);
    assert_int_equal(closed, 1);
    stop();
    return 0;
}

static void test_breaker(void **state UNUSED)
{
    assert_int_equal(in_world(life_breaker), 0);
}

/* ------------------------------------------------------------------ sending */

static int life_out(void *argument UNUSED)
{
    uint64_t messages[INCIDENT_MESSAGES_MAX];
    unsigned count = 0;

    start();
    refused(1, 1); /* greylisted, perhaps */
    assert_int_equal(look(INCIDENTS_ALL), 0);
    delivered(1);
    assert_int_equal(look(INCIDENTS_ALL), 0);
    refused(2, 1);
    refused(3, 1);
    assert_int_equal(look(INCIDENTS_OPEN), 1);
    assert_int_equal(seen[0].waiting, 2);
    pass(901);
    refused(2, 2);
    assert_int_equal(look(INCIDENTS_OPEN), 1);
    assert_int_equal(seen[0].state, INCIDENT_NOTICE);
    assert_int_equal(seen[0].waiting, 2);
    /* A restart goes on with it. */
    stop();
    start();
    assert_int_equal(look(INCIDENTS_OPEN), 1);
    assert_int_equal(seen[0].waiting, 2);
    pass(4 * 3600);
    assert_int_equal(look(INCIDENTS_OPEN), 1);
    assert_int_equal(seen[0].state, INCIDENT_SUSTAINED);
    /* Another reason: one of them moves to another incident. */
    tried((struct try){EVENT_DELIVERY_DEFERRED, 2, CAUSE_CONNECT_REFUSED, STAGE_CONNECT, 3});
    assert_int_equal(look(INCIDENTS_OPEN), 2);
    assert_int_equal(seen[0].waiting, 1);
    assert_int_equal(seen[1].waiting, 1);
    refused(3, 5); /* who is never tried again is not followed for more than a day */
    pass(24 * 3600);
    assert_true(incident_messages("/spool", seen[1].id, messages, &count));
    assert_int_equal(count, 2);
    assert_int_equal(messages[0], 3); /* 2 had failed before it was an incident */
    delivered(3);
    tried((struct try){EVENT_MESSAGE_EXPIRED, 2, CAUSE_EXPIRED, STAGE_CONNECT, 30});
    assert_int_equal(look(INCIDENTS_OPEN), 0);
    assert_int_equal(look(INCIDENTS_ALL), 2);
    assert_int_equal(seen[0].good + seen[1].good, 2); /* one success, at the place of both */
    stop();
    return 0;
}

static void test_out(void **state UNUSED)
{
    assert_int_equal(in_world(life_out), 0);
}

/* Ten years ahead and back: what waits goes on waiting, and it is the same incident all along. */
static int life_leap(void *argument UNUSED)
{
    const int64_t years_us = INT64_C(3650) * 86400 * 1000000;

    start();
    refused(1, 1);
    refused(1, 2);
    assert_int_equal(look(INCIDENTS_OPEN), 1);
    const uint64_t id = seen[0].id;
    sim_wall_jump(years_us);
    pass(3600);
    assert_int_equal(look(INCIDENTS_OPEN), 1);
    refused(1, 3);
    pass(3600);
    sim_wall_jump(-years_us);
    pass(3600);
    assert_int_equal(look(INCIDENTS_OPEN), 1);
    assert_true(seen[0].id == id);
    assert_int_equal(seen[0].waiting, 1);
    assert_int_equal(opened, 1);
    assert_int_equal(closed, 0);
    delivered(1);
    pass(60);
    assert_int_equal(look(INCIDENTS_OPEN), 0);
    /* Nobody hears of this one any more, and the clock that leapt is right: believed after a day,
     * by which it is stale. */
    refused(2, 2);
    sim_wall_jump(years_us);
    pass(20 * 3600);
    assert_int_equal(look(INCIDENTS_OPEN), 1);
    pass(6 * 3600);
    assert_int_equal(look(INCIDENTS_OPEN), 0);
    stop();
    return 0;
}

static void test_leap(void **state UNUSED)
{
    assert_int_equal(in_world(life_leap), 0);
}

static void told(uint64_t incident, const char *way, enum incident_state mark)
{
    observe_event(&(struct event){.kind = EVENT_OPERATOR_TOLD,
                                  .incident = incident,
                                  .attempt = (uint32_t)mark,
                                  .filter = bytes_of_text(way)});
}

static int life_told(void *argument UNUSED)
{
    start();
    deferred_in(CAUSE_SPOOL_FULL, "", "a@b.example");
    pass(1000);
    assert_int_equal(look(INCIDENTS_TO_TELL), 1);
    const uint64_t id = seen[0].id;
    told(id, "mail", INCIDENT_NOTICE);
    assert_int_equal(look(INCIDENTS_TO_TELL), 1); /* not by the command yet */
    told(id, "command", INCIDENT_NOTICE);
    assert_int_equal(look(INCIDENTS_TO_TELL), 0);
    stop();
    start();
    assert_int_equal(look(INCIDENTS_TO_TELL), 0);
    accepted("x@c.example");
    pass(100);
    assert_int_equal(look(INCIDENTS_TO_TELL), 1); /* that it is over */
    assert_int_equal(seen[0].state, INCIDENT_OVER);
    told(id, "mail", INCIDENT_OVER);
    told(id, "command", INCIDENT_OVER);
    assert_int_equal(look(INCIDENTS_TO_TELL), 0);
    stop();
    return 0;
}

static void test_told(void **state UNUSED)
{
    assert_int_equal(in_world(life_told), 0);
}

/* Anybody can send from any number of names that do not resolve. */
static int life_many(void *argument UNUSED)
{
    char from[64];

    start();
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(from, sizeof from, "a@sick%u.example", i / 2);
        deferred_in(CAUSE_DNS_SENDER_TEMPERROR, "", from);
        if (i % 200 == 0)
            history_flush(history);
    }
    deferred_in(CAUSE_FILTER_TIMEOUT, "clamav", "a@b.example");
    assert_true(look(INCIDENTS_OPEN) <= 512);
    assert_true(seen_count > 300);
    stop();
    start(); /* and what a restart reads has its bound too */
    assert_true(look(INCIDENTS_OPEN) <= 512);
    stop();
    return 0;
}

static void test_many(void **state UNUSED)
{
    assert_int_equal(in_world(life_many), 0);
}

/* ------------------------------------------------------------------ transcripts */

static bool see_transcript(void *argument, const struct transcript_row *row)
{
    unsigned *count = argument;

    assert_true(bytes_starts_with(row->text, BYTES_LITERAL("0.000 < 451")));
    ++*count;
    return true;
}

static unsigned transcripts_of(uint64_t id)
{
    unsigned count = 0;

    history_flush(history);
    assert_true(transcript_view("/spool", id, see_transcript, &count, why, sizeof why));
    return count;
}

static int life_transcripts(void *argument UNUSED)
{
    const struct history_settings settings = {
        .directory = "/spool", .transcripts_us = 3600 * US_PER_S, .transcripts_bytes = 64 * KIB};
    static char text[4000];

    memset(text, 'x', sizeof text);
    memcpy(text, "0.000 < 451", 11);
    assert_int_equal(disk_make_directory("/spool").status, IO_OK);
    history = history_open(&settings, why, sizeof why);
    for (uint64_t i = 1; i <= 40; i++)
        observe_event(&(struct event){.kind = EVENT_DELIVERY_DEFERRED,
                                      .message = i,
                                      .session = 1000,
                                      .transcript = bytes_of(text, sizeof text)});
    assert_int_equal(transcripts_of(40), 1);
    pass(120);
    assert_int_equal(transcripts_of(1), 0); /* over the bytes: the oldest go first */
    assert_int_equal(transcripts_of(40), 1);
    assert_true(transcripts_of(1000) <= 16);
    pass(3700);
    assert_int_equal(transcripts_of(40), 0); /* over the days */
    stop();
    return 0;
}

static void test_transcripts(void **state UNUSED)
{
    assert_int_equal(in_world(life_transcripts), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in),         cmocka_unit_test(test_breaker),
        cmocka_unit_test(test_out),        cmocka_unit_test(test_leap),
        cmocka_unit_test(test_told),       cmocka_unit_test(test_many),
        cmocka_unit_test(test_transcripts)};

    observe_configure(LOG_NONE, LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
