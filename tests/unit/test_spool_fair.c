/*
 * Whose turn it is: neither one sender's bulk nor the mail for one domain keeps others waiting, in
 * memory and when the index has to bring them back; what is postponed stays away until its time;
 * the queue is chosen from by sender, destination and cause.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "hard_asserts.h"
#include "spool/inside.h"

static char directory[128];
static int (*scenario)(void);

static int run_scenario(void *argument UNUSED)
{
    return scenario();
}

static void in_world(int (*run)(void))
{
    scenario = run;
    assert_int_equal(world_run(run_scenario, NULL, 1), 0);
}

static int fresh_directory(void **state UNUSED)
{
    observe_configure(LOG_NONE, LOG_ERROR);
    snprintf(directory, sizeof directory, "/tmp/spool-fair-XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state UNUSED)
{
    char command[sizeof directory + 16];

    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

/* ------------------------------------------------------------------ the turns alone */

static void test_senders_and_destinations_take_turns(void **state UNUSED)
{
    enum { BULK = 1000 };
    static struct fair fair;
    static struct link bulk[BULK], dead[BULK], other, live;
    const uint16_t from_bulk =
        fair_flow(BYTES_EMPTY, bytes_of_text("list-return-1-a=b"), bytes_of_text("bulk.example"),
                  bytes_of_text("dead.example"));
    const uint16_t also_bulk =
        fair_flow(BYTES_EMPTY, bytes_of_text("list-return-2-c=d"), bytes_of_text("bulk.example"),
                  bytes_of_text("dead.example"));
    const uint16_t bulk_elsewhere =
        fair_flow(BYTES_EMPTY, bytes_of_text("list"), bytes_of_text("bulk.example"),
                  bytes_of_text("live.example"));
    const uint16_t from_other =
        fair_flow(BYTES_EMPTY, bytes_of_text("me"), bytes_of_text("here.example"),
                  bytes_of_text("dead.example"));
    bool other_seen = false, live_seen = false;

    assert_int_equal(from_bulk, also_bulk);
    assert_int_equal(from_bulk / FAIR_WIDTH, bulk_elsewhere / FAIR_WIDTH);
    assert_int_not_equal(from_bulk / FAIR_WIDTH, from_other / FAIR_WIDTH);
    fair_open(&fair);
    assert_null(fair_next(&fair));
    for (unsigned i = 0; i < BULK; i++) {
        fair_add(&fair, from_bulk, &bulk[i]);
        fair_add(&fair, also_bulk, &dead[i]);
    }
    fair_add(&fair, bulk_elsewhere, &live);
    fair_add(&fair, from_other, &other);
    assert_int_equal(fair.count, 2 * BULK + 2);
    assert_ptr_equal(fair_last_of_most(&fair)->next->previous, fair_last_of_most(&fair));
    for (unsigned i = 0; i < 4; i++) {
        struct link *const next = fair_next(&fair);
        const uint16_t flow = next == &other  ? from_other
                              : next == &live ? bulk_elsewhere
                                              : from_bulk;
        other_seen = other_seen || next == &other;
        live_seen = live_seen || next == &live;
        fair_remove(&fair, flow, next);
    }
    assert_true(other_seen && live_seen);
    assert_int_equal(fair_count_of_sender(&fair, from_other), 0);
}

/* ------------------------------------------------------------------ with the spool */

static struct spool *open_spool(void)
{
    const struct spool_settings settings = {.directory = directory, .segment_bytes = 8 * MIB};
    struct spool *spool;
    char why[256] = "";

    if (!spool_open(&settings, &spool, why, sizeof why))
        fail_msg("%s", why);
    return spool;
}

static uint64_t commit(struct spool *spool, const char *from, const char *domain)
{
    struct recipient to = {.address = {BYTES_LITERAL("you"), bytes_of_text(domain)}};
    const struct envelope envelope = {.from = {bytes_of_text(from), BYTES_LITERAL("here.example")},
                                      .recipients = &to,
                                      .recipient_count = 1,
                                      .accepted_wall_us = clock_wall_us()};
    const struct spool_commit_options options = {.deadline_us = deadline_in(60 * US_PER_S)};
    CLEANUP(spool_draft_close) struct spool_draft *draft = spool_draft_open(spool);
    struct spool_receipt receipt = {0};

    const struct verdict written = spool_draft_write(draft, BYTES_LITERAL("A: b\r\n\r\nc\r\n"));
    assert_true(verdict_accepts(&written));
    const struct verdict committed = spool_commit(draft, &envelope, &options, &receipt);
    assert_true(verdict_accepts(&committed));
    return receipt.message;
}

static unsigned release_all(struct spool *spool, struct queued_message *list, uint64_t wanted)
{
    unsigned place = 0, count = 0;

    for (struct queued_message *next; list; list = next) {
        next = list->next;
        count++;
        if (list->id == wanted)
            place = count;
        spool_release(spool, list);
    }
    return place;
}

enum { LOTS = 400 };

static void defer_all(struct spool *spool, int64_t until_wall_us)
{
    struct queued_message *list;
    unsigned count = 0;

    while (count < LOTS && spool_take(spool, 50, deadline_in(20 * US_PER_S), &list) == IO_OK) {
        for (struct queued_message *next; list; list = next) {
            count += list->recipients[0].attempts == 0; /* a slow machine sees the first ones due again */
            const struct settlement outcome = {
                .cause = CAUSE_CONNECT_REFUSED, .next_wall_us = until_wall_us, .attempts = 1};
            const struct settlement_group group = {.settlements = &outcome, .count = 1};
            next = list->next;
            const struct verdict settled = spool_settle(spool, list, &group);
            assert_true(verdict_accepts(&settled));
            spool_release(spool, list);
        }
    }
    assert_int_equal(count, LOTS);
}

