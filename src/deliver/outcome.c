/* What a peer's reply, or its silence, means for a recipient (faults.md, section 3). */
#include "deliver/inside.h"

struct recipient *attempt_recipient(const struct attempt *attempt, uint32_t position)
{
    const uint32_t index = attempt->recipients[position];

    INVARIANT(index < attempt->message->envelope.recipient_count);
    return &attempt->message->envelope.recipients[index];
}

void attempt_fill(struct attempt *attempt, struct outcome outcome)
{
    for (uint32_t i = 0; i < attempt->recipient_count; i++) {
        if (attempt->outcomes[i].verdict.cause == CAUSE_UNDECIDED)
            attempt->outcomes[i] = outcome;
    }
}

struct outcome outcome_of_verdict(const struct deliver_channel *channel, enum stage stage,
                                  struct verdict verdict)
{
    return (struct outcome){.verdict = verdict,
                            .stage = stage,
                            .host = arena_copy(channel->arena, bytes_of_text(channel->host)),
                            .tls = arena_copy(channel->arena, bytes_of_text(channel->tls))};
}

static enum cause cause_of_silence(enum stage stage, enum wire_status status)
{
    switch (status) {
    case WIRE_CANCELLED:
        return stage == STAGE_DOT ? CAUSE_AMBIGUOUS_DOT : CAUSE_UNDECIDED;
    case WIRE_TOO_LONG:
    case WIRE_MALFORMED:
        return CAUSE_REMOTE_GARBLED;
    case WIRE_TIMEOUT:
        return stage == STAGE_DOT ? CAUSE_AMBIGUOUS_DOT : CAUSE_SESSION_TIMEOUT;
    case WIRE_FAILED:
    case WIRE_END:
    case WIRE_OK:
        break;
    }
    return stage == STAGE_DOT ? CAUSE_AMBIGUOUS_DOT : CAUSE_SESSION_LOST;
}

struct outcome outcome_of_status(const struct deliver_channel *channel, enum stage stage,
                                 enum wire_status status)
{
    struct outcome outcome =
        outcome_of_verdict(channel, stage, verdict_of(cause_of_silence(stage, status)));

    if (outcome.verdict.cause == CAUSE_AMBIGUOUS_DOT)
        outcome.reply = arena_print(channel->arena, NO_FINAL_REPLY "%s", channel->host);
    return outcome;
}

/* RFC 5321 4.5.3.1.10: 552 to RCPT once meant "too many recipients", and is 452 then. An enhanced
 * code other than 5.5.3 says that it means something else. */
static bool reply_means_surplus(enum stage stage, const struct smtp_reply *reply)
{
    return stage == STAGE_RCPT && reply->code == 552 &&
           (reply->enhanced.count == 0 || bytes_equal_text(reply->enhanced, "5.5.3"));
}

struct outcome outcome_of_reply(const struct deliver_channel *channel, enum stage stage,
                                const struct smtp_reply *reply)
{
    const unsigned class = reply->code / 100;
    enum cause cause = CAUSE_REMOTE_GARBLED;

    if (class == 4 || reply_means_surplus(stage, reply))
        cause = CAUSE_REMOTE_DEFERRED;
    else if (class == 5)
        cause = CAUSE_REMOTE_REFUSED;
    struct outcome outcome = outcome_of_verdict(channel, stage, verdict_with(cause, reply->text));
    outcome.code = reply->code;
    outcome.reply = reply->text;
    outcome.enhanced = reply->enhanced;
    return outcome;
}
