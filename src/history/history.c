/*
 * The queue between those who act and the one who remembers. A session pays for one copy under a
 * short lock; the writer's fiber, on a thread of its own, gathers for a moment and writes batches.
 */
#include "history/inside.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define QUEUE_MAX (8 * MIB)
#define QUEUE_HURRY (2 * MIB)
#define GATHER_US (50 * US_PER_MS)
#define TEND_US (60 * US_PER_S)
#define TEND_OPEN_US (5 * US_PER_S)
#define FLUSH_PATIENCE_US (30 * US_PER_S)
#define CLOSE_PATIENCE_US (60 * US_PER_S)
#define KEEP_TRANSCRIPTS_US (UINT64_C(7) * 86400 * US_PER_S)
#define KEEP_TRANSCRIPTS_BYTES (64 * MIB)
#define TRY_AGAIN_US US_PER_S
enum { TRIES_MAX = 600 }; /* ten minutes, then history is lost and counted */
enum { KEEP_ROWS = 1000000, KEEP_DAYS = 14, BATCHES_A_TEND = 5 };

enum phase { PHASE_OPENING = 0, PHASE_OPEN, PHASE_FAILED, PHASE_ENDED };

struct history {
    pthread_mutex_t lock; /* guards what follows, up to the waitlist; never held across a sleep */
    struct buffer filling;
    uint64_t dropped, flush_wanted, flush_done;
    bool closing;
    struct incident_brief *briefs; /* INCIDENT_BRIEFS_MAX */
    unsigned brief_count;
    enum phase phase;
    struct waitlist changed;
    struct fiber *writer;
    /* The ledger has open rows, or will have: without any, who ends them need not be told. */
    atomic_bool anything_out;
    struct store store; /* the writer's own, as what follows */
    struct buffer batch;
    unsigned tries; /* of this batch that failed */
    char *directory;
    char why[512];
};

/* Sessions that opened and closed say nothing that their messages do not. */
static bool is_kept(const struct history *history, enum event_kind kind)
{
    if (kind == EVENT_RECIPIENT_ACCEPTED || kind == EVENT_RECIPIENT_REFUSED)
        return atomic_load(&history->anything_out);
    return kind != EVENT_SESSION_OPEN && kind != EVENT_SESSION_CLOSE;
}

static void history_sink(void *argument, const struct event *event)
{
    struct history *history = argument;
    bool wake = false;

    if (!is_kept(history, event->kind))
        return;
    if (event->kind == EVENT_MESSAGE_DEFERRED || event->kind == EVENT_RECIPIENT_DEFERRED)
        atomic_store(&history->anything_out, true);
    struct event lean;
    pthread_mutex_lock(&history->lock);
    const size_t before = history->filling.count;
    if (before > QUEUE_HURRY && event->transcript.count > 0) { /* the account comes first */
        lean = *event;
        lean.transcript = BYTES_EMPTY;
        event = &lean;
    }
    const size_t size = kept_size(event);
    uint8_t *at = buffer_reserve(&history->filling, size);
    if (at) {
        kept_write(event, at);
        buffer_claim(&history->filling, size);
        wake = before == 0 || (before < QUEUE_HURRY && before + size >= QUEUE_HURRY);
    } else {
        history->filling.failed = false;
        history->dropped++;
    }
    pthread_mutex_unlock(&history->lock);
    if (!at)
        metric_add(COUNTER_HISTORY_DROPPED, 1);
    if (wake)
        fiber_wake(history->writer);
}

/* ------------------------------------------------------------------ the writer */

/* What the writer should do now; *pending: something waits, but may be gathered with more. */
static bool writer_due(struct history *history, bool *pending)
{
    pthread_mutex_lock(&history->lock);
    const bool due = history->closing || history->flush_wanted > history->flush_done ||
                     history->filling.count >= QUEUE_HURRY;
    *pending = history->filling.count > 0;
    pthread_mutex_unlock(&history->lock);
    return due;
}

/* Before a batch is tried again: until then, or until the end. */
static void writer_pause(struct history *history, uint64_t until_us)
{
    for (bool closing = false; !closing && fiber_park(until_us) != IO_TIMEOUT;) {
        pthread_mutex_lock(&history->lock);
        closing = history->closing;
        pthread_mutex_unlock(&history->lock);
    }
}

