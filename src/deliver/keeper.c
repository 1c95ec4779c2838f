/*
 * The fiber that has no hurry: it writes what came of TLS some seconds after it came, and fetches
 * policies of MTA-STS again before they end.
 */
#include "deliver/inside.h"

#define WRITE_AFTER_US (5 * US_PER_S)
#define REFRESH_EVERY_US (600 * US_PER_S)
#define STOP_PATIENCE_US (10 * US_PER_S)

static void keeper_write(struct deliver *deliver)
{
    if (!tls_results_flush(deliver->results, deliver->store))
        observe_note(LOG_WARNING, "deliver", "results of TLS could not be kept");
}

static void keeper_main(void *argument)
{
    struct deliver *deliver = argument;
    uint64_t refresh_us = deadline_in(REFRESH_EVERY_US);

    while (!fiber_cancelled()) {
        tls_results_wait(deliver->results, refresh_us);
        if (fiber_sleep_until(deadline_in(WRITE_AFTER_US)) != IO_OK)
            break;
        keeper_write(deliver);
        if (clock_now_us() < refresh_us)
            continue;
        sts_refresh(deliver);
        refresh_us = deadline_in(REFRESH_EVERY_US);
    }
    __atomic_store_n(&deliver->keeper, NULL, __ATOMIC_RELEASE);
    waitlist_wake_all(&deliver->keeper_ended);
}

void deliver_keeper_start(struct deliver *deliver)
{
    deliver->keeper = fiber_start("deliver.keeper", keeper_main, deliver);
    if (!deliver->keeper)
        observe_note(LOG_WARNING, "deliver",
                     "no fiber: results of TLS are written at the end only");
}

/* Sleeps, bounded: a fetch that is under way ends soon after its fiber is cancelled. */
void deliver_keeper_stop(struct deliver *deliver)
{
    struct waiter waiter;
    const uint64_t deadline_us = deadline_in(STOP_PATIENCE_US);
    struct fiber *const keeper = __atomic_load_n(&deliver->keeper, __ATOMIC_ACQUIRE);
    const bool masked = fiber_mask_cancel(true);

    if (keeper)
        fiber_cancel(keeper);
    waitlist_join(&deliver->keeper_ended, &waiter);
    while (__atomic_load_n(&deliver->keeper, __ATOMIC_ACQUIRE) && fiber_park(deadline_us) == IO_OK)
        ;
    waitlist_leave(&deliver->keeper_ended, &waiter);
    keeper_write(deliver);
    fiber_mask_cancel(masked);
}
