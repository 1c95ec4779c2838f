/*
 * The spool in the simulated world, where disk and clock fail as told: a failed batch never
 * happened, damage hides nothing but itself, held mail is not tried, no id comes twice, and a
 * message that is copied forward while its last recipient is settled does not come back.
 */
#include "world_check.h"

#include <errno.h>
#include <string.h>

#include "sim/sim.h"
#include "spool/inside.h"

enum { SEEDS = 3, CROWD = 4 };
#define OPEN_SEGMENT                                                                               \
    "/log/spare" /* the simulated disk knows a file by the name it was opened by                   \
                  */

static const struct spool_settings settings = {.directory = "/spool", .segment_bytes = 256 * KIB};

static struct spool *open_spool(void)
{
    struct spool *spool = NULL;
    char why[256] = "";

    CHECK(spool_open(&settings, &spool, why, sizeof why));
    return spool;
}

struct letter {
    size_t bytes;
    bool held, discard;
};

static struct verdict commit(struct spool *spool, struct letter letter,
                             struct spool_receipt *receipt)
{
    struct recipient to = {.address = {BYTES_LITERAL("you"), BYTES_LITERAL("there.example")}};
    const struct envelope envelope = {.from = {BYTES_LITERAL("me"), BYTES_LITERAL("here.example")},
                                      .recipients = &to,
                                      .recipient_count = 1,
                                      .accepted_wall_us = clock_wall_us(),
                                      .held = letter.held};
    const struct spool_commit_options options = {.deadline_us = deadline_in(60 * US_PER_S),
                                                 .discard = letter.discard,
                                                 .mark = BYTES_LITERAL("mark of a letter")};
    CLEANUP(spool_draft_close) struct spool_draft *draft = spool_draft_open(spool);
    uint8_t *body = malloc(letter.bytes);

    CHECK(draft && body);
    memset(body, 'x', letter.bytes);
    const struct verdict written = spool_draft_write(draft, bytes_of(body, letter.bytes));
    free(body);
    REQUIRE(written);
    return spool_commit(draft, &envelope, &options, receipt);
}

static struct spool_receipt commit_letter(struct spool *spool, struct letter letter)
{
    struct spool_receipt receipt = {0};
    const struct verdict verdict = commit(spool, letter, &receipt);

    CHECK(verdict_accepts(&verdict) && receipt.durable);
    return receipt;
}

static struct settlement delivered(void)
{
    return (struct settlement){.state = RECIPIENT_DELIVERED, .attempts = 1};
}

static uint64_t messages_of(struct spool *spool)
{
    struct spool_counts counts;

    spool_counts(spool, &counts);
    return counts.messages;
}

/* The log alone tells what is there. */
static struct spool *reopen_without_index(struct spool *spool)
{
    static const char *const files[] = {"/spool/index.db", "/spool/index.db-wal",
                                        "/spool/index.db-shm"};

    spool_close(spool);
    for (size_t i = 0; i < COUNT_OF(files); i++)
        if (sim_disk_exists(files[i]))
            CHECK(disk_remove(files[i]).status == IO_OK);
    return open_spool();
}

/* Of that message; and how many there are. */
static bool is_marked(const struct spool *spool, uint64_t message, size_t *count)
{
    const struct spool_mark *marks;
    const size_t most = spool_marks(spool, &marks);
    bool found = false;

    *count = 0;
    for (size_t i = 0; i < most; i++) {
        *count += marks[i].message != 0;
        found = found || (marks[i].message == message &&
                          memcmp(marks[i].mark, "mark of a letter", SPOOL_MARK_BYTES) == 0);
    }
    return found;
}

static void under_seeds(int (*main)(void *argument))
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        observe_configure(LOG_NONE, LOG_ERROR);
        sim_open(seed);
        in_world(main, NULL, 1);
        sim_close();
    }
}

/* ------------------------------------------------------------------ a failed batch */