static int fresh_and_from_the_index(void)
{
    struct spool *spool = open_spool();
    struct queued_message *list = NULL;

    for (unsigned i = 0; i < LOTS; i++)
        commit(spool, "bulk", "dead.example");
    const uint64_t fresh = commit(spool, "other", "live.example");
    assert_int_equal(spool_take(spool, 10, deadline_in(20 * US_PER_S), &list), IO_OK);
    assert_in_range(release_all(spool, list, fresh), 1, 2);
    spool_close(spool);

    /* After a restart all come from the index, where the bulk is due for longer. */
    spool = open_spool();
    assert_int_equal(spool_take_id(spool, fresh, &list).status, LOOKUP_FOUND);
    defer_all(spool, clock_wall_us() + (int64_t)US_PER_S);
    spool_release(spool, list);
    spool_close(spool);
    spool = open_spool();
    assert_int_equal(spool_take(spool, 10, deadline_in(20 * US_PER_S), &list), IO_OK);
    assert_in_range(release_all(spool, list, fresh), 1, 2);
    spool_close(spool);
    return 0;
}

static void test_nobody_waits_behind_a_bulk(void **state UNUSED)
{
    in_world(fresh_and_from_the_index);
}

static int postponed_stays_away(void)
{
    struct spool *spool = open_spool();
    struct queued_message *list = NULL;
    const uint64_t id = commit(spool, "me", "there.example");
    const int64_t until = clock_wall_us() + 1500 * (int64_t)US_PER_MS;

    assert_int_equal(spool_take(spool, 1, deadline_in(20 * US_PER_S), &list), IO_OK);
    spool_postpone(spool, list, until);
    assert_int_equal(spool_take(spool, 1, deadline_in(100 * US_PER_MS), &list), IO_TIMEOUT);
    spool_close(spool); /* the index keeps it */
    spool = open_spool();
    assert_int_equal(spool_take(spool, 1, deadline_in(20 * US_PER_S), &list), IO_OK);
    assert_int_equal(list->id, id);
    assert_int_equal(list->recipients[0].attempts, 0);
    assert_true(clock_wall_us() >= until);
    spool_release(spool, list);
    spool_close(spool);
    return 0;
}

static void test_postponed_mail_stays_away(void **state UNUSED)
{
    in_world(postponed_stays_away);
}

static bool count_row(void *argument, const struct spool_row *row)
{
    assert_true(row->domain.count > 0 && row->from.count > 0 && row->accepted_wall_us > 0);
    (*(unsigned *)argument)++;
    return true;
}

static unsigned rows(struct spool_view_filter filter)
{
    unsigned brief = 0, full = 0;
    char why[256];

    filter.brief = true;
    assert_true(spool_view(directory, &filter, count_row, &brief, why, sizeof why));
    filter.brief = false;
    assert_true(spool_view(directory, &filter, count_row, &full, why, sizeof why));
    assert_int_equal(brief, full);
    return brief;
}

static void check_choices(void)
{
    assert_int_equal(rows((struct spool_view_filter){0}), 4);
    assert_int_equal(rows((struct spool_view_filter){.sender = "a_b@here.example"}), 1);
    assert_int_equal(rows((struct spool_view_filter){.sender = "@HERE.example"}), 4);
    assert_int_equal(rows((struct spool_view_filter){.sender = "@re.example"}), 0);
    assert_int_equal(rows((struct spool_view_filter){.domain = "one.example"}), 3);
    assert_int_equal(
        rows((struct spool_view_filter){.domain = "one.example", .sender = "a@here.example"}), 1);
    assert_int_equal(rows((struct spool_view_filter){.cause = "greylisted"}), 1);
}

static int chosen(void)
{
    struct spool *spool = open_spool();
    struct queued_message *list = NULL;

    commit(spool, "a", "one.example");
    commit(spool, "a_b", "one.example");
    commit(spool, "aXb", "one.example");
    const uint64_t id = commit(spool, "a", "two.example");
    assert_int_equal(spool_take_id(spool, id, &list).status, LOOKUP_FOUND);
    const struct settlement outcome = {
        .cause = CAUSE_GREYLISTED, .next_wall_us = INT64_MAX / 2, .attempts = 1};
    const struct settlement_group group = {.settlements = &outcome, .count = 1};
    const struct verdict settled = spool_settle(spool, list, &group);
    assert_true(verdict_accepts(&settled));
    spool_release(spool, list);
    check_choices(); /* from the log's tail, most of it */
    spool_close(spool);
    check_choices(); /* from the index */
    return 0;
}

static void test_choosing_by_sender_destination_cause(void **state UNUSED)
{
    in_world(chosen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_senders_and_destinations_take_turns),
        cmocka_unit_test_setup_teardown(test_nobody_waits_behind_a_bulk, fresh_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_postponed_mail_stays_away, fresh_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_choosing_by_sender_destination_cause, fresh_directory,
                                        remove_directory),
    };
    return cmocka_run_group_tests_name("spool_fair", tests, NULL, NULL);
}
