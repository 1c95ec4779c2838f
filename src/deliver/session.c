/*
 * A session with a next hop, from the connection to the moment when MAIL may be said: banner, EHLO
 * (HELO, LHLO), STARTTLS, a login where the route has one. What fails here is the host's affair, so
 * the next address is tried.
 *
 * TLS: what a host has to give is settled before it is spoken to (tls_plan.c). Where nothing is
 * demanded the session takes what the peer offers, unverified, and goes on in clear when the
 * handshake fails (RFC 7435); else it never does. Input that came before the handshake is thrown
 * away, as anybody on the way could have put it there.
 */
#include "deliver/inside.h"

#include <stdarg.h>
#include <string.h>

static void session_release(struct deliver_channel *channel)
{
    wire_input_close(&channel->input);
    if (channel->stream)
        metric_add(COUNTER_SESSIONS_OUT, -1);
    channel->stream = NULL;
    channel->reused = false;
    channel->proved = false;
    channel->needs_reset = false;
    channel->extensions = 0;
    channel->size_limit = 0;
    channel->tls[0] = 0;
}

void channel_abort(struct deliver_channel *channel)
{
    struct stream *stream = channel->stream;

    if (!stream)
        return;
    session_release(channel);
    stream_reset(stream);
}

/* A polite end: QUIT, and a moment for the answer, so that the peer sees no reset. */
void channel_quit(struct deliver_channel *channel)
{
    struct stream *stream = channel->stream;

    if (!stream)
        return;
    const bool masked = fiber_mask_cancel(true);
    const uint64_t deadline_us = deadline_in(channel->deliver->timeouts.quit_us);
    struct bytes line;
    if (stream_write(stream, BYTES_LITERAL("QUIT\r\n"), deadline_us).status == IO_OK) {
        const enum wire_status status = wire_read_line(&channel->input, deadline_us, &line);
        (void)status; /* whatever it says, we are leaving */
    }
    fiber_mask_cancel(masked);
    session_release(channel);
    stream_close(stream);
}

static const char *status_words(enum wire_status status)
{
    switch (status) {
    case WIRE_TIMEOUT:
        return "no reply in time";
    case WIRE_END:
        return "the other side closed the connection";
    case WIRE_TOO_LONG:
    case WIRE_MALFORMED:
        return "this is no reply";
    case WIRE_CANCELLED:
        return "given up: this server stops";
    case WIRE_FAILED:
    case WIRE_OK:
        break;
    }
    return "the connection was lost";
}

/* Some servers show what they could not read. */
static bool repeats_a_secret(const struct deliver_channel *channel, struct bytes text)
{
    for (size_t i = 0; i < COUNT_OF(channel->secrets); i++)
        if (channel->secrets[i].count >= 4 && bytes_find(text, channel->secrets[i]) < text.count)
            return true;
    return false;
}

enum wire_status channel_read_reply(struct deliver_channel *channel, uint64_t deadline_us,
                                    struct smtp_reply *reply)
{
    const enum wire_status status =
        smtp_read_reply(&channel->input, channel->arena, deadline_us, reply);

    if (repeats_a_secret(channel, reply->text))
        reply->text = arena_print(channel->arena, "%u (a reply that repeats a secret, left out)",
                                  reply->code);
    dialogue_line(&channel->dialogue, DIALOGUE_THEM, reply->text);
    if (status != WIRE_OK)
        dialogue_note(&channel->dialogue, "%s", status_words(status));
    return status;
}

/* Reads the reply of one stage. False: `trouble` says why; the session is over unless the peer
 * itself said no. */
static bool session_hear(struct deliver_channel *channel, enum stage stage,
                         struct smtp_reply *reply, struct outcome *trouble)
{
    const uint64_t deadline_us = deadline_in(channel->deliver->timeouts.greeting_us);
    const enum wire_status status = channel_read_reply(channel, deadline_us, reply);

    if (status != WIRE_OK) {
        *trouble = outcome_of_status(channel, stage, status);
        channel_abort(channel);
        return false;
    }
    if (reply->code / 100 == 2)
        return true;
    *trouble = outcome_of_reply(channel, stage, reply);
    return false;
}

bool session_ask(struct deliver_channel *channel, enum stage stage, const char *command,
                 struct smtp_reply *reply, struct outcome *trouble)
{
    return session_utter(channel, stage, (struct session_line){command, command}, reply, trouble);
}

