/*
 * A session with a next hop, from the connection to the moment when MAIL may be said: banner, EHLO
 * (HELO, LHLO), STARTTLS. What fails here is the host's affair, so the next address is tried.
 *
 * TLS: `may` takes what the peer offers, unverified, and goes on in clear when the handshake fails
 * (RFC 7435); `must` and `dane` never do. Input that came before the handshake is thrown away, as
 * anybody on the way could have put it there.
 */
#include "deliver/inside.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

static void session_release(struct deliver_channel *channel)
{
    wire_input_close(&channel->input);
    if (channel->stream)
        metric_add(COUNTER_SESSIONS_OUT, -1);
    channel->stream = NULL;
    channel->reused = false;
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

enum wire_status channel_read_reply(struct deliver_channel *channel, uint64_t deadline_us,
                                    struct smtp_reply *reply)
{
    const enum wire_status status =
        smtp_read_reply(&channel->input, channel->arena, deadline_us, reply);

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

static bool session_ask(struct deliver_channel *channel, enum stage stage, const char *command,
                        struct smtp_reply *reply, struct outcome *trouble)
{
    const uint64_t deadline_us = deadline_in(channel->deliver->timeouts.greeting_us);
    const struct io_result sent =
        stream_write(channel->stream, bytes_of_text(command), deadline_us);

    dialogue_line(&channel->dialogue, DIALOGUE_US, bytes_of_text(command));
    if (sent.status != IO_OK) {
        *trouble = outcome_of_status(channel, stage, wire_status_of(sent));
        channel_abort(channel);
        return false;
    }
    return session_hear(channel, stage, reply, trouble);
}

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

static bool session_dial(struct deliver_channel *channel, const struct next_hop *hop,
                         struct outcome *trouble)
{
    const uint64_t deadline_us = deadline_in(channel->deliver->timeouts.connect_us);

    hop_name(hop, channel->host, sizeof(channel->host));
    const struct io_result dialled = stream_dial(&hop->at, NULL, deadline_us, &channel->stream);
    dialogue_note(&channel->dialogue, "%s %s%s%s",
                  dialled.status == IO_OK ? "connected to" : "no connection to", channel->host,
                  dialled.status == IO_OK ? "" : ": ",
                  dialled.status == IO_OK ? "" : io_result_text(dialled));
    if (dialled.status != IO_OK) {
        channel->stream = NULL;
        *trouble = outcome_of_verdict(channel, STAGE_CONNECT,
                                      verdict_of(cause_of_dial(dialled, hop->at.family)));
        trouble->reply = arena_copy(channel->arena, bytes_of_text(io_result_text(dialled)));
        trouble->verdict.detail = trouble->reply;
        return false;
    }
    metric_add(COUNTER_SESSIONS_OUT, 1);
    wire_input_open(&channel->input, channel->stream);
    return true;
}

/* EHLO, and HELO for peers that never learnt it; LMTP has LHLO only (RFC 2033 4.1). */
static bool session_greet(struct deliver_channel *channel, struct outcome *trouble)
{
    const bool lmtp = channel->to.kind == DELIVER_LMTP;
    const char *hostname = channel->deliver->config->hostname;
    char command[320];
    struct smtp_reply reply = {0};

    snprintf(command, sizeof(command), "%s %.255s\r\n", lmtp ? "LHLO" : "EHLO", hostname);
    if (session_ask(channel, STAGE_EHLO, command, &reply, trouble)) {
        channel->extensions = smtp_parse_extensions(reply.text, &channel->size_limit);
        return true;
    }
    if (lmtp || !channel->stream || reply.code / 100 != 5)
        return false;
    channel->extensions = 0;
    channel->size_limit = 0;
    snprintf(command, sizeof(command), "HELO %.255s\r\n", hostname);
    return session_ask(channel, STAGE_EHLO, command, &reply, trouble);
}

static struct outcome tls_unmet(const struct deliver_channel *channel, const char *why)
{
    struct outcome outcome =
        outcome_of_verdict(channel, STAGE_TLS, verdict_of(CAUSE_TLS_POLICY_UNMET));

    outcome.reply = arena_copy(channel->arena, bytes_of_text(why));
    outcome.verdict.detail = outcome.reply;
    return outcome;
}

/* RFC 7672: usable TLSA records count only when they, and the host's address, came validated. */
static bool tls_demand_dane(struct deliver_channel *channel, const struct next_hop *hop,
                            struct tls_peer_demand *demand)
{
    struct dns_answer answer = {0};
    const struct bytes name =
        arena_print(channel->arena, "_%u._tcp.%.*s", hop->at.port, BYTES_PRINT(hop->name));

    if (hop->name.count == 0 || !hop->secure || !channel->deliver->resolver)
        return false;
    const struct lookup lookup =
        resolve_ask(channel->deliver->resolver, channel->arena, name, DNS_TLSA, &answer);
    struct tlsa_record *records =
        lookup.status == LOOKUP_FOUND && answer.secure
            ? ARENA_NEW_ARRAY(channel->arena, answer.count, struct tlsa_record)
            : NULL;
    for (unsigned i = 0; records && i < answer.count; i++) {
        struct reader reader = READER_OF(answer.records[i].raw);
        struct tlsa_record record = {.usage = reader_u8(&reader),
                                     .selector = reader_u8(&reader),
                                     .matching = reader_u8(&reader)};
        record.data = reader.rest;
        if (!reader.failed)
            records[demand->tlsa_count++] = record;
    }
    demand->tlsa = records;
    return demand->tlsa_count > 0;
}

/* What STARTTLS came to. */
enum tls_end { TLS_END_LOST = 0, TLS_END_SECURED, TLS_END_CLEAR, TLS_END_AGAIN_IN_CLEAR };

static enum tls_end session_handshake(struct deliver_channel *channel,
                                      const struct tls_peer_demand *demand, struct outcome *trouble)
{
    struct tls_facts facts = {0};
    const uint64_t deadline_us = deadline_in(channel->deliver->timeouts.greeting_us);

    wire_input_discard(&channel->input);
    wire_input_close(&channel->input);
    const struct io_result result =
        tls_connect(channel->deliver->tls, demand, &channel->stream, deadline_us, &facts);
    if (result.status != IO_OK) {
        channel->stream = NULL;
        metric_add(COUNTER_SESSIONS_OUT, -1);
        *trouble = tls_unmet(channel, facts.why[0] ? facts.why : io_result_text(result));
        dialogue_note(&channel->dialogue, "TLS failed: %.*s", BYTES_PRINT(trouble->reply));
        if (result.status == IO_CANCELLED)
            trouble->verdict = verdict_of(CAUSE_UNDECIDED);
        return result.status != IO_CANCELLED && channel->to.tls == TLS_USE_MAY
                   ? TLS_END_AGAIN_IN_CLEAR
                   : TLS_END_LOST;
    }
    wire_input_open(&channel->input, channel->stream);
    if (channel->to.tls == TLS_USE_DANE && !facts.verified) {
        *trouble = tls_unmet(channel, facts.why);
        channel_abort(channel);
        return TLS_END_LOST;
    }
    snprintf(channel->tls, sizeof(channel->tls), "%s %s", facts.protocol, facts.cipher);
    dialogue_note(&channel->dialogue, "%s", channel->tls);
    return TLS_END_SECURED;
}

/* Without STARTTLS the policy decides whether the session may go on. */
static enum tls_end session_stay_clear(struct deliver_channel *channel, const char *why,
                                       struct outcome *trouble)
{
    if (channel->to.tls == TLS_USE_MAY || channel->to.tls == TLS_USE_NEVER)
        return TLS_END_CLEAR;
    *trouble = tls_unmet(channel, why);
    channel_quit(channel);
    return TLS_END_LOST;
}

static enum tls_end session_secure(struct deliver_channel *channel, const struct next_hop *hop,
                                   struct outcome *trouble)
{
    struct tls_peer_demand demand = {0};
    struct smtp_reply reply = {0};

    if (channel->to.tls == TLS_USE_NEVER)
        return TLS_END_CLEAR;
    if (!channel->deliver->tls || !(channel->extensions & EXTENSION_STARTTLS))
        return session_stay_clear(channel, "STARTTLS is not offered", trouble);
    if (channel->to.tls == TLS_USE_DANE && !tls_demand_dane(channel, hop, &demand))
        return session_stay_clear(channel, "no validated TLSA records", trouble);
    demand.server_name = hop->name.count > 0 ? arena_text(channel->arena, hop->name) : NULL;
    if (!session_ask(channel, STAGE_TLS, "STARTTLS\r\n", &reply, trouble)) {
        if (!channel->stream) /* a peer that dies at STARTTLS counts as a failed handshake */
            return channel->to.tls == TLS_USE_MAY && trouble->verdict.cause != CAUSE_UNDECIDED
                       ? TLS_END_AGAIN_IN_CLEAR
                       : TLS_END_LOST;
        return session_stay_clear(channel, "STARTTLS was refused", trouble);
    }
    return session_handshake(channel, &demand, trouble);
}

static bool session_begin(struct deliver_channel *channel, const struct next_hop *hop,
                          struct outcome *trouble)
{
    struct smtp_reply banner = {0};

    if (!session_dial(channel, hop, trouble))
        return false;
    if (session_hear(channel, STAGE_BANNER, &banner, trouble) && session_greet(channel, trouble))
        return true;
    channel_quit(channel);
    return false;
}

static bool session_open_at(struct deliver_channel *channel, const struct next_hop *hop,
                            struct outcome *trouble)
{
    if (!session_begin(channel, hop, trouble))
        return false;
    switch (session_secure(channel, hop, trouble)) {
    case TLS_END_CLEAR:
        return true;
    case TLS_END_LOST:
        return false;
    case TLS_END_AGAIN_IN_CLEAR:
        return session_begin(channel, hop, trouble);
    case TLS_END_SECURED:
        break;
    }
    if (session_greet(channel, trouble)) /* RFC 3207 4.2: what was said in clear is forgotten */
        return true;
    channel_quit(channel);
    return false;
}

/*
 * Which of two hosts' troubles the message reports: what may heal outranks what is final, so a 5yz
 * greeting refuses the message only when every host of an MX set said so. A configured next hop's
 * 5yz greeting is a mistake between two machines of ours or of a provider's, and never final.
 */
static struct outcome trouble_weigh(const struct deliver_channel *channel, struct outcome before,
                                    struct outcome now)
{
    if (now.verdict.kind == VERDICT_REFUSE && channel->to.via)
        now.verdict = verdict_with(CAUSE_REMOTE_DEFERRED, now.verdict.detail);
    return before.stage != STAGE_NONE && before.verdict.kind == VERDICT_DEFER ? before : now;
}

bool channel_open(struct deliver_channel *channel, struct outcome *trouble)
{
    struct next_hops hops;

    snprintf(channel->host, sizeof(channel->host), "%s", channel->to.domain);
    const struct verdict found = hops_find(channel, &hops);
    if (!verdict_accepts(&found)) {
        *trouble = outcome_of_verdict(channel, STAGE_DNS, found);
        dialogue_note(&channel->dialogue, "no host for %s: %s %.*s", channel->to.domain,
                      cause_name(found.cause), BYTES_PRINT(found.detail));
        trouble->reply = found.detail;
        return false;
    }
    *trouble = (struct outcome){0};
    hops_prefer(channel, &hops);
    for (unsigned i = 0; i < hops.count; i++) {
        struct outcome now = {0};
        if (session_open_at(channel, &hops.hops[i], &now))
            return true;
        if (fiber_cancelled()) {
            *trouble = (struct outcome){0};
            return false;
        }
        *trouble = trouble_weigh(channel, *trouble, now);
    }
    return false;
}
