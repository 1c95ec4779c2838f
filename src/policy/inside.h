/* What the files of this room share: the room's state and its breakers. */
#ifndef POLICY_INSIDE_H
#define POLICY_INSIDE_H

#include <pthread.h>

#include "policy/policy.h"

/* ------------------------------------------------------------------ circuit breakers */

struct breaker;
/* One probe of the dependency, with its own deadline. Sleeps. */
typedef bool breaker_probe(struct breaker *breaker, struct arena *arena, struct bytes *words);

/*
 * Closed -> open after `threshold` failures in a row -> a background fiber probes, ever more slowly
 * but at least every five seconds -> closed by the first probe that succeeds.
 */
struct breaker {
    char name[96]; /* label and event field, "clamav", "clamav@127.0.0.1:3310", "resolver" */
    struct policy *policy;
    unsigned threshold;
    breaker_probe *probe;
    void *argument; /* of the probe */

    pthread_mutex_t lock; /* around the members below only, never across a sleep */
    bool open;
    unsigned failures;
    enum cause cause; /* of the last failure */
    char words[160];
    int64_t last_failure_wall_us, last_probe_wall_us;
    struct fiber *prober;
};

void breaker_init(struct breaker *breaker, struct policy *policy, unsigned threshold);
void breaker_free(struct breaker *breaker);
/* False while open; *cause and *words (in the arena) are then those of the last failure. */
MUST_USE bool breaker_allows(struct breaker *breaker, struct arena *arena, enum cause *cause,
                             struct bytes *words);
void breaker_succeeded(struct breaker *breaker);
void breaker_failed(struct breaker *breaker, enum cause cause, struct bytes words);
bool breaker_is_open(struct breaker *breaker);
/* Ends every fiber in the background and waits for them. Sleeps. */
void breakers_stop(struct policy *policy);
/* filter_late.c; under policy->lock. */
void lates_cancel(struct policy *policy);

/* ------------------------------------------------------------------ the room's state */

/* A connection to a milter that waits for the next session of its loop. */
enum { MILTERS_IDLE_MAX = 4 };
struct idle_milter {
    struct milter *milter; /* NULL: a free place */
    struct loop *loop;
    uint64_t until_us;
};

struct filter_instance {
    const struct config_filter *filter;
    const struct endpoint *at;
    struct breaker breaker;
    pthread_mutex_t idle_lock; /* around `idle` only */
    struct idle_milter idle[MILTERS_IDLE_MAX];
    _Atomic uint64_t judged; /* messages; counted at the filter's first instance for all */
};

struct patience;
struct memory;
struct late;
bool client_is_trusted(const struct config *config, const struct endpoint *remote);

struct signing_key;

struct policy {
    struct policy_settings settings;
    struct patience *patience;
    struct memory *memory;            /* of verdicts, by the message's digest */
    struct poison *poison;            /* of messages that made a filter fail */
    struct signing_key *signing_keys; /* one a `sign` section */
    unsigned signing_key_count;
    struct filter_instance *instances; /* of all filters, in the order of the configuration */
    unsigned instance_count;
    struct breaker resolver;
    _Atomic uint64_t resolver_failed_us; /* when it last turned out that DNS answers nothing here */

    pthread_mutex_t lock; /* around the members below only */
    unsigned background;  /* fibers that probe or listen on */
    struct late *lates;   /* those that listen */
    unsigned late_count;
    bool closing;
    struct waitlist ended; /* `background` went down */
};

/* While the resolver is down, every question fails at once instead of after its time-out. */
bool resolver_is_down(struct policy *policy, struct arena *arena, struct lookup *lookup);
/* The verdict on a look-up that failed: `theirs` with its detail when DNS answers other questions,
 * a cause of ours with its own words when it does not. Sleeps. */
MUST_USE struct verdict dns_fault(struct policy *policy, struct arena *arena, enum cause theirs,
                                  struct bytes detail);

/* Is the client on a block list? Sleeps. */
MUST_USE struct verdict policy_check_lists(struct policy *policy, struct client_facts *client);

/* The cause of a failed look-up in the directory. */
enum cause directory_cause(enum lookup_reason reason);

/* Early answer at MAIL while a required filter is down on every instance; accepts otherwise. */
MUST_USE struct verdict policy_check_filters(struct policy *policy,
                                             struct transaction *transaction);
/* The same at RCPT for filters that not every domain has. */
MUST_USE struct verdict policy_check_class(struct policy *policy, struct transaction *transaction);

#endif
