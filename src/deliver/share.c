/*
 * Connections that several destinations share: those whose mail goes to the same hosts, by the same
 * preferences, from the same address. What was asked of a session's TLS is part of it: a
 * destination that would have asked for something else opens one of its own.
 */
#include "deliver/inside.h"

#include <string.h>

/* From the question for the hosts to the session with one. */
#define FOUND_HOLDS_US (2 * US_PER_S)

/* Hosts that were asked for ahead of the attempt, for bounds and to share, so that the attempt need
 * not ask again, and a name server that is silent costs its time once. */
struct found_hops {
    struct arena arena;
    struct verdict verdict;
    struct next_hops hops;
    char key[sizeof(((struct destination *)NULL)->key)];
    uint64_t until_us;
};

void share_forget(struct deliver_channel *channel)
{
    if (channel->found)
        arena_clear(&channel->found->arena);
    free(channel->found);
    channel->found = NULL;
}

static bool found_holds(const struct deliver_channel *channel)
{
    return channel->found && clock_now_us() < channel->found->until_us &&
           strcmp(channel->found->key, channel->to.key) == 0;
}

/* NULL: no memory. */
static struct found_hops *found_ask(struct deliver_channel *channel)
{
    struct arena *const before = channel->arena;

    if (found_holds(channel))
        return channel->found;
    share_forget(channel);
    struct found_hops *found = calloc(1, sizeof(*found));
    if (!found)
        return NULL;
    found->arena = ARENA_WITH_LIMIT(MIB);
    snprintf(found->key, sizeof(found->key), "%s", channel->to.key);
    channel->arena = &found->arena;
    found->verdict = hops_find(channel, &found->hops);
    channel->arena = before;
    found->until_us = deadline_in(FOUND_HOLDS_US);
    channel->found = found;
    return found;
}

/* What was found stays in memory until the next question. */
struct verdict share_take_hops(struct deliver_channel *channel, struct next_hops *hops)
{
    if (!found_holds(channel))
        return hops_find(channel, hops);
    struct found_hops *const found = channel->found;
    *hops = found->hops;
    found->until_us = 0;
    return found->verdict;
}

bool deliver_is_by_mx(const struct destination *destination)
{
    return destination->kind == DELIVER_SMTP && !destination->via && destination->domain[0] != '[';
}

bool deliver_channel_hosts(struct deliver_channel *channel, char *into, size_t room)
{
    if (!deliver_is_by_mx(&channel->to))
        return false;
    const struct found_hops *found = found_ask(channel);
    if (!found || !verdict_accepts(&found->verdict) || found->hops.set.count == 0)
        return false;
    /* Behind the domain's name the destination's key holds how we show up. */
    const char *how = channel->to.key + strlen("mx:") + strlen(channel->to.domain);
    snprintf(into, room, "hosts:%.*s#%016llx%s", (int)MIN_OF(found->hops.set.count, (size_t)100),
             (const char *)found->hops.set.at,
             (unsigned long long)bytes_hash_nocase(found->hops.set), how);
    return true;
}

struct bytes deliver_channel_mail_host(struct deliver_channel *channel, struct arena *arena)
{
    struct bytes name;

    if (channel->stream) {
        bytes_cut(bytes_of_text(channel->host), '[', &name);
        return arena_copy(arena, name);
    }
    if (channel->to.kind != DELIVER_SMTP)
        return BYTES_EMPTY;
    const struct found_hops *found = found_ask(channel);
    return found && verdict_accepts(&found->verdict) && found->hops.count > 0
               ? arena_copy(arena, found->hops.hops[0].name)
               : BYTES_EMPTY;
}

void deliver_channel_turn(struct deliver_channel *channel, const struct destination *destination)
{
    if (strcmp(channel->to.key, destination->key) == 0)
        return;
    channel->to = *destination;
    channel->turned = channel->stream != NULL;
}

/* The address that the session is with, among the destination's own; or NULL. */
static const struct next_hop *hop_of_session(const struct deliver_channel *channel,
                                             const struct next_hops *hops)
{
    char name[sizeof(channel->host)];

    for (unsigned i = 0; i < hops->count; i++) {
        hop_name(&hops->hops[i], name, sizeof(name));
        if (strcmp(name, channel->host) == 0)
            return &hops->hops[i];
    }
    return NULL;
}

bool share_suits(struct deliver_channel *channel, bool require_tls)
{
    struct next_hops hops;
    struct sts_finding sts;
    uint8_t mark[PLAN_MARK_BYTES];
    const struct verdict found = share_take_hops(channel, &hops);
    const struct next_hop *hop = verdict_accepts(&found) ? hop_of_session(channel, &hops) : NULL;
    struct tls_plan *plan = hop ? ARENA_NEW(channel->arena, struct tls_plan) : NULL;

    if (!plan)
        return false;
    channel_find_sts(channel, &sts);
    tls_plan_make(channel, hop, &sts, require_tls, plan);
    tls_plan_mark(plan, mark);
    const bool suits =
        plan->level != TLS_LEVEL_UNUSABLE && memcmp(mark, channel->mark, sizeof(mark)) == 0;
    dialogue_note(&channel->dialogue, "that session was opened for another domain: %s",
                  suits ? "the same was asked of it" : "not what this one asks for");
    channel->turned = !suits;
    return suits;
}
