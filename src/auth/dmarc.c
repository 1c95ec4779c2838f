/*
 * DMARC (RFC 9989): discovery by the tree walk, alignment, the policy that applies.
 *
 * Sleeps: on DNS. Fails: temperror whenever an answer that is missing could change the outcome.
 */
#include "auth/auth.h"
#include "auth/from_domains.h"

enum { WALK_MAX = 8, WALK_LABELS = 7 };

/* One name on the way up, and what stood at its _dmarc. */
struct walk_step {
    struct bytes name;
    enum auth_result found; /* PASS: a record; NONE; TEMPERROR */
    struct dmarc_record record;
};

struct walk {
    struct walk_step steps[WALK_MAX + 1];
    unsigned count;
    bool failed; /* a step could not be asked: what lies above or below it is uncertain */
};

static unsigned count_labels(struct bytes name)
{
    unsigned labels = name.count > 0;

    for (size_t i = 0; i < name.count; i++)
        labels += name.at[i] == '.';
    return labels;
}

static struct bytes parent_of(struct bytes name)
{
    struct bytes label = BYTES_EMPTY;

    return bytes_cut(name, '.', &label);
}

/* The one record at _dmarc.NAME. Several records: none of them counts (4.10). */
static enum auth_result fetch(const struct auth_dns *dns, struct bytes name,
                              struct dmarc_record *record)
{
    const struct bytes question = arena_print(dns->arena, "_dmarc.%.*s", BYTES_PRINT(name));
    struct dns_answer answer = {0};
    unsigned found = 0;
    enum auth_result result = AUTH_NONE;

    if (clock_now_us() >= dns->deadline_us || question.count == 0)
        return AUTH_TEMPERROR;
    const struct lookup lookup = resolve_ask(dns->resolver, dns->arena, question, DNS_TXT, &answer);
    if (lookup.status == LOOKUP_FAILED)
        return AUTH_TEMPERROR;
    for (unsigned i = 0; i < answer.count; i++) {
        struct dmarc_record parsed;
        const enum auth_result one = dmarc_parse(answer.records[i].text, &parsed);
        if (one == AUTH_NONE)
            continue;
        found++;
        if (one == AUTH_PASS) {
            *record = parsed;
            result = AUTH_PASS;
        }
    }
    return found == 1 ? result : AUTH_NONE;
}

/* From `domain` upwards, one label at a time; a long name is cut to its last 7 labels after the
 * first question. */
static void walk_up(const struct auth_dns *dns, struct bytes domain, struct walk *walk)
{
    struct bytes name = domain;

    *walk = (struct walk){0};
    while (name.count > 0 && walk->count < WALK_MAX) {
        struct walk_step *step = &walk->steps[walk->count++];
        step->name = name;
        step->found = fetch(dns, name, &step->record);
        walk->failed = walk->failed || step->found == AUTH_TEMPERROR;
        if (step->found == AUTH_PASS &&
            (step->record.psd == 'n' || (step->record.psd == 'y' && walk->count > 1)))
            return;
        name = parent_of(name);
        while (count_labels(name) > WALK_LABELS)
            name = parent_of(name);
    }
}

/* The name one label below `above` on the way down to `domain`. */
static struct bytes one_below(struct bytes domain, struct bytes above)
{
    struct bytes name = domain;

    while (count_labels(name) > count_labels(above) + 1)
        name = parent_of(name);
    return name;
}

/* 4.10.2: psd=n names itself; psd=y names the label below; else the shortest name that has a
 * record. */
static struct bytes organizational_of(const struct walk *walk, struct bytes domain)
{
    struct bytes shortest = domain;

    for (unsigned i = 0; i < walk->count; i++) {
        const struct walk_step *step = &walk->steps[i];
        if (step->found != AUTH_PASS)
            continue;
        if (step->record.psd == 'n')
            return step->name;
        if (step->record.psd == 'y' && i > 0)
            return one_below(domain, step->name);
        shortest = step->name;
    }
    return shortest;
}

struct bytes dmarc_organizational_domain(const struct auth_dns *dns, struct bytes domain,
                                         enum auth_result *result)
{
    struct walk walk;