bool session_utter(struct deliver_channel *channel, enum stage stage, struct session_line line,
                   struct smtp_reply *reply, struct outcome *trouble)
{
    const uint64_t deadline_us = deadline_in(channel->deliver->timeouts.greeting_us);
    const struct io_result sent =
        stream_write(channel->stream, bytes_of_text(line.said), deadline_us);

    dialogue_line(&channel->dialogue, DIALOGUE_US, bytes_of_text(line.shown));
    if (sent.status != IO_OK) {
        *trouble = outcome_of_status(channel, stage, wire_status_of(sent));
        channel_abort(channel);
        return false;
    }
    return session_hear(channel, stage, reply, trouble);
}

/* EHLO, and HELO for peers that never learnt it; LMTP has LHLO only (RFC 2033 4.1). */
static bool session_greet(struct deliver_channel *channel, struct outcome *trouble)
{
    const bool lmtp = channel->to.kind == DELIVER_LMTP;
    const char *set = channel->to.sending ? channel->to.sending->helo : NULL;
    const char *hostname = set && *set ? set : channel->deliver->config->hostname;
    char command[320];
    struct smtp_reply reply = {0};

    snprintf(command, sizeof(command), "%s %.255s\r\n", lmtp ? "LHLO" : "EHLO", hostname);
    if (session_ask(channel, STAGE_EHLO, command, &reply, trouble)) {
        channel->extensions = smtp_parse_extensions(reply.text, &channel->size_limit);
        channel->greeting = reply.text;
        return true;
    }
    if (lmtp || !channel->stream || reply.code / 100 != 5)
        return false;
    channel->extensions = 0;
    channel->size_limit = 0;
    channel->greeting = BYTES_EMPTY;
    snprintf(command, sizeof(command), "HELO %.255s\r\n", hostname);
    return session_ask(channel, STAGE_EHLO, command, &reply, trouble);
}

/* ------------------------------------------------------------------ TLS */

static struct outcome tls_unmet(const struct deliver_channel *channel, enum cause cause,
                                const char *why)
{
    struct outcome outcome = outcome_of_verdict(channel, STAGE_TLS, verdict_of(cause));

    outcome.reply = arena_copy(channel->arena, bytes_of_text(why));
    outcome.verdict.detail = outcome.reply;
    return outcome;
}

/* One host, what it has to give, and what came of it. */
struct opening {
    struct deliver_channel *channel;
    const struct next_hop *hop;
    struct tls_plan plan;
    bool noted;   /* its result is counted */
    bool require; /* the message demands REQUIRETLS */
};

/* A host with its addresses. */
struct host {
    struct deliver_channel *channel;
    const struct next_hop *hops;
    unsigned count;
    bool require;
    struct outcome *lesser;     /* trouble that counts only where there is no other */
    struct opening *openings;   /* one an address */
    struct race_entry *entries; /* parallel */
};

/* Counts what came of TLS with this host, once (RFC 8460). Only domains found by MX get reports. */
static void opening_note(struct opening *opening, const char *failure, const char *reason)
{
    const struct tls_note note = {.kind = opening->plan.kind,
                                  .policy = opening->plan.policy,
                                  .hop = opening->hop,
                                  .failure = failure,
                                  .reason = reason};

    if (opening->noted || opening->channel->to.via || opening->channel->to.kind != DELIVER_SMTP ||
        opening->plan.level == TLS_LEVEL_NEVER || fiber_cancelled())
        return;
    opening->noted = true;
    tls_result_note(opening->channel, &note);
}

/* RFC 8460 4.3 */
static const char *failure_name(enum tls_fault fault)
{
    switch (fault) {
    case TLS_FAULT_NOT_TRUSTED:
        return "certificate-not-trusted";
    case TLS_FAULT_EXPIRED:
        return "certificate-expired";
    case TLS_FAULT_WRONG_NAME:
        return "certificate-host-mismatch";
    case TLS_FAULT_OTHER:
    case TLS_FAULT_NONE:
        break;
    }
    return "validation-failure";
}

/* What STARTTLS came to. */
enum tls_end { TLS_END_LOST = 0, TLS_END_SECURED, TLS_END_CLEAR, TLS_END_AGAIN_IN_CLEAR };

