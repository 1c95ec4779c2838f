/*
 * judge: the content filters, in order; the first objection wins. All share one deadline after the
 * final dot. An instance that fails hands over to the next; only when each has failed does the
 * filter's `on_fault` decide, and an outage is never a reason to refuse: `refuse` speaks of mail
 * that the filter itself cannot scan.
 */
#include "policy/authenticate.h"
#include "policy/inside.h"

/* A time-out counts against the filter only when it had this long, or all the time it may have. */
static const uint64_t FAIR_WAIT_US = 10 * US_PER_S;

/* What came of one filter: a verdict of the filter, or a fault of it (then `fault` is true). */
struct scan {
    struct verdict verdict;
    bool fault;
};

/* ------------------------------------------------------------------ faults and their causes */

static enum cause fault_cause(enum filter_fault fault)
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

static struct bytes with_name(struct arena *arena, const struct config_filter *filter,
                              struct bytes words)
{
    return arena_print(arena, "%s: %.*s", filter->name, BYTES_PRINT(words));
}

static struct scan scan_of_clamd(struct arena *arena, const struct config_filter *filter,
                                 const struct clamd_verdict *answer)
{
    const struct bytes detail = with_name(arena, filter, answer->words);

    switch (answer->result) {
    case CLAMD_CLEAN:
        return (struct scan){.verdict = verdict_accept()};
    case CLAMD_FOUND:
        return (struct scan){.verdict = verdict_with(CAUSE_FILTER_REFUSED, detail)};
    case CLAMD_TOO_LARGE:
        return (struct scan){.verdict = verdict_with(CAUSE_FILTER_UNSCANNABLE, detail),
                             .fault = true};
    case CLAMD_ERROR:
        return (struct scan){.verdict = verdict_with(answer->fault == FILTER_FAULT_NONE
                                                         ? CAUSE_FILTER_MISCONFIGURED
                                                         : fault_cause(answer->fault),
                                                     detail),
                             .fault = true};
    case CLAMD_FAILED:
        break;
    }
    return (struct scan){.verdict = verdict_with(fault_cause(answer->fault), detail),
                         .fault = true};
}

/* ------------------------------------------------------------------ one filter */

static void instance_learn(struct filter_instance *instance, const struct scan *scan,
                           const struct clamd_verdict *answer, uint64_t waited_us)
{
    const bool fair = answer->fault != FILTER_FAULT_TIMEOUT || waited_us >= FAIR_WAIT_US ||
                      waited_us >= instance->filter->timeout_us;

    if (answer->result != CLAMD_FAILED)
        breaker_succeeded(&instance->breaker);
    else if (fair && answer->fault != FILTER_FAULT_LOCAL && !fiber_cancelled())
        breaker_failed(&instance->breaker, scan->verdict.cause, answer->words);
}

/* The message's source, with a note of whether our own spool failed to give it. */
struct noted_source {
    const struct message_source *inner;
    bool failed;
};

static struct io_result noted_read(void *argument, struct span into, uint64_t offset)
{
    struct noted_source *noted = argument;
    const struct io_result result = noted->inner->read(noted->inner->argument, into, offset);

    noted->failed = noted->failed || result.status == IO_FAILED;
    return result;
}

static struct scan instance_scan(struct filter_instance *instance, struct arena *arena,
                                 const struct policy_message *message)
{
    const struct config_filter *filter = instance->filter;
    const uint64_t done_us = MIN_OF(message->deadline_us, deadline_in(filter->timeout_us));
    const struct filter_deadlines deadlines = {
        MIN_OF(done_us, deadline_in(filter->connect_timeout_us)), done_us};
    const uint64_t start_us = clock_now_us();
    struct noted_source noted = {.inner = &message->source};
    const struct message_source source = {noted_read, &noted, message->source.size_bytes};
    const struct clamd_verdict answer = clamd_scan(arena, instance->at, &source, deadlines);

    if (noted.failed)
        return (struct scan){.verdict = verdict_with(CAUSE_SPOOL_FAILED, answer.words),
                             .fault = true};
    const struct scan scan = scan_of_clamd(arena, filter, &answer);

    instance_learn(instance, &scan, &answer, clock_now_us() - start_us);
    return scan;
}

/* The instance's answer, or at once the cause of its last failure while its breaker is open. */
static struct scan instance_try(struct filter_instance *instance, struct arena *arena,
                                const struct policy_message *message)
{
    enum cause cause = CAUSE_UNDECIDED;
    struct bytes words = BYTES_EMPTY;

    if (breaker_allows(&instance->breaker, arena, &cause, &words))
        return instance_scan(instance, arena, message);
    return (struct scan){.verdict = verdict_with(cause, with_name(arena, instance->filter, words)),
                         .fault = true};
}

/* A fault of our own says nothing about the filter: no other instance is asked, nothing excuses it.
 */
static bool cause_is_our_own(enum cause cause)
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
                               struct arena *arena, const struct policy_message *message)
{
    struct scan scan = {
        .verdict = verdict_with(CAUSE_FILTER_TIMEOUT,
                                with_name(arena, filter, BYTES_LITERAL("no time was left for it"))),
        .fault = true};

