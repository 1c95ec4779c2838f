/*
 * judge: the content filters, in order; the first objection wins. All share one deadline after the
 * final dot. An instance that fails hands over to the next; only when each has failed does the
 * filter's `on_fault` decide, and an outage is never a reason to refuse: `refuse` speaks of mail
 * that the filter itself cannot scan.
 */
#include "policy/authenticate.h"
#include "policy/filter.h"

/* A time-out counts against the filter only when it had this long, or all the time it may have. */
static const uint64_t FAIR_WAIT_US = 10 * US_PER_S;

/* ------------------------------------------------------------------ faults and their causes */

enum cause filter_fault_cause(enum filter_fault fault)
{
    switch (fault) {
    case FILTER_FAULT_UNREACHABLE:
        return CAUSE_FILTER_UNREACHABLE;
    case FILTER_FAULT_TIMEOUT:
        return CAUSE_FILTER_TIMEOUT;
    case FILTER_FAULT_CRASHED:
        return CAUSE_FILTER_CRASHED;
    case FILTER_FAULT_GARBLED:
        return CAUSE_FILTER_GARBLED;
    case FILTER_FAULT_OVERLOADED:
        return CAUSE_FILTER_OVERLOADED;
    case FILTER_FAULT_MISCONFIGURED:
        return CAUSE_FILTER_MISCONFIGURED;
    case FILTER_FAULT_LOCAL: /* no descriptors or memory, unless the session is being ended */
        return fiber_cancelled() ? CAUSE_SERVER_STOPPING : CAUSE_SERVER_BUSY;
    case FILTER_FAULT_NONE:
        break;
    }
    return CAUSE_UNDECIDED;
}

struct bytes filter_words(struct arena *arena, const struct config_filter *filter,
                          struct bytes words)
{
    return arena_print(arena, "%s: %.*s", filter->name, BYTES_PRINT(words));
}

struct scan filter_scan_fault(struct arena *arena, const struct config_filter *filter,
                              enum filter_fault fault, struct bytes words)
{
    return (struct scan){
        .verdict = verdict_with(filter_fault_cause(fault), filter_words(arena, filter, words)),
        .fault = true};
}

/* ------------------------------------------------------------------ one filter */

struct filter_deadlines filter_deadlines_of(const struct config_filter *filter,
                                            uint64_t deadline_us)
{
    const uint64_t done_us = MIN_OF(deadline_us, deadline_in(filter->timeout_us));

    return (struct filter_deadlines){MIN_OF(done_us, deadline_in(filter->connect_timeout_us)),
                                     done_us};
}

void instance_learn(struct filter_instance *instance, enum filter_fault fault, struct bytes words,
                    uint64_t waited_us)
{
    const bool fair = fault != FILTER_FAULT_TIMEOUT || waited_us >= FAIR_WAIT_US ||
                      waited_us >= instance->filter->timeout_us ||
                      waited_us >= instance->filter->command_timeout_us;

    if (fault == FILTER_FAULT_NONE)
        breaker_succeeded(&instance->breaker);
    else if (fair && fault != FILTER_FAULT_LOCAL && !fiber_cancelled())
        breaker_failed(&instance->breaker, filter_fault_cause(fault), words);
}

static struct scan instance_scan(struct filter_instance *instance, struct transaction *transaction)
{
    const struct filtering *filtering = transaction->filtering;
    struct scan scan = instance->filter->speaks == FILTER_SPAMD
                           ? spamd_instance_scan(instance, transaction, &filtering->now)
                           : clamd_instance_scan(instance, transaction, &filtering->now);

    scan.asked = true;
    if (filtering->source_failed)
        return (struct scan){.verdict = verdict_with(CAUSE_SPOOL_FAILED, scan.verdict.detail),
                             .fault = true};
    return scan;
}

/* The instance's answer, or at once the cause of its last failure while its breaker is open. */
static struct scan instance_try(struct filter_instance *instance, struct transaction *transaction)
{
    struct arena *arena = transaction->arena;
    enum cause cause = CAUSE_UNDECIDED;
    struct bytes words = BYTES_EMPTY;

    if (breaker_allows(&instance->breaker, arena, &cause, &words))
        return instance_scan(instance, transaction);
    return (struct scan){.verdict =
                             verdict_with(cause, filter_words(arena, instance->filter, words)),
                         .fault = true};
}

bool cause_is_our_own(enum cause cause)
{
    return cause == CAUSE_SPOOL_FAILED || cause == CAUSE_SERVER_BUSY ||
           cause == CAUSE_SERVER_STOPPING || cause == CAUSE_UNDECIDED;
}

