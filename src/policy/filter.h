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

/* ------------------------------------------------------------------ by protocol */

/* ---- filter_clamd.c, filter_spamd.c: one instance, one message. Sleep. */

struct scan clamd_instance_scan(struct filter_instance *instance, struct arena *arena,
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

/* ---- recipient.c */

/* A recipient that a filter adds; it needs no leave. Sleeps. */
MUST_USE struct verdict recipient_add(struct policy *policy, struct transaction *transaction,
                                      struct address address);

#endif