    for (unsigned i = 0; i < policy->instance_count; i++) {
        if (policy->instances[i].filter != filter)
            continue;
        if (clock_now_us() >= message->deadline_us)
            break;
        const struct scan answer = instance_try(&policy->instances[i], arena, message);

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

static struct verdict fault_verdict(struct transaction *transaction,
                                    const struct config_filter *filter,
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
    }
    return *verdict;
}

static struct scan filter_run(struct policy *policy, const struct config_filter *filter,
                              struct arena *arena, const struct policy_message *message)
{
    switch (filter->speaks) {
    case FILTER_CLAMD:
        return filter_scan(policy, filter, arena, message);
    case FILTER_SPAMD:
    case FILTER_MILTER:
        break;
    }
    return (struct scan){
        .verdict =
            verdict_with(CAUSE_FILTER_MISCONFIGURED,
                         with_name(arena, filter, BYTES_LITERAL("this protocol is not supported"))),
        .fault = true};
}

static struct verdict judge_by(struct policy *policy, struct transaction *transaction,
                               const struct config_filter *filter,
                               const struct policy_message *message)
{
    const uint64_t start_us = clock_now_us();
    const struct scan scan = filter_run(policy, filter, transaction->arena, message);

    metric_observe_filter(bytes_of_text(filter->name), clock_now_us() - start_us);
    if (!verdict_accepts(&scan.verdict))
        transaction->filter = bytes_of_text(filter->name);
    return scan.fault ? fault_verdict(transaction, filter, &scan.verdict) : scan.verdict;
}

struct verdict policy_judge(struct policy *policy, struct transaction *transaction,
                            const struct policy_message *message)
{
    const struct config *config = policy->settings.config;

    transaction->filter = BYTES_EMPTY;
    REQUIRE(authenticate_message(policy, transaction, message));
    for (unsigned i = 0; i < config->filter_count; i++)
        REQUIRE(judge_by(policy, transaction, &config->filters[i], message));
    return signing_apply(policy, transaction, message);
}

/* ------------------------------------------------------------------ early answers */

/* A fault when the filter has instances and the breaker of each is open: the last one's words. */
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
        scan = (struct scan){.verdict = verdict_with(cause, with_name(arena, filter, words)),
                             .fault = true};
    }
    return scan;
}

struct verdict policy_check_filters(struct policy *policy, struct transaction *transaction)
{
    const struct config *config = policy->settings.config;

    for (unsigned i = 0; i < config->filter_count; i++) {
        const struct config_filter *filter = &config->filters[i];

        if (filter->on_fault != ON_FAULT_DEFER && filter->on_fault != ON_FAULT_REFUSE)
            continue;
        const struct scan down = filter_down(policy, filter, transaction->arena);

        if (down.fault) {
            transaction->filter = bytes_of_text(filter->name);
            return down.verdict;
        }
    }
    return verdict_accept();
}

/* ------------------------------------------------------------------ filter test NAME */

/* The EICAR pattern in two pieces, so that no scanner takes this program for it. */
static struct io_result read_pattern(void *argument, struct span into, uint64_t offset)
{
    const struct bytes whole = *(const struct bytes *)argument;
    const struct bytes piece = bytes_slice(whole, (size_t)offset, into.count);

    for (size_t i = 0; i < piece.count; i++)
        into.at[i] = piece.at[i];
    return io_ok(piece.count);
}

static struct verdict test_instance(struct arena *arena, const struct filter_instance *instance)
{
    const struct config_filter *filter = instance->filter;
    struct bytes pattern = arena_print(arena, "%s%s%s", "X5O!P%@AP[4\\PZX54(P^)7CC)7}",
                                       "$EICAR-STANDARD-ANTI", "VIRUS-TEST-FILE!$H+H*");
    const struct message_source source = {read_pattern, &pattern, pattern.count};
    const struct filter_deadlines deadlines = {deadline_in(filter->connect_timeout_us),
                                               deadline_in(filter->timeout_us)};
    const struct clamd_verdict answer = clamd_scan(arena, instance->at, &source, deadlines);

    if (answer.result == CLAMD_FOUND)
        return verdict_with(CAUSE_ACCEPTED,
                            arena_print(arena, "%s answers, and finds the test pattern: %.*s",
                                        filter->name, BYTES_PRINT(answer.words)));
    if (answer.result == CLAMD_CLEAN)
        return verdict_with(
            CAUSE_ACCEPTED,
            arena_print(arena, "%s answers, but does not know the test pattern", filter->name));
    const struct scan scan = scan_of_clamd(arena, filter, &answer);

    return scan.verdict;
}

/* Every instance has to answer; the last one's words are the answer. */
struct verdict policy_test_filter(struct policy *policy, struct arena *arena, const char *name)
{
    struct bytes detail = BYTES_LITERAL("no filter of that name, or none that can be tested");
    bool tested = false;

    for (unsigned i = 0; i < policy->instance_count; i++) {
        const struct config_filter *filter = policy->instances[i].filter;

        if (filter->speaks != FILTER_CLAMD || !bytes_equal_text(bytes_of_text(filter->name), name))
            continue;
        const struct verdict verdict = test_instance(arena, &policy->instances[i]);

        if (!verdict_accepts(&verdict))
            return verdict;
        detail = verdict.detail;
        tested = true;
    }
    return verdict_with(tested ? CAUSE_ACCEPTED : CAUSE_FILTER_MISCONFIGURED, detail);
}
