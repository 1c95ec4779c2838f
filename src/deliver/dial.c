/*
 * Connections: to one address, or raced to all addresses of one host (RFC 8305 5). In a race the
 * next attempt begins 250 ms after the one before, or at once when that has failed; the first that
 * stands wins, and the others are given up. So an address family that leads nowhere costs a quarter
 * of a second, not a connect timeout, and is no failure of the host.
 *
 * An attempt is a fiber of its own that dials, so that both worlds race by the same code. None of
 * them outlives the race.
 */
#include "deliver/inside.h"

#include <errno.h>
#include <string.h>

#define RACE_STEP_US (250 * US_PER_MS) /* RFC 8305 8: the default */
#define RACE_AT_ONCE 3                 /* attempts under way */

static enum cause cause_of_dial(struct io_result result, enum endpoint_family family)
{
    if (result.status == IO_CANCELLED)
        return CAUSE_UNDECIDED;
    if (result.status == IO_TIMEOUT || result.error == ETIMEDOUT)
        return CAUSE_CONNECT_TIMEOUT;
    switch (result.error) {
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
    case EADDRNOTAVAIL:
        return CAUSE_LOCAL_FAILED;
    case EACCES:
        return family == ENDPOINT_UNIX ? CAUSE_LOCAL_FAILED : CAUSE_CONNECT_REFUSED;
    }
    return CAUSE_CONNECT_REFUSED;
}

/* Where to connect from; NULL: as the machine chooses. */
static const struct endpoint *session_source(const struct deliver_channel *channel,
                                             const struct next_hop *hop, struct endpoint *source)
{
    const struct config_sending *sending = channel->to.sending;

    if (!sending)
        return NULL;
    source->ip = hop->at.family == ENDPOINT_IPV6 ? sending->source6 : sending->source4;
    source->family = source->ip.family;
    return source->family != ENDPOINT_NONE && source->family == hop->at.family ? source : NULL;
}

/* A host found by MX that is this very server, by an address which no setting names: a listener on
 * all addresses answers (RFC 5321 5.1). */
static bool session_is_ours(const struct deliver_channel *channel)
{
    const struct config *config = channel->deliver->config;
    const struct stream *stream = channel->stream;

    if (channel->to.via || stream->local.family != stream->remote.family ||
        stream->remote.family == ENDPOINT_UNIX || !ip_equal(&stream->local.ip, &stream->remote.ip))
        return false;
    for (unsigned i = 0; i < config->listen_count; i++) {
        static const uint8_t any[16] = {0};
        const struct endpoint *listen = &config->listens[i].address;
        if (listen->port == stream->remote.port && listen->family != ENDPOINT_UNIX &&
            memcmp(listen->ip.octets, any, ip_bytes(&listen->ip)) == 0)
            return true;
    }
    return false;
}

/* What a connection that stands, or does not, means for its channel. */
static void dial_note(struct deliver_channel *channel, const struct next_hop *hop,
                      struct io_result dialled)
{
    char host[sizeof(channel->host)];

    hop_name(hop, host, sizeof host);
    if (dialled.status == IO_OK)
        dialogue_note(&channel->dialogue, "connected to %s", host);
    else
        dialogue_note(&channel->dialogue, "no connection to %s: %s", host, io_result_text(dialled));
}

/* Without a way to addresses of that family from here, another address tells more. */
static bool dial_is_no_way(struct io_result dialled)
{
    return dialled.status == IO_FAILED &&
           (dialled.error == ENETUNREACH || dialled.error == EADDRNOTAVAIL ||
            dialled.error == EAFNOSUPPORT);
}

static void dial_failed(struct deliver_channel *channel, const struct next_hop *hop,
                        struct io_result dialled, struct outcome *trouble)
{
    dial_note(channel, hop, dialled);
    hop_name(hop, channel->host, sizeof channel->host);
    *trouble = outcome_of_verdict(channel, STAGE_CONNECT,
                                  verdict_of(cause_of_dial(dialled, hop->at.family)));
    trouble->reply = arena_copy(channel->arena, bytes_of_text(io_result_text(dialled)));
    trouble->verdict.detail = trouble->reply;
}

static bool dial_stands(struct deliver_channel *channel, const struct next_hop *hop,
                        struct stream *stream, struct outcome *trouble)
{
    dial_note(channel, hop, io_ok(0));
    hop_name(hop, channel->host, sizeof channel->host);
    channel->stream = stream;
    metric_add(COUNTER_SESSIONS_OUT, 1);
    wire_input_open(&channel->input, stream);
    if (!session_is_ours(channel))
        return true;
    *trouble = outcome_of_verdict(channel, STAGE_CONNECT, verdict_of(CAUSE_ROUTE_LOOP));
    channel_abort(channel);
    return false;
}

bool session_dial(struct deliver_channel *channel, const struct next_hop *hop,
                  struct outcome *trouble)
{
    struct endpoint source = {0};
    struct stream *stream = NULL;

