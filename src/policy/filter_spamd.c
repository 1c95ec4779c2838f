/*
 * spamd as a filter: from `reject_score` on the message is refused; below, its X-Spam fields go
 * into the message, and those that it brought along go out, since anybody can write them.
 */
#include "policy/filter.h"

bool spamd_kept(struct arena *arena, const struct config_filter *filter,
                const struct spamd_verdict *answer, struct kept *kept)
{
    if (answer->result != SPAMD_JUDGED)
        return false;
    *kept = filter->reject_score > 0 && answer->score >= filter->reject_score
                ? (struct kept){.cause = CAUSE_FILTER_REFUSED,
                                .words = filter_words(arena, filter, answer->words)}
                : (struct kept){.cause = CAUSE_ACCEPTED, .headers = answer->headers};
    return true;
}

struct scan spamd_apply(struct transaction *transaction, struct bytes headers)
{
    if (!filtering_drop_fields(transaction, "X-Spam-"))
        return (struct scan){.verdict = verdict_of(CAUSE_SERVER_BUSY), .fault = true};
    if (transaction->headers)
        buffer_add(transaction->headers, headers);
    return (struct scan){.verdict = verdict_accept()};
}

struct scan spamd_instance_scan(struct filter_instance *instance, struct transaction *transaction,
                                const struct policy_message *message)
{
    const uint64_t start_us = clock_now_us();
    struct late_talk late = {.instance = instance, .asked_us = start_us};
    const struct spamd_verdict answer =
        spamd_scan(transaction->arena, instance->at, &message->source,
                   filter_deadlines_of(instance->filter, message->deadline_us), &late.stream);
    const uint64_t took_us = clock_now_us() - start_us;
    struct kept kept;

    instance_learn(instance, answer.fault, answer.words, took_us);
    if (late.stream)
        late_begin(&late, transaction);
    if (!spamd_kept(transaction->arena, instance->filter, &answer, &kept))
        return filter_scan_fault(transaction->arena, instance->filter, answer.fault, answer.words);
    verdict_remember(transaction, instance, &kept, took_us);
    if (kept.cause != CAUSE_ACCEPTED)
        return (struct scan){.verdict = verdict_with(kept.cause, kept.words)};
    return spamd_apply(transaction, kept.headers);
}

bool spamd_instance_ping(const struct filter_instance *instance, struct arena *arena,
                         struct bytes *words)
{
    const struct spamd_verdict pong = spamd_ping(
        arena, instance->at, filter_deadlines_of(instance->filter, deadline_in(FILTER_PROBE_US)));

    *words = pong.words;
    return pong.result == SPAMD_JUDGED;
}

/* The GTUBE pattern in two pieces, so that nobody takes this program for spam. */
struct verdict spamd_instance_test(struct filter_instance *instance, struct arena *arena)
{
    const struct config_filter *filter = instance->filter;
    struct bytes pattern =
        arena_print(arena, "Subject: test\r\n\r\n%s%s\r\n", "XJS*C4JDBQADN1.NSBN3*2IDNEN*",
                    "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X");
    const struct message_source source = filter_pattern(&pattern);
    const struct spamd_verdict answer =
        spamd_scan(arena, instance->at, &source, filter_deadlines_of(filter, DEADLINE_NEVER), NULL);

    if (answer.result == SPAMD_JUDGED)
        return verdict_with(CAUSE_ACCEPTED,
                            arena_print(arena, "%s answers, and says of the test pattern: %.*s",
                                        filter->name, BYTES_PRINT(answer.words)));
    const struct scan scan = filter_scan_fault(arena, filter, answer.fault, answer.words);

    return scan.verdict;
}
