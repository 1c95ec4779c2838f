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
                                                 .discard = letter.discard};
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
    spool = reopen_without_index(spool);
    CHECK(messages_of(spool) == 0);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failed_batch),   cmocka_unit_test(test_failed_crowd),
        cmocka_unit_test(test_damaged_record), cmocka_unit_test(test_held_mail),
        cmocka_unit_test(test_given_back),     cmocka_unit_test(test_clock_went_back),
        cmocka_unit_test(test_last_spare),     cmocka_unit_test(test_no_inodes),
        cmocka_unit_test(test_withdrawn),      cmocka_unit_test(test_copied_and_settled),
    };
    return cmocka_run_group_tests_name("spool_damage", tests, NULL, NULL);
}
