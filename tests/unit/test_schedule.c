/* schedule's arithmetic: when the next try comes, when a message expires, what a greylisting names.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "schedule/inside.h"

#define MINUTE (60 * (int64_t)US_PER_S)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define EVEN 500 /* the chance that leaves a step as it is */

static struct config_retry_step default_steps[] = {
    {5 * 60 * US_PER_S, 0},
    {10 * 60 * US_PER_S, 0},
    {20 * 60 * US_PER_S, 0},
    {30 * 60 * US_PER_S, 0},
    {3600 * US_PER_S, 6 * 3600 * US_PER_S},
    {2 * 3600 * US_PER_S, 24 * 3600 * US_PER_S},
    {4 * 3600 * US_PER_S, 0},
};
static const struct config_retry DEFAULT = {.steps = default_steps,
                                            .step_count = COUNT_OF(default_steps),
                                            .warn_after_us = 4 * 3600 * US_PER_S,
                                            .expire_after_us = 5 * 86400 * US_PER_S,
                                            .ambiguous_pause_us = 600 * US_PER_S,
                                            .jitter_percent = 10};

static void test_default_schedule_step_by_step(void **state)
{
    (void)state;
    static const struct {
        uint32_t attempts;
        int64_t age, wait;
    } ROWS[] = {
        {0, 0, 5 * MINUTE}, /* never asked; still not a hot loop */
        {1, 0, 5 * MINUTE},
        {2, 5 * MINUTE, 10 * MINUTE},
        {3, 15 * MINUTE, 20 * MINUTE},
        {4, 35 * MINUTE, 30 * MINUTE},
        {5, 65 * MINUTE, HOUR},
        {9, 5 * HOUR + 5 * MINUTE, HOUR},
        {10, 6 * HOUR, 2 * HOUR},
        {18, 23 * HOUR, 2 * HOUR},
        {19, 24 * HOUR, 4 * HOUR},
        {40, 4 * DAY, 4 * HOUR},
        {1000, 50 * DAY, 4 * HOUR},
        {1, 10 * HOUR, 5 * MINUTE}, /* first tried after a long outage of ours: from the start */
        {2, -3 * DAY, 10 * MINUTE}, /* a clock that went back */
    };
    for (unsigned i = 0; i < COUNT_OF(ROWS); i++) {
        const int64_t accepted = 1000 * DAY, now = accepted + ROWS[i].age;
        assert_int_equal(schedule_next_wall_us(&DEFAULT, ROWS[i].attempts, accepted, now, EVEN) -
                             now,
                         ROWS[i].wait);
    }
}

static void test_whole_life_by_the_default_schedule(void **state)
{
    (void)state;
    static const int64_t MINUTES[] = {5, 15, 35, 65, 125, 185, 245, 305, 365, 485, 605, 725};
    int64_t now = 0;
    uint32_t attempts = 1;

    for (unsigned i = 0; i < COUNT_OF(MINUTES); i++) {
        now = schedule_next_wall_us(&DEFAULT, attempts++, 0, now, EVEN);
        assert_int_equal(now / MINUTE, MINUTES[i]);
    }
    while (now < 5 * DAY)
        now = schedule_next_wall_us(&DEFAULT, attempts++, 0, now, EVEN);
    assert_int_equal(attempts, 43);
}

static void test_jitter_is_ten_percent_to_either_side(void **state)
{
    (void)state;
    assert_int_equal(schedule_next_wall_us(&DEFAULT, 1, 0, 0, 0), 5 * MINUTE * 9 / 10);
    assert_int_equal(schedule_next_wall_us(&DEFAULT, 1, 0, 0, 1000), 5 * MINUTE * 11 / 10);
    for (unsigned chance = 0; chance < 5000; chance += 7) { /* beyond 1000: clamped */
        const int64_t next = schedule_next_wall_us(&DEFAULT, 19, 0, DAY, chance) - DAY;
        assert_in_range(next, 4 * HOUR * 9 / 10, 4 * HOUR * 11 / 10);
    }
}

static void test_short_and_empty_schedules(void **state)
{
    (void)state;
    struct config_retry_step one[] = {{2 * US_PER_S, 0}};
    struct config_retry_step until[] = {{US_PER_S, 10 * US_PER_S}};
    const struct config_retry repeats = {.steps = one, .step_count = 1};
    const struct config_retry last_until = {.steps = until, .step_count = 1};
    const struct config_retry nothing = {0};

    for (uint32_t attempts = 0; attempts < 9; attempts++)
        assert_int_equal(schedule_next_wall_us(&repeats, attempts, 0, 0, EVEN), 2 * US_PER_S);
    assert_int_equal(schedule_next_wall_us(&last_until, 50, 0, HOUR, EVEN) - HOUR, US_PER_S);
    assert_int_equal(schedule_next_wall_us(&nothing, 1, 0, 0, EVEN), 30 * MINUTE);
}

static enum cause expiry(uint32_t attempts, int64_t age, enum cause cause)
{
    const struct verdict verdict =
        schedule_expire(&DEFAULT, attempts, 1000 * DAY, 1000 * DAY + age, verdict_of(cause));

    assert_int_equal(verdict.kind, cause_row(verdict.cause)->kind);
    return verdict.cause;
}

