/* Shared by the files that make a process serve. */
#ifndef APP_SERVE_H
#define APP_SERVE_H

#include "app/house.h"
#include "app/processes.h"
#include "app/sentry.h"
#include "console/console.h"

struct guard_plan;

/* A house of a former configuration, whose last sessions have not ended yet. */
struct former {
    struct house house;
    struct config *config;
    struct helpers helpers;
    struct former *next; /* the one that came after */
};

struct server {
    struct house house;
    struct config *config; /* of the house */
    struct console *console;
    struct sentry *sentry;  /* watches clock and certificate */
    struct former *formers; /* the oldest first */
    unsigned former_fibers;
    bool ending;
    unsigned reloads; /* that were tried */
    bool reloaded;    /* how the last one ended, and why not */
    char reload_why[4096];
    struct waitlist reload_changed;
    int64_t started_wall_us;
    bool worker;             /* started by a parent: channels are open */
    struct helpers helpers;  /* of the configuration */
    struct guard_plan *plan; /* what this process is locked to; NULL: nothing */
    const char *guard_words;
};

/* The house's TLS and keys, by its configuration; false with its `why`. Closed by tls_leave. */
MUST_USE bool serve_open_tls(struct house *house, int keeper);
void serve_close_tls(struct house *house);
/* The runner ends when nobody holds its life; then the parent removes its socket. */
void runner_forget(const struct helpers *helpers);
/* Until a signal or the parent's end; reloads meanwhile. Sleeps. */
void worker_attend(struct server *server);
/* For the console: asks the parent for a reload. Sleeps. */
bool worker_ask_reload(void *server, char *why, size_t why_room);
/* The former houses come to their end with the process. Sleeps. */
void formers_stop(struct server *server, uint64_t deadline_us);
void formers_close(struct server *server);
MUST_USE bool formers_add(struct server *server, struct former *former);
uint32_t formers_sessions(const struct server *server);

/* Opens the house, serves until a signal, closes it; the exit code. Takes the configuration. */
int serve_run(struct server *server, struct config *config);

struct config *worker_read_config(int descriptor, const char *name);
MUST_USE bool worker_adopt(const struct channel_packet *packet);

#endif