/* Its bytes are on the disk, whole; it was answered 451, so it must not be delivered as well. */
static int failed_batch(void *unused)
{
    struct spool *spool = open_spool();
    struct spool_receipt receipt = commit_letter(spool, (struct letter){.bytes = 500});
    const uint64_t first = receipt.message;
    const struct sim_disk_fault fault = {
        .on = SIM_DISK_SYNC, .path_part = OPEN_SEGMENT, .error = EIO, .times = 1};

    (void)unused;
    receipt = (struct spool_receipt){0};
    CHECK(sim_disk_fault_add(&fault) >= 0);
    const struct verdict refused = commit(spool, (struct letter){.bytes = 600}, &receipt);
    CHECK(refused.cause == CAUSE_SPOOL_FAILED && !receipt.durable);
    CHECK(messages_of(spool) == 1);
    const uint64_t third = commit_letter(spool, (struct letter){.bytes = 700}).message;
    spool = reopen_without_index(spool);
    struct queued_message *message = NULL;
    CHECK(messages_of(spool) == 2);
    CHECK(spool_take_id(spool, first, &message).status == LOOKUP_FOUND);
    spool_release(spool, message);
    CHECK(spool_take_id(spool, third, &message).status == LOOKUP_FOUND);
    spool_release(spool, message);
    spool_close(spool);
    return 0;
}

static void test_failed_batch(void **state)
{
    (void)state;
    under_seeds(failed_batch);
}

static struct {
    struct spool *spool;
    unsigned open, refused;
} crowd;

static void crowd_main(void *unused)
{
    struct spool_receipt receipt = {0};
    const struct verdict verdict = commit(crowd.spool, (struct letter){.bytes = 5000}, &receipt);

    (void)unused;
    crowd.refused += verdict.cause == CAUSE_SPOOL_FAILED;
    crowd.open--;
}

/* The batch is longer than what is written next, which must not leave its second half standing. */
static int failed_crowd(void *unused)
{
    const struct sim_disk_fault slow = {
        .on = SIM_DISK_SYNC, .path_part = OPEN_SEGMENT, .stall_us = 5 * US_PER_S, .times = 1};
    const struct sim_disk_fault fault = {
        .on = SIM_DISK_SYNC, .path_part = OPEN_SEGMENT, .error = EIO, .skip = 1, .times = 1};

    (void)unused;
    crowd.spool = open_spool();
    crowd.open = CROWD;
    crowd.refused = 0;
    CHECK(sim_disk_fault_add(&slow) >= 0 && sim_disk_fault_add(&fault) >= 0);
    for (unsigned i = 0; i < CROWD; i++)
        CHECK(fiber_start("crowd", crowd_main, NULL) != NULL);
    while (crowd.open > 0)
        CHECK(fiber_sleep_until(deadline_in(10 * US_PER_MS)) == IO_OK);
    CHECK(crowd.refused > 1);
    commit_letter(crowd.spool, (struct letter){.bytes = 500});
    crowd.spool = reopen_without_index(crowd.spool);
    CHECK(messages_of(crowd.spool) == CROWD + 1 - crowd.refused);
    spool_close(crowd.spool);
    return 0;
}

static void test_failed_crowd(void **state)
{
    (void)state;
    under_seeds(failed_crowd);
}

/* ------------------------------------------------------------------ damage in the middle */

static int damaged_record(void *unused)
{
    struct spool *spool = open_spool();
    struct spool_receipt receipts[4];
    char path[SPOOL_PATH_MAX];

    (void)unused;
    for (unsigned i = 0; i < COUNT_OF(receipts); i++)
        receipts[i] = commit_letter(spool, (struct letter){.bytes = 500});
    const uint64_t at = receipts[1].position;
    segment_path("/spool", position_generation(at), path, sizeof path);
    CHECK(sim_disk_flip(path, position_offset(at) + RECORD_HEADER_BYTES + 3, 2));
    spool = reopen_without_index(spool);
    CHECK(messages_of(spool) == COUNT_OF(receipts) - 1);
    for (unsigned i = 0; i < COUNT_OF(receipts); i++) {
        struct queued_message *message = NULL;
        const struct lookup taken = spool_take_id(spool, receipts[i].message, &message);
        CHECK((taken.status == LOOKUP_FOUND) == (i != 1));
        if (message)
            spool_release(spool, message);
    }
    spool_close(spool);
    return 0;
}

static void test_damaged_record(void **state)
{
    (void)state;
    under_seeds(damaged_record);
}

