/*
 * What TLS a host has to give, settled before it is spoken to: DANE (RFC 7672) where its name and
 * address came validated, else MTA-STS (RFC 8461), else what it offers; and what a setting or
 * REQUIRETLS (RFC 8689) adds. A demand that cannot be known (TLSA records that fail to come, or
 * come bogus) makes the host unusable for now: silence must not take a demand away.
 */
#include "deliver/inside.h"

#include <string.h>

enum { TLSA_MAX = 32, SHA256_BYTES = 32, SHA512_BYTES = 64 };

static void plan_unusable(struct tls_plan *plan, enum cause cause, const char *failure,
                          const char *why)
{
    plan->level = TLS_LEVEL_UNUSABLE;
    plan->cause = cause;
    plan->failure = failure;
    plan->why = why;
}

/* ------------------------------------------------------------------ DANE */

/* RFC 7672 3.1: usages 0 and 1 do not count; nor does what cannot match anything. */
static bool tlsa_is_usable(const struct tlsa_record *record)
{
    if (record->usage < 2 || record->usage > 3 || record->selector > 1)
        return false;
    switch (record->matching) {
    case 0:
        return record->data.count > 0;
    case 1:
        return record->data.count == SHA256_BYTES;
    case 2:
        return record->data.count == SHA512_BYTES;
    }
    return false;
}

static void policy_add(struct buffer *text, const struct tlsa_record *record)
{
    buffer_print(text, "%s%u %u %u ", text->count > 0 ? "\n" : "", record->usage, record->selector,
                 record->matching);
    for (size_t i = 0; i < record->data.count && i < SHA512_BYTES; i++)
        buffer_print(text, "%02x", record->data.at[i]);
}

static void plan_take_tlsa(struct arena *arena, const struct dns_answer *answer,
                           struct tls_plan *plan)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(16 * KIB);
    struct tlsa_record *records = ARENA_NEW_ARRAY(arena, TLSA_MAX, struct tlsa_record);

    for (unsigned i = 0; records && i < answer->count && plan->demand.tlsa_count < TLSA_MAX; i++) {
        struct reader reader = READER_OF(answer->records[i].raw);
        struct tlsa_record record = {.usage = reader_u8(&reader),
                                     .selector = reader_u8(&reader),
                                     .matching = reader_u8(&reader)};
        record.data = reader.rest;
        if (reader.failed)
            continue;
        policy_add(&text, &record);
        if (tlsa_is_usable(&record))
            records[plan->demand.tlsa_count++] = record;
    }
    plan->demand.tlsa = records;
    plan->policy = arena_copy(arena, buffer_view(&text));
    plan->kind = TLS_POLICY_TLSA;
    plan->path_known = true;
    plan->level = plan->demand.tlsa_count > 0 ? TLS_LEVEL_PROVE : TLS_LEVEL_ENCRYPT;
    if (plan->demand.tlsa_count == 0)
        plan->why = "no TLSA record is usable";
    if (!records)
        plan_unusable(plan, CAUSE_LOCAL_FAILED, "validation-failure", "out of memory");
}

/* A test that failed for a fault of ours is not told to the other side. */
static void plan_untold(struct deliver_channel *channel, const struct lookup *lookup,
                        struct tls_plan *plan)
{
    struct arena *arena = channel->arena;
    const struct verdict fault = lookup_fault(channel, CAUSE_TLS_POLICY_UNMET, lookup);
    const char *failure = fault.cause != CAUSE_TLS_POLICY_UNMET   ? NULL
                          : lookup->reason == LOOKUP_REASON_BOGUS ? "dnssec-invalid"
                                                                  : "tlsa-invalid";

    plan_unusable(plan, fault.cause, failure,
                  arena_text(arena, arena_print(arena, "its TLSA records cannot be had: %s %.*s",
                                                lookup_reason_name(lookup->reason),
                                                BYTES_PRINT(fault.detail))));
}