static void test_expiry_needs_time_and_attempts(void **state)
{
    (void)state;
    const uint32_t fair = schedule_fair_attempts(&DEFAULT);

    assert_int_equal(fair, 12);
    assert_int_equal(expiry(fair, 5 * DAY, CAUSE_CONNECT_REFUSED), CAUSE_EXPIRED);
    assert_int_equal(expiry(fair, 5 * DAY - 1, CAUSE_CONNECT_REFUSED), CAUSE_CONNECT_REFUSED);
    /* The clock jumped, or we were down for a week. */
    assert_int_equal(expiry(fair - 1, 3650 * DAY, CAUSE_CONNECT_REFUSED), CAUSE_CONNECT_REFUSED);
    assert_int_equal(expiry(1000, -3650 * DAY, CAUSE_CONNECT_REFUSED), CAUSE_CONNECT_REFUSED);
}

static void test_nothing_of_ours_ever_expires(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CAUSE_COUNT; i++) {
        const struct cause_row *row = cause_row((enum cause)i);
        const enum cause after = expiry(1000, 100 * DAY, (enum cause)i);
        if (row->kind != VERDICT_DEFER || row->side == SIDE_OURS)
            assert_int_equal(after, i);
        else
            assert_int_equal(after, CAUSE_EXPIRED);
    }
}

static void test_fair_attempts_of_short_lives(void **state)
{
    (void)state;
    struct config_retry_step steps[] = {{US_PER_S, 0}};
    struct config_retry retry = {.steps = steps, .step_count = 1, .expire_after_us = 4 * US_PER_S};

    assert_int_equal(schedule_fair_attempts(&retry), 2);
    retry.expire_after_us = 0;
    assert_int_equal(schedule_fair_attempts(&retry), 1);
    retry.expire_after_us = UINT64_MAX;
    assert_int_equal(schedule_fair_attempts(&retry), 12);
    steps[0].every_us = 0; /* a schedule of no wait ends, too */
    assert_int_equal(schedule_fair_attempts(&retry), 12);
}

static const struct {
    const char *reply;
    uint64_t seconds;
} GREYLISTED[] = {
    {"451 4.7.1 Greylisted, please try again in 300 seconds", 300},
    {"450 4.2.0 <b@example.org>: Recipient address rejected: Greylisted, see "
     "http://postgrey.schweikert.ch/help/example.org.html",
     300},
    {"451 Greylisting in action, please come back later", 300},
    {"451 4.7.1 Greylisting in action, please try again in 5 minutes", 300},
    {"450 4.7.1 You have been greylisted: retry in 00:04:30", 300},
    {"451 DT:SPM greylist, 10 min", 600},
    {"451 try again in 1 hour", 3600},
    {"451 retry in 90s", 90},
    {"451 retry in 7 m", 420},
    {"451 try again in 99999999999999999999999 seconds", 300},
    {"451 try again in 40000 minutes", 3600},
    {"451-4.7.1 Graylisted\n451 4.7.1 come back in 60 secs", 60},
    {"450 4.2.1 Mailbox busy for 300 seconds", 0},
    {"250 2.0.0 fine", 0},
    {"", 0},
};

static void test_times_that_greylisting_names(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT_OF(GREYLISTED); i++)
        assert_int_equal(schedule_named_delay_us(bytes_of_text(GREYLISTED[i].reply)),
                         GREYLISTED[i].seconds * US_PER_S);
}

/* Every prefix, in memory of exactly its size, so that a sanitizer sees a step too far. */
/* A second too early starts a greylisting anew; and not much later than it asks for. */
static void test_named_time_is_waited_for(void **state)
{
    const struct outcome outcome = {
        .verdict = verdict_of(CAUSE_REMOTE_DEFERRED),
        .code = 450,
        .enhanced = BYTES_LITERAL("4.7.1"),
        .reply = BYTES_LITERAL("450 4.7.1 Greylisted, try again in 900 seconds")};

    (void)state;
    for (uint32_t attempts = 1; attempts <= 3; attempts++)
        for (unsigned i = 0; i < 100; i++) {
            const int64_t before = clock_wall_us();
            const int64_t next = retry_next_wall_us(&DEFAULT, before, attempts, &outcome);
            assert_true(next >= before + 15 * MINUTE + (int64_t)US_PER_S);
            assert_true(next <= clock_wall_us() + 17 * MINUTE);
        }
}

static void test_greylisting_cut_anywhere(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT_OF(GREYLISTED); i++) {
        const struct bytes whole = bytes_of_text(GREYLISTED[i].reply);
        for (size_t cut = 0; cut <= whole.count; cut++) {
            uint8_t *copy = malloc(cut ? cut : 1);
            assert_non_null(copy);
            for (size_t b = 0; b < cut; b++)
                copy[b] = whole.at[b];
            assert_true(schedule_named_delay_us(bytes_of(copy, cut)) <= 3600 * US_PER_S);
            free(copy);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default_schedule_step_by_step),
        cmocka_unit_test(test_whole_life_by_the_default_schedule),
        cmocka_unit_test(test_jitter_is_ten_percent_to_either_side),
        cmocka_unit_test(test_short_and_empty_schedules),
        cmocka_unit_test(test_expiry_needs_time_and_attempts),
        cmocka_unit_test(test_nothing_of_ours_ever_expires),
        cmocka_unit_test(test_fair_attempts_of_short_lives),
        cmocka_unit_test(test_times_that_greylisting_names),
        cmocka_unit_test(test_named_time_is_waited_for),
        cmocka_unit_test(test_greylisting_cut_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