    walk_up(dns, domain, &walk);
    *result = walk.failed ? AUTH_TEMPERROR : AUTH_PASS;
    return walk.failed ? BYTES_EMPTY : organizational_of(&walk, domain);
}

/* ------------------------------------------------------------------ the policy that applies */

/* A name without address and MX does not exist in the sense of `np` (RFC 9989 3.2.14). */
static enum auth_result exists(const struct auth_dns *dns, struct bytes domain)
{
    static const enum dns_type types[] = {DNS_MX, DNS_A, DNS_AAAA};

    for (size_t i = 0; i < COUNT_OF(types); i++) {
        struct dns_answer answer = {0};
        const struct lookup lookup =
            resolve_ask(dns->resolver, dns->arena, domain, types[i], &answer);
        if (lookup.status == LOOKUP_FOUND)
            return AUTH_PASS;
        if (lookup.status == LOOKUP_FAILED)
            return AUTH_TEMPERROR;
        if (answer.nxdomain)
            return AUTH_NONE;
    }
    return AUTH_NONE;
}

static enum dmarc_policy subdomain_policy(const struct dmarc_record *record)
{
    return record->has_sp ? record->sp : record->p;
}

/* TEMPERROR only when `np` hangs on a look-up that failed. */
static enum auth_result inherited_policy(const struct auth_dns *dns, struct dmarc_facts *facts)
{
    const struct dmarc_record *record = &facts->record;

    facts->policy = subdomain_policy(record);
    if (!record->has_np || record->np == facts->policy)
        return AUTH_PASS;
    const enum auth_result there = exists(dns, facts->author_domain);
    if (there == AUTH_NONE)
        facts->policy = record->np;
    return there == AUTH_TEMPERROR ? AUTH_TEMPERROR : AUTH_PASS;
}

static const struct walk_step *step_named(const struct walk *walk, struct bytes name)
{
    for (unsigned i = 0; i < walk->count; i++)
        if (walk->steps[i].found == AUTH_PASS && bytes_equal_nocase(walk->steps[i].name, name))
            return &walk->steps[i];
    return NULL;
}

/* The author domain's own record, else its organizational domain's, else the public suffix's. */
static const struct walk_step *policy_step(const struct walk *walk, struct dmarc_facts *facts)
{
    const struct walk_step *step = step_named(walk, facts->author_domain);

    if (!step)
        step = step_named(walk, facts->organizational_domain);
    for (unsigned i = 0; !step && i < walk->count; i++)
        if (walk->steps[i].found == AUTH_PASS && walk->steps[i].record.psd == 'y')
            step = &walk->steps[i];
    return step;
}

/* The author domain's own record stands whatever lies above it; any other one is only known when
 * every step of the walk was answered. */
static enum auth_result discover(const struct auth_dns *dns, struct dmarc_facts *facts)
{
    struct walk walk;

    walk_up(dns, facts->author_domain, &walk);
    if (!walk.failed)
        facts->organizational_domain = organizational_of(&walk, facts->author_domain);
    if (walk.failed && walk.steps[0].found != AUTH_PASS) {
        facts->reason = BYTES_LITERAL("a DMARC record could not be looked up");
        facts->record_failed = true;
        return AUTH_TEMPERROR;
    }
    const struct walk_step *step = policy_step(&walk, facts);
    if (!step)
        return AUTH_NONE;
    facts->policy_domain = step->name;
    facts->record = step->record;
    facts->policy = step->record.p;
    const bool own = step == &walk.steps[0];
    const enum auth_result result = own ? AUTH_PASS : inherited_policy(dns, facts);
    if (facts->record.testing && facts->policy > DMARC_POLICY_NONE)
        facts->policy = (enum dmarc_policy)(facts->policy - 1);
    if (result == AUTH_TEMPERROR) {
        facts->reason = BYTES_LITERAL("whether the author domain exists could not be looked up");
        facts->record_failed = true;
    }
    return result;
}

/* ------------------------------------------------------------------ alignment */

/* PASS: aligned; NONE: not; TEMPERROR: an organizational domain could not be found out. */
static enum auth_result aligned(const struct auth_dns *dns, const struct dmarc_facts *facts,
                                struct bytes domain, bool strict)
{
    enum auth_result result = AUTH_NONE;

