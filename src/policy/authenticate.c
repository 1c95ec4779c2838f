/*
 * authenticate: what SPF, DKIM, ARC and DMARC found, and the verdict that the settings make of it.
 *
 * A refusal stands only on answers: where a look-up that could have changed it has failed, the mail
 * is deferred, and after the patience taken, with the temporary error on record. Sleeps: on DNS.
 */
#include "policy/authenticate.h"

#define AUTHENTICATION_ARENA_BYTES (4 * MIB)
static const uint64_t SPF_TIME_US = 20 * US_PER_S;     /* RFC 7208 4.6.4 asks for 20 s at least */
static const uint64_t MESSAGE_TIME_US = 20 * US_PER_S; /* the rest of after_dot is the filters' */

bool authenticate_open(struct policy *policy, char *why, size_t why_room)
{
    policy->patience = patience_open(policy->settings.config->checks.patience_us);
    if (!policy->patience) {
        snprintf(why, why_room, "policy: out of memory");
        return false;
    }
    return signing_open(policy, why, why_room);
}

void authenticate_close(struct policy *policy)
{
    signing_close(policy);
    patience_close(policy->patience);
    policy->patience = NULL;
}

/* ------------------------------------------------------------------ MAIL: SPF */

/* Mail of our own users and networks, and what a system of ours hands over by LMTP. */
static bool is_exempt(const struct client_facts *client)
{
    return client->may_relay || client->user.count > 0 || client->kind != LISTEN_SMTP ||
           client->remote.family == ENDPOINT_UNIX;
}

static bool needs_spf(const struct config_checks *checks)
{
    return checks->spf != CHECK_OFF || checks->dmarc != CHECK_OFF;
}

static void spf_ask_for(struct authentication *it, const struct spf_request *request,
                        struct spf_facts *facts)
{
    struct policy *policy = it->policy;
    struct lookup down;
    const struct auth_dns dns = {policy->settings.resolver, &it->arena, deadline_in(SPF_TIME_US)};

    *facts = (struct spf_facts){0};
    if (resolver_is_down(policy, &it->arena, &down)) {
        facts->domain = address_is_null(request->from) ? request->helo : request->from.domain;
        facts->problem = down.detail;
        return;
    }
    spf_check(&dns, request, facts);
}

/* A HELO that is a name of several labels: anything else is "none" (RFC 7208 2.3). */
static bool helo_is_name(struct bytes helo)
{
    return helo.count > 0 && helo.at[0] != '[' && bytes_find_byte(helo, '.') < helo.count;
}

static void check_sender(struct authentication *it, const struct transaction *transaction,
                         struct address from)
{
    const struct client_facts *client = transaction->client;

    it->from_request = (struct spf_request){
        .client = client->remote.ip,
        .helo = arena_copy(&it->arena, client->helo),
        .from = {arena_copy(&it->arena, from.local), arena_copy(&it->arena, from.domain)},
        .receiver = it->policy->settings.config->hostname};
    it->helo_request = it->from_request;
    it->helo_request.identity = SPF_HELO;
    if (!address_is_null(from) && helo_is_name(client->helo)) {
        spf_ask_for(it, &it->helo_request, &it->helo);
        it->has_helo = true;
    }
    spf_ask_for(it, &it->from_request, &it->from);
    it->has_from = true;
}

/* What cannot change any more. HELO refuses only by an explicit "fail"; its errors decide nothing,
 * since the sender's own identity is asked too. */
static struct verdict spf_verdict(const struct authentication *it)
{
    const struct config_checks *checks = &it->policy->settings.config->checks;

    if (checks->spf != CHECK_ENFORCE)
        return verdict_accept();
    if (it->has_helo && it->helo.result == AUTH_FAIL)
        return verdict_with(CAUSE_SPF_FAIL, it->helo.explanation);
    if (it->from.result == AUTH_FAIL)
        return verdict_with(CAUSE_SPF_FAIL, it->from.explanation);
    if (it->from.result == AUTH_PERMERROR && checks->spf_permerror == ON_PERMERROR_REFUSE)
        return verdict_with(CAUSE_SPF_PERMERROR, it->from.problem);
    return verdict_accept();
}

struct verdict authenticate_sender(struct policy *policy, struct transaction *transaction,
                                   struct address from)
{
    struct authentication *it = calloc(1, sizeof *it);

    policy_transaction_end(transaction);
    if (!it)
        return verdict_of(CAUSE_SERVER_BUSY);
    it->policy = policy;
    it->arena = ARENA_WITH_LIMIT(AUTHENTICATION_ARENA_BYTES);
    it->exempt = is_exempt(transaction->client);
    it->strip.authserv_id = policy->settings.config->hostname;
    transaction->authentication = it;
    if (it->exempt || !needs_spf(&policy->settings.config->checks))
        return verdict_accept();
    check_sender(it, transaction, from);
    if (fiber_cancelled())
        return verdict_of(CAUSE_SERVER_STOPPING);
    return spf_verdict(it);
}

/* ------------------------------------------------------------------ patience */

