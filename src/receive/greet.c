/*
 * The commands that carry no mail: greetings, RSET, NOOP, VRFY, HELP, QUIT, and what is no command.
 */
#include "receive/session.h"

#include <string.h>

struct verdict verb_unknown(struct session *session, const struct smtp_command *command)
{
    REQUIRE(policy_unknown(session->receive->settings.policy, &session->client,
                           &session->transaction_arena, command->line));
    return verdict_of(CAUSE_PROTOCOL_UNKNOWN);
}

struct verdict verb_not_implemented(struct session *session UNUSED,
                                    const struct smtp_command *command UNUSED)
{
    return verdict_of(CAUSE_PROTOCOL_NOT_IMPLEMENTED);
}

/* A web browser or a message body talks to us: one reply, and nothing of what follows is executed.
 */
struct verdict verb_foreign(struct session *session, const struct smtp_command *command UNUSED)
{
    session->closing = true;
    return verdict_of(CAUSE_PROTOCOL_FOREIGN);
}

/* One word without blanks or controls: a domain, a literal, or whatever a client takes for its
 * name. It is evidence, not identity, so its form is not judged further (RFC 5321 4.1.4). */
static bool helo_is_usable(struct bytes name)
{
    if (name.count == 0 || name.count > MAIL_DOMAIN_MAX || !bytes_is_utf8(name))
        return false;
    for (size_t i = 0; i < name.count; i++)
        if (name.at[i] <= 0x20 || name.at[i] == 0x7f)
            return false;
    return true;
}

MUST_USE static struct verdict session_meet(struct session *session, struct bytes name, bool esmtp)
{
    if (!helo_is_usable(name))
        return verdict_of(CAUSE_PROTOCOL_SYNTAX);
    memcpy(session->helo, name.at, name.count);
    session->helo[name.count] = '\0';
    transaction_reset(session); /* RFC 5321 4.1.4: as if RSET had been given */
    session->client.helo = bytes_of(session->helo, name.count);
    session->client.esmtp = esmtp;
    session->state = STATE_GREETED;
    return verdict_accept();
}

struct verdict verb_helo(struct session *session, const struct smtp_command *command)
{
    REQUIRE(session_meet(session, command->argument, false));
    session_say(session, "250 %s", session->config->hostname);
    return verdict_accept();
}

/* The list ends with HELP, which has nothing to switch on or off. */
struct verdict verb_ehlo(struct session *session, const struct smtp_command *command)
{
    REQUIRE(session_meet(session, command->argument, true));
    session_say(session, "250-%s", session->config->hostname);
    session_say(session, "250-PIPELINING");
    if (session->config->limits.message_size)
        session_say(session, "250-SIZE %llu",
                    (unsigned long long)session->config->limits.message_size);
    else
        session_say(session, "250-SIZE");
    session_say(session, "250-LIMITS RCPTMAX=%u", session->config->limits.recipients);
    session_say(session, "250-PRDR");
    if (xclient_is_trusted(session))
        xclient_say_offer(session);
    session_say(session, "250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250-DSN");
    if (session_offers_tls(session))
        session_say(session, "250-STARTTLS");
    if (auth_is_offered(session))
        auth_say_offer(session);
    session_say(session, "250-CHUNKING\r\n250 HELP");
    return verdict_accept();
}

struct verdict verb_rset(struct session *session, const struct smtp_command *command UNUSED)
{
    transaction_reset(session);
    session_say(session, "250 2.0.0 Forgotten");
    return verdict_accept();
}

struct verdict verb_noop(struct session *session, const struct smtp_command *command UNUSED)
{
    session_say(session, "250 2.0.0 Still here");
    return verdict_accept();
}

/* RFC 5321 7.3: who exists is told at RCPT only. */
struct verdict verb_vrfy(struct session *session, const struct smtp_command *command)
{
    if (command->argument.count == 0)
        return verdict_of(CAUSE_PROTOCOL_SYNTAX);
    session_say(session, "252 2.0.0 Cannot tell; send it and see");
    return verdict_accept();
}

struct verdict verb_help(struct session *session, const struct smtp_command *command UNUSED)
{
    session_say(session, "214 2.0.0 %s MAIL RCPT DATA BDAT RSET NOOP VRFY HELP STARTTLS QUIT",
                session->listen->kind == LISTEN_LMTP ? "LHLO" : "EHLO HELO");
    return verdict_accept();
}

struct verdict verb_quit(struct session *session, const struct smtp_command *command UNUSED)
{
    session_say(session, "221 2.0.0 Bye");
    session->closing = true;
    return verdict_accept();
}
