/*
 * remote: one source on another machine: a bounded pool of connections and a breaker.
 *
 * One fiber connects at a time, in the worker pool, so a server that hangs takes one thread of it.
 * A connection that cannot be made opens the breaker at once, questions that time out or break
 * their connection open it after three in a row; a prober then connects, ever more slowly and with
 * jitter, and what it gets is the pool's first connection. The lock is held around memory only.
 */
#include <pthread.h>
#include <string.h>

#include "directory/source.h"
#include "observe/observe.h"

enum {
    CONNECTIONS_MAX = 64,
    THRESHOLD = 3,
    PROBE_FIRST_US = 500000,
    PROBE_MOST_US = 5000000,
    JITTER_PERCENT = 25,
    TRIES = 2, /* a connection that died while idle is replaced once */
};

struct remote {
    const struct remote_driver *driver;
    void *source;
    char name[96];
    uint64_t timeout_us;
    unsigned most;

    pthread_mutex_t lock; /* around the members below only */
    void *idle[CONNECTIONS_MAX];
    unsigned idle_count, open_count;
    bool connecting, closing;
    struct waitlist freed; /* a connection, the right to connect, or the breaker changed */
    bool broken;           /* the breaker is open */
    unsigned failures;
    enum lookup_reason reason; /* of the last failure */
    char words[REMOTE_WORDS_MAX];
    struct fiber *prober;
    struct waitlist ended; /* the prober */
    int64_t last_failure_wall_us, last_probe_wall_us;
};

/* ------------------------------------------------------------------ the breaker */

static void breaker_tell(const struct remote *remote, enum event_kind kind, enum lookup_reason why,
                         const char *words)
{
    const struct event event = {.kind = kind,
                                .verdict = verdict_of(why == LOOKUP_REASON_MISCONFIGURED
                                                          ? CAUSE_DIRECTORY_MISCONFIGURED
                                                          : CAUSE_DIRECTORY_UNAVAILABLE),
                                .has_verdict = kind == EVENT_BREAKER_OPEN,
                                .filter = bytes_of_text(remote->name),
                                .text = bytes_of_text(words)};

    observe_event(&event);
    metric_set_labelled("holdfast_breaker_open", "dependency", bytes_of_text(remote->name),
                        kind == EVENT_BREAKER_OPEN ? 1 : 0);
}

static void breaker_close(struct remote *remote)
{
    pthread_mutex_lock(&remote->lock);
    const bool was_open = remote->broken;

    remote->broken = false;
    remote->failures = 0;
    waitlist_wake_all(&remote->freed);
    pthread_mutex_unlock(&remote->lock);
    if (was_open)
        breaker_tell(remote, EVENT_BREAKER_CLOSED, LOOKUP_REASON_UNKNOWN, "");
}

static void prober_start(struct remote *remote);

static void breaker_count(struct remote *remote, const struct remote_answer *answer,
                          unsigned weight)
{
    pthread_mutex_lock(&remote->lock);
    remote->failures += weight;
    remote->reason = answer->reason;
    remote->last_failure_wall_us = clock_wall_us();
    memcpy(remote->words, answer->words, sizeof remote->words);
    const bool opens = !remote->broken && !remote->closing && remote->failures >= THRESHOLD;

    remote->broken = remote->broken || opens;
    if (opens)
        waitlist_wake_all(&remote->freed);
    pthread_mutex_unlock(&remote->lock);
    if (!opens)
        return;
    breaker_tell(remote, EVENT_BREAKER_OPEN, answer->reason, answer->words);
    prober_start(remote);
}

/* ------------------------------------------------------------------ connecting */

struct connect_job {
    struct remote *remote;
    uint64_t deadline_us;
    struct remote_answer *answer;
    void *connection;
};

static void connect_main(void *argument)
{
    struct connect_job *job = argument;

    job->connection =
        job->remote->driver->connect(job->remote->source, job->deadline_us, job->answer);
}

/* The caller holds the right to connect (remote->connecting) and a place (open_count). Sleeps. */
static void *connection_make(struct remote *remote, uint64_t deadline_us,
                             struct remote_answer *answer)
{
    struct connect_job job = {.remote = remote, .deadline_us = deadline_us, .answer = answer};

    if (work_run(connect_main, &job) != IO_OK && !job.connection)
        remote_answer_fail(answer, LOOKUP_REASON_CANCELLED, "cancelled");
    pthread_mutex_lock(&remote->lock);
    remote->connecting = false;
    if (!job.connection)
        remote->open_count--;
    waitlist_wake_one(&remote->freed);
    pthread_mutex_unlock(&remote->lock);
    if (!job.connection && answer->reason != LOOKUP_REASON_CANCELLED)
        breaker_count(remote, answer, THRESHOLD);
    return job.connection;
}

