/*
 * runner: starts the commands that mail is delivered to. A process of its own, since the worker may
 * start nothing and become nobody else (ADR 0009).
 *
 * Flow:   a connection -> a child for this run -> the request and the whole message -> the command,
 * as its user, in a session of its own -> what came of it -> the answer.
 * Owns:   one child a run, which kills whatever the command leaves behind.
 * Sleeps: it is no fiber; it blocks in poll(2), each wait with a deadline.
 * Fails:  towards the asker: an answer that says so, or the end of the connection.
 * Never:  runs anything but the commands of its configuration, as root, or by a shell; gives a
 * command a message that is not whole.
 */
#ifndef RUNNER_RUNNER_H
#define RUNNER_RUNNER_H

#include "base/base.h"
#include "config/config.h"
#include "wire/wire.h"

/* Are the users of all pipes there, none of them root, and may this process become them? */
MUST_USE bool runner_check(const struct config *config, char *why, size_t why_room);
/* Serves those who connect and are of that user, until `life` says end of file and the last run has
 * ended; then the process ends. Both descriptors are the caller's no more. */
__attribute__((noreturn)) void runner_serve(const struct config *config, int listener, int life,
                                            unsigned asker);

/* ------------------------------------------------------------------ what a command is given */

/* One text a value, those of enum pipe_value. */
struct runner_values {
    const char *of[PIPE_VALUES];
};
/*
 * The arguments, NULL behind the last; each item of the setting stays one argument whatever is
 * filled in. NULL with `why` where a value cannot be one: it has control characters, or stands at
 * the front and would be read as an option. A sender that begins with a hyphen is quoted instead,
 * which is the same address (RFC 5321 4.1.2).
 */
char **runner_arguments(struct arena *arena, const struct config_pipe *pipe,
                        const struct runner_values *values, const char **why);

#endif