/* A bit of a stored body turns over while the server runs: it is named and never sent. */
static int damaged_body(void *unused)
{
    struct spool *spool = open_spool();
    const struct spool_receipt receipt = commit_letter(spool, (struct letter){.bytes = 3000});
    struct queued_message *message = NULL;
    struct spool_body *body = NULL;
    char path[SPOOL_PATH_MAX];

    (void)unused;
    segment_path("/spool", position_generation(receipt.position), path, sizeof path);
    CHECK(sim_disk_flip(path, position_offset(receipt.position) + RECORD_HEADER_BYTES + 2000, 5));
    CHECK(spool_take_id(spool, receipt.message, &message).status == LOOKUP_FOUND);
    const struct verdict opened = spool_body_open(spool, receipt.message, &body);
    CHECK(opened.cause == CAUSE_BODY_DAMAGED && !body);
    spool_body_close(&body);
    spool_release(spool, message);
    spool_close(spool);
    return 0;
}

static void test_damaged_body(void **state)
{
    (void)state;
    under_seeds(damaged_body);
}

/* ------------------------------------------------------------------ held mail */

static void nothing_to_take(struct spool *spool)
{
    struct queued_message *message = NULL;

    CHECK(spool_take(spool, 1, deadline_in(3600 * US_PER_S), &message) == IO_TIMEOUT);
}

/* From the start, from an operator's word on, and after a restart with the index and without. */
static int held_mail(void *unused)
{
    struct spool *spool = open_spool();
    struct queued_message *message = NULL;

    (void)unused;
    const uint64_t held = commit_letter(spool, (struct letter){.bytes = 500, .held = true}).message;
    nothing_to_take(spool);
    const uint64_t later = commit_letter(spool, (struct letter){.bytes = 500}).message;
    CHECK(spool_hold(spool, later, true, BYTES_LITERAL("wait")).status == LOOKUP_FOUND);
    nothing_to_take(spool);
    spool_close(spool);
    spool = open_spool();
    nothing_to_take(spool);
    spool = reopen_without_index(spool);
    nothing_to_take(spool);
    CHECK(spool_hold(spool, held, false, BYTES_EMPTY).status == LOOKUP_FOUND);
    CHECK(spool_take(spool, 2, deadline_in(3600 * US_PER_S), &message) == IO_OK);
    CHECK(message->id == held && !message->next);
    spool_release(spool, message);
    spool_close(spool);
    return 0;
}

static void test_held_mail(void **state)
{
    (void)state;
    under_seeds(held_mail);
}

/* What a lease gave back untouched is offered again, after a pause. */
static int given_back(void *unused)
{
    struct spool *spool = open_spool();
    struct queued_message *message = NULL;
    const uint64_t id = commit_letter(spool, (struct letter){.bytes = 500}).message;

    (void)unused;
    for (unsigned i = 0; i < 3; i++) {
        CHECK(spool_take(spool, 1, deadline_in(3600 * US_PER_S), &message) == IO_OK);
        CHECK(message && message->id == id);
        if (message)
            spool_release(spool, message);
    }
    spool_close(spool);
    return 0;
}

static void test_given_back(void **state)
{
    (void)state;
    under_seeds(given_back);
}

/* ------------------------------------------------------------------ ids after a clock went back */

static int clock_went_back(void *unused)
{
    struct spool *spool = open_spool();
    uint64_t last = commit_letter(spool, (struct letter){.bytes = 500}).message;

    (void)unused;
    for (unsigned i = 0; i < 3; i++) {
        spool_close(spool);
        sim_wall_jump(-30 * 86400 * (int64_t)US_PER_S);
        spool = open_spool();
        const uint64_t id = commit_letter(spool, (struct letter){.bytes = 500}).message;
        CHECK(id > last);
        last = id;
    }
    CHECK(messages_of(spool) == 4);
    spool_close(spool);
    return 0;
}

static void test_clock_went_back(void **state)
{
    (void)state;
    under_seeds(clock_went_back);
}

/* ------------------------------------------------------------------ a full disk */

/* No new segment can be made: messages are refused while what is on its way can still be settled.
 */