static enum tls_end opening_broken(struct opening *opening, struct io_result result,
                                   const struct tls_facts *facts, struct outcome *trouble)
{
    struct deliver_channel *channel = opening->channel;
    const char *const why = facts->why[0] ? facts->why : io_result_text(result);

    channel->stream = NULL;
    metric_add(COUNTER_SESSIONS_OUT, -1);
    *trouble = tls_unmet(channel, CAUSE_TLS_POLICY_UNMET, why);
    dialogue_note(&channel->dialogue, "TLS failed: %s", why);
    if (result.status == IO_CANCELLED) {
        trouble->verdict = verdict_of(CAUSE_UNDECIDED);
        return TLS_END_LOST;
    }
    opening_note(opening, failure_name(facts->fault), why);
    if (opening->plan.level == TLS_LEVEL_MAY && !(channel->to.via && channel->to.via->implicit_tls))
        return TLS_END_AGAIN_IN_CLEAR;
    return TLS_END_LOST;
}

static enum tls_end opening_handshake(struct opening *opening, struct outcome *trouble)
{
    struct deliver_channel *channel = opening->channel;
    const struct tls_plan *plan = &opening->plan;
    struct tls_facts facts = {0};
    const uint64_t deadline_us = deadline_in(channel->deliver->timeouts.greeting_us);

    wire_input_discard(&channel->input);
    wire_input_close(&channel->input);
    const struct io_result result =
        tls_connect(channel->deliver->tls, &plan->demand, &channel->stream, deadline_us, &facts);
    if (result.status != IO_OK)
        return opening_broken(opening, result, &facts, trouble);
    wire_input_open(&channel->input, channel->stream);
    /* A TLSA record that only OpenSSL found unusable leaves encryption without proof, which is what
     * RFC 7672 2.2 asks for; but not where somebody insists. */
    const bool proof_is_due = plan->level == TLS_LEVEL_PROVE && !facts.verified &&
                              (plan->insists || !facts.tlsa_unusable);
    if (proof_is_due) {
        *trouble = tls_unmet(channel, CAUSE_TLS_POLICY_UNMET, facts.why);
        dialogue_note(&channel->dialogue, "TLS without proof: %s", facts.why);
        opening_note(opening, failure_name(facts.fault), facts.why);
        channel_abort(channel);
        return TLS_END_LOST;
    }
    const bool test_failed = plan->demand.only_look && !facts.verified;
    opening_note(opening, test_failed ? failure_name(facts.fault) : plan->failure,
                 test_failed ? facts.why : plan->why);
    channel->proved = facts.verified && plan->path_known && plan->level == TLS_LEVEL_PROVE;
    snprintf(channel->tls, sizeof(channel->tls), "%s %s%s", facts.protocol, facts.cipher,
             facts.resumed ? " resumed" : "");
    dialogue_note(&channel->dialogue, "%s", channel->tls);
    return TLS_END_SECURED;
}

/* Without STARTTLS the plan decides whether the session may go on. */
static enum tls_end opening_stay_clear(struct opening *opening, const char *why,
                                       struct outcome *trouble)
{
    opening_note(opening, "starttls-not-supported", why);
    if (opening->plan.level == TLS_LEVEL_MAY || opening->plan.level == TLS_LEVEL_NEVER)
        return TLS_END_CLEAR;
    /* Where only the message demands it, it goes back; a domain's own policy may be met later. */
    const bool own_demand = opening->require && opening->plan.kind == TLS_POLICY_NONE;
    *trouble = tls_unmet(opening->channel,
                         own_demand ? CAUSE_REQUIRETLS_UNMET : CAUSE_TLS_POLICY_UNMET, why);
    channel_quit(opening->channel);
    return TLS_END_LOST;
}

static enum tls_end opening_secure(struct opening *opening, struct outcome *trouble)
{
    struct deliver_channel *channel = opening->channel;
    struct smtp_reply reply = {0};

    if (channel->tls[0]) /* from the first byte */
        return TLS_END_SECURED;
    if (opening->plan.level == TLS_LEVEL_NEVER)
        return TLS_END_CLEAR;
    if (!channel->deliver->tls || !(channel->extensions & EXTENSION_STARTTLS))
        return opening_stay_clear(opening, "STARTTLS is not offered", trouble);
    if (!session_ask(channel, STAGE_TLS, "STARTTLS\r\n", &reply, trouble)) {
        if (channel->stream)
            return opening_stay_clear(opening, "STARTTLS was refused", trouble);
        if (trouble->verdict.cause == CAUSE_UNDECIDED)
            return TLS_END_LOST;
        opening_note(opening, "validation-failure", "the connection was lost at STARTTLS");
        /* A peer that dies at STARTTLS counts as a failed handshake. */
        return opening->plan.level == TLS_LEVEL_MAY ? TLS_END_AGAIN_IN_CLEAR : TLS_END_LOST;
    }
    return opening_handshake(opening, trouble);
}