/* Whether TLSA records stand at this name, and what they demand. */
static bool plan_dane_at(struct deliver_channel *channel, const struct next_hop *hop,
                         struct bytes base, struct tls_plan *plan)
{
    struct arena *arena = channel->arena;
    struct dns_answer answer = {0};
    const struct bytes name = arena_print(arena, "_%u._tcp.%.*s", hop->at.port, BYTES_PRINT(base));
    const struct lookup lookup =
        resolve_ask(channel->deliver->resolver, arena, name, DNS_TLSA, &answer);

    switch (lookup.status) {
    case LOOKUP_FAILED: /* RFC 7672 2.1.2: the host counts as unreachable */
        plan->kind = TLS_POLICY_TLSA;
        plan_untold(channel, &lookup, plan);
        return true;
    case LOOKUP_ABSENT:
        return false;
    case LOOKUP_FOUND:
        break;
    }
    if (!answer.secure)
        return false;
    plan->demand.server_name = arena_text(arena, base);
    plan_take_tlsa(arena, &answer, plan);
    return true;
}

/* RFC 7672 2.2.2: a host that is an alias in a zone without DNSSEC may still have records at its
 * own name, when that it is an alias came validated. */
static bool alias_is_secure(struct deliver_channel *channel, const struct next_hop *hop)
{
    struct dns_answer answer = {0};

    if (hop->canonical.count == 0)
        return false;
    return resolve_ask(channel->deliver->resolver, channel->arena, hop->name, DNS_CNAME, &answer)
                   .status == LOOKUP_FOUND &&
           answer.secure;
}

/* True: DANE has settled it. */
static bool plan_dane(struct deliver_channel *channel, const struct next_hop *hop,
                      struct tls_plan *plan)
{
    if (!channel->deliver->resolver || hop->name.count == 0 || !hop->named_secure)
        return false;
    if (!hop->secure)
        return alias_is_secure(channel, hop) && plan_dane_at(channel, hop, hop->name, plan);
    if (hop->canonical.count > 0 && plan_dane_at(channel, hop, hop->canonical, plan))
        return true;
    return plan_dane_at(channel, hop, hop->name, plan);
}

/* With usage 2 the certificate may also name what led here (RFC 7672 3.2.2). */
static void plan_add_names(struct deliver_channel *channel, const struct next_hop *hop,
                           struct tls_plan *plan)
{
    plan->demand.also_names[0] = arena_text(channel->arena, hop->name);
    if (!channel->to.via && channel->to.domain[0])
        plan->demand.also_names[1] = channel->to.domain;
}

/* ------------------------------------------------------------------ MTA-STS */

static bool sts_names(const struct sts_policy *policy, struct bytes host)
{
    for (unsigned i = 0; i < policy->mx_count; i++)
        if (sts_matches(host, policy->mx[i]))
            return true;
    return false;
}

static void plan_sts(const struct next_hop *hop, const struct sts_finding *sts,
                     struct tls_plan *plan)
{
    const bool named = sts_names(&sts->policy, hop->name);

    plan->kind = TLS_POLICY_STS;
    plan->policy = sts->text;
    plan->path_known = plan->path_known || named;
    plan->demand.verify_name = true;
    plan->demand.only_look = sts->policy.mode == STS_TESTING;
    plan->level = plan->demand.only_look ? TLS_LEVEL_MAY : TLS_LEVEL_PROVE;
    if (named)
        return;
    plan->failure = "validation-failure";
    plan->why = "the MTA-STS policy does not name this host";
    if (sts->policy.mode == STS_ENFORCE)
        plan_unusable(plan, CAUSE_TLS_POLICY_UNMET, plan->failure, plan->why);
}

/* ------------------------------------------------------------------ settings, REQUIRETLS */

static void plan_insist(struct tls_plan *plan)
{
    plan->insists = true;
    plan->level = TLS_LEVEL_PROVE;
    plan->demand.only_look = false;
    plan->demand.verify_name = plan->demand.verify_name || plan->demand.tlsa_count == 0;
}