    if (domain.count == 0)
        return AUTH_NONE;
    if (bytes_equal_nocase(domain, facts->author_domain))
        return AUTH_PASS;
    if (strict)
        return AUTH_NONE;
    if (facts->organizational_domain.count == 0)
        return AUTH_TEMPERROR;
    const struct bytes organization = dmarc_organizational_domain(dns, domain, &result);
    if (result == AUTH_TEMPERROR)
        return AUTH_TEMPERROR;
    return bytes_equal_nocase(organization, facts->organizational_domain) ? AUTH_PASS : AUTH_NONE;
}

/* Joins one method's result with its alignment. */
static bool joins(struct dmarc_facts *facts, enum auth_result method, enum auth_result alignment)
{
    if (method == AUTH_PASS && alignment == AUTH_PASS)
        return true;
    if ((method == AUTH_TEMPERROR && alignment != AUTH_NONE) ||
        (method == AUTH_PASS && alignment == AUTH_TEMPERROR))
        facts->temperror_matters = true;
    return false;
}

static bool method_matters(enum auth_result method)
{
    return method == AUTH_PASS || method == AUTH_TEMPERROR;
}

static void join_methods(const struct auth_dns *dns, const struct spf_facts *spf,
                         const struct dkim_report *dkim, struct dmarc_facts *facts)
{
    for (unsigned i = 0; dkim && i < dkim->count && !facts->dkim_aligned; i++) {
        const struct dkim_facts *one = &dkim->facts[i];
        if (method_matters(one->result))
            facts->dkim_aligned = joins(
                facts, one->result, aligned(dns, facts, one->domain, facts->record.strict_dkim));
    }
    if (spf && method_matters(spf->result))
        facts->spf_aligned =
            joins(facts, spf->result, aligned(dns, facts, spf->domain, facts->record.strict_spf));
}

static enum auth_result conclude(struct dmarc_facts *facts, enum auth_result discovered)
{
    if (discovered == AUTH_NONE)
        return AUTH_NONE;
    if (discovered == AUTH_TEMPERROR)
        return AUTH_TEMPERROR;
    if (facts->spf_aligned || facts->dkim_aligned)
        return AUTH_PASS;
    if (facts->temperror_matters) {
        facts->reason = BYTES_LITERAL("a method that could have passed in alignment is undecided");
        return AUTH_TEMPERROR;
    }
    facts->reason = BYTES_LITERAL("no method passed in alignment");
    return AUTH_FAIL;
}

/* How bad a result is for the message, to find the strictest of several author domains. */
static int severity(const struct dmarc_facts *facts)
{
    switch (facts->result) {
    case AUTH_PASS:
        return 0;
    case AUTH_NONE:
        return 1;
    case AUTH_TEMPERROR:
        return 3;
    case AUTH_FAIL:
        return facts->policy == DMARC_POLICY_NONE ? 2 : 3 + (int)facts->policy;
    case AUTH_SOFTFAIL:
    case AUTH_NEUTRAL:
    case AUTH_PERMERROR:
    case AUTH_POLICY:
        return 9;
    }
    return 9;
}

void dmarc_check(const struct auth_dns *dns, struct bytes head, const struct spf_facts *spf,
                 const struct dkim_report *dkim, struct dmarc_facts *facts)
{
    struct from_domains authors;

    *facts = (struct dmarc_facts){0};
    const enum from_result from = from_domains_find(dns->arena, head, &authors);
    if (from != FROM_FOUND) {
        facts->result = from == FROM_NO_MEMORY ? AUTH_TEMPERROR : AUTH_PERMERROR;
        facts->record_failed = from == FROM_NO_MEMORY;
        facts->from_malformed = from == FROM_MALFORMED;
        facts->reason = BYTES_LITERAL("the author's domain cannot be told from the From field");
        return;
    }
    for (unsigned i = 0; i < authors.count; i++) {
        struct dmarc_facts one = {.author_domain = authors.domains[i]};
        const enum auth_result discovered = discover(dns, &one);
        if (discovered != AUTH_NONE)
            join_methods(dns, spf, dkim, &one);
        one.result = conclude(&one, discovered);
        if (i == 0 || severity(&one) > severity(facts))
            *facts = one;
    }
}