/* ------------------------------------------------------------------ the opening of a session */

/* On a connection that stands. */
static bool opening_begin(struct opening *opening, struct outcome *trouble)
{
    struct deliver_channel *channel = opening->channel;
    const bool implicit = channel->to.via && channel->to.via->implicit_tls;
    struct smtp_reply banner = {0};

    if (implicit && !channel->deliver->tls) {
        *trouble = tls_unmet(channel, CAUSE_LOCAL_FAILED, "TLS is not available");
        channel_abort(channel);
        return false;
    }
    if (implicit && opening_handshake(opening, trouble) != TLS_END_SECURED)
        return false;
    if (session_hear(channel, STAGE_BANNER, &banner, trouble) && session_greet(channel, trouble))
        return true;
    channel_quit(channel);
    return false;
}

/* After STARTTLS, what was said in clear is forgotten (RFC 3207 4.2). */
static bool opening_secured(struct opening *opening, bool require, struct outcome *trouble)
{
    struct deliver_channel *channel = opening->channel;
    const bool implicit = channel->to.via && channel->to.via->implicit_tls;

    if (!implicit && !session_greet(channel, trouble)) {
        channel_quit(channel);
        return false;
    }
    if (!require || channel->extensions & EXTENSION_REQUIRETLS)
        return true;
    *trouble = tls_unmet(channel, CAUSE_REQUIRETLS_UNMET, "REQUIRETLS is not offered");
    channel_quit(channel);
    return false;
}

static bool opening_run(struct opening *opening, bool require, struct outcome *trouble)
{
    if (!opening_begin(opening, trouble))
        return false;
    switch (opening_secure(opening, trouble)) {
    case TLS_END_CLEAR:
        return login_say(opening->channel, trouble);
    case TLS_END_LOST:
        return false;
    case TLS_END_AGAIN_IN_CLEAR:
        return session_dial(opening->channel, opening->hop, trouble) &&
               opening_begin(opening, trouble) && login_say(opening->channel, trouble);
    case TLS_END_SECURED:
        break;
    }
    return opening_secured(opening, require, trouble) && login_say(opening->channel, trouble);
}

/*
 * Which of two hosts' troubles the message reports: what may heal outranks what is final, so a 5yz
 * greeting refuses the message only when every host of an MX set said so. A configured next hop's
 * 5yz greeting is a mistake between two machines of ours or of a provider's, and never final. Of
 * two that may heal the first one counts, unless nobody answered there and the other one spoke.
 */
static struct outcome trouble_weigh(const struct deliver_channel *channel, struct outcome before,
                                    struct outcome now)
{
    if (now.verdict.cause == CAUSE_REMOTE_REFUSED && channel->to.via)
        now.verdict = verdict_with(CAUSE_REMOTE_DEFERRED, now.verdict.detail);
    if (before.stage == STAGE_CONNECT && now.stage != STAGE_CONNECT &&
        now.verdict.kind == VERDICT_DEFER)
        return now;
    return before.stage != STAGE_NONE && before.verdict.kind == VERDICT_DEFER ? before : now;
}

/* What each address of a host has to give; those that must not be used are over. */
static void host_plan(struct host *host, const struct sts_finding *sts)
{
    for (unsigned i = 0; i < host->count; i++) {
        struct opening *opening = &host->openings[i];
        struct race_entry *entry = &host->entries[i];
        *opening = (struct opening){
            .channel = host->channel, .hop = &host->hops[i], .require = host->require};
        *entry = (struct race_entry){.hop = opening->hop};
        if (i > 0 && opening->hop->secure == host->hops[i - 1].secure && opening->hop->name.count)
            opening->plan = host->openings[i - 1].plan;
        else
            tls_plan_make(host->channel, opening->hop, sts, host->require, &opening->plan);
        if (opening->plan.level != TLS_LEVEL_UNUSABLE)
            continue;
        hop_name(opening->hop, host->channel->host, sizeof host->channel->host);
        entry->over = true;
        entry->trouble = tls_unmet(host->channel, opening->plan.cause, opening->plan.why);
        dialogue_note(&host->channel->dialogue, "%s is not used: %s", host->channel->host,
                      opening->plan.why);
        opening_note(opening, opening->plan.failure, opening->plan.why);
    }
}

