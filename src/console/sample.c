/*
 * The last hour in numbers, for the page's chart: one fiber takes them, the page's thread reads.
 */
#include "console/console_private.h"

#define SAMPLE_EVERY_US (CONSOLE_SAMPLE_S * US_PER_S)

static struct console_sample sample_now(const struct console *console)
{
    struct spool_counts counts = {0};

    spool_counts(console->settings.spool, &counts);
    return (struct console_sample){.accepted = metric_get(COUNTER_ACCEPTED),
                                   .deferred_in = metric_total(METRIC_DEFERRALS),
                                   .delivered = metric_total(METRIC_DELIVERED),
                                   .deferred_out = metric_total(METRIC_DELIVERY_DEFERRALS),
                                   .queued = (int64_t)counts.messages};
}

void console_sample_main(void *argument)
{
    struct console *console = argument;
    struct console_samples *samples = &console->samples;

    do {
        const struct console_sample now = sample_now(console);
        pthread_mutex_lock(&samples->lock);
        samples->rows[samples->taken++ % CONSOLE_SAMPLES_MAX] = now;
        pthread_mutex_unlock(&samples->lock);
    } while (!console->closing && fiber_sleep_until(deadline_in(SAMPLE_EVERY_US)) != IO_CANCELLED);
    console->serving--;
    waitlist_wake_all(&console->ended);
}

unsigned console_samples_copy(struct console *console,
                              struct console_sample rows[CONSOLE_SAMPLES_MAX])
{
    struct console_samples *samples = &console->samples;

    pthread_mutex_lock(&samples->lock);
    const unsigned count = (unsigned)MIN_OF(samples->taken, (uint64_t)CONSOLE_SAMPLES_MAX);
    for (unsigned i = 0; i < count; i++)
        rows[i] = samples->rows[(samples->taken - count + i) % CONSOLE_SAMPLES_MAX];
    pthread_mutex_unlock(&samples->lock);
    return count;
}
