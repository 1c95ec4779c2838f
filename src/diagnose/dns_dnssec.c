/*
 * The DNSSEC chain (RFC 4033 to 4035), zone by zone from the top: does the parent have a DS record,
 * or prove that it has none; does it name a key that the zone has; do that key's signature and
 * those of the records hold? A resolver is asked for the records with validation switched off, so
 * that a broken zone can be looked into; its own word on the whole is asked first. What signatures
 * come to is computed here (resolve/dnssec.c).
 */
#include <string.h>

#include "diagnose/dns_inside.h"

enum {
    RCODE_SERVFAIL = 2,
    TYPE_SOA = 6,
    TYPE_DS = 43,
    TYPE_DNSKEY = 48,
    LABELS_MAX = 32,
    TAGS_MAX = 8,
    SOON_DAYS = 3,
};

static struct direct_question question_of(const struct dns_check *check, struct bytes name,
                                          unsigned type, bool unchecked)
{
    return (struct direct_question){.server = *check->request->validator,
                                    .name = name,
                                    .type = (uint16_t)type,
                                    .edns = true,
                                    .dnssec = true,
                                    .recursive = true,
                                    .unchecked = unchecked,
                                    .timeout_us = 5 * US_PER_S};
}

/* Over TCP when it does not fit UDP, as key sets often do not. */
static bool ask(const struct dns_check *check, struct bytes name, unsigned type, bool unchecked,
                struct direct_answer *answer)
{
    struct direct_question question = question_of(check, name, type, unchecked);

    *answer = (struct direct_answer){0};
    if (clock_now_us() >= check->request->deadline_us)
        return false;
    resolve_direct(check->arena, &question, answer);
    if (answer->outcome == DIRECT_ANSWERED && answer->truncated) {
        question.tcp = true;
        resolve_direct(check->arena, &question, answer);
    }
    return answer->outcome == DIRECT_ANSWERED;
}

bool dns_check_is_validated(struct dns_check *check, struct bytes name, enum dns_type type)
{
    struct direct_answer answer;

    return check->request->validator && ask(check, name, type, false, &answer) &&
           answer.authenticated;
}

/* ------------------------------------------------------------------ the resolver's word */

static bool resolver_speaks(struct dns_check *check, bool *bogus)
{
    struct direct_answer answer, unchecked;
    char server[ENDPOINT_TEXT_MAX];

    if (!ask(check, check->request->domain, TYPE_SOA, false, &answer))
        return false; /* the other look-ups say so */
    *bogus = false;
    enum dns_finding finding =
        answer.authenticated ? FINDING_DNSSEC_SECURE : FINDING_DNSSEC_INSECURE;
    if (answer.rcode == RCODE_SERVFAIL) {
        if (!ask(check, check->request->domain, TYPE_SOA, true, &unchecked) ||
            unchecked.rcode == RCODE_SERVFAIL)
            return false;
        finding = FINDING_DNSSEC_BOGUS;
        *bogus = true;
    }
    endpoint_print(check->request->validator, server, sizeof server);
    dns_find(&check->findings, finding, check->request->domain, bytes_of_text(server));
    return true;
}

/* ------------------------------------------------------------------ the walk */

struct walk {
    struct dns_check *check;
    json_t *chain, *sets; /* all zones; the sets of the zone at hand */
    struct bytes parent;
    struct direct_answer parent_keys;
    bool has_parent; /* its keys are known */
    bool broken;     /* a link is, and that was told */
    unsigned told;   /* states of the zone at hand: one broken set stands for all that are so */
};

static const char *type_name(unsigned type)
{
    switch (type) {
    case DNS_MX:
        return "MX";
    case DNS_TXT:
        return "TXT";
    case TYPE_SOA:
        return "SOA";
    case TYPE_DS:
        return "DS";
    default:
        return "DNSKEY";
    }
}

