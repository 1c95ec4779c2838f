/*
 * Drives the spool for spool_crash.py and measures it. Every fact goes out by write(2) at once, a
 * line each, so that what a killed process said before can be compared with what its spool holds.
 *
 *   spool_driver work DIR COUNT    commits COUNT messages from several fibers and settles them
 *   spool_driver check DIR         opens, prints what lives and whether its body is whole
 *   spool_driver bench DIR COUNT FIBERS [settle]
 *   spool_driver fill DIR COUNT    makes a queue: nine of ten messages for dead.example, the others
 *                                  for a thousand domains, from a hundred senders
 */
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "spool/spool.h"

enum { FIBERS = 6, LARGE_EVERY = 10, LARGE_BYTES = 40000, SMALL_BYTES = 2500 };

static struct {
    const char *mode, *directory;
    unsigned count, fibers;
    bool settle;
    struct spool *spool;
    int committing; /* atomic */
    unsigned next;  /* atomic */
    struct waitlist done;
    int failures;
} driver;

static void say(const char *format, ...) PRINTF_LIKE(1, 2);
static void say(const char *format, ...)
{
    char line[512];
    va_list arguments;

    va_start(arguments, format);
    const int count = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (write(STDOUT_FILENO, line, (size_t)count) != count)
        _exit(3);
}

static struct spool *open_spool(uint64_t segment_bytes)
{
    const struct spool_settings settings = {
        .directory = driver.directory,
        .segment_bytes = segment_bytes,
        .inline_body_bytes = segment_bytes < MIB ? 16 * KIB : 0,
    };
    struct spool *spool;
    char why[256];

    if (spool_open(&settings, &spool, why, sizeof why))
        return spool;
    say("refused %s\n", why);
    return NULL;
}

/* ------------------------------------------------------------------ work */

static struct verdict body_write(struct spool_draft *draft, unsigned number)
{
    char head[64], chunk[1000];
    const unsigned total = number % LARGE_EVERY == 3 ? LARGE_BYTES : SMALL_BYTES;

    snprintf(head, sizeof head, "Subject: token-%u-%u\r\n\r\n", number, total);
    REQUIRE(spool_draft_write(draft, bytes_of_text(head)));
    memset(chunk, 'a' + (int)(number % 26), sizeof chunk);
    for (unsigned at = 0; at < total; at += sizeof chunk)
        REQUIRE(
            spool_draft_write(draft, bytes_of(chunk, MIN_OF(sizeof chunk, (size_t)(total - at)))));
    return verdict_accept();
}

static struct verdict commit_number(unsigned number, struct spool_receipt *receipt)
{
    CLEANUP(spool_draft_close) struct spool_draft *draft = spool_draft_open(driver.spool);
    struct recipient to = {.address = {bytes_of_text("you"), bytes_of_text("there.example")}};
    const struct envelope envelope = {
        .from = {bytes_of_text("me"), bytes_of_text("here.example")},
        .recipients = &to,
        .recipient_count = 1,
        .accepted_wall_us = clock_wall_us(),
    };
    const struct spool_commit_options options = {.deadline_us = deadline_in(20 * US_PER_S)};

    if (!draft)
        return verdict_of(CAUSE_SERVER_BUSY);
    spool_session_sending(driver.spool, true);
    const struct verdict written = body_write(draft, number);
    spool_session_sending(driver.spool, false);
    REQUIRE(written);
    return spool_commit(draft, &envelope, &options, receipt);
}

static void committer(void *argument)
{
    (void)argument;
    for (;;) {
        const unsigned number = __atomic_fetch_add(&driver.next, 1, __ATOMIC_RELAXED);
        struct spool_receipt receipt;
        if (number >= driver.count)
            break;
        const struct verdict verdict = commit_number(number, &receipt);
        if (verdict_accepts(&verdict))
            say("acked %" PRIu64 " %u\n", receipt.message, number);
        else
            say("failed %u %s\n", number, cause_name(verdict.cause));
    }
    __atomic_fetch_sub(&driver.committing, 1, __ATOMIC_ACQ_REL);
    waitlist_wake_all(&driver.done);
}

static const char *settle_plain(struct queued_message *message, struct settlement outcome)
{
    outcome.attempts = message->recipients[0].attempts + 1;
    const struct settlement_group group = {.settlements = &outcome, .count = 1};
    const struct verdict verdict = spool_settle(driver.spool, message, &group);

    return cause_name(verdict.cause);
}

