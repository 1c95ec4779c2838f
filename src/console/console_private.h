/* What the files of this room share. */
#ifndef CONSOLE_PRIVATE_H
#define CONSOLE_PRIVATE_H

#include <jansson.h>

#include "console/console.h"

#define CONSOLE_REQUEST_MAX (16 * 1024)
#define CONSOLE_ANSWER_MAX (4 * 1024 * 1024)

struct MHD_Daemon;

struct console {
    struct console_settings settings;
    char directory[512]; /* the spool's: the control socket lies there */
    struct listener *control;
    struct fiber *acceptor;
    struct MHD_Daemon *web;
    bool closing;
    int serving; /* fibers of this room that still run; touched on one loop only */
    struct waitlist ended;
};

/* "DIRECTORY/control"; false when it does not fit a Unix address. */
MUST_USE bool console_control_endpoint(const char *directory, struct endpoint *endpoint);

/* The answers, as JSON; the caller owns them. NULL on memory. */
json_t *console_status(struct console *console);
json_t *console_health(struct console *console);
json_t *console_act(struct console *console, enum schedule_action action, const json_t *request);

/* Streams dialogues until the client leaves. Sleeps. */
void console_trace(const struct console *console, const json_t *request, struct stream *stream);

MUST_USE bool console_web_open(struct console *console, char *why, size_t why_room);
void console_web_close(struct console *console);

#endif