static bool scan_is_final(const struct scan *scan)
{
    return !scan->fault || scan->verdict.cause == CAUSE_FILTER_UNSCANNABLE ||
           cause_is_our_own(scan->verdict.cause);
}

/* The instances in turn, until one answers or the shared deadline has passed. */
static struct scan filter_scan(struct policy *policy, const struct config_filter *filter,
                               struct transaction *transaction)
{
    struct scan scan = filter_scan_fault(transaction->arena, filter, FILTER_FAULT_TIMEOUT,
                                         BYTES_LITERAL("no time was left for it"));

    for (unsigned i = 0; i < policy->instance_count; i++) {
        if (policy->instances[i].filter != filter)
            continue;
        if (clock_now_us() >= transaction->filtering->original.deadline_us)
            break;
        const struct scan answer = instance_try(&policy->instances[i], transaction);

        scan = answer;
        if (scan_is_final(&scan))
            break;
    }
    return scan;
}

/* ------------------------------------------------------------------ what a fault means */

static void mark_unscanned(struct transaction *transaction, const struct config_filter *filter,
                           const struct verdict *verdict)
{
    if (transaction->headers)
        buffer_print(transaction->headers, "X-Holdfast-Filter: %s; not scanned; cause=%s\r\n",
                     filter->name, cause_name(verdict->cause));
    observe_note(LOG_WARNING, "policy", "accepted without filter %s: %s", filter->name,
                 cause_name(verdict->cause));
}

static void hold_unscanned(struct transaction *transaction, const struct config_filter *filter,
                           const struct verdict *verdict)
{
    transaction->disposition = DISPOSITION_HOLD;
    transaction->hold_why =
        arena_print(transaction->arena, "filter %s: %s", filter->name, cause_name(verdict->cause));
}

/* Taken, but nothing of it is delivered before it was scanned: see policy_rescan. */
static void scan_later(struct transaction *transaction, const struct config_filter *filter,
                       const struct verdict *verdict)
{
    transaction->envelope.unscanned = true;
    observe_event(
        &(struct event){.kind = EVENT_MESSAGE_HELD,
                        .message = transaction->message,
                        .filter = bytes_of_text(filter->name),
                        .verdict = *verdict,
                        .has_verdict = true,
                        .text = arena_print(transaction->arena, "to be scanned later: %.*s",
                                            BYTES_PRINT(verdict->detail))});
}

struct verdict filter_excuse(struct transaction *transaction, const struct config_filter *filter,
                             const struct verdict *verdict)
{
    if (cause_is_our_own(verdict->cause))
        return *verdict;
    switch (filter->on_fault) {
    case ON_FAULT_DEFER:
        return *verdict;
    case ON_FAULT_REFUSE:
        return verdict->cause == CAUSE_FILTER_UNSCANNABLE
                   ? verdict_with(CAUSE_FILTER_UNSCANNABLE_FINAL, verdict->detail)
                   : *verdict;
    case ON_FAULT_ACCEPT:
        mark_unscanned(transaction, filter, verdict);
        return verdict_accept();
    case ON_FAULT_HOLD:
        hold_unscanned(transaction, filter, verdict);
        return verdict_accept();
    case ON_FAULT_SCAN_LATER:
        if (verdict->cause == CAUSE_FILTER_UNSCANNABLE) /* later it would be the same */
            return *verdict;
        scan_later(transaction, filter, verdict);
        return verdict_accept();
    }
    return *verdict;
}

static struct scan filter_run(struct policy *policy, struct transaction *transaction,
                              const struct config_filter *filter)
{
    switch (filter->speaks) {
    case FILTER_CLAMD:
    case FILTER_SPAMD:
        return filter_scan(policy, filter, transaction);
    case FILTER_MILTER:
        return milter_scan(policy, transaction, filter);
    }
    return filter_scan_fault(transaction->arena, filter, FILTER_FAULT_MISCONFIGURED, BYTES_EMPTY);
}

/* ------------------------------------------------------------------ what is known of a message */

/* The client may have gone when it took so long: its limit is not ours. */
static const uint64_t SLOW_US = 5 * US_PER_S;

void verdict_remember(const struct transaction *transaction, struct filter_instance *instance,
                      const struct kept *kept, uint64_t took_us)
{
    if (took_us >= SLOW_US)
        memory_keep(instance->breaker.policy->memory, memory_key(transaction, instance->filter),
                    kept);
}

