/* The content filters: what came of one, the message as each reads it, and the talks with milters.
 * Private to the room. */
#ifndef POLICY_FILTER_H
#define POLICY_FILTER_H

#include "policy/inside.h"

/* ------------------------------------------------------------------ what came of a filter */

/* A verdict of the filter, or a fault of it (then `fault` is true). */
struct scan {
    struct verdict verdict;
    bool fault;
    bool asked; /* the filter itself was: its breaker was closed and there was time */
    uint64_t took_us;
};

/* What a filter said of a message, apart from its transaction, so that it can be used again. */
struct kept {
    enum cause cause; /* ACCEPTED: it let the message pass */
    bool discards;    /* then: nobody gets it */
    struct bytes words;
    struct bytes headers;          /* spamd: fields for the message */
    struct milter_changes changes; /* milter: never a body */
};

/* ---- judge.c */

enum cause filter_fault_cause(enum filter_fault fault);
struct bytes filter_words(struct arena *arena, const struct config_filter *filter,
                          struct bytes words); /* "NAME: words" */
struct scan filter_scan_fault(struct arena *arena, const struct config_filter *filter,
                              enum filter_fault fault, struct bytes words);
/* A fault of our own says nothing about the filter: no other instance is asked, nothing excuses it.
 */
bool cause_is_our_own(enum cause cause);
/* Tells the breaker what came of an instance; a time-out counts only when it had its fair time. */
void instance_learn(struct filter_instance *instance, enum filter_fault fault, struct bytes words,
                    uint64_t waited_us);
/* What the setting `on_fault` makes of a fault; ACCEPT: the message goes on without this filter. */
MUST_USE struct verdict filter_excuse(struct transaction *transaction,
                                      const struct config_filter *filter,
                                      const struct verdict *fault);
/* A verdict that took so long that the client may have gone is kept for its next attempt. */
void verdict_remember(const struct transaction *transaction, struct filter_instance *instance,
                      const struct kept *kept, uint64_t took_us);
#define FILTER_PROBE_US (5 * US_PER_S) /* a probe, whatever the filter's own time-out */
/* The deadlines of a scan that begins now. */
struct filter_deadlines filter_deadlines_of(const struct config_filter *filter,
                                            uint64_t deadline_us);

/* ------------------------------------------------------------------ the message */

/*
 * The message as the next filter reads it: header and body as the filters before left them. Lives
 * with its transaction, until it is committed.
 */
struct filtering {
    struct policy_message original;
    uint64_t body_offset;       /* where the body begins in the original */
    struct buffer above, below; /* the header: above our Received, and from below it to the body */
    struct message_source body;
    struct policy_message now; /* all below our Received, as one */
    bool source_failed;        /* our own spool did not give it */
    bool header_is_whole;      /* else it is longer than anyone looks at */
    bool changed;
};

/* ---- filter_message.c */

/* NULL on memory. Frees what an earlier one kept. */
MUST_USE struct filtering *filtering_open(struct transaction *transaction,
                                          const struct policy_message *message);
void filtering_close(struct filtering *filtering);
struct milter_headers filtering_headers(const struct filtering *filtering);
/* Header and, when `body` is not NULL, body are others from now on. */
MUST_USE bool filtering_change(struct transaction *transaction,
                               const struct milter_changes *changes,
                               const struct message_source *body);
/* Takes away every field whose name begins so. */
MUST_USE bool filtering_drop_fields(struct transaction *transaction, const char *prefix);

/* A message from memory, to try a filter with. The pattern outlives it. */
struct message_source filter_pattern(struct bytes *pattern);

/* ------------------------------------------------------------------ by protocol */

/* ---- memory.c */

struct memory *memory_open(void); /* NULL on memory */
void memory_close(struct memory *memory);
/* Of this message at this filter, as the transaction is now; empty: nothing is remembered of it. */
struct bytes memory_key(const struct transaction *transaction, const struct config_filter *filter);
void memory_keep(struct memory *memory, struct bytes key, const struct kept *kept);
/* Once: then it is forgotten, and the same message would be asked about again. */
MUST_USE bool memory_recall(struct memory *memory, struct bytes key, struct arena *arena,
                            struct kept *kept);

/* ---- poison.c */

struct poison_key {
    uint8_t digest[32]; /* SHA-256 of the message */
    uint64_t rest;      /* the filter and, for a milter, the dialogue */
};
/* directory: where its slate lies; NULL: in memory only. NULL on memory. Sleeps. */
struct poison *poison_open(const char *directory);
void poison_close(struct poison *poison);
/* Of this message at this filter, as the transaction is now; false: nothing is remembered of it. */
MUST_USE bool poison_key(const struct transaction *transaction, const struct config_filter *filter,
                         struct poison_key *key);
