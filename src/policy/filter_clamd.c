/*
 * clamd as a filter: its answers as verdicts, and the test of one instance.
 */
#include "policy/filter.h"

static struct scan scan_of(struct arena *arena, const struct config_filter *filter,
                           const struct clamd_verdict *answer)
{
    const struct bytes detail = filter_words(arena, filter, answer->words);

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
                                                         : filter_fault_cause(answer->fault),
                                                     detail),
                             .fault = true};
    case CLAMD_FAILED:
        break;
    }
    return filter_scan_fault(arena, filter, answer->fault, answer->words);
}

bool clamd_kept(struct arena *arena, const struct config_filter *filter,
                const struct clamd_verdict *answer, struct kept *kept)
{
    switch (answer->result) {
    case CLAMD_CLEAN:
        *kept = (struct kept){.cause = CAUSE_ACCEPTED};
        return true;
    case CLAMD_FOUND:
        *kept = (struct kept){.cause = CAUSE_FILTER_REFUSED,
                              .words = filter_words(arena, filter, answer->words)};
        return true;
    case CLAMD_TOO_LARGE:
    case CLAMD_ERROR:
    case CLAMD_FAILED:
        break;
    }
    return false;
}

struct scan clamd_instance_scan(struct filter_instance *instance, struct transaction *transaction,
                                const struct policy_message *message)
{
    const uint64_t start_us = clock_now_us();
    struct late_talk late = {.instance = instance, .asked_us = start_us};
    const struct clamd_verdict answer =
        clamd_scan(transaction->arena, instance->at, &message->source,
                   filter_deadlines_of(instance->filter, message->deadline_us), &late.stream);
    const enum filter_fault fault =
        answer.result == CLAMD_FAILED ? answer.fault : FILTER_FAULT_NONE;
    const uint64_t took_us = clock_now_us() - start_us;
    struct kept kept;

    instance_learn(instance, fault, answer.words, took_us);
    if (late.stream)
        late_begin(&late, transaction);
    if (clamd_kept(transaction->arena, instance->filter, &answer, &kept))
        verdict_remember(transaction, instance, &kept, took_us);
    return scan_of(transaction->arena, instance->filter, &answer);
}

bool clamd_instance_ping(const struct filter_instance *instance, struct arena *arena,
                         struct bytes *words)
{
    const struct clamd_verdict pong = clamd_ping(
        arena, instance->at, filter_deadlines_of(instance->filter, deadline_in(FILTER_PROBE_US)));

    *words = pong.words;
    return pong.result == CLAMD_CLEAN;
}

/* The EICAR pattern in two pieces, so that no scanner takes this program for it. */
struct verdict clamd_instance_test(struct filter_instance *instance, struct arena *arena)
{
    const struct config_filter *filter = instance->filter;
    struct bytes pattern = arena_print(arena, "%s%s%s", "X5O!P%@AP[4\\PZX54(P^)7CC)7}",
                                       "$EICAR-STANDARD-ANTI", "VIRUS-TEST-FILE!$H+H*");
    const struct message_source source = filter_pattern(&pattern);
    const struct clamd_verdict answer =
        clamd_scan(arena, instance->at, &source, filter_deadlines_of(filter, DEADLINE_NEVER), NULL);

    if (answer.result == CLAMD_FOUND)
        return verdict_with(CAUSE_ACCEPTED,
                            arena_print(arena, "%s answers, and finds the test pattern: %.*s",
                                        filter->name, BYTES_PRINT(answer.words)));
    if (answer.result == CLAMD_CLEAN)
        return verdict_with(
            CAUSE_ACCEPTED,
            arena_print(arena, "%s answers, but does not know the test pattern", filter->name));
    const struct scan scan = scan_of(arena, filter, &answer);

    return scan.verdict;
}
