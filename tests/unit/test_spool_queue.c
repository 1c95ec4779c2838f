/*
 * The spool in the kernel's world: many fibers commit, take, settle and bounce; a restart and a
 * rebuild find everything as it was; segments are recycled; damage is named.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hard_asserts.h"
#include "spool/inside.h"

#define REQUIRE_ACCEPT(check)                                                                      \
    do {                                                                                           \
        const struct verdict got_ = (check);                                                       \
        if (!verdict_accepts(&got_))                                                               \
            fail_msg("%s: %s", #check, cause_name(got_.cause));                                    \
    } while (0)

static char directory[128];
static int (*scenario)(void);

static int run_scenario(void *argument)
{
    (void)argument;
    return scenario();
}

static void in_world(int (*run)(void))
{
    scenario = run;
    assert_int_equal(world_run(run_scenario, NULL, 2), 0);
}

static int fresh_directory(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    observe_configure(LOG_NONE, LOG_ERROR);
    snprintf(directory, sizeof directory, "%s/spool-XXXXXX", base ? base : "/tmp");
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
    char command[sizeof directory + 16];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

/* ------------------------------------------------------------------ helpers */

static struct spool_settings settings = {.directory = directory, .segment_bytes = 8 * MIB};

static struct spool *open_spool(void)
{
    struct spool *spool;
    char why[256] = "";

    if (!spool_open(&settings, &spool, why, sizeof why))
        fail_msg("%s", why);
    return spool;
}

static struct bytes text(const char *of)
{
    return bytes_of_text(of);
}

struct letter {
    const char *to[3];
    unsigned count;
    struct bytes body;
    bool held;
};

static uint64_t commit_letter(struct spool *spool, const struct letter *letter)
{
    struct recipient recipients[3] = {0};
    for (unsigned i = 0; i < letter->count; i++)
        recipients[i].address = (struct address){text(letter->to[i]), text("there.example")};
    const struct envelope envelope = {.from = {text("me"), text("here.example")},
                                      .recipients = recipients,
                                      .recipient_count = letter->count,
                                      .client = text("192.0.2.1:4711"),
                                      .accepted_wall_us = clock_wall_us(),
                                      .held = letter->held};
    const struct spool_commit_options options = {.deadline_us = deadline_in(60 * US_PER_S)};
    CLEANUP(spool_draft_close) struct spool_draft *draft = spool_draft_open(spool);
    struct spool_receipt receipt;

    assert_non_null(draft);
    REQUIRE_ACCEPT(spool_draft_write(draft, letter->body));
    REQUIRE_ACCEPT(spool_draft_prepend(draft, text("Second: b\r\n")));
    REQUIRE_ACCEPT(spool_draft_prepend(draft, text("First: a\r\n")));
    REQUIRE_ACCEPT(spool_commit(draft, &envelope, &options, &receipt));
    assert_true(receipt.durable);
    return receipt.message;
}

static uint64_t commit_simple(struct spool *spool)
{
    const struct letter letter = {{"you"}, 1, BYTES_LITERAL("Subject: x\r\n\r\nhello\r\n"), false};
    return commit_letter(spool, &letter);
}

static struct queued_message *take_one(struct spool *spool)
{
    struct queued_message *list = NULL;
    if (spool_take(spool, 1, deadline_in(10 * US_PER_S), &list) != IO_OK)
        fail_msg("nothing to take");
    return list;
}

static void settle_one(struct spool *spool, struct queued_message *message, uint32_t recipient,
                       struct settlement outcome)
{
    outcome.recipient = recipient;
    outcome.attempts = message->recipients[recipient].attempts + 1;
    outcome.attempt_wall_us = clock_wall_us();
    const struct settlement_group group = {.settlements = &outcome, .count = 1};
    REQUIRE_ACCEPT(spool_settle(spool, message, &group));
}

static struct settlement delivered(void)
{
    return (struct settlement){.state = RECIPIENT_DELIVERED, .cause = CAUSE_ACCEPTED};
}

static struct settlement deferred(int64_t by_us)
{
    return (struct settlement){.state = RECIPIENT_WAITING,
                               .cause = CAUSE_GREYLISTED,
                               .next_wall_us = clock_wall_us() + by_us,
                               .reply = text("451 4.7.1 come back later")};
}

