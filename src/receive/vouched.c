/*
 * Clients that somebody vouches for: the PROXY header (before anything else on the connection) and
 * XCLIENT (Postfix's XCLIENT_README). Both are heard only from hosts that the configuration trusts,
 * judged by the connection's real peer.
 *
 * Sleeps: on the client. Fails: a listener with `proxy` closes without a word on anything else than
 * a good header from a trusted proxy; XCLIENT from others is an unknown command.
 */
#include "receive/proxy.h"
#include "receive/session.h"

#include <string.h>

static bool is_within(const struct ip_network *networks, unsigned count,
                      const struct ip_address *peer)
{
    for (unsigned i = 0; i < count; i++)
        if (peer->family != ENDPOINT_NONE && ip_network_contains(&networks[i], peer))
            return true;
    return false;
}

/* The client is who the peer says; what was known of the peer is forgotten. */
static void session_become(struct session *session, const struct endpoint *from,
                           const struct endpoint *to)
{
    policy_client_end(&session->client);
    session->client.remote = *from;
    if (to->family != ENDPOINT_NONE)
        session->client.local = *to;
    session->client.reverse = (struct lookup){0};
    session->client.reverse_name = BYTES_EMPTY;
    session->client.may_relay = false;
    endpoint_print(from, session->client_text, sizeof session->client_text);
}

/* ------------------------------------------------------------------ PROXY */

/* Exactly so many octets and no more: what follows may be a TLS hello, which others read. */
static bool read_exactly(struct session *session, uint8_t *into, size_t count, uint64_t deadline)
{
    for (size_t have = 0; have < count;) {
        const struct io_result read =
            stream_read(session->stream, (struct span){into + have, count - have}, deadline);
        if (read.status != IO_OK)
            return false;
        have += read.count;
    }
    return true;
}

static bool read_version_1(struct session *session, uint8_t *line, uint64_t deadline,
                           struct proxy_facts *facts)
{
    size_t count = PROXY_START_BYTES;

    while (line[count - 1] != '\n') {
        if (count == PROXY_V1_MAX || !read_exactly(session, line + count, 1, deadline))
            return false;
        count++;
    }
    return line[count - 2] == '\r' && proxy_parse_1(bytes_of(line, count), facts);
}

static bool read_version_2(struct session *session, uint8_t *octets, uint64_t deadline,
                           struct proxy_facts *facts)
{
    uint8_t dropped[64];
    size_t follow = 0;

    if (!read_exactly(session, octets + PROXY_START_BYTES, PROXY_V2_HEAD - PROXY_START_BYTES,
                      deadline) ||
        !proxy_parse_2_head(bytes_of(octets, PROXY_V2_HEAD), &follow))
        return false;
    const size_t kept = MIN_OF(follow, (size_t)PROXY_V2_KEPT);
    if (!read_exactly(session, octets + PROXY_V2_HEAD, kept, deadline))
        return false;
    for (size_t left = follow - kept; left > 0;) {
        const size_t piece = MIN_OF(left, sizeof dropped);
        if (!read_exactly(session, dropped, piece, deadline))
            return false;
        left -= piece;
    }
    return proxy_parse_2(bytes_of(octets, PROXY_V2_HEAD), bytes_of(octets + PROXY_V2_HEAD, kept),
                         facts);
}

static bool read_header(struct session *session, struct proxy_facts *facts)
{
    const uint64_t deadline = session_deadline(session, 30 * US_PER_S);
    uint8_t octets[PROXY_V1_MAX];

    if (!read_exactly(session, octets, PROXY_START_BYTES, deadline))
        return false;
    switch (proxy_version_of(bytes_of(octets, PROXY_START_BYTES))) {
    case PROXY_1:
        return read_version_1(session, octets, deadline, facts);
    case PROXY_2:
        return read_version_2(session, octets, deadline, facts);
    case PROXY_NONE:
        break;
    }
    return false;
}

bool session_meet_proxy(struct session *session)
{
    const struct config *config = session->config;
    struct proxy_facts facts = {0};

    if (!is_within(config->proxies, config->proxy_count, &session->peer)) {
        observe_note(LOG_WARNING, "receive", "listen %s: %s is no trusted proxy",
                     session->listen->name, session->client_text);
        return false;
    }
    const bool masked = fiber_mask_cancel(false);
    const bool read = read_header(session, &facts);
    fiber_mask_cancel(masked);
    if (!read) {
        observe_note(LOG_INFO, "receive", "listen %s: no good PROXY header from %s",
                     session->listen->name, session->client_text);
        return false;
    }
    if (!facts.local)
        session_become(session, &facts.from, &facts.to);
    const struct verdict counted = receive_rename(session->guest, &session->client.remote);
    return verdict_accepts(&counted);
}