/* Sleeps until there is a batch to write or it is time to tend the store. */
static void writer_wait(struct history *history)
{
    const bool out = atomic_load(&history->anything_out); /* and may become overdue */
    const uint64_t tend_us =
        MIN_OF(deadline_in(out ? TEND_OPEN_US : TEND_US), incidents_due_us(&history->store));
    uint64_t deadline_us = tend_us;
    bool pending = false;

    if (history->tries > 0) {
        writer_pause(history, deadline_in(TRY_AGAIN_US));
        return;
    }

    while (!writer_due(history, &pending)) {
        if (pending && deadline_us == tend_us)
            deadline_us = MIN_OF(tend_us, deadline_in(GATHER_US));
        if (fiber_park(deadline_us) == IO_TIMEOUT)
            return;
    }
}

static void writer_phase(struct history *history, enum phase phase)
{
    pthread_mutex_lock(&history->lock);
    history->phase = phase;
    pthread_mutex_unlock(&history->lock);
    waitlist_wake_all(&history->changed);
}

static size_t batch_events(struct bytes rest)
{
    struct kept kept;
    size_t count = 0;

    while (kept_read(&rest, &kept))
        count++;
    return count;
}

/* True when the batch is done with: written, or given up. A full or failing disk may pass, so it is
 * tried again, while what happens meanwhile gathers in the bounded queue. */
static bool writer_write(struct history *history, bool closing)
{
    const struct bytes batch = buffer_view(&history->batch);

    if (batch.count == 0 || store_write(&history->store, batch)) {
        history->tries = 0;
        return true;
    }
    if (!closing && ++history->tries < TRIES_MAX)
        return false;
    history->tries = 0;
    metric_add(COUNTER_HISTORY_DROPPED, (int64_t)batch_events(batch));
    return true;
}

/* One batch; true when the writer should end. */
static bool writer_turn(struct history *history)
{
    pthread_mutex_lock(&history->lock);
    if (history->batch.count == 0) {
        const struct buffer full = history->filling;
        history->filling = history->batch;
        history->batch = full;
    }
    const uint64_t flushed = history->flush_wanted;
    const bool closing = history->closing, ending = closing && history->batch.count == 0;
    pthread_mutex_unlock(&history->lock);

    if (writer_write(history, closing))
        buffer_clear(&history->batch);
    pthread_mutex_lock(&history->lock);
    if (history->filling.count == 0 && history->batch.count == 0)
        atomic_store(&history->anything_out, ledger_is_open(&history->store.ledger));
    history->flush_done = flushed;
    pthread_mutex_unlock(&history->lock);
    waitlist_wake_all(&history->changed);
    return ending;
}

/* For those who ask without waiting for the disk. */
static void writer_publish(struct history *history)
{
    static _Thread_local struct incident_brief rows[INCIDENT_BRIEFS_MAX];
    unsigned count = 0;

    if (!history->store.database || !incidents_brief(&history->store, rows, &count))
        return;
    pthread_mutex_lock(&history->lock);
    memcpy(history->briefs, rows, count * sizeof rows[0]);
    history->brief_count = count;
    pthread_mutex_unlock(&history->lock);
}

unsigned history_incidents(struct history *history, struct incident_brief rows[INCIDENT_BRIEFS_MAX])
{
    pthread_mutex_lock(&history->lock);
    const unsigned count = history->brief_count;
    memcpy(rows, history->briefs, count * sizeof rows[0]);
    pthread_mutex_unlock(&history->lock);
    return count;
}

static void writer_main(void *argument)
{
    struct history *history = argument;
    unsigned turns = 0;
    uint64_t tended_us = clock_now_us();

    /* It ends when history_close says so, after all that may still have something to tell. */
    fiber_mask_cancel(true);
    if (!store_open(&history->store, history->why, sizeof history->why)) {
        writer_phase(history, PHASE_FAILED);
        return;
    }
    atomic_store(&history->anything_out, ledger_is_open(&history->store.ledger));
    writer_phase(history, PHASE_OPEN);
    for (bool ending = false; !ending;) {
        writer_wait(history);
        ending = writer_turn(history);
        if (++turns % BATCHES_A_TEND == 0)
            store_tend(&history->store);
        if (history->store.database && history->batch.count == 0 &&
            incidents_due_us(&history->store) <= clock_now_us())
            incidents_tend(&history->store);
        writer_publish(history);
        if (clock_now_us() - tended_us < US_PER_S)
            continue;
        store_tend(&history->store);
        if (history->store.database)
            ledger_tend(&history->store);
        tended_us = clock_now_us();
    }
    store_close(&history->store);
    writer_phase(history, PHASE_ENDED);
}

/* ------------------------------------------------------------------ opening and closing */

