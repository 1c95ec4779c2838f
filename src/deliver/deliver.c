/* deliver: opening and closing, channels, and the choice between the kinds of delivery. */
#include "deliver/inside.h"

#include <string.h>

static uint64_t or_default(uint64_t value_us, uint64_t default_us)
{
    return value_us ? value_us : default_us;
}

/* Without a store or memory mail goes out all the same, by what is published at the time. */
static void deliver_keep(struct deliver *deliver, const char *directory)
{
    deliver->store = tls_store_open(directory);
    deliver->results = deliver->store ? tls_results_open() : NULL;
    if (deliver->results)
        deliver_keeper_start(deliver);
}

struct deliver *deliver_open(const struct deliver_settings *settings, char *why, size_t why_room)
{
    struct deliver *deliver = calloc(1, sizeof(*deliver));

    if (!deliver) {
        snprintf(why, why_room, "deliver: out of memory");
        return NULL;
    }
    if (!login_check(settings->config, why, why_room)) {
        free(deliver);
        return NULL;
    }
    const struct deliver_timeouts *asked = &settings->timeouts;
    *deliver =
        (struct deliver){.config = settings->config,
                         .resolver = settings->resolver,
                         .directory = settings->directory,
                         .spool = settings->spool,
                         .tls = settings->tls,
                         .sign = settings->sign,
                         .sign_argument = settings->sign_argument,
                         .give_up_us = DEADLINE_NEVER,
                         .opened_wall_us = clock_wall_us(),
                         .timeouts = {.connect_us = or_default(asked->connect_us, 30 * US_PER_S),
                                      .greeting_us = or_default(asked->greeting_us, 300 * US_PER_S),
                                      .data_us = or_default(asked->data_us, 120 * US_PER_S),
                                      .block_us = or_default(asked->block_us, 180 * US_PER_S),
                                      .dot_us = or_default(asked->dot_us, 600 * US_PER_S),
                                      .quit_us = or_default(asked->quit_us, 2 * US_PER_S)}};
    if (settings->runner && *settings->runner) {
        deliver->runner.family = ENDPOINT_UNIX;
        snprintf(deliver->runner.path, sizeof deliver->runner.path, "%s", settings->runner);
    }
    if (settings->tls_directory)
        deliver_keep(deliver, settings->tls_directory);
    pthread_mutex_init(&deliver->own_lock, NULL);
    return deliver;
}

void deliver_close(struct deliver *deliver)
{
    if (!deliver)
        return;
    if (deliver->results)
        deliver_keeper_stop(deliver);
    if (deliver->keeper) { /* it holds what would be freed */
        observe_note(LOG_WARNING, "deliver", "a fetch did not end, memory kept");
        return;
    }
    tls_store_close(deliver->store);
    tls_results_close(deliver->results);
    for (unsigned i = 0; i < deliver->own_target_count; i++)
        free(deliver->own_targets[i]);
    pthread_mutex_destroy(&deliver->own_lock);
    free(deliver);
}

void deliver_give_up(struct deliver *deliver, uint64_t deadline_us)
{
    deliver->give_up_us = deadline_us;
}

struct deliver_channel *deliver_channel_open(struct deliver *deliver,
                                             const struct destination *destination)
{
    struct deliver_channel *channel = calloc(1, sizeof(*channel));

    if (!channel)
        return NULL;
    channel->deliver = deliver;
    channel->to = *destination;
    channel->out = BUFFER_WITH_LIMIT(4 * DELIVER_PIECE_BYTES);
    return channel;
}

void deliver_channel_close(struct deliver_channel *channel)
{
    if (!channel)
        return;
    channel_quit(channel);
    share_forget(channel);
    dialogue_clear(&channel->dialogue);
    free(channel->piece);
    buffer_free(&channel->out);
    free(channel);
}

static void attempt_misconfigured(struct deliver_channel *channel, struct attempt *attempt,
                                  const char *why)
{
    struct outcome outcome = outcome_of_verdict(
        channel, STAGE_MAILBOX,
        verdict_with(CAUSE_MAILBOX_MISCONFIGURED, arena_copy(attempt->arena, bytes_of_text(why))));

    outcome.reply = outcome.verdict.detail;
    attempt_fill(attempt, outcome);
}

static void attempt_begin_dialogue(struct deliver_channel *channel, const struct attempt *attempt)
{
    channel->dialogue = (struct dialogue){.direction = DIALOGUE_OUT,
                                          .id = attempt->message->id,
                                          .peer = channel->host,
                                          .destination = channel->to.key,
                                          .domain = channel->to.domain};
    if (channel->stream)
        dialogue_note(&channel->dialogue, "on the connection to %s%s%s", channel->host,
                      channel->tls[0] ? ", " : "", channel->tls);
}

static void attempt_end_dialogue(struct deliver_channel *channel, struct attempt *attempt)
{
    bool all_delivered = true;

    for (uint32_t i = 0; i < attempt->recipient_count; i++)
        all_delivered = all_delivered && verdict_accepts(&attempt->outcomes[i].verdict);
    if (!all_delivered)
        attempt->transcript = arena_copy(attempt->arena, dialogue_view(&channel->dialogue));
    dialogue_clear(&channel->dialogue);
}

void deliver_attempt(struct deliver_channel *channel, struct attempt *attempt, bool *host_failed)
{
    *host_failed = false;
    channel->arena = attempt->arena;
    memset(attempt->outcomes, 0, attempt->recipient_count * sizeof(*attempt->outcomes));
    switch (channel->to.kind) {
    case DELIVER_NONE:
        attempt_misconfigured(channel, attempt, "no usable `deliver` setting");
        break;
    case DELIVER_PIPE:
        pipe_attempt(channel, attempt);
        break;
    case DELIVER_LIST:
        attempt_fill(attempt,
                     outcome_of_verdict(channel, STAGE_MAILBOX, verdict_of(CAUSE_DELIVERED)));
        break;
    case DELIVER_MAILDIR:
        maildir_attempt(channel, attempt);
        break;
    case DELIVER_LMTP:
    case DELIVER_SMTP:
        attempt_begin_dialogue(channel, attempt);
        smtp_attempt(channel, attempt, host_failed);
        attempt_end_dialogue(channel, attempt);
        break;
    }
    channel->arena = NULL; /* it is the caller's; what is kept between attempts is not in it */
}