static int last_spare(void *unused)
{
    const struct sim_disk_fault full = {.path_part = "/log/growing-", .error = ENOSPC};
    static char words[1900];
    struct spool *spool = open_spool();
    struct spool_receipt receipt = commit_letter(spool, (struct letter){.bytes = 500});
    struct queued_message *message = NULL;
    enum cause refused = CAUSE_ACCEPTED;

    (void)unused;
    CHECK(fiber_sleep_until(deadline_in(5 * US_PER_S)) == IO_OK); /* until there are two */
    CHECK(sim_disk_fault_add(&full) >= 0);
    CHECK(spool_take_id(spool, receipt.message, &message).status == LOOKUP_FOUND);
    for (unsigned i = 0; i < 50 && refused == CAUSE_ACCEPTED; i++) {
        const struct verdict verdict = commit(spool, (struct letter){.bytes = 50000}, &receipt);
        refused = verdict_accepts(&verdict) ? CAUSE_ACCEPTED : verdict.cause;
    }
    CHECK(refused == CAUSE_SPOOL_FULL);
    memset(words, 'w', sizeof words);
    for (unsigned i = 0; i < 30; i++) {
        const struct settlement outcome = {.attempts = i + 1,
                                           .cause = CAUSE_GREYLISTED,
                                           .next_wall_us = clock_wall_us(),
                                           .reply = bytes_of(words, sizeof words)};
        const struct settlement_group group = {.settlements = &outcome, .count = 1};
        const struct verdict settled = spool_settle(spool, message, &group);
        CHECK(verdict_accepts(&settled));
    }
    spool_release(spool, message);
    sim_disk_fault_clear();
    spool_close(spool);
    return 0;
}

static void test_last_spare(void **state)
{
    (void)state;
    under_seeds(last_spare);
}

/* There is room in bytes, and none for another file. */
static int no_inodes(void *unused)
{
    enum { INODES = 200 };
    struct spool *spool = open_spool();
    char path[32];

    (void)unused;
    const struct verdict before = spool_admits(spool, 1000);
    CHECK(verdict_accepts(&before));
    sim_disk_budget(0, INODES);
    for (unsigned i = 0; i < INODES - 20; i++) {
        snprintf(path, sizeof path, "/other/%u", i);
        sim_disk_put(path, BYTES_LITERAL("x"));
    }
    CHECK(fiber_sleep_until(deadline_in(60 * US_PER_S)) == IO_OK);
    const struct verdict full = spool_admits(spool, 1000);
    CHECK(full.cause == CAUSE_SPOOL_FULL);
    sim_disk_budget(0, 0);
    spool_close(spool);
    return 0;
}

static void test_no_inodes(void **state)
{
    (void)state;
    under_seeds(no_inodes);
}

/* ------------------------------------------------------------------ a disk that hangs */

/* Its session was told 451 at its deadline; what became durable later is not delivered. */
static int withdrawn(void *unused)
{
    const struct sim_disk_fault hang = {
        .on = SIM_DISK_SYNC, .path_part = OPEN_SEGMENT, .stall_us = 200 * US_PER_S, .times = 1};
    struct spool *spool = open_spool();
    struct spool_receipt receipt = {0};

    (void)unused;
    CHECK(sim_disk_fault_add(&hang) >= 0);
    const struct verdict late = commit(spool, (struct letter){.bytes = 500}, &receipt);
    CHECK(!verdict_accepts(&late) && !receipt.durable);
    nothing_to_take(spool);
    CHECK(messages_of(spool) == 0);
    const uint64_t told = commit_letter(spool, (struct letter){.bytes = 500}).message;
    spool = reopen_without_index(spool);
    CHECK(messages_of(spool) == 1);
    size_t count;
    CHECK(is_marked(spool, told, &count) && count == 1); /* none of what was withdrawn */
    spool_close(spool);
    spool = open_spool();
    CHECK(!is_marked(spool, told, &count)); /* the index had heard of it */
    spool_close(spool);
    return 0;
}

static void test_withdrawn(void **state)
{
    (void)state;
    under_seeds(withdrawn);
}

/* ------------------------------------------------------------------ copied and settled at once */

static struct {
    struct spool *spool;
    bool enough, ended;
} traffic;

/* Mail that ends at once fills segment after segment, so that the oldest one is to be emptied. */
static void traffic_main(void *unused)
{
    (void)unused;
    while (!traffic.enough)
        commit_letter(traffic.spool, (struct letter){.bytes = 50000, .discard = true});
    traffic.ended = true;
}