static struct scan kept_apply(struct policy *policy, struct transaction *transaction,
                              const struct config_filter *filter, const struct kept *kept)
{
    metric_add(COUNTER_FILTER_RECALLED, 1);
    if (kept->cause != CAUSE_ACCEPTED)
        return (struct scan){.verdict = verdict_with(kept->cause, kept->words)};
    if (kept->discards)
        filter_discard(transaction, filter);
    switch (filter->speaks) {
    case FILTER_CLAMD:
        break;
    case FILTER_SPAMD:
        return spamd_apply(transaction, kept->headers);
    case FILTER_MILTER:
        if (!kept->discards)
            return milter_apply(policy, transaction, filter, &kept->changes, NULL);
        break;
    }
    return (struct scan){.verdict = verdict_accept()};
}

/* The instance where the filter's messages are counted. */
static struct filter_instance *counting_instance(struct policy *policy,
                                                 const struct config_filter *filter)
{
    for (unsigned i = 0; i < policy->instance_count; i++)
        if (policy->instances[i].filter == filter)
            return &policy->instances[i];
    return NULL;
}

static uint64_t judged_by(struct policy *policy, const struct config_filter *filter)
{
    const struct filter_instance *instance = counting_instance(policy, filter);

    return instance ? instance->judged : 0;
}

/* Did the message itself make the filter fail? What is about the connection is not its doing. */
static bool is_its_doing(const struct scan *scan, const struct config_filter *filter)
{
    if (!scan->fault || !scan->asked)
        return false;
    return scan->verdict.cause == CAUSE_FILTER_CRASHED ||
           scan->verdict.cause == CAUSE_FILTER_GARBLED ||
           (scan->verdict.cause == CAUSE_FILTER_TIMEOUT &&
            scan->took_us >= MIN_OF(FAIR_WAIT_US, filter->timeout_us));
}

static void message_learn(struct policy *policy, const struct config_filter *filter,
                          const struct poison_key *key, const struct scan *scan)
{
    struct filter_instance *counting = counting_instance(policy, filter);

    if (scan->asked && !scan->fault) {
        if (counting)
            counting->judged++;
        if (key)
            poison_passed(policy->poison, key);
    } else if (key && is_its_doing(scan, filter)) {
        poison_failed(policy->poison, key, judged_by(policy, filter));
    }
}

static struct scan poison_scan(struct transaction *transaction, const struct config_filter *filter)
{
    const struct bytes words = filter_words(
        transaction->arena, filter,
        arena_print(transaction->arena, "it failed %u times or more at this message, not at others",
                    filter->poison_after));
    const struct verdict poison = verdict_with(CAUSE_FILTER_POISON, words);

    switch (filter->on_poison) {
    case ON_POISON_DEFER:
        break;
    case ON_POISON_HOLD:
        hold_unscanned(transaction, filter, &poison);
        return (struct scan){.verdict = verdict_accept()};
    case ON_POISON_REFUSE:
        return (struct scan){.verdict = verdict_with(CAUSE_FILTER_POISON_FINAL, words)};
    }
    return (struct scan){.verdict = poison};
}

/* What is known of this message at this filter, or else the filter itself. */
static struct scan filter_ask(struct policy *policy, struct transaction *transaction,
                              const struct config_filter *filter)
{
    const struct bytes key = memory_key(transaction, filter);
    const uint64_t start_us = clock_now_us();
    struct poison_key poison;
    struct kept kept;

    const bool known = poison_key(transaction, filter, &poison);
    if (memory_recall(policy->memory, key, transaction->arena, &kept)) {
        if (known)
            poison_passed(policy->poison, &poison); /* it was judged after all */
        return kept_apply(policy, transaction, filter, &kept);
    }
    if (known &&
        poison_is(policy->poison, &poison, filter->poison_after, judged_by(policy, filter)))
        return poison_scan(transaction, filter);
    struct scan scan = filter_run(policy, transaction, filter);
    scan.took_us = clock_now_us() - start_us;
    message_learn(policy, filter, known ? &poison : NULL, &scan);
    return scan;
}

static struct verdict judge_by(struct policy *policy, struct transaction *transaction,
                               const struct config_filter *filter)
{
    const uint64_t start_us = clock_now_us();
    const struct scan scan = filter_ask(policy, transaction, filter);

    metric_observe_filter(bytes_of_text(filter->name), clock_now_us() - start_us);
    if (!verdict_accepts(&scan.verdict))
        transaction->filter = bytes_of_text(filter->name);
    return scan.fault ? filter_excuse(transaction, filter, &scan.verdict) : scan.verdict;
}