static const char *state_name(enum dnssec_state state)
{
    static const char *const names[] = {[DNSSEC_UNDECIDED] = "undecided",
                                        [DNSSEC_ABSENT] = "no proof",
                                        [DNSSEC_UNSIGNED] = "unsigned",
                                        [DNSSEC_ALGORITHM] = "unknown algorithm",
                                        [DNSSEC_KEY_MISSING] = "by a key that is not there",
                                        [DNSSEC_WRONG] = "wrong",
                                        [DNSSEC_EARLY] = "not yet valid",
                                        [DNSSEC_EXPIRED] = "expired",
                                        [DNSSEC_RIGHT] = "right"};

    return names[state];
}

/* "MX of shop.example, by key 4711 (ED25519)", and until or from when. */
static struct bytes describe(const struct walk *walk, const struct dnssec_question *question,
                             const struct dnssec_look *look)
{
    struct arena *arena = walk->check->arena;
    char now[TIME_TEXT_MAX], from[TIME_TEXT_MAX], until[TIME_TEXT_MAX];
    const struct bytes set =
        arena_print(arena, "%s%s of %.*s", look->denied ? "the proof that there is no " : "",
                    type_name(question->type), BYTES_PRINT(question->name));

    if (look->state <= DNSSEC_UNSIGNED)
        return set;
    const struct bytes signature =
        arena_print(arena, "%.*s, by key %u of %.*s (%s)", BYTES_PRINT(set), look->key_tag,
                    BYTES_PRINT(question->zone), dnssec_algorithm_name(look->algorithm));
    if (look->state < DNSSEC_WRONG)
        return signature;
    return arena_print(arena, "%.*s, valid from %s to %s; it is now %s", BYTES_PRINT(signature),
                       time_print_rfc3339(look->from_s * 1000000, from, sizeof from),
                       time_print_rfc3339(look->until_s * 1000000, until, sizeof until),
                       time_print_rfc3339(question->now_s * 1000000, now, sizeof now));
}

static enum dns_finding finding_of(const struct dnssec_question *question,
                                   const struct dnssec_look *look)
{
    switch (look->state) {
    case DNSSEC_ABSENT:
        return FINDING_DNSSEC_NO_PROOF;
    case DNSSEC_UNSIGNED:
        return FINDING_DNSSEC_UNSIGNED;
    case DNSSEC_ALGORITHM:
        return FINDING_DNSSEC_ALGORITHM;
    case DNSSEC_KEY_MISSING:
        return question->ds ? FINDING_DNSSEC_KEYS_ADRIFT : FINDING_DNSSEC_KEY_MISSING;
    case DNSSEC_WRONG:
        return FINDING_DNSSEC_WRONG;
    case DNSSEC_EARLY:
        return FINDING_DNSSEC_EARLY;
    case DNSSEC_EXPIRED:
        return FINDING_DNSSEC_EXPIRED;
    case DNSSEC_UNDECIDED:
    case DNSSEC_RIGHT:
        break;
    }
    return FINDING_DNSSEC_ENDS_SOON;
}

/* Looks at a set, tells its fault, notes it for the answer. */
static void judge(struct walk *walk, struct bytes name, struct dnssec_question question)
{
    struct dns_check *check = walk->check;
    struct dnssec_look look;

    question.now_s = clock_wall_us() / 1000000;
    question.name = name;
    dnssec_look_at(&question, &look);
    if (look.state == DNSSEC_UNDECIDED)
        return;
    json_array_append_new(
        walk->sets, json_pack("{s:o, s:s, s:s, s:b, s:i, s:s, s:I}", "name", diagnose_text(name),
                              "type", type_name(question.type), "state", state_name(look.state),
                              "absent", look.denied, "key", (int)look.key_tag, "algorithm",
                              look.algorithm ? dnssec_algorithm_name(look.algorithm) : "", "until",
                              (json_int_t)look.until_s));
    const bool soon = look.state == DNSSEC_RIGHT && look.until_s > 0 &&
                      look.until_s - question.now_s < SOON_DAYS * 86400;
    if (look.state != DNSSEC_RIGHT)
        walk->broken = true;
    if ((look.state != DNSSEC_RIGHT || soon) && !(walk->told & 1u << look.state))
        dns_find(&check->findings, finding_of(&question, &look), name,
                 describe(walk, &question, &look));
    if (look.state != DNSSEC_RIGHT || soon)
        walk->told |= 1u << look.state;
}

/* ------------------------------------------------------------------ one zone */