/* Defers while there is patience, then takes the mail; whoever made the look-up fail. Sleeps. */
static struct verdict be_patient(struct authentication *it, const struct verdict *deferral,
                                 struct address to)
{
    struct patience *patience = it->policy->patience;
    const uint64_t key =
        patience_key(patience, &it->from_request.client, it->from_request.from, to);

    it->undecided = true;
    if (fiber_cancelled())
        return verdict_of(CAUSE_SERVER_STOPPING);
    if (patience_holds(patience, key, clock_now_us()))
        return dns_fault(it->policy, &it->arena, deferral->cause, deferral->detail);
    observe_note(LOG_INFO, "policy", "the patience for %s is over: taken without an answer",
                 cause_name(deferral->cause));
    return verdict_accept();
}

struct verdict authenticate_recipient(struct policy *policy, const struct transaction *transaction,
                                      struct address to)
{
    struct authentication *it = transaction->authentication;

    if (!it || !it->has_from || policy->settings.config->checks.spf != CHECK_ENFORCE ||
        it->from.result != AUTH_TEMPERROR)
        return verdict_accept();
    const struct verdict deferral = verdict_with(CAUSE_DNS_SPF_TEMPERROR, it->from.problem);
    return be_patient(it, &deferral, to);
}

/* ------------------------------------------------------------------ the dot: facts */

static bool head_is_whole(const struct policy_message *message)
{
    return message->head.count >= message->source.size_bytes ||
           header_end(message->head) < message->head.count;
}

/* A second From could stand where nobody looked. */
static void dmarc_of_huge_header(struct dmarc_facts *facts)
{
    *facts = (struct dmarc_facts){.result = AUTH_PERMERROR,
                                  .from_malformed = true,
                                  .reason = BYTES_LITERAL("the header is too large")};
}

static void facts_of_message(struct authentication *it, const struct policy_message *message)
{
    const struct config_checks *checks = &it->policy->settings.config->checks;
    const struct auth_dns dns = {it->policy->settings.resolver, &it->arena,
                                 MIN_OF(message->deadline_us, deadline_in(MESSAGE_TIME_US))};
    const struct bytes head = bytes_slice(message->head, 0, header_end(message->head));

    if (it->dkim) {
        dkim_finish(it->dkim, &dns, &it->dkim_report);
        it->has_dkim = true;
    }
    it->has_arc = it->dkim && checks->arc != CHECK_OFF;
    if (it->has_arc)
        arc_finish(it->dkim, &dns, &it->arc);
    it->has_dmarc = checks->dmarc != CHECK_OFF;
    if (it->has_dmarc && head_is_whole(message))
        dmarc_check(&dns, head, it->has_from ? &it->from : NULL,
                    it->has_dkim ? &it->dkim_report : NULL, &it->dmarc);
    else if (it->has_dmarc)
        dmarc_of_huge_header(&it->dmarc);
}

/* ------------------------------------------------------------------ the dot: verdicts */

static const struct dkim_facts *dkim_with(const struct authentication *it, enum auth_result result)
{
    for (unsigned i = 0; i < it->dkim_report.count; i++)
        if (it->dkim_report.facts[i].result == result)
            return &it->dkim_report.facts[i];
    return NULL;
}

/* Strict: some signature has to pass. */
static struct verdict dkim_verdict(const struct authentication *it)
{
    const struct dkim_facts *undecided = dkim_with(it, AUTH_TEMPERROR);

    if (it->policy->settings.config->checks.dkim != CHECK_ENFORCE || dkim_with(it, AUTH_PASS))
        return verdict_accept();
    if (undecided)
        return verdict_with(CAUSE_DNS_DKIM_TEMPERROR, undecided->reason);
    return verdict_of(CAUSE_DKIM_NONE_PASSED);
}

/* Strict: a chain, where there is one, has to be intact. Its keys are DKIM's. */
static struct verdict arc_verdict(const struct authentication *it)
{
    if (it->policy->settings.config->checks.arc != CHECK_ENFORCE)
        return verdict_accept();
    if (it->arc.result == AUTH_TEMPERROR)
        return verdict_with(CAUSE_DNS_DKIM_TEMPERROR, it->arc.reason);
    return it->arc.result == AUTH_FAIL ? verdict_with(CAUSE_ARC_FAIL, it->arc.reason)
                                       : verdict_accept();
}

static bool sealer_is_trusted(const struct config_checks *checks, struct bytes sealer)
{
    struct bytes rest = bytes_of_text(checks->trusted_sealers);

    while (rest.count > 0) {
        struct bytes one = BYTES_EMPTY;
        rest = bytes_cut(rest, ' ', &one);
        if (one.count > 0 && bytes_equal_nocase(one, sealer))
            return true;
    }
    return false;
}

/* Which look-up is it that DMARC waits for? */
static struct verdict dmarc_undecided(const struct authentication *it)
{
    if (it->dmarc.record_failed)
        return verdict_with(CAUSE_DNS_DMARC_TEMPERROR, it->dmarc.reason);
    if (dkim_with(it, AUTH_TEMPERROR))
        return verdict_with(CAUSE_DNS_DKIM_TEMPERROR, dkim_with(it, AUTH_TEMPERROR)->reason);
    if (it->has_from && it->from.result == AUTH_TEMPERROR)
        return verdict_with(CAUSE_DNS_SPF_TEMPERROR, it->from.problem);
    return verdict_with(CAUSE_DNS_DMARC_TEMPERROR, it->dmarc.reason);
}