static void plan_raise(struct deliver_channel *channel, bool require, struct tls_plan *plan)
{
    const enum tls_use use = channel->to.tls;

    if (plan->level == TLS_LEVEL_UNUSABLE)
        return;
    if (use == TLS_USE_DANE && plan->demand.tlsa_count == 0) {
        plan_unusable(plan, CAUSE_TLS_POLICY_UNMET, "dane-required", "no validated TLSA records");
        return;
    }
    if (require && !plan->path_known) {
        plan_unusable(plan, CAUSE_REQUIRETLS_UNMET, "validation-failure",
                      "neither DNSSEC nor MTA-STS proves that this is the domain's host");
        return;
    }
    if (use == TLS_USE_VERIFY || use == TLS_USE_DANE || require)
        plan_insist(plan);
    else if (use == TLS_USE_MUST && plan->level == TLS_LEVEL_MAY)
        plan->level = TLS_LEVEL_ENCRYPT;
}

bool tls_plan_wants_sts(const struct deliver_channel *channel)
{
    const struct deliver *deliver = channel->deliver;

    return !channel->waives && !channel->to.via && channel->to.domain[0] != '[' &&
           channel->to.tls != TLS_USE_NEVER && deliver->config->sts_enabled && deliver->resolver &&
           deliver->tls;
}

void tls_plan_make(struct deliver_channel *channel, const struct next_hop *hop,
                   const struct sts_finding *sts, bool require, struct tls_plan *plan)
{
    *plan = (struct tls_plan){.level = TLS_LEVEL_MAY, .why = ""};
    plan->path_known = hop->named_secure || channel->to.via;
    if (channel->to.tls == TLS_USE_NEVER) {
        plan->level = TLS_LEVEL_NEVER;
        if (require)
            plan_unusable(plan, CAUSE_REQUIRETLS_UNMET, "validation-failure",
                          "a setting forbids TLS to this host");
        return;
    }
    if (channel->waives) /* RFC 8689 5: neither DANE nor MTA-STS counts, a setting of ours does */
        plan->why = "the message says TLS-Required: No";
    else if (plan_dane(channel, hop, plan))
        plan_add_names(channel, hop, plan);
    else if (sts->applies && sts->policy.mode != STS_NONE)
        plan_sts(hop, sts, plan);
    if (!plan->demand.server_name && hop->name.count > 0)
        plan->demand.server_name = arena_text(channel->arena, hop->name);
    plan_raise(channel, require, plan);
    if (!plan->demand.server_name && plan->demand.verify_name) {
        char text[ENDPOINT_TEXT_MAX];
        plan->demand.server_name =
            arena_text(channel->arena, bytes_of_text(ip_print(&hop->at.ip, text, sizeof text)));
    }
}

/* The names that a certificate may have besides the host's count with usage 2 only, and one of them
 * is the destination's own: there no two destinations ask the same. */
void tls_plan_mark(const struct tls_plan *plan, uint8_t mark[PLAN_MARK_BYTES])
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(64 * KIB);
    const struct tls_peer_demand *demand = &plan->demand;
    bool names_count = false;

    for (unsigned i = 0; i < demand->tlsa_count; i++) {
        const struct tlsa_record *record = &demand->tlsa[i];
        names_count = names_count || record->usage == 2;
        buffer_print(&text, "%u %u %u %zu:", record->usage, record->selector, record->matching,
                     record->data.count);
        buffer_add(&text, record->data);
    }
    buffer_print(&text, "|%d %d %d %d %d %d|%s", (int)plan->level, (int)plan->kind,
                 plan->path_known, plan->insists, demand->verify_name, demand->only_look,
                 demand->server_name ? demand->server_name : "");
    for (unsigned i = 0; names_count && i < COUNT_OF(demand->also_names); i++)
        buffer_print(&text, "|%s", demand->also_names[i] ? demand->also_names[i] : "");
    CLEANUP(digest_close) struct digest *digest = digest_open(DIGEST_SHA256);
    if (digest)
        digest_add(digest, buffer_view(&text));
    if (!digest || text.failed ||
        digest_finish(digest, (struct span){mark, PLAN_MARK_BYTES}) != PLAN_MARK_BYTES)
        random_fill((struct span){mark, PLAN_MARK_BYTES}); /* like no other */
}