struct tally {
    uint64_t rows, waiting, held, sum, attempts;
};

static bool tally_row(void *argument, const struct spool_row *row)
{
    struct tally *tally = argument;
    tally->rows++;
    tally->waiting += row->state == RECIPIENT_WAITING;
    tally->held += row->held;
    tally->attempts += row->attempts;
    tally->sum += row->id * 31 + row->size_bytes + (uint64_t)row->next_wall_us +
                  bytes_hash_nocase(row->to) + bytes_hash_nocase(row->last_reply) +
                  (uint64_t)row->state + (uint64_t)row->cause;
    return true;
}

static struct tally tally_of(struct spool_view_filter filter)
{
    struct tally tally = {0};
    char why[256] = "";
    if (!spool_view(directory, &filter, tally_row, &tally, why, sizeof why))
        fail_msg("%s", why);
    return tally;
}

/* ------------------------------------------------------------------ one message's life */

static int one_life(void)
{
    struct spool *spool = open_spool();
    const uint64_t id = commit_simple(spool);
    assert_int_equal(tally_of((struct spool_view_filter){.id = id}).rows, 1);

    struct queued_message *message = take_one(spool);
    assert_int_equal(message->id, id);
    assert_int_equal(message->envelope.recipient_count, 1);
    assert_true(bytes_equal_text(message->envelope.recipients[0].address.local, "you"));
    assert_true(bytes_equal_text(message->envelope.from.domain, "here.example"));

    struct spool_body *body;
    char read[128] = "";
    REQUIRE_ACCEPT(spool_body_open(spool, id, &body));
    const struct io_result got =
        spool_body_read(body, (struct span){(uint8_t *)read, sizeof read - 1}, 0);
    assert_int_equal(got.status, IO_OK);
    assert_string_equal(read, "First: a\r\nSecond: b\r\nSubject: x\r\n\r\nhello\r\n");
    assert_int_equal(spool_body_size(body), strlen(read));
    spool_body_close(&body);

    settle_one(spool, message, 0, delivered());
    spool_release(spool, message);
    assert_int_equal(tally_of((struct spool_view_filter){0}).rows, 0);
    struct queued_message *none;
    assert_int_equal(spool_take(spool, 1, deadline_in(1000), &none), IO_TIMEOUT);
    struct spool_counts counts;
    spool_counts(spool, &counts);
    assert_int_equal(counts.messages, 0);
    spool_close(spool);
    return 0;
}

static void test_one_life(void **state)
{
    (void)state;
    in_world(one_life);
    assert_int_equal(tally_of((struct spool_view_filter){0}).rows, 0);
}

/* ------------------------------------------------------------------ deferral, hold, retry */