static struct verdict dmarc_refuse(struct authentication *it)
{
    const struct config_checks *checks = &it->policy->settings.config->checks;
    const bool trusted = it->has_arc && sealer_is_trusted(checks, it->arc.sealer);

    if (trusted && it->arc.result == AUTH_PASS) {
        it->overridden = true;
        return verdict_accept();
    }
    if (trusted && it->arc.result == AUTH_TEMPERROR)
        return verdict_with(CAUSE_DNS_DKIM_TEMPERROR, it->arc.reason);
    const bool several = it->has_from && it->from.result == AUTH_FAIL && dkim_with(it, AUTH_FAIL);
    return verdict_with(several ? CAUSE_DMARC_REJECT_MULTIPLE : CAUSE_DMARC_REJECT,
                        it->dmarc.author_domain);
}

/* An undecided DMARC matters only where the answer could have been "reject". */
static bool dmarc_could_reject(const struct dmarc_facts *facts)
{
    if (facts->record_failed)
        return !facts->spf_aligned && !facts->dkim_aligned;
    return facts->policy == DMARC_POLICY_REJECT;
}

static struct verdict dmarc_verdict(struct authentication *it)
{
    const struct dmarc_facts *facts = &it->dmarc;

    if (it->policy->settings.config->checks.dmarc != CHECK_ENFORCE)
        return verdict_accept();
    if (facts->from_malformed)
        return verdict_with(CAUSE_MESSAGE_MALFORMED_HEADER, facts->reason);
    if (facts->result == AUTH_TEMPERROR && dmarc_could_reject(facts))
        return dmarc_undecided(it);
    if (facts->result == AUTH_FAIL && facts->policy == DMARC_POLICY_REJECT)
        return dmarc_refuse(it);
    return verdict_accept();
}

/* p=quarantine: a mark that a mailbox can sort by, or the operator's hold. */
static void dmarc_quarantine(struct authentication *it, struct transaction *transaction)
{
    const struct config_checks *checks = &it->policy->settings.config->checks;
    const struct dmarc_facts *facts = &it->dmarc;

    if (checks->dmarc != CHECK_ENFORCE || facts->result != AUTH_FAIL ||
        facts->policy != DMARC_POLICY_QUARANTINE)
        return;
    if (it->has_arc && it->arc.result == AUTH_PASS && sealer_is_trusted(checks, it->arc.sealer)) {
        it->overridden = true;
        return;
    }
    buffer_print(transaction->headers, "X-Holdfast-Quarantine: dmarc; domain=%.*s\r\n",
                 BYTES_PRINT(facts->author_domain));
    if (checks->quarantine != ON_QUARANTINE_HOLD)
        return;
    transaction->disposition = DISPOSITION_HOLD;
    transaction->hold_why = arena_print(transaction->arena, "dmarc: p=quarantine of %.*s",
                                        BYTES_PRINT(facts->author_domain));
}

static struct address first_recipient(const struct transaction *transaction)
{
    const struct recipient *first = transaction->envelope.recipients;

    if (transaction->envelope.recipient_count == 0)
        return (struct address){BYTES_EMPTY, BYTES_EMPTY};
    return address_is_null(first->asked) ? first->address : first->asked;
}

/* The reversible objection wins: it may stand on what would have lifted the other. */
static struct verdict choose(struct authentication *it, const struct transaction *transaction)
{
    const struct verdict all[] = {dkim_verdict(it), arc_verdict(it), dmarc_verdict(it)};
    const struct address to = first_recipient(transaction);

    for (size_t i = 0; i < COUNT_OF(all); i++)
        if (all[i].kind == VERDICT_DEFER)
            REQUIRE(be_patient(it, &all[i], to));
    for (size_t i = 0; i < COUNT_OF(all); i++)
        if (all[i].kind == VERDICT_REFUSE)
            return all[i];
    if (!it->undecided)
        patience_forget(it->policy->patience,
                        patience_key(it->policy->patience, &it->from_request.client,
                                     it->from_request.from, to));
    return verdict_accept();
}

struct verdict authenticate_message(struct policy *policy, struct transaction *transaction,
                                    const struct policy_message *message)
{
    struct authentication *it = transaction->authentication;

    if (!it || it->exempt || (!it->dkim && !it->has_from) || !transaction->headers)
        return verdict_accept();
    (void)policy;
    facts_of_message(it, message);
    if (fiber_cancelled())
        return verdict_of(CAUSE_SERVER_STOPPING);
    if (it->arena.failed)
        return verdict_with(CAUSE_SERVER_BUSY, BYTES_LITERAL("memory for authentication"));
    const struct verdict verdict = choose(it, transaction);
    authenticate_tell(it, transaction, &verdict);
    REQUIRE(verdict);
    authenticate_print(it, transaction);
    dmarc_quarantine(it, transaction);
    return verdict_accept();
}
