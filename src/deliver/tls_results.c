/*
 * What came of TLS with each host, for reports (RFC 8460): counted in memory, and written a few
 * seconds later by the keeper. A crash costs the counts of those seconds.
 */
#include "deliver/inside.h"

#include <pthread.h>
#include <string.h>

enum { DAY_S = 86400 };

struct tls_results {
    pthread_mutex_t lock; /* around memory operations only */
    struct tls_result *rows;
    unsigned count, room;
    uint64_t dropped;
    bool dirty;
    struct waitlist changed;
};

struct tls_results *tls_results_open(void)
{
    struct tls_results *results = calloc(1, sizeof *results);

    if (results)
        pthread_mutex_init(&results->lock, NULL);
    return results;
}

void tls_results_close(struct tls_results *results)
{
    if (!results)
        return;
    pthread_mutex_destroy(&results->lock);
    free(results->rows);
    free(results);
}

static bool is_same(const struct tls_result *a, const struct tls_result *b)
{
    return a->day == b->day && a->kind == b->kind && strcmp(a->domain, b->domain) == 0 &&
           strcmp(a->failure, b->failure) == 0 && strcmp(a->host, b->host) == 0 &&
           strcmp(a->ip, b->ip) == 0 && strcmp(a->source, b->source) == 0 &&
           strcmp(a->reason, b->reason) == 0 && strcmp(a->policy, b->policy) == 0;
}

/* Called with the lock held. */
static bool results_grow(struct tls_results *results)
{
    const unsigned room = MAX_OF(16u, 2 * results->room);
    struct tls_result *const rows =
        room <= DELIVER_RESULTS_MAX ? realloc(results->rows, room * sizeof *rows) : NULL;

    if (!rows)
        return false;
    results->rows = rows;
    results->room = room;
    return true;
}

static void results_add(struct tls_results *results, const struct tls_result *result)
{
    pthread_mutex_lock(&results->lock);
    unsigned at = 0;
    while (at < results->count && !is_same(&results->rows[at], result))
        at++;
    if (at < results->count)
        results->rows[at].count++;
    else if (at < results->room || results_grow(results))
        results->rows[results->count++] = *result;
    else
        results->dropped++;
    results->dirty = true;
    pthread_mutex_unlock(&results->lock);
    waitlist_wake_all(&results->changed);
}

void tls_result_note(const struct deliver_channel *channel, const struct tls_note *note)
{
    struct tls_results *results = channel->deliver->results;
    struct tls_result *result = results ? calloc(1, sizeof *result) : NULL;

    if (!result)
        return;
    *result = (struct tls_result){
        .day = clock_wall_us() / (int64_t)US_PER_S / DAY_S, .kind = note->kind, .count = 1};
    snprintf(result->domain, sizeof result->domain, "%s", channel->to.domain);
    snprintf(result->policy, sizeof result->policy, "%.*s",
             (int)MIN_OF(note->policy.count, sizeof result->policy - 1),
             note->policy.count ? (const char *)note->policy.at : "");
    if (note->failure) { /* a success is the same whichever host it came from */
        snprintf(result->failure, sizeof result->failure, "%s", note->failure);
        snprintf(result->reason, sizeof result->reason, "%s", note->reason ? note->reason : "");
        if (note->hop) {
            snprintf(result->host, sizeof result->host, "%.*s",
                     (int)MIN_OF(note->hop->name.count, sizeof result->host - 1),
                     note->hop->name.count ? (const char *)note->hop->name.at : "");
            ip_print(&note->hop->at.ip, result->ip, sizeof result->ip);
        }
        if (channel->stream)
            ip_print(&channel->stream->local.ip, result->source, sizeof result->source);
    }
    results_add(results, result);
    free(result);
}

/* Sleeps until there is something to write, or that time. */
void tls_results_wait(struct tls_results *results, uint64_t deadline_us)
{
    struct waiter waiter;

    waitlist_join(&results->changed, &waiter);
    for (;;) {
        pthread_mutex_lock(&results->lock);
        const bool dirty = results->dirty;
        pthread_mutex_unlock(&results->lock);
        if (dirty || fiber_park(deadline_us) != IO_OK)
            break;
    }
    waitlist_leave(&results->changed, &waiter);
}

bool tls_results_flush(struct tls_results *results, struct tls_store *store)
{
    pthread_mutex_lock(&results->lock);
    struct tls_result *const full = results->rows;
    const unsigned count = results->count;
    const uint64_t dropped = results->dropped;
    results->rows = NULL;
    results->count = results->room = 0;
    results->dropped = 0;
    results->dirty = false;
    pthread_mutex_unlock(&results->lock);
    const bool written = count == 0 || tls_store_add(store, full, count);
    if (dropped > 0)
        observe_note(LOG_WARNING, "deliver", "%llu results of TLS were too many to count",
                     (unsigned long long)dropped);
    free(full);
    return written;
}
