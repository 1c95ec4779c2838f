/* What the files of this room share. */
#ifndef CONSOLE_PRIVATE_H
#define CONSOLE_PRIVATE_H

#include <jansson.h>
#include <pthread.h>

#include "console/console.h"

#define CONSOLE_REQUEST_MAX (16 * 1024)
#define CONSOLE_ANSWER_MAX (4 * 1024 * 1024)

struct MHD_Daemon;

enum { CONSOLE_SAMPLE_S = 5, CONSOLE_SAMPLES_MAX = 720 };

/* Sums since the start, and the queue as it stands. */
struct console_sample {
    int64_t accepted, deferred_in, delivered, deferred_out, queued;
};

struct console {
    struct console_settings settings;
    char directory[512]; /* the spool's: the control socket lies there */
    char history[512];   /* where history.db is */
    struct listener *control;
    struct fiber *acceptor;
    struct MHD_Daemon *web;
    bool closing;
    struct fiber *sampler;
    struct console_samples {
        pthread_mutex_t lock; /* the page's thread reads; around memory only */
        uint64_t taken;
        struct console_sample rows[CONSOLE_SAMPLES_MAX];
    } samples;
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

void console_sample_main(void *console); /* a fiber: a sample each CONSOLE_SAMPLE_S */
unsigned console_samples_copy(struct console *console,
                              struct console_sample rows[CONSOLE_SAMPLES_MAX]);
/* The whole page; blocks on databases, so not in a fiber. */
void console_page_print(struct buffer *into, struct console *console, const json_t *status);
void html_escape(struct buffer *into, const char *text);

MUST_USE bool console_web_open(struct console *console, char *why, size_t why_room);
void console_web_close(struct console *console);

#endif