static bool is_being_copied(struct spool *spool)
{
    pthread_mutex_lock(&spool->lock);
    const bool copied = spool->copies > 0;
    pthread_mutex_unlock(&spool->lock);
    return copied;
}

/* Each sync takes so long that the copy and the settlement wait for the same batch. */
static int copied_and_settled(void *unused)
{
    const struct sim_disk_fault slow = {
        .on = SIM_DISK_SYNC, .path_part = OPEN_SEGMENT, .stall_us = 3 * US_PER_S};
    struct queued_message *message = NULL;
    struct settlement outcome = delivered();
    const struct settlement_group group = {.settlements = &outcome, .count = 1};

    (void)unused;
    traffic.spool = open_spool();
    traffic.enough = traffic.ended = false;
    const uint64_t id = commit_letter(traffic.spool, (struct letter){.bytes = 500}).message;
    CHECK(spool_take_id(traffic.spool, id, &message).status == LOOKUP_FOUND);
    CHECK(sim_disk_fault_add(&slow) >= 0);
    CHECK(fiber_start("traffic", traffic_main, NULL) != NULL);
    const uint64_t until_us = deadline_in(3600 * US_PER_S);
    while (!is_being_copied(traffic.spool) && clock_now_us() < until_us)
        CHECK(fiber_sleep_until(deadline_in(10 * US_PER_MS)) == IO_OK);
    CHECK(is_being_copied(traffic.spool));
    const struct verdict settled = spool_settle(traffic.spool, message, &group);
    CHECK(verdict_accepts(&settled));
    spool_release(traffic.spool, message);
    traffic.enough = true;
    while (!traffic.ended)
        CHECK(fiber_sleep_until(deadline_in(10 * US_PER_MS)) == IO_OK);
    sim_disk_fault_clear();
    CHECK(messages_of(traffic.spool) == 0);
    traffic.spool = reopen_without_index(traffic.spool);
    CHECK(messages_of(traffic.spool) == 0);
    spool_close(traffic.spool);
    return 0;
}

static void test_copied_and_settled(void **state)
{
    (void)state;
    under_seeds(copied_and_settled);
}

/* ------------------------------------------------------------------ power cuts */

enum { CUTS = 12 };

/* Plays `before`, which ends in a crash, and `after` on what is left; under many seeds, since each
 * leaves another part of what was not synced. */
static void power_cuts(int (*before)(void *argument), int (*after)(void *argument))
{
    for (uint64_t seed = 1; seed <= CUTS; seed++) {
        observe_configure(LOG_NONE, LOG_ERROR);
        sim_open(seed);
        checks_failed = 0;
        assert_int_equal(world_run(before, NULL, 1), SIM_CRASHED);
        assert_int_equal(checks_failed, 0);
        in_world(after, NULL, 1);
        sim_close();
    }
}

static unsigned acknowledged;

static int new_spool(void *unused)
{
    struct spool *spool = open_spool();

    (void)unused;
    commit_letter(spool, (struct letter){.bytes = 500});
    acknowledged = 1;
    sim_crash(SIM_POWER_CUT);
    return 0;
}

/* In a segment whose name no later sync of the folder covers, since no spare can be made. */
static int new_segment(void *unused)
{
    const struct sim_disk_fault full = {.path_part = "/log/growing-", .error = ENOSPC};
    struct spool *spool = open_spool();
    const struct spool_receipt first = commit_letter(spool, (struct letter){.bytes = 500});
    struct spool_receipt receipt = first;

    (void)unused;
    CHECK(fiber_sleep_until(deadline_in(5 * US_PER_S)) == IO_OK); /* until there are two */
    CHECK(sim_disk_fault_add(&full) >= 0);
    for (acknowledged = 1;
         position_generation(receipt.position) == position_generation(first.position);
         acknowledged++)
        receipt = commit_letter(spool, (struct letter){.bytes = 50000});
    sim_disk_fault_clear();
    sim_crash(SIM_POWER_CUT);
    return 0;
}

static int all_are_there(void *unused)
{
    struct spool *spool = open_spool();

    (void)unused;
    CHECK(messages_of(spool) == acknowledged);
    spool_close(spool);
    return 0;
}

static void test_name_of_a_new_spool(void **state)
{
    (void)state;
    power_cuts(new_spool, all_are_there);
}

