/*
 * Verification of one message (RFC 6376 6): the header is collected, the body hashed while it
 * arrives, keys are asked for at the end. With no signature in the header nothing is hashed.
 */
#include "auth/dkim_inside.h"

struct dkim *dkim_open(struct arena *arena)
{
    struct dkim *dkim = ARENA_NEW(arena, struct dkim);

    if (!dkim)
        return NULL;
    dkim->arena = arena;
    dkim->intake.head = BUFFER_WITH_LIMIT(DKIM_HEAD_MAX_BYTES);
    return dkim;
}

static bool is_signature(const struct header_field *field)
{
    return bytes_equal_text_nocase(field->name, "dkim-signature");
}

/* The first signatures from the top are looked at; those over the limit are counted. */
static bool read_signatures(struct dkim *dkim)
{
    const struct dkim_fields *fields = &dkim->fields;

    for (unsigned i = 0; i < fields->count; i++) {
        if (!is_signature(&fields->fields[i]))
            continue;
        if (dkim->count == DKIM_SIGNATURES_MAX) {
            dkim->ignored++;
            continue;
        }
        if (!dkim->signatures)
            dkim->signatures =
                ARENA_NEW_ARRAY(dkim->arena, DKIM_SIGNATURES_MAX, struct dkim_signature);
        if (!dkim->signatures)
            return false;
        struct dkim_signature *signature = &dkim->signatures[dkim->count++];
        dkim_signature_parse(dkim->arena, fields->fields[i], DKIM_SIGNATURE, signature);
        signature->index = i;
    }
    return !dkim->arena->failed;
}

static bool read_chain(struct dkim *dkim)
{
    bool any = false;

    for (unsigned i = 0; i < dkim->fields.count && !any; i++)
        any = bytes_starts_with_nocase(dkim->fields.fields[i].name, BYTES_LITERAL("arc-"));
    if (!any)
        return true;
    struct arc_chain *chain = ARENA_NEW(dkim->arena, struct arc_chain);
    if (!chain)
        return false;
    if (!arc_chain_collect(&dkim->fields, chain))
        return true;
    dkim->chain = chain;
    if (chain->problem)
        return true;
    const struct header_field *newest = chain->sets[chain->highest].message;
    dkim_signature_parse(dkim->arena, *newest, DKIM_ARC_MESSAGE, &chain->newest);
    chain->newest.index = (unsigned)(newest - dkim->fields.fields);
    return !dkim->arena->failed;
}

/* A signature that cannot pass needs no hash. */
static bool want_body(struct dkim *dkim, struct dkim_signature *signature)
{
    if (signature->problem)
        return true;
    signature->body = dkim_bodies_want(&dkim->intake.bodies, dkim->arena, signature->relaxed_body,
                                       signature->length);
    return signature->body != NULL;
}

/* Once, when the header is complete. */
static void start(struct dkim *dkim)
{
    dkim->started = true;
    dkim->idle = true;
    dkim->no_memory = dkim->intake.head.failed;
    if (dkim->no_memory)
        return;
    const enum dkim_index_result indexed =
        dkim_fields_index(dkim->arena, buffer_view(&dkim->intake.head), &dkim->fields);
    dkim->intake.too_big |= indexed == DKIM_INDEX_TOO_MANY;
    dkim->no_memory =
        indexed == DKIM_INDEX_NO_MEMORY || !read_signatures(dkim) || !read_chain(dkim);
    if (dkim->intake.too_big)
        return;
    for (unsigned i = 0; i < dkim->count && !dkim->no_memory; i++)
        dkim->no_memory = !want_body(dkim, &dkim->signatures[i]);
    if (!dkim->no_memory && dkim->chain && !dkim->chain->problem)
        dkim->no_memory = !want_body(dkim, &dkim->chain->newest);
    dkim->idle = !dkim->intake.bodies.simple && !dkim->intake.bodies.relaxed;
}

void dkim_add(struct dkim *dkim, struct bytes piece)
{
    const struct bytes body = dkim_intake_head(&dkim->intake, piece);

    if (dkim->intake.head_done && !dkim->started)
        start(dkim);
    if (!dkim->idle && !dkim->finished)
        dkim_bodies_add(&dkim->intake.bodies, body);
}

void dkim_finish_body(struct dkim *dkim)
{
    if (!dkim->started)
        start(dkim);
    if (!dkim->finished)
        dkim_bodies_finish(&dkim->intake.bodies);
    dkim->finished = true;
}

static struct dkim_outcome no_pass(enum auth_result result, const char *reason)
{
    return (struct dkim_outcome){.result = result, .reason = reason};
}

/* The part that needs no DNS: a pass here is a pass so far. */
static struct dkim_outcome judge_body(const struct dkim *dkim,
                                      const struct dkim_signature *signature)
{
    const uint64_t total = dkim_bodies_total(&dkim->intake.bodies, signature->relaxed_body);
    const bool limited = signature->length != DKIM_NO_LIMIT;

    if (!signature->body || !signature->body->done)
        return no_pass(AUTH_TEMPERROR, "no memory");
    if (limited && signature->length > total)
        return no_pass(AUTH_FAIL, "l= is longer than the body");
    if (!bytes_equal(signature->body_digest, bytes_of(signature->body->value, DKIM_HASH_OCTETS)))
        return no_pass(AUTH_FAIL, "body hash did not verify");
    return no_pass(AUTH_PASS, "");
}

