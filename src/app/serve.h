/* Shared by the files that make a process serve. */
#ifndef APP_SERVE_H
#define APP_SERVE_H

#include "app/house.h"
#include "app/processes.h"
#include "console/console.h"

struct guard_plan;

struct server {
    struct house house;
    struct tls_context *tls_in, *tls_out;
    struct key_service *keys; /* NULL: the keys are in this process */
    struct console *console;
    int64_t started_wall_us;
    bool worker;             /* started by a parent: channels are open */
    int keeper;              /* the descriptor of its service; -1: none */
    struct guard_plan *plan; /* what this process is locked to; NULL: nothing */
    const char *guard_words;
};

/* Opens the house, serves until a signal, closes it; the exit code. Takes the configuration. */
int serve_run(struct server *server, struct config *config);

struct config *worker_read_config(int descriptor, const char *name);
MUST_USE bool worker_adopt(const struct channel_packet *packet);

#endif
