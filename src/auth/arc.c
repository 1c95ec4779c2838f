/*
 * ARC validation (RFC 8617 5.2): the sets by instance, their structure, the newest message
 * signature, every seal. Facts only: what a failed chain means is decided elsewhere.
 */
#include "auth/dkim_inside.h"

enum arc_part { ARC_NONE = 0, ARC_RESULTS, ARC_MESSAGE, ARC_SEAL };

static enum arc_part part_of(struct bytes name)
{
    if (bytes_equal_text_nocase(name, "arc-seal"))
        return ARC_SEAL;
    if (bytes_equal_text_nocase(name, "arc-message-signature"))
        return ARC_MESSAGE;
    return bytes_equal_text_nocase(name, "arc-authentication-results") ? ARC_RESULTS : ARC_NONE;
}

/* Blanks, folding and comments (RFC 5322 3.2.2), nested ones too. */
static struct bytes skip_cfws(struct bytes rest)
{
    unsigned depth = 0;

    while (rest.count > 0) {
        const uint8_t byte = rest.at[0];
        const bool blank = byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
        if (depth == 0 && !blank && byte != '(')
            break;
        depth += byte == '(';
        depth -= byte == ')' && depth > 0;
        rest = bytes_skip(rest, byte == '\\' && depth > 0 ? 2 : 1);
    }
    return rest;
}

/* 1 to 50, or 0. */
static unsigned instance_number(struct bytes digits)
{
    uint64_t value = 0;

    if (digits.count > 2 || !bytes_to_u64(digits, &value) || value > ARC_INSTANCES_MAX)
        return 0;
    return (unsigned)value;
}

/* "i=N;" comes first in the results (RFC 8617 4.1.1). */
static unsigned results_instance(struct bytes value)
{
    struct bytes rest = skip_cfws(value);
    size_t digits = 0;

    if (rest.count == 0 || rest.at[0] != 'i')
        return 0;
    rest = skip_cfws(bytes_skip(rest, 1));
    if (rest.count == 0 || rest.at[0] != '=')
        return 0;
    rest = skip_cfws(bytes_skip(rest, 1));
    while (digits < rest.count && ascii_is_digit(rest.at[digits]))
        digits++;
    const struct bytes behind = skip_cfws(bytes_skip(rest, digits));
    if (behind.count == 0 || behind.at[0] != ';')
        return 0;
    return instance_number(bytes_slice(rest, 0, digits));
}

static unsigned field_instance(enum arc_part part, struct bytes value)
{
    struct dkim_tags tags;

    if (part == ARC_RESULTS)
        return results_instance(value);
    if (!dkim_tags_parse(value, &tags))
        return 0;
    return instance_number(dkim_tags_value(&tags, "i"));
}

static const struct header_field **slot_of(struct arc_set *set, enum arc_part part)
{
    if (part == ARC_RESULTS)
        return &set->results;
    return part == ARC_MESSAGE ? &set->message : &set->seal;
}

static void collect_field(struct arc_chain *chain, enum arc_part part,
                          const struct header_field *field)
{
    const unsigned instance = field_instance(part, field->value);
    const struct header_field **slot = slot_of(&chain->sets[instance], part);

    if (instance == 0)
        chain->problem = "a field of the chain has no usable i=";
    else if (*slot)
        chain->problem = "a field of the chain is there twice";
    else
        *slot = field;
    chain->highest = MAX_OF(chain->highest, instance);
}

struct bytes arc_seal_verdict(const struct arc_set *set)
{
    struct dkim_tags tags;

    if (!set->seal || !dkim_tags_parse(set->seal->value, &tags))
        return BYTES_EMPTY;
    return dkim_tags_value(&tags, "cv");
}

static const char *check_set(const struct arc_chain *chain, unsigned instance)
{
    const struct arc_set *set = &chain->sets[instance];

    if (!set->results || !set->message || !set->seal)
        return "a set of the chain is not whole";
    if (!bytes_equal_text(arc_seal_verdict(set), instance == 1 ? "none" : "pass"))
        return "a seal's cv= does not fit its place in the chain";
    return NULL;
}

bool arc_chain_collect(const struct dkim_fields *fields, struct arc_chain *chain)
{
    bool any = false;

    *chain = (struct arc_chain){0};
    for (unsigned i = 0; i < fields->count; i++) {
        const enum arc_part part = part_of(fields->fields[i].name);
        if (part == ARC_NONE)
            continue;
        any = true;
        collect_field(chain, part, &fields->fields[i]);
    }
    for (unsigned instance = 1; instance <= chain->highest && !chain->problem; instance++)
        chain->problem = check_set(chain, instance);
    return any;
}