static int deferral(void)
{
    struct spool *spool = open_spool();
    const struct letter letter = {
        {"one", "two"}, 2, BYTES_LITERAL("Subject: y\r\n\r\nhello\r\n"), false};
    const uint64_t id = commit_letter(spool, &letter);
    struct queued_message *message = take_one(spool);
    settle_one(spool, message, 0, delivered());
    settle_one(spool, message, 1, deferred(300 * 1000));
    assert_int_equal(message->recipients[1].attempts, 1);
    spool_release(spool, message);

    message = take_one(spool); /* when it is due */
    assert_int_equal(message->id, id);
    assert_int_equal(message->recipients[0].state, RECIPIENT_DELIVERED);
    assert_int_equal(message->recipients[1].state, RECIPIENT_WAITING);
    assert_int_equal(message->recipients[1].cause, CAUSE_GREYLISTED);
    assert_true(message->recipients[1].next_wall_us <= clock_wall_us());
    assert_true(bytes_equal_text(message->recipients[1].last_reply, "451 4.7.1 come back later"));
    settle_one(spool, message, 1, deferred(3600 * (int64_t)US_PER_S));
    assert_int_equal(tally_of((struct spool_view_filter){.cause = "greylisted"}).rows, 1);
    assert_int_equal(tally_of((struct spool_view_filter){.cause = "spool.full"}).rows, 0);
    assert_int_equal(tally_of((struct spool_view_filter){.domain = "there.example"}).rows, 2);
    spool_release(spool, message);

    assert_int_equal(spool_take_id(spool, id, &message).status, LOOKUP_FOUND);
    struct queued_message *again;
    assert_int_equal(spool_take_id(spool, id, &again).status, LOOKUP_ABSENT);
    spool_release(spool, message);
    assert_int_equal(spool_take_id(spool, id + 1, &again).status, LOOKUP_ABSENT);
    assert_int_equal(spool_hold(spool, id, true, text("wait")).status, LOOKUP_FOUND);
    assert_int_equal(spool_hold(spool, id + 1, true, text("wait")).status, LOOKUP_ABSENT);
    assert_int_equal(tally_of((struct spool_view_filter){0}).held, 2);
    spool_close(spool);

    spool = open_spool();
    struct spool_counts counts;
    spool_counts(spool, &counts);
    assert_int_equal(counts.messages, 1);
    assert_int_equal(counts.held, 1);
    assert_int_equal(spool_hold(spool, id, false, BYTES_EMPTY).status, LOOKUP_FOUND);
    assert_int_equal(spool_take_id(spool, id, &message).status, LOOKUP_FOUND);
    assert_int_equal(message->recipients[1].attempts, 2);
    settle_one(spool, message, 1, delivered());
    spool_release(spool, message);
    assert_int_equal(spool_take_id(spool, id, &message).status, LOOKUP_ABSENT);
    spool_close(spool);
    return 0;
}

static void test_deferral(void **state)
{
    (void)state;
    in_world(deferral);
}

/* ------------------------------------------------------------------ a large body */

static int large_body(void)
{
    enum { BYTES = 3 * 1024 * 1024 + 17 };
    uint8_t *const bytes = malloc(BYTES);
    uint8_t *const back = malloc(BYTES);
    for (size_t i = 0; i < BYTES; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 4099);
    struct spool *spool = open_spool();
    struct spool_draft *draft = spool_draft_open(spool);
    for (size_t at = 0; at < BYTES; at += 10000)
        REQUIRE_ACCEPT(spool_draft_write(draft, bytes_of(bytes + at, MIN_OF(BYTES - at, 10000u))));
    assert_int_equal(spool_draft_size(draft), BYTES);
    assert_int_equal(spool_draft_head(draft).count, 256 * KIB);
    for (size_t at = 0; at < BYTES;) {
        const struct io_result got = spool_draft_read(draft, (struct span){back + at, 65537}, at);
        assert_int_equal(got.status, IO_OK);
        at += got.count;
    }
    assert_memory_equal(bytes, back, BYTES);
    spool_draft_close(&draft); /* leaves nothing behind */
    char path[256];
    char id_text[ID_TEXT_MAX];
    struct stat facts;
    const struct letter letter = {{"big"}, 1, bytes_of(bytes, BYTES), false};
    const uint64_t id = commit_letter(spool, &letter);
    snprintf(path, sizeof path, "%s/body/%s", directory, id_print(id, id_text, sizeof id_text));
    assert_int_equal(stat(path, &facts), 0);
    spool_close(spool);
    spool = open_spool();
    struct queued_message *message = take_one(spool);
    struct spool_body *body;
    REQUIRE_ACCEPT(spool_body_open(spool, message->id, &body));
    const size_t front = strlen("First: a\r\nSecond: b\r\n");
    assert_int_equal(spool_body_size(body), BYTES + front);
    for (size_t at = 0; at < BYTES;) {
        const struct io_result got =
            spool_body_read(body, (struct span){back + at, BYTES - at}, at + front);
        assert_int_equal(got.status, IO_OK);
        at += got.count;
    }
    assert_memory_equal(bytes, back, BYTES);
    spool_body_close(&body);

    /* One byte of it turns over: named and set aside, never sent cut. */
    const int extent = open(path, O_RDWR);
    assert_int_equal(pwrite(extent, "\xff\x00\xff", 3, 1000000), 3);
    close(extent);
    const struct verdict damaged = spool_body_open(spool, message->id, &body);
    assert_int_equal(damaged.cause, CAUSE_BODY_DAMAGED);
    settle_one(spool, message, 0, delivered());
    spool_release(spool, message);
    spool_close(spool);
    spool = open_spool();
    spool_close(spool);
    assert_int_equal(stat(path, &facts), -1);
    free(bytes);
    free(back);
    return 0;
}