static bool hash_head(const struct dkim *dkim, const struct dkim_signature *signature,
                      uint8_t value[DKIM_HASH_OCTETS])
{
    CLEANUP(dkim_head_hash_close) struct dkim_head_hash hash = {0};

    if (!dkim_head_hash_open(&hash, signature->relaxed_head))
        return false;
    dkim_head_hash_add_named(&hash, &dkim->fields, signature->names, signature->index);
    dkim_head_hash_add_last(&hash, signature->field.whole, signature->raw_b);
    return dkim_head_hash_finish(&hash, value);
}

/* Bytes behind l= are nobody's; RFC 6376 8.2 lets a verifier refuse to count such a signature. */
static bool leaves_bytes_unsigned(const struct dkim *dkim, const struct dkim_signature *signature)
{
    return signature->length < dkim_bodies_total(&dkim->intake.bodies, signature->relaxed_body);
}

/* A body that differs cannot be mended by any key: only what is wrong with the key itself says
 * more, and a key that could not be fetched is no reason to wait. */
static struct dkim_outcome join(struct dkim_outcome body, struct dkim_outcome key)
{
    if (body.result == AUTH_PASS || key.result == AUTH_PERMERROR)
        return key;
    body.testing = key.testing;
    return body;
}

struct dkim_outcome dkim_judge(const struct dkim *dkim, const struct auth_dns *dns,
                               const struct dkim_signature *signature)
{
    uint8_t hash[DKIM_HASH_OCTETS];

    if (dkim->intake.too_big)
        return no_pass(AUTH_POLICY, "the header is too large to be verified");
    if (signature->problem)
        return no_pass(signature->result, signature->problem);
    const struct dkim_outcome body = judge_body(dkim, signature);
    if (body.result == AUTH_TEMPERROR)
        return body;
    if (!hash_head(dkim, signature, hash))
        return no_pass(AUTH_TEMPERROR, "no memory");
    struct dkim_outcome outcome =
        join(body, dkim_key_judge(dns, signature, bytes_of(hash, sizeof hash)));
    if (outcome.result == AUTH_PASS && leaves_bytes_unsigned(dkim, signature)) {
        outcome.result = AUTH_POLICY;
        outcome.reason = "l= leaves a part of the body unsigned";
    }
    return outcome;
}

/* RFC 6376 5.4 and 8.15: with two From fields a reader may be shown the one that is not signed. */
static struct dkim_outcome judge_message(const struct dkim *dkim, const struct auth_dns *dns,
                                         const struct dkim_signature *signature)
{
    if (!dkim->intake.too_big && dkim->fields.from_count == 0)
        return no_pass(AUTH_PERMERROR, "the message has no From field");
    if (!dkim->intake.too_big && dkim->fields.from_count > 1)
        return no_pass(AUTH_PERMERROR, "the message has several From fields");
    return dkim_judge(dkim, dns, signature);
}

/* The first 8 characters of b= without folding (RFC 6008). */
static struct bytes signature_start(struct arena *arena, struct bytes b)
{
    uint8_t start[8];
    size_t count = 0;

    for (size_t i = 0; i < b.count && count < sizeof start; i++)
        if (ascii_is_alnum(b.at[i]) || b.at[i] == '+' || b.at[i] == '/' || b.at[i] == '=')
            start[count++] = b.at[i];
    return arena_copy(arena, bytes_of(start, count));
}

/* Copies, since the header goes with dkim_close and the facts stay. */
static void tell(struct arena *arena, const struct dkim_signature *signature,
                 struct dkim_outcome outcome, struct dkim_facts *facts)
{
    *facts = (struct dkim_facts){
        .result = outcome.result,
        .domain = arena_copy(arena, signature->domain),
        .selector = arena_copy(arena, signature->selector),
        .identity = arena_copy(arena, signature->identity),
        .algorithm = arena_copy(arena, signature->algorithm),
        .signature_start = signature_start(arena, signature->b),
        .reason = bytes_of_text(outcome.reason),
        .testing = outcome.testing,
    };
    if (facts->identity.count == 0 && facts->domain.count > 0)
        facts->identity = arena_print(arena, "@%.*s", BYTES_PRINT(facts->domain));
}

/* Without memory for the facts there is no pass on them. */
static void say_no_memory(struct dkim_facts *facts)
{
    *facts = (struct dkim_facts){.result = AUTH_TEMPERROR, .reason = BYTES_LITERAL("no memory")};
}

void dkim_finish(struct dkim *dkim, const struct auth_dns *dns, struct dkim_report *report)
{
    *report = (struct dkim_report){0};
    dkim_finish_body(dkim);
    if (dkim->no_memory) {
        report->count = 1;
        say_no_memory(&report->facts[0]);
        return;
    }
    report->ignored = dkim->ignored;
    for (; report->count < dkim->count; report->count++) {
        const struct dkim_signature *signature = &dkim->signatures[report->count];
        struct dkim_facts *facts = &report->facts[report->count];

        tell(dkim->arena, signature, judge_message(dkim, dns, signature), facts);
        if (dkim->arena->failed)
            say_no_memory(facts);
    }
}

void dkim_close(struct dkim **dkim)
{
    if (!*dkim)
        return;
    dkim_intake_close(&(*dkim)->intake);
    *dkim = NULL; /* the rest is the arena's */
}
