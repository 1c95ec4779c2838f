/*
 * console: /metrics, /health and the control socket; the commands' other end.
 *
 * Flow:   an HTTP request or a line on the control socket -> an answer from memory or the read-only
 * views. Owns:   the HTTP daemon (its own thread) and the control socket in the spool's directory.
 * Sleeps: the control socket's fibers.
 * Fails:  alone: mail goes on without a console.
 * Never:  decides about mail but by schedule_act.
 */
#ifndef CONSOLE_CONSOLE_H
#define CONSOLE_CONSOLE_H

#include "base/base.h"
#include "config/config.h"
#include "history/history.h"
#include "policy/policy.h"
#include "runtime/runtime.h"
#include "schedule/schedule.h"
#include "spool/spool.h"

struct console;
struct console_settings {
    const struct config *config;
    struct spool *spool;
    struct schedule *schedule;
    struct policy *policy;
    struct history *history;
    const char *locks; /* what this process gave up, in words; NULL: nothing */
    int64_t started_wall_us;
    /* Reloads the configuration and sleeps until that is over; false with `why`. NULL: cannot. */
    bool (*reload)(void *argument, char *why, size_t why_room);
    void *reload_argument;
    uint32_t (*session_count)(const void *argument); /* open sessions, from receive */
    const void *session_argument;
    uint32_t sessions_by_descriptors; /* no more than these; 0: no such limit */
    int64_t certificate_end_wall_us;  /* of the certificate in use; 0: there is none */
};
MUST_USE struct console *console_open(const struct console_settings *settings, char *why,
                                      size_t why_room);
/* From now on by these. On the console's loop. */
void console_renew(struct console *console, const struct config *config, struct policy *policy,
                   int64_t certificate_end_wall_us);
void console_close(struct console *console);

/*
 * The client's end, for the command line; blocking, outside the loops. Sends one request as JSON,
 * e.g. {"do":"retry","id":"..."}, and gives the answer's JSON text (free with buffer_free).
 * False: the server cannot be reached; exit code 75.
 */
MUST_USE bool console_ask(const char *spool_directory, struct bytes request, struct buffer *answer,
                          char *why, size_t why_room);
/* The same for what may take the server a while, such as an action on a million messages. */
MUST_USE bool console_ask_patiently(const char *spool_directory, struct bytes request,
                                    struct buffer *answer, char *why, size_t why_room);
/* The same for a request that is answered by lines without an end: each line until it says false,
 * the server stops, or the connection is cut. False with `why`: it could not be asked. */
typedef bool console_line(void *argument, struct bytes line);
MUST_USE bool console_follow(const char *spool_directory, struct bytes request, console_line *each,
                             void *argument, char *why, size_t why_room);

#endif