static void test_large_body(void **state)
{
    (void)state;
    in_world(large_body);
}

/* ------------------------------------------------------------------ many */

enum { FIBERS = 50, MESSAGES = 10000 };
static struct spool *shared;
static int left;
static struct waitlist all_done;

static void committer(void *argument)
{
    static const char *const names[] = {"zero", "one", "two", "three", "four"};
    const unsigned number = (unsigned)(uintptr_t)argument;
    char body[1024];

    for (unsigned i = 0; i < MESSAGES / FIBERS; i++) {
        memset(body, 'a' + (int)(i % 26), sizeof body);
        const struct letter letter = {
            {names[number % 5], "second"}, 1 + i % 2, bytes_of(body, sizeof body - i), i % 50 == 7};
        commit_letter(shared, &letter);
    }
    if (__atomic_sub_fetch(&left, 1, __ATOMIC_ACQ_REL) == 0)
        waitlist_wake_all(&all_done);
}

static void run_fibers(fiber_main *main, unsigned count)
{
    struct waiter waiter;

    left = (int)count;
    for (unsigned i = 0; i < count; i++)
        assert_non_null(fiber_start_on(loop_session(i % loop_session_count()), "test", main,
                                       (void *)(uintptr_t)i));
    waitlist_join(&all_done, &waiter);
    while (__atomic_load_n(&left, __ATOMIC_ACQUIRE) > 0)
        assert_int_equal(fiber_park(deadline_in(100 * US_PER_S)), IO_OK);
    waitlist_leave(&all_done, &waiter);
}

static uint64_t bounced_id;

static void bounce(struct spool *spool, struct queued_message *message)
{
    struct recipient to = {.address = message->envelope.from};
    const struct envelope envelope = {.recipients = &to,
                                      .recipient_count = 1,
                                      .accepted_wall_us = clock_wall_us(),
                                      .kind = ENVELOPE_DSN};
    CLEANUP(spool_draft_close) struct spool_draft *draft = spool_draft_open(spool);
    struct settlement outcomes[2];
    const uint32_t count = message->envelope.recipient_count;
    for (uint32_t i = 0; i < count; i++)
        outcomes[i] = (struct settlement){
            .recipient = i, .state = RECIPIENT_FAILED, .cause = CAUSE_RECIPIENT_UNKNOWN};
    REQUIRE_ACCEPT(spool_draft_write(draft, text("Subject: failed\r\n\r\nsorry\r\n")));
    bounced_id = spool_draft_id(draft);
    const struct settlement_group group = {outcomes, count, draft, &envelope};
    REQUIRE_ACCEPT(spool_settle(spool, message, &group));
}

static struct spool_counts settle_many(struct spool *spool)
{
    unsigned number = 0;
    struct queued_message *list;

    while (spool_take(spool, 100, deadline_in(number < 9800 ? 10 * US_PER_S : 500 * 1000), &list) ==
           IO_OK)
        while (list) {
            struct queued_message *message = list;
            list = message->next;
            const unsigned kind = number++ % 4;
            if (kind == 0)
                for (uint32_t i = 0; i < message->envelope.recipient_count; i++)
                    settle_one(spool, message, i, delivered());
            else if (kind == 1 && message->envelope.kind == ENVELOPE_MAIL)
                bounce(spool, message);
            else
                settle_one(spool, message, 0, deferred(3600 * (int64_t)US_PER_S)),
                    message->envelope.recipient_count > 1
                        ? settle_one(spool, message, 1, deferred(7200 * (int64_t)US_PER_S))
                        : (void)0;
            spool_release(spool, message);
        }
    struct spool_counts counts;
    spool_counts(spool, &counts);
    return counts;
}

static struct tally before;
static struct spool_counts counts_before;