/* ------------------------------------------------------------------ XCLIENT */

bool xclient_is_trusted(const struct session *session)
{
    return is_within(session->config->xclients, session->config->xclient_count, &session->peer);
}

void xclient_say_offer(struct session *session)
{
    session_say(session, "250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT");
}

struct xclient {
    struct endpoint from, to;
    struct bytes name, helo, login;
};

static bool is_unavailable(struct bytes value)
{
    return bytes_equal_text_nocase(value, "[UNAVAILABLE]") ||
           bytes_equal_text_nocase(value, "[TEMPUNAVAIL]");
}

static bool xclient_address(struct bytes value, struct endpoint *endpoint)
{
    static const struct bytes tag = BYTES_LITERAL("IPV6:");

    if (bytes_starts_with_nocase(value, tag))
        value = bytes_skip(value, tag.count);
    if (!ip_parse(value, &endpoint->ip))
        return false;
    endpoint->family = endpoint->ip.family;
    return true;
}

static bool xclient_port(struct bytes value, struct endpoint *endpoint)
{
    uint64_t port = 0;

    if (!bytes_to_u64(value, &port) || port > UINT16_MAX)
        return false;
    endpoint->port = (uint16_t)port;
    return true;
}

/* One NAME=value; false: it is none that we offer. */
static bool xclient_read(struct session *session, struct bytes attribute, struct xclient *xclient)
{
    struct bytes key, plain;
    const struct bytes value = bytes_cut(attribute, '=', &key);

    if (value.count == 0 || !xtext_decode(&session->transaction_arena, value, &plain))
        return false;
    const bool given = !is_unavailable(plain);
    if (bytes_equal_text_nocase(key, "ADDR"))
        return !given || xclient_address(plain, &xclient->from);
    if (bytes_equal_text_nocase(key, "PORT"))
        return !given || xclient_port(plain, &xclient->from);
    if (bytes_equal_text_nocase(key, "DESTADDR"))
        return !given || xclient_address(plain, &xclient->to);
    if (bytes_equal_text_nocase(key, "DESTPORT"))
        return !given || xclient_port(plain, &xclient->to);
    if (bytes_equal_text_nocase(key, "LOGIN"))
        xclient->login = given ? plain : BYTES_EMPTY;
    /* NAME is looked up again, HELO comes with the next EHLO, PROTO changes nothing. */
    return bytes_equal_text_nocase(key, "LOGIN") || bytes_equal_text_nocase(key, "NAME") ||
           bytes_equal_text_nocase(key, "HELO") || bytes_equal_text_nocase(key, "PROTO");
}

MUST_USE static struct verdict xclient_apply(struct session *session, const struct xclient *xclient)
{
    struct endpoint from = session->client.remote, to = session->client.local;

    if (xclient->from.family != ENDPOINT_NONE)
        from = xclient->from;
    from.port = xclient->from.port ? xclient->from.port : from.port;
    if (xclient->to.family != ENDPOINT_NONE)
        to = xclient->to;
    to.port = xclient->to.port ? xclient->to.port : to.port;
    session_become(session, &from, &to);
    session->client.user = BYTES_EMPTY;
    REQUIRE(receive_rename(session->guest, &from));
    if (xclient->login.count == 0)
        return verdict_accept();
    const struct login login = login_of(session, xclient->login);
    return login.domain ? login_finish(session, login.address) : verdict_of(CAUSE_PROTOCOL_SYNTAX);
}

/* As if the client had just connected: a banner, and EHLO comes next. */
struct verdict verb_xclient(struct session *session, const struct smtp_command *command)
{
    struct bytes rest = command->argument;
    struct xclient xclient = {0};

    if (!xclient_is_trusted(session))
        return verdict_of(CAUSE_PROTOCOL_UNKNOWN);
    if (session->state & (STATE_MAIL | STATE_RCPT | STATE_CHUNKS))
        return verdict_of(CAUSE_PROTOCOL_SEQUENCE);
    while (rest.count > 0) {
        struct bytes attribute;

        rest = bytes_trim(bytes_cut(rest, ' ', &attribute));
        if (!xclient_read(session, attribute, &xclient))
            return verdict_of(CAUSE_PROTOCOL_SYNTAX);
    }
    REQUIRE(xclient_apply(session, &xclient));
    transaction_reset(session);
    session->state = STATE_FRESH;
    session->client.helo = BYTES_EMPTY;
    session->client.esmtp = false;
    REQUIRE(session_welcome(session));
    session_say(session, "220 %s ESMTP Holdfast", session->config->hostname);
    return verdict_accept();
}