/* What no way led to tells less than what any other address came to, of this host or another. */
static void host_weigh(const struct host *host, struct outcome *trouble)
{
    for (unsigned i = 0; i < host->count; i++) {
        const struct race_entry *entry = &host->entries[i];
        struct outcome *to = entry->no_way ? host->lesser : trouble;
        if (entry->over)
            *to = trouble_weigh(host->channel, *to, entry->trouble);
    }
}

/* One host after the other by preference; the addresses of one race for the connection, and one
 * whose session comes to nothing leaves the others to be tried. */
static bool host_try(struct host *host, const struct sts_finding *sts, struct outcome *trouble)
{
    struct race_entry *won = NULL;

    host->openings = ARENA_NEW_ARRAY(host->channel->arena, host->count, struct opening);
    host->entries = ARENA_NEW_ARRAY(host->channel->arena, host->count, struct race_entry);
    if (!host->openings || !host->entries) {
        *trouble = trouble_weigh(host->channel, *trouble,
                                 tls_unmet(host->channel, CAUSE_LOCAL_FAILED, "out of memory"));
        return false;
    }
    host_plan(host, sts);
    while ((won = session_race(host->channel, host->entries, host->count)) != NULL) {
        struct opening *opening = &host->openings[won - host->entries];
        if (won->stands && opening_run(opening, host->require, &won->trouble)) {
            host->channel->turned = false;
            tls_plan_mark(&opening->plan, host->channel->mark);
            return true;
        }
    }
    if (!fiber_cancelled())
        host_weigh(host, trouble);
    return false;
}

/* DNS has failed, perhaps because somebody wants it to. */
static void channel_note_lookup(const struct deliver_channel *channel, struct verdict found)
{
    const struct tls_note note = {.kind = TLS_POLICY_TLSA, .failure = "dnssec-invalid"};

    if (found.cause == CAUSE_TLS_POLICY_UNMET && !channel->to.via)
        tls_result_note(channel, &note);
}

void channel_find_sts(const struct deliver_channel *channel, struct sts_finding *sts)
{
    struct tls_note note = {.kind = TLS_POLICY_STS};

    *sts = (struct sts_finding){0};
    if (!tls_plan_wants_sts(channel))
        return;
    sts_find(channel->deliver, channel->arena, bytes_of_text(channel->to.domain), sts);
    if (sts->failure) {
        note.failure = sts->failure;
        note.reason = sts->why;
        tls_result_note(channel, &note);
    }
}

/* How many of the hops from `first` on are addresses of one host. */
static unsigned host_count(const struct next_hops *hops, unsigned first)
{
    unsigned count = 1;

    while (!hops->hops[first].alone && first + count < hops->count &&
           hops->hops[first + count].host == hops->hops[first].host)
        count++;
    return count;
}

bool channel_open(struct deliver_channel *channel, bool require_tls, struct outcome *trouble)
{
    struct next_hops hops;
    struct sts_finding sts;
    struct outcome lesser = {0};

    snprintf(channel->host, sizeof(channel->host), "%s", channel->to.domain);
    const struct verdict found = share_take_hops(channel, &hops);
    if (!verdict_accepts(&found)) {
        *trouble = outcome_of_verdict(channel, STAGE_DNS, found);
        dialogue_note(&channel->dialogue, "no host for %s: %s %.*s", channel->to.domain,
                      cause_name(found.cause), BYTES_PRINT(found.detail));
        trouble->reply = found.detail;
        channel_note_lookup(channel, found);
        return false;
    }
    channel_find_sts(channel, &sts);
    *trouble = (struct outcome){0};
    hops_prefer(channel, &hops);
    for (unsigned i = 0; i < hops.count && !fiber_cancelled(); i += host_count(&hops, i)) {
        struct host host = {.channel = channel,
                            .hops = &hops.hops[i],
                            .count = host_count(&hops, i),
                            .require = require_tls,
                            .lesser = &lesser};
        if (host_try(&host, &sts, trouble))
            return true;
    }
    if (trouble->stage == STAGE_NONE)
        *trouble = lesser;
    if (fiber_cancelled())
        *trouble = (struct outcome){0};
    return false;
}