/* The message made the filter fail. `passed`: messages that the filter has judged so far. Sleeps.
 */
void poison_failed(struct poison *poison, const struct poison_key *key, uint64_t passed);
/* It was judged after all. Sleeps. */
void poison_passed(struct poison *poison, const struct poison_key *key);
/* Sleeps when that is news. */
bool poison_is(struct poison *poison, const struct poison_key *key, unsigned most, uint64_t passed);

/* ---- filter_late.c */

/* A filter that has the whole message and still owes its answer. */
struct late_talk {
    struct filter_instance *instance;
    struct stream *stream; /* clamd, spamd: taken over */
    struct milter *milter; /* or this */
    uint64_t asked_us;
};
/* Listens on, in a fiber of its own; what comes is kept. */
void late_begin(const struct late_talk *talk, const struct transaction *transaction);

/* ---- filter_clamd.c, filter_spamd.c: one instance, one message. Sleep. */

/* False: it was no verdict. */
MUST_USE bool clamd_kept(struct arena *arena, const struct config_filter *filter,
                         const struct clamd_verdict *answer, struct kept *kept);
MUST_USE bool spamd_kept(struct arena *arena, const struct config_filter *filter,
                         const struct spamd_verdict *answer, struct kept *kept);
MUST_USE bool milter_kept(const struct milter_verdict *answer, const struct milter_changes *changes,
                          struct kept *kept);
/* What spamd found goes into the message. */
struct scan spamd_apply(struct transaction *transaction, struct bytes headers);
struct scan clamd_instance_scan(struct filter_instance *instance, struct transaction *transaction,
                                const struct policy_message *message);
MUST_USE struct verdict clamd_instance_test(struct filter_instance *instance, struct arena *arena);
bool clamd_instance_ping(const struct filter_instance *instance, struct arena *arena,
                         struct bytes *words);
struct scan spamd_instance_scan(struct filter_instance *instance, struct transaction *transaction,
                                const struct policy_message *message);
MUST_USE struct verdict spamd_instance_test(struct filter_instance *instance, struct arena *arena);
bool spamd_instance_ping(const struct filter_instance *instance, struct arena *arena,
                         struct bytes *words);

/* ---- filter_milter.c: the talks of one client with all milters */

/* MAIL, RCPT and the dot, in the order of the configuration. Sleep. */
MUST_USE struct verdict milters_sender(struct policy *policy, struct transaction *transaction);
MUST_USE struct verdict milters_recipient(struct policy *policy, struct transaction *transaction,
                                          const struct recipient *recipient);
struct scan milter_scan(struct policy *policy, struct transaction *transaction,
                        const struct config_filter *filter);
/* Nobody gets the message, because the filter said so. */
void filter_discard(struct transaction *transaction, const struct config_filter *filter);
/* Hears of the class at hand from its beginning, as if there were no other. */
void milters_begin_class(struct transaction *transaction);
/* The transaction is over: said to the milters with the next one. */
void milters_forget(struct transaction *transaction);
MUST_USE struct verdict milter_instance_test(struct filter_instance *instance, struct arena *arena);
bool milter_instance_ping(const struct filter_instance *instance, struct arena *arena,
                          struct bytes *words);
/* Connections that wait for another session. */
void milter_instance_close(struct filter_instance *instance);

/* ---- filter_macro.c */

enum { MILTER_MACROS_MAX = 32 };
/* The macros that have a value now, into `rows` (MILTER_MACROS_MAX of them). */
unsigned milter_macros(struct milter_macro *rows, const struct policy *policy,
                       const struct transaction *transaction, const struct recipient *recipient);

/* ---- filter_change.c */

/* Does to the envelope and the message what a milter said. Sleeps on the directory. */
struct scan milter_apply(struct policy *policy, struct transaction *transaction,
                         const struct config_filter *filter, const struct milter_changes *changes,
                         const struct message_source *body);

/* ---- classes.c */

/* Does that class, or the one at hand, have this filter? Before any recipient: do all have it? */
bool class_wants(const struct policy *policy, const struct transaction *transaction, uint8_t which,
                 const struct config_filter *filter);
bool filter_is_wanted(const struct policy *policy, const struct transaction *transaction,
                      const struct config_filter *filter);
/* The class of a recipient that leads to these targets becomes transaction->class_now. */
MUST_USE struct verdict class_choose(const struct policy *policy, struct transaction *transaction,
                                     struct address asked, const struct directory_targets *targets);
/* All that judge any recipient of this envelope. */
uint64_t filters_of_envelope(const struct policy *policy, const struct envelope *envelope);

/* ---- recipient.c */

/* A recipient that a filter adds; it needs no leave. Sleeps. */
MUST_USE struct verdict recipient_add(struct policy *policy, struct transaction *transaction,
                                      struct address address);

#endif