static int many(void)
{
    shared = open_spool();
    run_fibers(committer, FIBERS);
    struct spool_counts counts;
    spool_counts(shared, &counts);
    assert_int_equal(counts.messages, MESSAGES);
    assert_int_equal(counts.held, MESSAGES / 50);
    counts_before = settle_many(shared);
    before = tally_of((struct spool_view_filter){0});
    assert_true(before.rows > 0);
    spool_close(shared);
    return 0;
}

static int many_again(void)
{
    struct spool_counts counts;
    shared = open_spool();
    spool_counts(shared, &counts);
    assert_int_equal(counts.messages, counts_before.messages);
    assert_int_equal(counts.bytes_live, counts_before.bytes_live);
    assert_int_equal(counts.held, counts_before.held);
    const struct tally up = tally_of((struct spool_view_filter){0});
    assert_int_equal(up.sum, before.sum);
    spool_close(shared);
    return 0;
}

static void test_many(void **state)
{
    (void)state;
    in_world(many);
    const struct tally down = tally_of((struct spool_view_filter){0});
    assert_int_equal(down.rows, before.rows);
    assert_int_equal(down.sum, before.sum);
    in_world(many_again);

    char why[256] = "";
    if (!spool_rebuild(directory, why, sizeof why))
        fail_msg("%s", why);
    const struct tally rebuilt = tally_of((struct spool_view_filter){0});
    assert_int_equal(rebuilt.rows, before.rows);
    assert_int_equal(rebuilt.sum, before.sum);

    char path[256];
    static const char *const files[] = {"index.db", "index.db-wal", "index.db-shm"};
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        unlink(path);
    }
    const struct tally log_only = tally_of((struct spool_view_filter){0});
    assert_int_equal(log_only.sum, before.sum);
    in_world(many_again);
    /* An index of garbage is made anew as well. */
    snprintf(path, sizeof path, "%s/index.db", directory);
    const int garbage = open(path, O_RDWR | O_TRUNC);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(write(garbage, "this is no database at all..", 28), 28);
    close(garbage);
    in_world(many_again);
    before = tally_of((struct spool_view_filter){0});
    assert_int_equal(before.sum, rebuilt.sum);
}

/* ------------------------------------------------------------------ recycling */

static bool count_name(void *argument, const char *name)
{
    *(unsigned *)argument += strstr(name, ".seg") != NULL;
    return true;
}

static unsigned segment_count_on_disk(void)
{
    char path[256];
    unsigned count = 0;
    snprintf(path, sizeof path, "%s/log", directory);
    assert_int_equal(disk_list(path, count_name, &count).status, IO_OK);
    return count;
}

static int recycling(void)
{
    char body[4000];
    struct queued_message *list;
    memset(body, 'r', sizeof body);
    settings.segment_bytes = 256 * KIB;
    struct spool *spool = open_spool();
    const struct letter letter = {{"you"}, 1, bytes_of(body, sizeof body), false};
    const uint64_t straggler = commit_letter(spool, &letter);
    struct queued_message *message = take_one(spool);
    settle_one(spool, message, 0, deferred(3600 * (int64_t)US_PER_S));
    spool_release(spool, message);
    unsigned most = 0;
    for (unsigned i = 0; i < 2000; i++) { /* over 30 segments' worth */
        commit_letter(spool, &letter);
        assert_int_equal(spool_take(spool, 1, deadline_in(10 * US_PER_S), &list), IO_OK);
        settle_one(spool, list, 0, delivered());
        spool_release(spool, list);
        if (i % 100 == 0)
            most = MAX_OF(most, segment_count_on_disk());
    }
    struct spool_counts counts;
    spool_counts(spool, &counts);
    assert_int_equal(counts.messages, 1);
    const uint64_t until_us = deadline_in(30 * US_PER_S);
    while (segment_count_on_disk() > 6 && clock_now_us() < until_us)
        fiber_sleep_until(deadline_in(100 * 1000));
    assert_true(segment_count_on_disk() <= 6);
    struct spool_body *copied;
    REQUIRE_ACCEPT(spool_body_open(spool, straggler, &copied));
    assert_int_equal(spool_body_size(copied), sizeof body + 21);
    spool_body_close(&copied);
    spool_close(spool);
    return 0;
}