static void connection_end(struct remote *remote, void *connection)
{
    remote->driver->disconnect(connection);
    pthread_mutex_lock(&remote->lock);
    remote->open_count--;
    waitlist_wake_one(&remote->freed);
    pthread_mutex_unlock(&remote->lock);
}

static void connection_give_back(struct remote *remote, void *connection)
{
    pthread_mutex_lock(&remote->lock);
    remote->idle[remote->idle_count++] = connection;
    waitlist_wake_one(&remote->freed);
    pthread_mutex_unlock(&remote->lock);
}

/* ------------------------------------------------------------------ the prober */

static uint64_t jittered(uint64_t pause_us)
{
    const uint64_t range = pause_us * JITTER_PERCENT / 100;

    return pause_us - range + random_u64() % (2 * range + 1);
}

static bool remote_is_broken(struct remote *remote)
{
    pthread_mutex_lock(&remote->lock);
    const bool broken = remote->broken && !remote->closing;

    pthread_mutex_unlock(&remote->lock);
    return broken;
}

static bool prober_may_connect(struct remote *remote)
{
    pthread_mutex_lock(&remote->lock);
    const bool may = !remote->connecting && remote->open_count < CONNECTIONS_MAX;

    if (may) {
        remote->connecting = true;
        remote->open_count++;
    }
    pthread_mutex_unlock(&remote->lock);
    return may;
}

static bool prober_try(struct remote *remote)
{
    struct remote_answer *answer = calloc(1, sizeof *answer);
    void *connection = NULL;

    if (answer && prober_may_connect(remote))
        connection = connection_make(remote, deadline_in(remote->timeout_us), answer);
    free(answer);
    pthread_mutex_lock(&remote->lock);
    remote->last_probe_wall_us = clock_wall_us();
    const bool room = remote->idle_count < remote->most;

    pthread_mutex_unlock(&remote->lock);
    if (connection && room)
        connection_give_back(remote, connection);
    else if (connection)
        connection_end(remote, connection);
    return connection != NULL;
}

/* Connections from before the fault: who knows what became of them. */
static void idle_drop(struct remote *remote)
{
    void *dropped[CONNECTIONS_MAX];

    pthread_mutex_lock(&remote->lock);
    const unsigned count = remote->idle_count;

    memcpy(dropped, remote->idle, sizeof dropped);
    remote->idle_count = 0;
    pthread_mutex_unlock(&remote->lock);
    for (unsigned i = 0; i < count; i++)
        connection_end(remote, dropped[i]);
}

static void prober_main(void *argument)
{
    struct remote *remote = argument;
    uint64_t pause_us = PROBE_FIRST_US;

    idle_drop(remote);
    while (remote_is_broken(remote) &&
           fiber_sleep_until(deadline_in(jittered(pause_us))) == IO_OK) {
        if (prober_try(remote))
            breaker_close(remote);
        pause_us = MIN_OF(2 * pause_us, (uint64_t)PROBE_MOST_US);
    }
    pthread_mutex_lock(&remote->lock);
    remote->prober = NULL;
    waitlist_wake_all(&remote->ended);
    pthread_mutex_unlock(&remote->lock);
}

/* Where no fiber can be had now, the next caller tries again. */
static void prober_start(struct remote *remote)
{
    pthread_mutex_lock(&remote->lock);
    if (!remote->prober && !remote->closing)
        remote->prober = fiber_start("directory.probe", prober_main, remote);
    pthread_mutex_unlock(&remote->lock);
}

/* ------------------------------------------------------------------ asking */

enum take { TAKE_WAIT = 0, TAKE_IDLE, TAKE_CONNECT, TAKE_BROKEN };

static enum take take_step(struct remote *remote, void **connection, struct remote_answer *answer)
{
    enum take step = TAKE_WAIT;

    pthread_mutex_lock(&remote->lock);
    if (remote->broken) {
        step = TAKE_BROKEN;
        remote_answer_fail(answer, remote->reason, "%s", remote->words);
    } else if (remote->idle_count > 0) {
        step = TAKE_IDLE;
        *connection = remote->idle[--remote->idle_count];
    } else if (!remote->connecting && remote->open_count < remote->most) {
        step = TAKE_CONNECT;
        remote->connecting = true;
        remote->open_count++;
    }
    pthread_mutex_unlock(&remote->lock);
    return step;
}

/* Waits for its turn; TAKE_WAIT when there was none in time. Sleeps. */
static enum take take_turn(struct remote *remote, const struct remote_question *question,
                           void **connection, struct remote_answer *answer)
{
    struct waiter waiter;
    enum io_status status = IO_OK;
    enum take step = TAKE_WAIT;

    waitlist_join(&remote->freed, &waiter);
    while (step == TAKE_WAIT && status == IO_OK) {
        step = take_step(remote, connection, answer);
        if (step == TAKE_WAIT)
            status = fiber_park(question->deadline_us);
    }
    waitlist_leave(&remote->freed, &waiter);
    if (step == TAKE_WAIT)
        remote_answer_fail(
            answer, status == IO_CANCELLED ? LOOKUP_REASON_CANCELLED : LOOKUP_REASON_OVERLOADED,
            "no connection to the directory was free in time");
    return step;
}