/* A message that nobody will get needs no further judge. */
static bool is_discarded(const struct transaction *transaction)
{
    return transaction->disposition == DISPOSITION_DISCARD;
}

/* The first of the class that has not judged yet: one that adds a recipient may have brought one
 * before itself into play. */
static bool filter_next(const struct policy *policy, const struct transaction *transaction,
                        uint64_t asked, unsigned *next)
{
    const struct config *config = policy->settings.config;

    for (unsigned i = 0; i < config->filter_count; i++) {
        if ((asked >> i & 1) || !filter_is_wanted(policy, transaction, &config->filters[i]))
            continue;
        *next = i;
        return true;
    }
    return false;
}

MUST_USE static struct verdict filters_judge(struct policy *policy, struct transaction *transaction)
{
    const struct config *config = policy->settings.config;
    uint64_t asked = 0;

    for (unsigned i = 0;
         !is_discarded(transaction) && filter_next(policy, transaction, asked, &i);) {
        asked |= UINT64_C(1) << i;
        REQUIRE(judge_by(policy, transaction, &config->filters[i]));
    }
    return verdict_accept();
}

struct verdict policy_judge_sender(struct policy *policy, struct transaction *transaction,
                                   const struct policy_message *message)
{
    transaction->filter = BYTES_EMPTY;
    return authenticate_message(policy, transaction, message);
}

struct verdict policy_judge_class(struct policy *policy, struct transaction *transaction,
                                  const struct policy_message *message, uint8_t which)
{
    transaction->filter = BYTES_EMPTY;
    transaction->judging = true;
    transaction->class_now = which;
    if (transaction->class_count > 1)
        milters_begin_class(transaction);
    if (!filtering_open(transaction, message))
        return verdict_of(CAUSE_SERVER_BUSY);
    REQUIRE(filters_judge(policy, transaction));
    return signing_apply(policy, transaction, &transaction->filtering->now);
}

struct verdict policy_judge(struct policy *policy, struct transaction *transaction,
                            const struct policy_message *message)
{
    const struct envelope *envelope = &transaction->envelope;

    if (is_discarded(transaction))
        return verdict_accept();
    REQUIRE(policy_judge_sender(policy, transaction, message));
    return policy_judge_class(policy, transaction, message,
                              envelope->recipient_count > 0 ? envelope->recipients[0].policy_class
                                                            : 0);
}

/* ------------------------------------------------------------------ later */

static const uint64_t RESCAN_US = 600 * US_PER_S; /* nobody waits for the answer */

/* Those of `bits` that can scan by themselves: a milter has judged the dialogue that is over. */
static uint64_t scanners_of(const struct policy *policy, uint64_t bits)
{
    const struct config *config = policy->settings.config;

    for (unsigned i = 0; i < config->filter_count; i++)
        if (config->filters[i].speaks == FILTER_MILTER)
            bits &= ~(UINT64_C(1) << i);
    return bits;
}

MUST_USE static struct verdict rescan_by_all(struct policy *policy, struct transaction *transaction,
                                             uint64_t scanning)
{
    const struct config *config = policy->settings.config;
    unsigned scanners = 0;

    for (unsigned i = 0; i < config->filter_count; i++) {
        const struct config_filter *filter = &config->filters[i];

        if (!(scanning >> i & 1))
            continue;
        const struct scan scan = filter_scan(policy, filter, transaction);
        if (!verdict_accepts(&scan.verdict)) {
            transaction->filter = bytes_of_text(filter->name);
            return scan.verdict;
        }
        scanners++;
    }
    return scanners > 0 ? verdict_accept()
                        : verdict_with(CAUSE_FILTER_MISCONFIGURED,
                                       BYTES_LITERAL("no filter is left that could scan it"));
}

/* It was taken unscanned for a filter that one of them had: somebody scans it in any case. */
struct verdict policy_rescan(struct policy *policy, struct arena *arena,
                             const struct unscanned_message *unscanned, struct bytes *objector)
{
    struct transaction transaction = {.arena = arena, .message = unscanned->id};
    const struct policy_message message = {.source = unscanned->source,
                                           .deadline_us = deadline_in(RESCAN_US)};
    const uint64_t wanted = scanners_of(policy, filters_of_envelope(policy, unscanned->envelope));

    if (!filtering_open(&transaction, &message)) {
        filtering_close(transaction.filtering);
        return verdict_of(CAUSE_SERVER_BUSY);
    }
    const struct verdict verdict = rescan_by_all(
        policy, &transaction,
        wanted ? wanted : scanners_of(policy, config_filters_of(policy->settings.config, NULL)));
    *objector = arena_copy(arena, transaction.filter);
    filtering_close(transaction.filtering);
    return verdict;
}

