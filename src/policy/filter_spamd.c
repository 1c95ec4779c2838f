/*
 * spamd as a filter: from `reject_score` on the message is refused; below, its X-Spam fields go
 * into the message, and those that it brought along go out, since anybody can write them.
 */
#include "policy/filter.h"

static struct scan scan_of(struct transaction *transaction, const struct config_filter *filter,
                           const struct spamd_verdict *answer)
{
    if (answer->result != SPAMD_JUDGED)
        return filter_scan_fault(transaction->arena, filter, answer->fault, answer->words);
    if (filter->reject_score > 0 && answer->score >= filter->reject_score)
        return (struct scan){
            .verdict = verdict_with(CAUSE_FILTER_REFUSED,
                                    filter_words(transaction->arena, filter, answer->words))};
    if (!filtering_drop_fields(transaction, "X-Spam-"))
        return (struct scan){.verdict = verdict_of(CAUSE_SERVER_BUSY), .fault = true};
    if (transaction->headers)
        buffer_add(transaction->headers, answer->headers);
    return (struct scan){.verdict = verdict_accept()};
}

struct scan spamd_instance_scan(struct filter_instance *instance, struct transaction *transaction,
                                const struct policy_message *message)
{
    const uint64_t start_us = clock_now_us();
    const struct spamd_verdict answer =
        spamd_scan(transaction->arena, instance->at, &message->source,
                   filter_deadlines_of(instance->filter, message->deadline_us));

    instance_learn(instance, answer.fault, answer.words, clock_now_us() - start_us);
    return scan_of(transaction, instance->filter, &answer);
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
static struct io_result read_pattern(void *argument, struct span into, uint64_t offset)
{
    const struct bytes whole = *(const struct bytes *)argument;
    const struct bytes piece = bytes_slice(whole, (size_t)offset, into.count);

    for (size_t i = 0; i < piece.count; i++)
        into.at[i] = piece.at[i];
    return io_ok(piece.count);
}

struct verdict spamd_instance_test(struct filter_instance *instance, struct arena *arena)
{
    const struct config_filter *filter = instance->filter;
    struct bytes pattern =
        arena_print(arena, "Subject: test\r\n\r\n%s%s\r\n", "XJS*C4JDBQADN1.NSBN3*2IDNEN*",
                    "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X");
    const struct message_source source = {read_pattern, &pattern, pattern.count};
    const struct spamd_verdict answer =
        spamd_scan(arena, instance->at, &source, filter_deadlines_of(filter, DEADLINE_NEVER));

    if (answer.result == SPAMD_JUDGED)
        return verdict_with(CAUSE_ACCEPTED,
                            arena_print(arena, "%s answers, and says of the test pattern: %.*s",
                                        filter->name, BYTES_PRINT(answer.words)));
    const struct scan scan = filter_scan_fault(arena, filter, answer.fault, answer.words);

    return scan.verdict;
}