static void settle_bounce(struct queued_message *message)
{
    CLEANUP(spool_draft_close) struct spool_draft *dsn = spool_draft_open(driver.spool);
    struct recipient to = {.address = message->envelope.from};
    const struct envelope envelope = {.recipients = &to,
                                      .recipient_count = 1,
                                      .accepted_wall_us = clock_wall_us(),
                                      .kind = ENVELOPE_DSN};
    const struct settlement outcome = {.state = RECIPIENT_FAILED, .cause = CAUSE_RECIPIENT_UNKNOWN};
    const struct settlement_group group = {&outcome, 1, dsn, &envelope};

    if (!dsn)
        return;
    const struct verdict written = body_write(dsn, 1000000 + (unsigned)(message->id % 1000) * 10);
    if (!verdict_accepts(&written))
        return;
    const uint64_t id = spool_draft_id(dsn);
    say("bouncing %" PRIu64 " %" PRIu64 "\n", message->id, id);
    const struct verdict verdict = spool_settle(driver.spool, message, &group);
    say("bounced %" PRIu64 " %" PRIu64 " %s\n", message->id, id, cause_name(verdict.cause));
}

static void settle(struct queued_message *message)
{
    const unsigned kind = (unsigned)(message->id % 3);
    const struct settlement delivered = {.state = RECIPIENT_DELIVERED, .cause = CAUSE_ACCEPTED};
    const struct settlement deferred = {.state = RECIPIENT_WAITING,
                                        .cause = CAUSE_GREYLISTED,
                                        .next_wall_us =
                                            clock_wall_us() + (int64_t)(3600 * US_PER_S)};

    if (message->envelope.kind == ENVELOPE_DSN || kind == 1) {
        say("deferring %" PRIu64 "\n", message->id);
        say("deferred %" PRIu64 " %s\n", message->id, settle_plain(message, deferred));
    } else if (kind == 0) {
        say("delivering %" PRIu64 "\n", message->id);
        say("delivered %" PRIu64 " %s\n", message->id, settle_plain(message, delivered));
    } else {
        settle_bounce(message);
    }
    spool_release(driver.spool, message);
}

static bool still_committing(void)
{
    return __atomic_load_n(&driver.committing, __ATOMIC_ACQUIRE) > 0;
}

/* Every second message stays unsettled, for the restart to find. */
static void settle_while_committing(void)
{
    struct queued_message *message;

    for (;;) {
        const bool last = !still_committing();
        while (spool_take(driver.spool, 1, deadline_in(20 * US_PER_MS), &message) == IO_OK)
            if (message->id % 2)
                settle(message);
            else
                break; /* its lease ends with the process */
        if (last)
            return;
    }
}

static int start_committers(unsigned count)
{
    driver.committing = (int)count;
    for (unsigned i = 0; i < count; i++)
        if (!fiber_start_on(loop_session(i % loop_session_count()), "driver", committer, NULL))
            return 1;
    return 0;
}

static int work(void)
{
    driver.spool = open_spool(256 * KIB);
    if (!driver.spool || start_committers(FIBERS))
        return 2;
    say("opened\n");
    settle_while_committing();
    const struct verdict admits = spool_admits(driver.spool, 0);
    say("admits %s\n", cause_name(admits.cause));
    spool_close(driver.spool);
    say("closed\n");
    return 0;
}

/* ------------------------------------------------------------------ check */

struct seen {
    uint64_t ids[20000];
    uint32_t attempts[20000];
    unsigned count;
};

static bool see(void *argument, const struct spool_row *row)
{
    struct seen *seen = argument;

    if (seen->count == COUNT_OF(seen->ids))
        return false;
    seen->ids[seen->count] = row->id;
    seen->attempts[seen->count++] = row->attempts;
    return true;
}

static bool body_is_whole(struct spool_body *body, unsigned *number)
{
    static char text[LARGE_BYTES + 100];
    unsigned total = 0;
    int head = 0;

    const struct io_result got =
        spool_body_read(body, (struct span){(uint8_t *)text, sizeof text - 1}, 0);
    if (got.status != IO_OK)
        return false;
    text[got.count] = '\0';
    char *end;
    if (strncmp(text, "Subject: token-", 15) != 0)
        return false;
    *number = (unsigned)strtoul(text + 15, &end, 10);
    total = (unsigned)strtoul(end + 1, &end, 10);
    head = (int)(end - text) + 4;
    if (got.count != (size_t)head + total)
        return false;
    for (size_t i = (size_t)head; i < got.count; i++)
        if (text[i] != 'a' + (int)(*number % 26))
            return false;
    return true;
}