/* NULL: the answer says why. Sleeps. */
static void *connection_take(struct remote *remote, const struct remote_question *question,
                             struct remote_answer *answer, bool *used)
{
    void *connection = NULL;

    *used = false;
    switch (take_turn(remote, question, &connection, answer)) {
    case TAKE_IDLE:
        *used = true;
        return connection;
    case TAKE_CONNECT:
        return connection_make(remote, question->deadline_us, answer);
    case TAKE_BROKEN:
        prober_start(remote);
        return NULL;
    case TAKE_WAIT:
        break;
    }
    return NULL;
}

static void answer_settle(struct remote *remote, void *connection,
                          const struct remote_answer *answer)
{
    if (answer->broken)
        connection_end(remote, connection);
    else
        connection_give_back(remote, connection);
    if (!answer->broken)
        breaker_close(remote);
    else if (answer->status == LOOKUP_FAILED && answer->reason != LOOKUP_REASON_CANCELLED)
        breaker_count(remote, answer, 1);
}

void remote_ask(struct remote *remote, struct remote_question *question,
                struct remote_answer *answer)
{
    question->deadline_us = deadline_in(remote->timeout_us);
    for (int i = 0; i < TRIES; i++) {
        bool used = false;

        buffer_free(&answer->targets);
        *answer = (struct remote_answer){0};
        void *connection = connection_take(remote, question, answer, &used);

        if (!connection)
            return;
        remote->driver->ask(remote->source, connection, question, answer);
        /* The server may have closed it while it was idle: that says nothing about the server. */
        if (answer->broken && used && answer->reason == LOOKUP_REASON_UNAVAILABLE &&
            i + 1 < TRIES) {
            connection_end(remote, connection);
            continue;
        }
        answer_settle(remote, connection, answer);
        return;
    }
}

/* ------------------------------------------------------------------ open and close */

struct remote *remote_open(const struct remote_driver *driver, void *source,
                           const struct remote_pool_settings *settings)
{
    struct remote *remote = calloc(1, sizeof *remote);

    if (!remote)
        return NULL;
    remote->driver = driver;
    remote->source = source;
    remote->timeout_us = settings->timeout_us;
    remote->most = MIN_OF(MAX_OF(settings->connections, 1u), (unsigned)CONNECTIONS_MAX - 1u);
    snprintf(remote->name, sizeof remote->name, "%s", settings->name);
    pthread_mutex_init(&remote->lock, NULL);
    metric_set_labelled("holdfast_breaker_open", "dependency", bytes_of_text(remote->name), 0);
    return remote;
}

static bool prober_runs(struct remote *remote)
{
    pthread_mutex_lock(&remote->lock);
    const bool runs = remote->prober != NULL;

    pthread_mutex_unlock(&remote->lock);
    return runs;
}

/* Joined first: a prober that ends between the look and the sleep still wakes us. */
static void prober_stop(struct remote *remote)
{
    struct waiter waiter;
    const bool masked = fiber_mask_cancel(true);
    const uint64_t deadline_us = deadline_in(remote->timeout_us + 10 * US_PER_S);

    pthread_mutex_lock(&remote->lock);
    remote->closing = true;
    if (remote->prober)
        fiber_cancel(remote->prober);
    pthread_mutex_unlock(&remote->lock);
    waitlist_join(&remote->ended, &waiter);
    while (prober_runs(remote) && fiber_park(deadline_us) != IO_TIMEOUT)
        ;
    waitlist_leave(&remote->ended, &waiter);
    fiber_mask_cancel(masked);
}

void remote_close(struct remote *remote)
{
    if (!remote)
        return;
    if (fiber_self())
        prober_stop(remote);
    if (prober_runs(remote)) {
        observe_note(LOG_WARNING, "directory", "a probe did not end in time, memory kept");
        return;
    }
    idle_drop(remote);
    remote->driver->close(remote->source);
    pthread_mutex_destroy(&remote->lock);
    free(remote);
}

void remote_fill_row(struct remote *remote, struct directory_breaker *row)
{
    pthread_mutex_lock(&remote->lock);
    *row = (struct directory_breaker){.dependency = remote->name,
                                      .open = remote->broken,
                                      .failures = remote->failures,
                                      .last_failure_wall_us = remote->last_failure_wall_us,
                                      .last_probe_wall_us = remote->last_probe_wall_us};
    snprintf(row->words, sizeof row->words, "%.150s", remote->words);
    pthread_mutex_unlock(&remote->lock);
}