static enum phase history_phase(struct history *history)
{
    pthread_mutex_lock(&history->lock);
    const enum phase phase = history->phase;
    pthread_mutex_unlock(&history->lock);
    return phase;
}

/* Sleeps until the phase is another one, or the patience is over. */
static enum phase history_await(struct history *history, enum phase from, uint64_t patience_us)
{
    const uint64_t deadline_us = deadline_in(patience_us);
    const bool masked = fiber_mask_cancel(true);
    struct waiter waiter;

    waitlist_join(&history->changed, &waiter);
    while (history_phase(history) == from)
        if (fiber_park(deadline_us) == IO_TIMEOUT)
            break;
    waitlist_leave(&history->changed, &waiter);
    fiber_mask_cancel(masked);
    return history_phase(history);
}

static void history_free(struct history *history)
{
    buffer_free(&history->filling);
    buffer_free(&history->batch);
    pthread_mutex_destroy(&history->lock);
    free(history->directory);
    free(history->briefs);
    free(history);
}

static struct history *history_make(const struct history_settings *settings)
{
    struct history *history = calloc(1, sizeof *history);

    if (!history)
        return NULL;
    history->directory = strdup(settings->directory);
    history->briefs = calloc(INCIDENT_BRIEFS_MAX, sizeof *history->briefs);
    if (!history->directory || !history->briefs || pthread_mutex_init(&history->lock, NULL) != 0) {
        free(history->directory);
        free(history->briefs);
        free(history);
        return NULL;
    }
    history->filling = history->batch = BUFFER_WITH_LIMIT(QUEUE_MAX);
    history->store = (struct store){
        .directory = history->directory,
        .keep_rows = settings->keep_rows ? settings->keep_rows : KEEP_ROWS,
        .overdue_us = settings->overdue_us ? (int64_t)settings->overdue_us : LEDGER_OVERDUE_US,
        .incidents = {.times = settings->incidents},
        .transcripts = {.keep_us = settings->transcripts_us ? settings->transcripts_us
                                                            : KEEP_TRANSCRIPTS_US,
                        .keep_bytes = settings->transcripts_bytes ? settings->transcripts_bytes
                                                                  : KEEP_TRANSCRIPTS_BYTES},
        .keep_us = settings->keep_us ? settings->keep_us : (uint64_t)KEEP_DAYS * 86400 * US_PER_S};
    return history;
}

struct history *history_open(const struct history_settings *settings, char *why, size_t why_room)
{
    struct history *history = history_make(settings);
    struct loop *loop = history ? loop_start("history", LOOP_BLOCKING) : NULL;

    if (loop)
        history->writer = fiber_start_on(loop, "history", writer_main, history);
    if (!loop || !history->writer) {
        snprintf(why, why_room, "no memory or thread for the history");
        if (history)
            history_free(history);
        return NULL;
    }
    const enum phase phase = history_await(history, PHASE_OPENING, FLUSH_PATIENCE_US);
    if (phase == PHASE_OPEN && observe_add_sink(history_sink, history))
        return history;
    if (phase == PHASE_OPEN) {
        history_close(history);
        snprintf(why, why_room, "history: the journal takes no more sinks");
        return NULL;
    }
    snprintf(why, why_room, "history: %.400s",
             phase == PHASE_FAILED ? history->why : "the disk does not answer");
    /* A writer that still hangs on the disk keeps its memory. */
    if (phase == PHASE_FAILED)
        history_free(history);
    return NULL;
}

void history_flush(struct history *history)
{
    const uint64_t deadline_us = deadline_in(FLUSH_PATIENCE_US);
    struct waiter waiter;

    pthread_mutex_lock(&history->lock);
    const uint64_t wanted = ++history->flush_wanted;
    pthread_mutex_unlock(&history->lock);
    waitlist_join(&history->changed, &waiter);
    fiber_wake(history->writer);
    for (bool done = false; !done;) {
        pthread_mutex_lock(&history->lock);
        done = history->flush_done >= wanted;
        pthread_mutex_unlock(&history->lock);
        if (!done && fiber_park(deadline_us) != IO_OK)
            break;
    }
    waitlist_leave(&history->changed, &waiter);
}

void history_close(struct history *history)
{
    if (!history)
        return;
    observe_remove_sink(history_sink, history);
    pthread_mutex_lock(&history->lock);
    history->closing = true;
    pthread_mutex_unlock(&history->lock);
    fiber_wake(history->writer);
    if (history_await(history, PHASE_OPEN, CLOSE_PATIENCE_US) == PHASE_ENDED)
        history_free(history);
}
