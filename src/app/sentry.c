/*
 * The sentry's fiber: it looks at the certificate in use and at the two clocks, once a second.
 */
#include "app/sentry.h"

#include <stdatomic.h>
#include <string.h>

#include "observe/observe.h"

#define LOOK_US (1 * US_PER_S)
#define DAY_US ((int64_t)24 * 3600 * 1000000)
/* Slewing is slower by far, and a machine that stands still does not part the clocks. */
#define JUMP_US ((int64_t)5 * 1000000)

struct sentry {
    const struct house *house;
    struct fiber *fiber;
    atomic_bool closing, ended;
    struct waitlist changed;
    enum certificate_mark told;
    int64_t wall_us;
    uint64_t steady_us;
};

/* ------------------------------------------------------------------ the certificate */

enum certificate_mark certificate_mark_of(int64_t left_us)
{
    if (left_us <= 0)
        return CERTIFICATE_EXPIRED;
    if (left_us <= DAY_US)
        return CERTIFICATE_DAY_1;
    if (left_us <= 7 * DAY_US)
        return CERTIFICATE_DAYS_7;
    return left_us <= 14 * DAY_US ? CERTIFICATE_DAYS_14 : CERTIFICATE_FINE;
}

static void tell_certificate(const struct sentry *sentry, enum certificate_mark mark,
                             int64_t end_wall_us)
{
    const bool over = mark == CERTIFICATE_EXPIRED, fine = mark == CERTIFICATE_FINE;
    char moment[TIME_TEXT_MAX], text[128];
    struct event event = {.kind = fine ? EVENT_CERTIFICATE_RENEWED : EVENT_CERTIFICATE_EXPIRING,
                          .has_verdict = !fine,
                          .verdict = verdict_of(fine   ? CAUSE_ACCEPTED
                                                : over ? CAUSE_CERTIFICATE_EXPIRED
                                                       : CAUSE_CERTIFICATE_EXPIRING),
                          .filter = bytes_of_text(sentry->house->config->tls_certificate)};

    snprintf(text, sizeof text, "%s %s", over ? "it ended" : "it ends",
             time_print_rfc3339(end_wall_us, moment, sizeof moment));
    event.text = bytes_of_text(text);
    observe_event(&event);
}

/* Told when it gets worse, and when it is well again. */
static void look_at_certificate(struct sentry *sentry)
{
    const struct house *house = sentry->house;
    const int64_t end_wall_us = tls_context_end_wall_us(house->tls_in);
    const int64_t left_us = end_wall_us - clock_wall_us();
    const enum certificate_mark mark =
        end_wall_us == 0 ? CERTIFICATE_FINE : certificate_mark_of(left_us);

    if (end_wall_us != 0)
        metric_set_labelled("holdfast_certificate_expiry_seconds", "certificate",
                            bytes_of_text(house->config->tls_certificate), left_us / 1000000);
    if (mark > sentry->told || (mark == CERTIFICATE_FINE && sentry->told != CERTIFICATE_FINE))
        tell_certificate(sentry, mark, end_wall_us);
    sentry->told = mark;
}

/* ------------------------------------------------------------------ the clocks */

bool clock_has_jumped(int64_t wall_us, int64_t steady_us, int64_t *by_us)
{
    *by_us = wall_us - steady_us;
    return *by_us > JUMP_US || *by_us < -JUMP_US;
}

static void tell_jump(int64_t before_us, int64_t by_us)
{
    char moment[TIME_TEXT_MAX], amount[64], text[200];
    const uint64_t size_us = by_us < 0 ? 0 - (uint64_t)by_us : (uint64_t)by_us;

    snprintf(text, sizeof text, "the clock went %s by %s, from %s", by_us < 0 ? "back" : "forward",
             duration_print(size_us, amount, sizeof amount),
             time_print_rfc3339(before_us, moment, sizeof moment));
    metric_add(COUNTER_CLOCK_JUMPS, 1);
    observe_event(&(struct event){.kind = EVENT_CLOCK_JUMPED,
                                  .has_verdict = true,
                                  .verdict = verdict_of(CAUSE_CLOCK_JUMPED),
                                  .filter = BYTES_LITERAL("clock"),
                                  .text = bytes_of_text(text)});
}

static void look_at_clocks(struct sentry *sentry)
{
    const int64_t wall_us = clock_wall_us();
    const uint64_t steady_us = clock_now_us();
    int64_t by_us = 0;

    if (sentry->steady_us != 0 &&
        clock_has_jumped(wall_us - sentry->wall_us, (int64_t)(steady_us - sentry->steady_us),
                         &by_us))
        tell_jump(wall_us - by_us, by_us);
    sentry->wall_us = wall_us;
    sentry->steady_us = steady_us;
}

/* ------------------------------------------------------------------ the fiber */

static void sentry_main(void *argument)
{
    struct sentry *sentry = argument;

    while (!atomic_load(&sentry->closing)) {
        look_at_clocks(sentry);
        look_at_certificate(sentry);
        if (fiber_sleep_until(deadline_in(LOOK_US)) == IO_CANCELLED)
            break;
    }
    atomic_store(&sentry->ended, true);
    waitlist_wake_all(&sentry->changed);
}

struct sentry *sentry_open(const struct house *house)
{
    struct sentry *sentry = calloc(1, sizeof *sentry);

    if (!sentry)
        return NULL;
    sentry->house = house;
    sentry->fiber = fiber_start("sentry", sentry_main, sentry);
    if (sentry->fiber)
        return sentry;
    free(sentry);
    return NULL;
}

void sentry_close(struct sentry *sentry)
{
    struct waiter waiter;

    if (!sentry)
        return;
    const bool masked = fiber_mask_cancel(true);
    atomic_store(&sentry->closing, true);
    if (!atomic_load(&sentry->ended))
        fiber_cancel(sentry->fiber);
    waitlist_join(&sentry->changed, &waiter);
    while (!atomic_load(&sentry->ended))
        if (fiber_park(DEADLINE_NEVER) != IO_OK)
            break;
    waitlist_leave(&sentry->changed, &waiter);
    fiber_mask_cancel(masked);
    free(sentry);
}
