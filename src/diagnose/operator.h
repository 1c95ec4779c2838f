/*
 * operator: tells a human of incidents, once a mark, by mail and by a command.
 *
 * Flow:   incident.mark or incident.closed -> a fiber reads what is due from the history -> the
 *         summary goes into the queue, and to the command's standard input -> operator.told.
 * Owns:   one fiber and a sink of observe.
 * Sleeps: its fiber; the command runs in the worker pool, within its timeout.
 * Fails:  by trying again each minute; the journal says why.
 * Never:  writes to the other side of an incident; waits for one way before it tries the other.
 */
#ifndef DIAGNOSE_OPERATOR_H
#define DIAGNOSE_OPERATOR_H

#include "diagnose/diagnose_private.h"

/* One run of the command; blocking, for the worker pool. */
struct operator_command {
    const char *words; /* a program's path and its arguments, separated by blanks; no shell */
    uint64_t timeout_us;
    struct bytes input;
    const char *incident, *state, *cause, *side, *subject; /* HOLDFAST_INCIDENT and so on */
    bool done;                                             /* it ended with exit code 0 in time */
    char why[160];
};
void operator_command_run(void *command);

#endif