static int recycled_again(void)
{
    struct queued_message *message;
    struct spool *spool = open_spool();
    struct spool_counts counts;
    spool_counts(spool, &counts);
    assert_int_equal(counts.messages, 1);
    assert_int_equal(spool_take(spool, 1, deadline_in(1000), &message), IO_TIMEOUT);
    spool_close(spool);
    settings.segment_bytes = 8 * MIB;
    return 0;
}

static void test_recycling(void **state)
{
    (void)state;
    in_world(recycling);
    const struct tally indexed = tally_of((struct spool_view_filter){0});
    assert_int_equal(indexed.rows, 1);
    assert_int_equal(indexed.attempts, 1);
    char why[256] = "";
    settings.segment_bytes = 0;
    if (!spool_rebuild(directory, why, sizeof why))
        fail_msg("%s", why);
    const struct tally rebuilt = tally_of((struct spool_view_filter){0});
    assert_int_equal(rebuilt.sum, indexed.sum);
    settings.segment_bytes = 256 * KIB;
    in_world(recycled_again);
}

/* ------------------------------------------------------------------ refusals */

static int second_instance(void)
{
    char why[256] = "";
    struct spool *spool = open_spool(), *other;
    assert_false(spool_open(&settings, &other, why, sizeof why));
    assert_null(other);
    assert_non_null(strstr(why, "another process"));
    const struct spool_settings nowhere = {.directory = "/nonexistent/spool"};
    assert_false(spool_open(&nowhere, &other, why, sizeof why));
    assert_non_null(strstr(why, "/nonexistent/spool"));
    spool_close(spool);
    return 0;
}

static void test_second_instance(void **state)
{
    (void)state;
    in_world(second_instance);
}

static int no_id_twice(void)
{
    uint64_t last = 0;
    for (unsigned i = 0; i < 5; i++) {
        struct spool *spool = open_spool();
        const uint64_t id = commit_simple(spool);
        assert_true(id > last);
        last = id;
        struct spool_draft *draft = spool_draft_open(spool);
        assert_true(spool_draft_id(draft) > last);
        last = spool_draft_id(draft);
        spool_draft_close(&draft);
        spool_close(spool);
    }
    return 0;
}

static void test_no_id_twice(void **state)
{
    (void)state;
    in_world(no_id_twice);
}

static int discard_and_full(void)
{
    struct spool *spool = open_spool();
    struct recipient to = {.address = {text("a"), text("b.example")}};
    const struct envelope envelope = {.recipients = &to, .recipient_count = 1};
    const struct spool_commit_options discard = {.deadline_us = deadline_in(US_PER_S * 30),
                                                 .discard = true};
    struct spool_draft *draft = spool_draft_open(spool);
    struct spool_receipt receipt;
    REQUIRE_ACCEPT(spool_draft_write(draft, text("x\r\n")));
    REQUIRE_ACCEPT(spool_commit(draft, &envelope, &discard, &receipt));
    assert_true(receipt.durable);
    spool_draft_close(&draft);
    struct queued_message *none;
    assert_int_equal(spool_take(spool, 1, deadline_in(1000), &none), IO_TIMEOUT);
    REQUIRE_ACCEPT(spool_admits(spool, 0));
    const struct verdict full = spool_admits(spool, UINT64_MAX / 2);
    assert_int_equal(full.cause, CAUSE_SPOOL_FULL);
    spool_close(spool);
    const struct spool_settings tight = {
        .directory = directory, .segment_bytes = MIB, .reserve_bytes = UINT64_MAX / 2};
    char why[256];
    assert_true(spool_open(&tight, &spool, why, sizeof why));
    const struct verdict now = spool_admits(spool, 0);
    assert_int_equal(now.cause, CAUSE_SPOOL_FULL);
    spool_close(spool);
    return 0;
}

static void test_discard_and_full(void **state)
{
    (void)state;
    in_world(discard_and_full);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_one_life, fresh_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_deferral, fresh_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_large_body, fresh_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_many, fresh_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_recycling, fresh_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_second_instance, fresh_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_no_id_twice, fresh_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_discard_and_full, fresh_directory, remove_directory),
    };
    return cmocka_run_group_tests_name("spool_queue", tests, NULL, NULL);
}