static unsigned count_of(const struct direct_answer *answer, unsigned type)
{
    unsigned count = 0;

    for (unsigned i = 0; i < answer->answer_count; i++)
        count += answer->answers[i].type == type;
    return count;
}

/* The tags that the DS records name, and those of the keys that are there. */
static json_t *tags_of(const struct direct_answer *ds, const struct direct_answer *keys)
{
    uint16_t tags[TAGS_MAX];
    json_t *named = json_array(), *there = json_array();
    const unsigned count = dnssec_key_tags(keys, tags, TAGS_MAX);

    for (unsigned i = 0; i < ds->answer_count && i < TAGS_MAX; i++) {
        struct bytes word = BYTES_EMPTY;
        uint64_t tag = 0;
        bytes_cut(ds->answers[i].data, ' ', &word);
        if (ds->answers[i].type == TYPE_DS && bytes_to_u64(word, &tag))
            json_array_append_new(named, json_integer((json_int_t)tag));
    }
    for (unsigned i = 0; i < count; i++)
        json_array_append_new(there, json_integer(tags[i]));
    return json_pack("{s:o, s:o}", "ds_tags", named, "key_tags", there);
}

/* "shop.example: DS names 4711, the zone has 11, 12" */
static struct bytes describe_tags(struct dns_check *check, struct bytes zone, const json_t *tags)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(KIB);
    static const char *const members[] = {"ds_tags", "key_tags"};

    buffer_add(&text, zone);
    for (unsigned i = 0; i < COUNT_OF(members); i++) {
        const json_t *list = json_object_get(tags, members[i]);
        buffer_add_text(&text, i == 0 ? " (DS names key" : "; the zone has");
        for (size_t j = 0; j < json_array_size(list); j++)
            buffer_print(&text, "%s %lld", j > 0 ? "," : "",
                         (long long)json_integer_value(json_array_get(list, j)));
    }
    buffer_add_text(&text, ")");
    return arena_copy(check->arena, buffer_view(&text));
}

static void judge_absent_ds(struct walk *walk, struct bytes zone, unsigned key_count)
{
    dns_find(&walk->check->findings, key_count > 0 ? FINDING_DNSSEC_NO_DS : FINDING_DNSSEC_ENDS,
             zone, zone);
}

/* True: what the zone signs can be judged by its keys. */
static bool judge_link(struct walk *walk, struct bytes zone, const struct direct_answer *ds,
                       const struct direct_answer *keys, const json_t *tags)
{
    struct dns_findings *findings = &walk->check->findings;
    const unsigned key_count = count_of(keys, TYPE_DNSKEY);
    const bool top = bytes_equal_text(zone, ".");

    if (!top && walk->has_parent)
        judge(walk, zone,
              (struct dnssec_question){
                  .answer = ds, .keys = &walk->parent_keys, .zone = walk->parent, .type = TYPE_DS});
    const enum dnssec_link link = dnssec_link_of(ds, keys);
    if (!top && link == DNSSEC_LINK_ABSENT) {
        judge_absent_ds(walk, zone, key_count);
        return false;
    }
    if (link == DNSSEC_LINK_UNKNOWN) {
        dns_find(findings, FINDING_DNSSEC_DS_UNKNOWN, zone, zone);
        return false;
    }
    if (key_count == 0)
        dns_find(findings, FINDING_DNSSEC_NO_KEYS, zone, zone);
    else if (link == DNSSEC_LINK_STRANGE)
        dns_find(findings, FINDING_DNSSEC_DS_STRANGE, zone, describe_tags(walk->check, zone, tags));
    walk->broken |= key_count == 0 || link == DNSSEC_LINK_STRANGE;
    return key_count > 0 && (top || link == DNSSEC_LINK_NAMED);
}

