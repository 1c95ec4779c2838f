/* The way that mail for a destination would take now, for `holdfast route`. */
#include "deliver/inside.h"

static const char *level_name(enum tls_level level)
{
    switch (level) {
    case TLS_LEVEL_UNUSABLE:
        return "unusable";
    case TLS_LEVEL_NEVER:
        return "clear";
    case TLS_LEVEL_MAY:
        return "may";
    case TLS_LEVEL_ENCRYPT:
        return "encrypt";
    case TLS_LEVEL_PROVE:
        break;
    }
    return "prove";
}

static const char *demander(const struct tls_plan *plan)
{
    if (plan->insists)
        return "setting";
    switch (plan->kind) {
    case TLS_POLICY_TLSA:
        return "dane";
    case TLS_POLICY_STS:
        return plan->demand.only_look ? "mta-sts test" : "mta-sts";
    case TLS_POLICY_NONE:
        break;
    }
    return plan->level == TLS_LEVEL_MAY ? "" : "setting";
}

static void plan_host(struct deliver_channel *channel, const struct next_hop *hop,
                      const struct sts_finding *sts, struct deliver_host_plan *into)
{
    struct tls_plan plan;

    hop_name(hop, into->host, sizeof into->host);
    tls_plan_make(channel, hop, sts, false, &plan);
    snprintf(into->level, sizeof into->level, "%s", level_name(plan.level));
    snprintf(into->by, sizeof into->by, "%s", demander(&plan));
    snprintf(into->words, sizeof into->words, "%s", plan.why ? plan.why : "");
}

static void plan_say_sts(const struct sts_finding *sts, char *into, size_t room)
{
    static const char *const modes[] = {
        [STS_NONE] = "none", [STS_TESTING] = "testing", [STS_ENFORCE] = "enforce"};

    if (sts->applies)
        snprintf(into, room, "mode %s, max_age %llu s%s%s", modes[sts->policy.mode],
                 (unsigned long long)sts->policy.max_age_s,
                 sts->failure ? "; the last one known, as the new one failed: " : "",
                 sts->failure ? sts->failure : "");
    else if (sts->failure)
        snprintf(into, room, "no policy: %s: %.100s", sts->failure, sts->why);
    else
        snprintf(into, room, "no policy");
}

void deliver_plan(struct deliver *deliver, const struct destination *destination,
                  struct arena *arena, struct deliver_plan *plan)
{
    struct deliver_channel channel = {.deliver = deliver, .to = *destination, .arena = arena};
    struct sts_finding sts = {0};
    struct next_hops hops;

    *plan = (struct deliver_plan){0};
    const struct verdict found = hops_find(&channel, &hops);
    if (verdict_accepts(&found) && tls_plan_wants_sts(&channel)) {
        sts_find(deliver, arena, bytes_of_text(channel.to.domain), &sts);
        plan_say_sts(&sts, plan->sts, sizeof plan->sts);
    }
    plan->verdict = found;
    plan->hosts = ARENA_NEW_ARRAY(arena, DELIVER_HOPS_MAX, struct deliver_host_plan);
    for (unsigned i = 0; plan->hosts && verdict_accepts(&found) && i < hops.count; i++)
        plan_host(&channel, &hops.hops[i], &sts, &plan->hosts[plan->count++]);
}