    const struct io_result dialled =
        stream_dial(&hop->at, session_source(channel, hop, &source),
                    deadline_in(channel->deliver->timeouts.connect_us), &stream);
    if (dialled.status == IO_OK)
        return dial_stands(channel, hop, stream, trouble);
    dial_failed(channel, hop, dialled, trouble);
    return false;
}

/* ------------------------------------------------------------------ a race */

enum attempt_state { ATTEMPT_WAITS = 0, ATTEMPT_RUNS, ATTEMPT_ENDED, ATTEMPT_SEEN };

struct dial_attempt {
    struct race *race;
    struct race_entry *entry;
    enum attempt_state state;
    struct fiber *fiber;
    struct io_result result;
    struct stream *stream;
};

/* On the stack of who races; its attempts have all ended when it goes. */
struct race {
    struct deliver_channel *channel;
    struct fiber *owner;
    struct dial_attempt attempts[DELIVER_HOPS_MAX];
    unsigned count, begun, running;
    uint64_t next_us; /* when the next attempt may begin */
};

static void attempt_main(void *argument)
{
    struct dial_attempt *attempt = argument;
    struct race *race = attempt->race;
    struct endpoint source = {0};
    const struct next_hop *hop = attempt->entry->hop;

    attempt->result =
        stream_dial(&hop->at, session_source(race->channel, hop, &source),
                    deadline_in(race->channel->deliver->timeouts.connect_us), &attempt->stream);
    attempt->state = ATTEMPT_ENDED;
    race->running--;
    fiber_wake(race->owner);
}

static void race_begin(struct race *race)
{
    struct dial_attempt *attempt = &race->attempts[race->begun++];

    attempt->state = ATTEMPT_RUNS;
    race->running++;
    race->next_us = deadline_in(RACE_STEP_US);
    attempt->fiber = fiber_start("dial", attempt_main, attempt);
    if (attempt->fiber)
        return;
    attempt->result = io_failed(ENOMEM);
    attempt->state = ATTEMPT_ENDED;
    race->running--;
}

/* Takes in what has ended. The first connection, or NULL. */
static struct dial_attempt *race_look(struct race *race)
{
    for (unsigned i = 0; i < race->begun; i++) {
        struct dial_attempt *attempt = &race->attempts[i];
        if (attempt->state != ATTEMPT_ENDED)
            continue;
        attempt->state = ATTEMPT_SEEN;
        if (attempt->result.status == IO_OK)
            return attempt;
        attempt->entry->over = true;
        attempt->entry->no_way = dial_is_no_way(attempt->result);
        dial_failed(race->channel, attempt->entry->hop, attempt->result, &attempt->entry->trouble);
        race->next_us = 0; /* the next one need not wait for its turn */
    }
    return NULL;
}

static struct dial_attempt *race_run(struct race *race)
{
    struct dial_attempt *winner = NULL;

    while (!winner && (race->begun < race->count || race->running > 0)) {
        const bool may_begin = race->begun < race->count && race->running < RACE_AT_ONCE;
        if (may_begin && clock_now_us() >= race->next_us) {
            race_begin(race);
        } else {
            const uint64_t latest_us = deadline_in(race->channel->deliver->timeouts.connect_us);
            const enum io_status parked = fiber_park(may_begin ? race->next_us : latest_us);
            if (parked == IO_CANCELLED)
                break;
        }
        winner = race_look(race);
    }
    return winner;
}

/* Ends what is still under way: a dial that is cancelled returns at once. */
static void race_end(struct race *race, const struct dial_attempt *winner)
{
    const bool masked = fiber_mask_cancel(true);

    for (unsigned i = 0; i < race->begun; i++) {
        char host[sizeof(race->channel->host)];
        if (race->attempts[i].state != ATTEMPT_RUNS)
            continue;
        hop_name(race->attempts[i].entry->hop, host, sizeof host);
        dialogue_note(&race->channel->dialogue, "no connection yet to %s: given up", host);
        fiber_cancel(race->attempts[i].fiber);
    }
    while (race->running > 0) {
        const enum io_status parked = fiber_park(deadline_in(US_PER_S));
        (void)parked; /* whatever woke us, only `running` counts */
    }
    for (unsigned i = 0; i < race->begun; i++)
        if (&race->attempts[i] != winner)
            stream_close(race->attempts[i].stream);
    fiber_mask_cancel(masked);
}

struct race_entry *session_race(struct deliver_channel *channel, struct race_entry *entries,
                                unsigned count)
{
    struct race race = {.channel = channel, .owner = fiber_self()};

    for (unsigned i = 0; i < count; i++)
        if (!entries[i].over)
            race.attempts[race.count++] =
                (struct dial_attempt){.race = &race, .entry = &entries[i]};
    if (race.count == 0)
        return NULL;
    struct dial_attempt *winner = race_run(&race);
    race_end(&race, winner);
    if (!winner)
        return NULL;
    struct race_entry *entry = winner->entry;
    entry->over = true;
    entry->stands = dial_stands(channel, entry->hop, winner->stream, &entry->trouble);
    return entry;
}