/* One zone of the chain; false: what is below cannot be secure by it. */
static bool judge_zone(struct walk *walk, struct bytes zone, const struct direct_answer *soa)
{
    struct dns_check *check = walk->check;
    struct direct_answer ds = {0}, keys;
    const bool top = bytes_equal_text(zone, ".");

    walk->told = 0;
    walk->sets = json_array();
    if ((!top && !ask(check, zone, TYPE_DS, true, &ds)) ||
        !ask(check, zone, TYPE_DNSKEY, true, &keys)) {
        dns_find(&check->findings, FINDING_DNS_LOOKUP_FAILED, zone,
                 BYTES_LITERAL("the resolver gave no answer for its DS and DNSKEY records"));
        json_decref(walk->sets);
        return false;
    }
    json_t *row = tags_of(&ds, &keys);
    const bool linked = judge_link(walk, zone, &ds, &keys, row);
    if (linked) {
        const struct dnssec_question question = {.answer = &keys,
                                                 .keys = &keys,
                                                 .ds = top ? NULL : &ds,
                                                 .zone = zone,
                                                 .type = TYPE_DNSKEY};
        judge(walk, zone, question);
        judge(
            walk, zone,
            (struct dnssec_question){.answer = soa, .keys = &keys, .zone = zone, .type = TYPE_SOA});
    }
    json_object_update_new(row, json_pack("{s:o, s:i, s:i, s:b, s:o}", "zone", diagnose_text(zone),
                                          "ds", (int)count_of(&ds, TYPE_DS), "keys",
                                          (int)count_of(&keys, TYPE_DNSKEY), "linked", linked,
                                          "sets", walk->sets));
    json_array_append_new(walk->chain, row);
    walk->parent = zone;
    walk->parent_keys = keys;
    walk->has_parent = linked;
    return linked;
}

/* What mail asks of the domain, by the keys of the zone that it lies in. */
static void judge_records(struct walk *walk)
{
    struct dns_check *check = walk->check;
    const struct bytes domain = check->request->domain;
    const struct {
        struct bytes name;
        unsigned type;
    } sets[] = {{domain, DNS_MX},
                {domain, DNS_TXT},
                {arena_print(check->arena, "_dmarc.%.*s", BYTES_PRINT(domain)), DNS_TXT}};

    for (unsigned i = 0; i < COUNT_OF(sets); i++) {
        struct direct_answer answer;
        if (ask(check, sets[i].name, sets[i].type, true, &answer))
            judge(walk, sets[i].name,
                  (struct dnssec_question){.answer = &answer,
                                           .keys = &walk->parent_keys,
                                           .zone = walk->parent,
                                           .type = (uint16_t)sets[i].type});
    }
}

/* The zones on the way down to the domain: names with an SOA of their own. False: the chain ended
 * or broke above the domain. */
static bool walk_down(struct walk *walk)
{
    const struct bytes domain = walk->check->request->domain;
    size_t starts[LABELS_MAX] = {0};
    unsigned count = 0;
    struct direct_answer soa;

    if (ask(walk->check, BYTES_LITERAL("."), TYPE_SOA, true, &soa) &&
        count_of(&soa, TYPE_SOA) > 0 && !judge_zone(walk, BYTES_LITERAL("."), &soa))
        return false;
    for (size_t i = 0; i < domain.count && count < LABELS_MAX; i++)
        if (i == 0 || domain.at[i - 1] == '.')
            starts[count++] = i;
    while (count-- > 0) {
        const struct bytes zone = bytes_skip(domain, starts[count]);
        if (!ask(walk->check, zone, TYPE_SOA, true, &soa))
            return false;
        if (count_of(&soa, TYPE_SOA) > 0 && bytes_equal_nocase(soa.answers[0].owner, zone) &&
            !judge_zone(walk, zone, &soa))
            return false;
    }
    return walk->has_parent;
}

void dns_check_dnssec(struct dns_check *check)
{
    struct walk walk = {.check = check, .chain = json_array()};
    bool bogus = false;

    json_object_set_new(check->answer, "dnssec", json_pack("{s:o}", "chain", walk.chain));
    if (!check->request->validator || !resolver_speaks(check, &bogus))
        return;
    if (!walk_down(&walk))
        return;
    json_t *last = json_array_get(walk.chain, json_array_size(walk.chain) - 1);
    walk.sets = json_object_get(last, "sets");
    judge_records(&walk);
    if (bogus && !walk.broken)
        dns_find(&check->findings, FINDING_DNSSEC_RESOLVER_ALONE, check->request->domain,
                 BYTES_EMPTY);
}