void arc_hash_sets(struct dkim_head_hash *hash, const struct arc_chain *chain, unsigned first,
                   unsigned last)
{
    for (unsigned i = first; i <= last; i++) {
        dkim_head_hash_add(hash, chain->sets[i].results->whole);
        dkim_head_hash_add(hash, chain->sets[i].message->whole);
        if (i < last)
            dkim_head_hash_add(hash, chain->sets[i].seal->whole);
    }
}

static struct dkim_outcome no_memory(void)
{
    return (struct dkim_outcome){.result = AUTH_TEMPERROR, .reason = "no memory"};
}

/* RFC 8617 5.1.1: a seal covers all sets up to its own. */
static struct dkim_outcome judge_seal(const struct dkim *dkim, const struct auth_dns *dns,
                                      unsigned instance)
{
    CLEANUP(dkim_head_hash_close) struct dkim_head_hash hash = {0};
    const struct header_field *field = dkim->chain->sets[instance].seal;
    struct dkim_signature seal;
    uint8_t value[DKIM_HASH_OCTETS];

    if (!dkim_head_hash_open(&hash, true))
        return no_memory();
    dkim_signature_parse(dkim->arena, *field, DKIM_ARC_SEAL, &seal);
    if (dkim->arena->failed)
        return no_memory();
    if (seal.problem)
        return (struct dkim_outcome){.result = AUTH_FAIL, .reason = seal.problem};
    arc_hash_sets(&hash, dkim->chain, 1, instance);
    dkim_head_hash_add_last(&hash, field->whole, seal.raw_b);
    if (!dkim_head_hash_finish(&hash, value))
        return no_memory();
    return dkim_key_judge(dns, &seal, bytes_of(value, sizeof value));
}

static struct dkim_outcome judge_chain(const struct dkim *dkim, const struct auth_dns *dns)
{
    const struct arc_chain *chain = dkim->chain;

    if (dkim->intake.too_big)
        return (struct dkim_outcome){.result = AUTH_FAIL, .reason = "the header is too large"};
    if (bytes_equal_text(arc_seal_verdict(&chain->sets[chain->highest]), "fail"))
        return (struct dkim_outcome){.result = AUTH_FAIL, .reason = "the newest seal says fail"};
    if (chain->problem)
        return (struct dkim_outcome){.result = AUTH_FAIL, .reason = chain->problem};
    struct dkim_outcome outcome = dkim_judge(dkim, dns, &chain->newest);
    for (unsigned i = chain->highest; i > 0 && outcome.result == AUTH_PASS; i--)
        outcome = judge_seal(dkim, dns, i);
    return outcome;
}

/* A chain passes, fails, or cannot be told yet (RFC 8617 4.4); what DKIM calls permanent errors are
 * failures here. */
static enum auth_result chain_result(enum auth_result result)
{
    return result == AUTH_PASS || result == AUTH_TEMPERROR ? result : AUTH_FAIL;
}

static struct bytes newest_sealer(const struct dkim *dkim)
{
    const struct header_field *seal = dkim->chain->sets[dkim->chain->highest].seal;
    struct dkim_tags tags;

    if (!seal || !dkim_tags_parse(seal->value, &tags))
        return BYTES_EMPTY;
    const struct bytes domain = dkim_tags_value(&tags, "d");
    return dkim_domain_is_valid(domain) ? arena_copy(dkim->arena, domain) : BYTES_EMPTY;
}

void arc_finish(struct dkim *dkim, const struct auth_dns *dns, struct arc_facts *facts)
{
    *facts = (struct arc_facts){.result = AUTH_NONE};
    dkim_finish_body(dkim);
    if (dkim->no_memory) {
        *facts = (struct arc_facts){.result = AUTH_TEMPERROR, .reason = BYTES_LITERAL("no memory")};
        return;
    }
    if (!dkim->chain)
        return;
    const struct dkim_outcome outcome = judge_chain(dkim, dns);
    facts->result = chain_result(outcome.result);
    facts->reason = bytes_of_text(outcome.reason);
    facts->instances = dkim->chain->highest;
    facts->sealer = newest_sealer(dkim);
}