static void check_one(uint64_t id, uint32_t attempts)
{
    CLEANUP(spool_body_close) struct spool_body *body = NULL;
    unsigned number = 0;
    const struct verdict opened = spool_body_open(driver.spool, id, &body);
    const bool whole = verdict_accepts(&opened) && body_is_whole(body, &number);

    say("lives %" PRIu64 " %u %u %s\n", id, number, attempts,
        whole ? "whole" : cause_name(opened.cause));
}

static int check(void)
{
    static struct seen seen;
    const struct spool_view_filter all = {0};
    char why[256];

    driver.spool = open_spool(256 * KIB);
    if (!driver.spool)
        return 2;
    if (!spool_view(driver.directory, &all, see, &seen, why, sizeof why)) {
        say("refused %s\n", why);
        return 2;
    }
    for (unsigned i = 0; i < seen.count; i++)
        check_one(seen.ids[i], seen.attempts[i]);
    struct spool_counts counts;
    spool_counts(driver.spool, &counts);
    spool_close(driver.spool);
    say("checked %" PRIu64 "\n", counts.messages);
    return 0;
}

/* ------------------------------------------------------------------ bench */

static void bench_committer(void *argument)
{
    (void)argument;
    char body[1024];
    struct recipient to = {.address = {bytes_of_text("you"), bytes_of_text("there.example")}};

    memset(body, 'x', sizeof body);
    while (__atomic_fetch_add(&driver.next, 1, __ATOMIC_RELAXED) < driver.count) {
        CLEANUP(spool_draft_close) struct spool_draft *draft = spool_draft_open(driver.spool);
        const struct envelope envelope = {.from = to.address,
                                          .recipients = &to,
                                          .recipient_count = 1,
                                          .accepted_wall_us = clock_wall_us()};
        const struct spool_commit_options options = {.deadline_us = deadline_in(20 * US_PER_S)};
        struct spool_receipt receipt;
        spool_session_sending(driver.spool, true);
        const struct verdict written = spool_draft_write(draft, bytes_of(body, sizeof body));
        spool_session_sending(driver.spool, false);
        const struct verdict verdict = verdict_accepts(&written)
                                           ? spool_commit(draft, &envelope, &options, &receipt)
                                           : written;
        if (!verdict_accepts(&verdict))
            driver.failures++;
    }
    __atomic_fetch_sub(&driver.committing, 1, __ATOMIC_ACQ_REL);
    waitlist_wake_all(&driver.done);
}

static void bench_settler(void)
{
    struct queued_message *list;
    const struct settlement delivered = {.state = RECIPIENT_DELIVERED, .cause = CAUSE_ACCEPTED};

    while (still_committing())
        while (spool_take(driver.spool, 100, deadline_in(US_PER_MS), &list) == IO_OK)
            while (list) {
                struct queued_message *message = list;
                const struct settlement_group group = {.settlements = &delivered, .count = 1};
                list = message->next;
                if (driver.settle) {
                    const struct verdict settled = spool_settle(driver.spool, message, &group);
                    driver.failures += !verdict_accepts(&settled);
                }
                spool_release(driver.spool, message);
            }
}

static int bench(void)
{
    driver.spool = open_spool(0);
    if (!driver.spool)
        return 2;
    fiber_sleep_until(deadline_in(2 * US_PER_S)); /* the spares are made */
    driver.committing = (int)driver.fibers;
    const uint64_t began_us = clock_now_us();
    for (unsigned i = 0; i < driver.fibers; i++)
        if (!fiber_start_on(loop_session(i % loop_session_count()), "bench", bench_committer, NULL))
            return 2;
    struct waiter waiter;
    if (driver.settle)
        bench_settler();
    waitlist_join(&driver.done, &waiter);
    while (still_committing())
        if (fiber_park(deadline_in(US_PER_S)) == IO_CANCELLED)
            break;
    waitlist_leave(&driver.done, &waiter);
    const uint64_t took_us = clock_now_us() - began_us;
    say("%u messages of 1 KiB, %u fibers: %.0f a second, %d failures\n", driver.count,
        driver.fibers, (double)driver.count * 1e6 / (double)took_us, driver.failures);
    struct buffer metrics = BUFFER_WITH_LIMIT(MIB);
    metrics_print(&metrics);
    buffer_add_byte(&metrics, 0);
    for (const char *at = (const char *)metrics.at; (at = strstr(at, "holdfast_spool_"));) {
        const char *const end = strchr(at, '\n');
        if (memmem(at, (size_t)(end - at), "_sum", 4) ||
            memmem(at, (size_t)(end - at), "_count", 6))
            say("%.*s\n", (int)(end - at), at);
        at = end;
    }
    buffer_free(&metrics);
    spool_close(driver.spool);
    return 0;
}