/* ------------------------------------------------------------------ early answers */

/* A fault when the filter has instances and the breaker of each is open: the last one's words.
 * Asking starts their probes. */
static struct scan filter_down(struct policy *policy, const struct config_filter *filter,
                               struct arena *arena)
{
    struct scan scan = {.verdict = verdict_accept()};

    for (unsigned i = 0; i < policy->instance_count; i++) {
        enum cause cause = CAUSE_UNDECIDED;
        struct bytes words = BYTES_EMPTY;

        if (policy->instances[i].filter != filter)
            continue;
        if (breaker_allows(&policy->instances[i].breaker, arena, &cause, &words))
            return (struct scan){.verdict = verdict_accept()};
        scan = (struct scan){.verdict = verdict_with(cause, filter_words(arena, filter, words)),
                             .fault = true};
    }
    return scan;
}

/* Before any recipient those are looked at that all domains have; with one, the rest of his. */
static bool is_looked_at(const struct policy *policy, const struct transaction *transaction,
                         const struct config_filter *filter)
{
    if (filter->on_fault != ON_FAULT_DEFER && filter->on_fault != ON_FAULT_REFUSE)
        return false;
    return transaction ? filter->partial && filter_is_wanted(policy, transaction, filter)
                       : !filter->partial;
}

/* The first required filter that is down; NULL: none is. Without a transaction: nobody is named. */
static const struct config_filter *filters_down(struct policy *policy,
                                                const struct transaction *transaction,
                                                struct arena *arena, struct scan *down)
{
    const struct config *config = policy->settings.config;

    for (unsigned i = 0; i < config->filter_count; i++) {
        const struct config_filter *filter = &config->filters[i];

        if (!is_looked_at(policy, transaction, filter))
            continue;
        *down = filter_down(policy, filter, arena);
        if (down->fault)
            return filter;
    }
    return NULL;
}

MUST_USE static struct verdict check_down(struct policy *policy, struct transaction *transaction,
                                          bool named)
{
    struct scan down;
    const struct config_filter *filter =
        filters_down(policy, named ? transaction : NULL, transaction->arena, &down);

    if (!filter)
        return verdict_accept();
    transaction->filter = bytes_of_text(filter->name);
    return down.verdict;
}

struct verdict policy_check_filters(struct policy *policy, struct transaction *transaction)
{
    return check_down(policy, transaction, false);
}

struct verdict policy_check_class(struct policy *policy, struct transaction *transaction)
{
    return check_down(policy, transaction, true);
}

/* Whoever comes now would be deferred after all his work: better told at once. */
struct verdict policy_welcome(struct policy *policy, struct arena *arena, struct bytes *filter)
{
    struct scan down;
    const struct config_filter *found = filters_down(policy, NULL, arena, &down);

    if (!found)
        return verdict_accept();
    *filter = bytes_of_text(found->name);
    return verdict_with(CAUSE_FILTER_DOWN,
                        arena_print(arena, "%s (%.*s)", cause_name(down.verdict.cause),
                                    BYTES_PRINT(down.verdict.detail)));
}

/* ------------------------------------------------------------------ filter test NAME */

static struct verdict test_instance(struct filter_instance *instance, struct arena *arena)
{
    switch (instance->filter->speaks) {
    case FILTER_CLAMD:
        return clamd_instance_test(instance, arena);
    case FILTER_SPAMD:
        return spamd_instance_test(instance, arena);
    case FILTER_MILTER:
        return milter_instance_test(instance, arena);
    }
    return verdict_of(CAUSE_FILTER_MISCONFIGURED);
}

/* Every instance has to answer; the last one's words are the answer. */
struct verdict policy_test_filter(struct policy *policy, struct arena *arena, const char *name)
{
    struct bytes detail = BYTES_LITERAL("no filter of that name, or none that can be tested");
    bool tested = false;

    for (unsigned i = 0; i < policy->instance_count; i++) {
        const struct config_filter *filter = policy->instances[i].filter;

        if (!bytes_equal_text(bytes_of_text(filter->name), name))
            continue;
        const struct verdict verdict = test_instance(&policy->instances[i], arena);

        if (!verdict_accepts(&verdict))
            return verdict;
        detail = verdict.detail;
        tested = true;
    }
    return verdict_with(tested ? CAUSE_ACCEPTED : CAUSE_FILTER_MISCONFIGURED, detail);
}