static void test_name_of_a_new_segment(void **state)
{
    (void)state;
    power_cuts(new_segment, all_are_there);
}

/* Its settlement lies in a segment that is used again at once; the index has to know it by then. */
static int settled_and_recycled(void *unused)
{
    struct spool *spool = open_spool();
    struct queued_message *message = NULL;
    const struct settlement outcome = delivered();
    const struct settlement_group group = {.settlements = &outcome, .count = 1};
    const struct spool_receipt receipt = commit_letter(spool, (struct letter){.bytes = 500});
    const uint64_t id = receipt.message;
    char path[SPOOL_PATH_MAX];

    (void)unused;
    spool_close(spool); /* the index has it for good */
    spool = open_spool();
    CHECK(spool_take_id(spool, id, &message).status == LOOKUP_FOUND);
    const struct verdict settled = spool_settle(spool, message, &group);
    CHECK(verdict_accepts(&settled));
    spool_release(spool, message);
    for (unsigned i = 0; i < 40; i++)
        commit_letter(spool, (struct letter){.bytes = 50000, .discard = true});
    segment_path("/spool", position_generation(receipt.position), path, sizeof path);
    CHECK(!sim_disk_exists(path));
    acknowledged = 0;
    sim_crash(SIM_POWER_CUT);
    return 0;
}

static void test_recycled(void **state)
{
    (void)state;
    power_cuts(settled_and_recycled, all_are_there);
}

static uint64_t kill_step;

/* kill -9 at a step of the disk, between the write and its sync among others. */
static int killed(void *unused)
{
    struct spool *spool = open_spool();

    (void)unused;
    CHECK(fiber_sleep_until(deadline_in(5 * US_PER_S)) == IO_OK);
    sim_crash_at_step(sim_disk_steps() + kill_step, SIM_KILL);
    commit_letter(spool, (struct letter){.bytes = 500});
    sim_crash(SIM_KILL);
    return 0;
}

static int killed_and_cut(void *unused)
{
    struct spool *spool = open_spool();

    (void)unused;
    CHECK(fiber_sleep_until(deadline_in(600 * US_PER_S)) == IO_OK);
    acknowledged = (unsigned)messages_of(spool);
    spool_close(spool); /* the index has it for good */
    sim_crash(SIM_POWER_CUT);
    return 0;
}

/* What the start after the kill relied on is there after the power cut, whole. */
static int still_whole(void *unused)
{
    struct spool *spool = open_spool();
    struct queued_message *message = NULL;
    CLEANUP(spool_body_close) struct spool_body *body = NULL;

    (void)unused;
    CHECK(messages_of(spool) == acknowledged);
    if (acknowledged > 0 && spool_take(spool, 1, deadline_in(3600 * US_PER_S), &message) == IO_OK) {
        const struct verdict opened = spool_body_open(spool, message->id, &body);
        CHECK(verdict_accepts(&opened));
        spool_release(spool, message);
    }
    spool_body_close(&body);
    spool_close(spool);
    return 0;
}

static void test_killed_and_cut(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4 * CUTS; seed++) {
        observe_configure(LOG_NONE, LOG_ERROR);
        sim_open(seed);
        kill_step = 1 + seed % 4;
        assert_int_equal(world_run(killed, NULL, 1), SIM_CRASHED);
        checks_failed = 0;
        assert_int_equal(world_run(killed_and_cut, NULL, 1), SIM_CRASHED);
        in_world(still_whole, NULL, 1);
        sim_close();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failed_batch),
        cmocka_unit_test(test_failed_crowd),
        cmocka_unit_test(test_damaged_record),
        cmocka_unit_test(test_damaged_body),
        cmocka_unit_test(test_held_mail),
        cmocka_unit_test(test_given_back),
        cmocka_unit_test(test_clock_went_back),
        cmocka_unit_test(test_last_spare),
        cmocka_unit_test(test_no_inodes),
        cmocka_unit_test(test_withdrawn),
        cmocka_unit_test(test_copied_and_settled),
        cmocka_unit_test(test_name_of_a_new_spool),
        cmocka_unit_test(test_name_of_a_new_segment),
        cmocka_unit_test(test_recycled),
        cmocka_unit_test(test_killed_and_cut),
    };
    return cmocka_run_group_tests_name("spool_damage", tests, NULL, NULL);
}