/* ------------------------------------------------------------------ fill */

enum { FILL_FIBERS = 200, FILL_BODY = 1024 };

static struct verdict fill_one(unsigned number)
{
    CLEANUP(spool_draft_close) struct spool_draft *draft = spool_draft_open(driver.spool);
    char body[FILL_BODY], local[32], domain[64], sender[32];
    struct recipient to = {0};
    struct spool_receipt receipt;

    if (!draft)
        return verdict_of(CAUSE_SERVER_BUSY);
    memset(body, 'x', sizeof body);
    memcpy(body, "Subject: fill\r\n\r\n", 17);
    memcpy(body + sizeof body - 2, "\r\n", 2);
    snprintf(local, sizeof local, "user%u", number);
    snprintf(sender, sizeof sender, "sender%u", number % 100);
    snprintf(domain, sizeof domain, number % 10 ? "dead.example" : "d%u.example",
             number / 10 % 1000);
    to.address = (struct address){bytes_of_text(local), bytes_of_text(domain)};
    const struct envelope envelope = {
        .from = {bytes_of_text(sender), bytes_of_text("here.example")},
        .recipients = &to,
        .recipient_count = 1,
        .accepted_wall_us = clock_wall_us() - (int64_t)(number % 36000 * US_PER_S)};
    const struct spool_commit_options options = {.deadline_us = deadline_in(60 * US_PER_S)};
    REQUIRE(spool_draft_write(draft, bytes_of(body, sizeof body)));
    return spool_commit(draft, &envelope, &options, &receipt);
}

/* What the spool puts off is tried again: it lets in only what its index can keep up with. */
static void filler(void *argument)
{
    (void)argument;
    for (;;) {
        const unsigned number = __atomic_fetch_add(&driver.next, 1, __ATOMIC_RELAXED);
        if (number >= driver.count)
            break;
        for (;;) {
            const struct verdict verdict = fill_one(number);
            if (verdict_accepts(&verdict))
                break;
            fiber_sleep_until(deadline_in(200 * US_PER_MS));
        }
    }
    __atomic_fetch_sub(&driver.committing, 1, __ATOMIC_ACQ_REL);
    waitlist_wake_all(&driver.done);
}

static int fill(void)
{
    struct waiter waiter;

    driver.spool = open_spool(0);
    if (!driver.spool)
        return 2;
    driver.committing = FILL_FIBERS;
    const uint64_t began_us = clock_now_us();
    for (unsigned i = 0; i < FILL_FIBERS; i++)
        if (!fiber_start_on(loop_session(i % loop_session_count()), "fill", filler, NULL))
            return 2;
    waitlist_join(&driver.done, &waiter);
    while (still_committing())
        if (fiber_park(deadline_in(US_PER_S)) == IO_CANCELLED)
            break;
    waitlist_leave(&driver.done, &waiter);
    spool_close(driver.spool);
    say("filled %u in %.1f s\n", driver.count, (double)(clock_now_us() - began_us) / 1e6);
    return 0;
}

static int driver_main(void *argument)
{
    (void)argument;
    if (strcmp(driver.mode, "fill") == 0)
        return fill();
    if (strcmp(driver.mode, "work") == 0)
        return work();
    return strcmp(driver.mode, "check") == 0 ? check() : bench();
}

int main(int count, char **words)
{
    if (count < 3)
        return 64;
    driver.mode = words[1];
    driver.directory = words[2];
    driver.count = count > 3 ? (unsigned)strtoul(words[3], NULL, 10) : 60;
    driver.fibers = count > 4 ? (unsigned)strtoul(words[4], NULL, 10) : 20;
    driver.settle = count > 5;
    observe_configure(LOG_JSON, LOG_WARNING);
    return world_run(driver_main, NULL, 1);
}
