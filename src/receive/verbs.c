/*
 * The command table: what is allowed where. Pure; the handlers it names do the work.
 */
#include "receive/session.h"

static const struct verb_row VERBS[] = {
#define VERB(verb, service, states_, faults_, stage_, handler)                                     \
    [SMTP_##verb] = {.services = SERVICE_##service,                                                \
                     .states = STATE_##states_,                                                    \
                     .faults = FAULTS_##faults_,                                                   \
                     .stage = STAGE_##stage_,                                                      \
                     .handle = handler},
#include "receive/verbs.def"
#undef VERB
};

const struct verb_row *verb_row(enum smtp_verb verb)
{
    if ((size_t)verb >= COUNT_OF(VERBS) || !VERBS[verb].handle)
        return &VERBS[SMTP_UNKNOWN];
    return &VERBS[verb];
}

enum cause verb_fault_cause(enum smtp_fault fault)
{
    switch (fault) {
    case SMTP_FINE:
        return CAUSE_ACCEPTED;
    case SMTP_FAULT_SYNTAX:
        return CAUSE_PROTOCOL_SYNTAX;
    case SMTP_FAULT_ADDRESS:
        return CAUSE_PROTOCOL_ADDRESS;
    case SMTP_FAULT_PARAMETER:
        return CAUSE_PROTOCOL_PARAMETER;
    case SMTP_FAULT_UTF8:
        return CAUSE_PROTOCOL_UTF8;
    case SMTP_FAULT_TOO_BIG:
        return CAUSE_MESSAGE_TOO_BIG;
    }
    return CAUSE_PROTOCOL_SYNTAX;
}

struct verdict verb_permits(const struct session *session, const struct smtp_command *command)
{
    const struct verb_row *row = verb_row(command->verb);
    const unsigned service = session->listen->kind == LISTEN_LMTP ? SERVICE_LMTP : SERVICE_SMTP;

    if (!(row->services & service))
        return verdict_of(CAUSE_PROTOCOL_UNKNOWN);
    if (!(row->states & session->state))
        return verdict_of(CAUSE_PROTOCOL_SEQUENCE);
    if (row->faults == FAULTS_CHECKED)
        return verdict_of(verb_fault_cause(command->fault));
    return verdict_accept();
}
