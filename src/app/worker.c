/*
 * The worker's begin: it takes sockets and configuration from the parent, gives up all that it does
 * not need, and serves.
 */
#include "app/serve.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "diagnose/diagnose.h"
#include "guard/guard.h"
#include "observe/observe.h"
#include "runtime/runtime.h"

enum { CONFIG_MOST = 32 * 1024 * 1024 };

struct config *worker_read_config(int descriptor, const char *name)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(CONFIG_MOST);
    struct config_errors errors = {0};
    uint8_t piece[4096];
    ssize_t got = 0;

    while ((got = read(descriptor, piece, sizeof piece)) != 0) {
        if (got > 0)
            buffer_add(&text, bytes_of(piece, (size_t)got));
        else if (errno != EINTR)
            break;
    }
    close(descriptor);
    struct config *config = config_parse_bytes(buffer_view(&text), name, &errors);
    if (!config)
        fprintf(stderr, "holdfast: the configuration as handed over: %.*s\n",
                BYTES_PRINT(buffer_view(&errors.text)));
    config_errors_free(&errors);
    return config;
}

bool worker_adopt(const struct channel_packet *packet)
{
    for (unsigned i = 0; i < packet->descriptor_count; i++)
        if (!listener_adopt(&packet->at, packet->descriptors[i]))
            return false;
    return true;
}

/* Up to the packet that says "begin"; NULL when the parent is gone. */
static struct config *begin(struct helpers *helpers)
{
    static struct channel_packet packet;

    while (channel_receive(WORKER_CHANNEL, &packet)) {
        if (packet.kind == CHANNEL_LISTENER) {
            if (!worker_adopt(&packet))
                return NULL;
        } else if (packet.kind == CHANNEL_BEGIN && packet.descriptor_count > 0) {
            *helpers = channel_helpers(&packet);
            return worker_read_config(packet.descriptors[0], packet.text);
        }
    }
    return NULL;
}

int worker_main(void)
{
    static struct guard_report report;
    char why[512];
    struct stat facts;
    struct server server = {.helpers = {.keeper = -1, .runner_life = -1}, .worker = true};

    if (fstat(WORKER_CHANNEL, &facts) != 0 || !S_ISSOCK(facts.st_mode)) {
        fputs("holdfast worker: started by `holdfast serve` only\n", stderr);
        return EXIT_USAGE;
    }
    struct config *config = begin(&server.helpers);
    struct guard_plan *plan = config ? guard_plan_of(config) : NULL;
    if (!plan)
        return EXIT_FINDINGS;
    observe_configure((enum log_format)config->log_format, (enum log_level)config->log_level);
    if (!operator_caller_start(config, why, sizeof why))
        observe_note(LOG_ERROR, "worker", "%s: the operator's command will not be run", why);
    if (!guard_enter(plan, config->limits.memory, &report, why, sizeof why)) {
        fprintf(stderr, "holdfast: %s\n", why);
        return EXIT_FINDINGS;
    }
    server.plan = plan;
    server.guard_words = report.words;
    observe_note(report.landlock > 0 && report.seccomp ? LOG_INFO : LOG_WARNING, "worker",
                 "locked in: %s", report.words);
    file_set_opener(broker_ask);
    return serve_run(&server, config);
}

/* ------------------------------------------------------------------ reloading */

/* Read on a thread of the pool, whose stack is larger than a fiber's. */
struct reading {
    int descriptor;
    const char *name;
    struct config *config;
};

static void read_in_pool(void *argument)
{
    struct reading *reading = argument;

    reading->config = worker_read_config(reading->descriptor, reading->name);
}

static void tell(enum channel_kind kind, const char *words)
{
    struct channel_packet packet = {.kind = kind};

    snprintf(packet.text, sizeof packet.text, "%s", words);
    if (!channel_send(WORKER_CHANNEL, &packet))
        observe_note(LOG_ERROR, "worker", "the parent does not listen");
}

static void reload_is_over(struct server *server, bool reloaded, const char *why)
{
    server->reloads++;
    server->reloaded = reloaded;
    if (!reloaded)
        observe_event(&(struct event){.kind = EVENT_CONFIG_REFUSED,
                                      .has_verdict = true,
                                      .verdict = verdict_of(CAUSE_CONFIG_REFUSED),
                                      .filter = bytes_of_text(server->config->file),
                                      .text = bytes_of_text(why)});
    snprintf(server->reload_why, sizeof server->reload_why, "%s", why);
    waitlist_wake_all(&server->reload_changed);
}

/* The new house takes the old one's place; the old one goes on for those it has. */
static bool renew(struct server *server, struct former *next, const struct helpers *helpers)
{
    next->house.config = next->config;
    next->house.connections_max = server->house.connections_max;
    next->house.spool_sizes = server->house.spool_sizes;
    next->house.picks_up = server->house.picks_up;
    next->helpers = *helpers;
    next->house.runner = next->helpers.runner;
    if (!serve_open_tls(&next->house, helpers->keeper) ||
        !house_renew(&server->house, &next->house)) {
        serve_close_tls(&next->house);
        return false;
    }
    struct config *config = next->config;
    next->config = server->config;
    server->config = config;
    next->helpers = server->helpers;
    server->helpers = *helpers;
    server->house.runner = server->helpers.runner;
    next->house.runner = next->helpers.runner;
    console_renew(server->console, config, server->house.policy,
                  tls_context_end_wall_us(server->house.tls_in));
    observe_configure((enum log_format)config->log_format, (enum log_level)config->log_level);
    observe_event(
        &(struct event){.kind = EVENT_CONFIG_RELOADED, .text = bytes_of_text(config->file)});
    if (!formers_add(server, next))
        observe_note(LOG_WARNING, "worker", "no memory to end the former configuration");
    return true;
}

static void reload(struct server *server, const struct channel_packet *packet)
{
    struct former *next = calloc(1, sizeof *next);
    const struct helpers helpers = channel_helpers(packet);
    struct reading reading = {.descriptor = packet->descriptors[0], .name = packet->text};

    if (next && packet->descriptor_count > 0 && work_run(read_in_pool, &reading) == IO_OK)
        next->config = reading.config;
    if (!next || !next->config) {
        if (helpers.keeper >= 0)
            close(helpers.keeper);
        runner_forget(&helpers);
        free(next);
        tell(CHANNEL_REFUSED, "the worker could not read the configuration");
    } else if (renew(server, next, &helpers)) {
        reload_is_over(server, true, "");
        tell(CHANNEL_RELOADED, "");
    } else {
        tell(CHANNEL_REFUSED, next->house.why);
        runner_forget(&helpers);
        config_free(next->config);
        free(next);
    }
}

bool worker_ask_reload(void *argument, char *why, size_t why_room)
{
    struct server *server = argument;
    const unsigned before = server->reloads;
    const uint64_t deadline_us = deadline_in(60 * US_PER_S);
    struct waiter waiter;

    tell(CHANNEL_ASK, "");
    waitlist_join(&server->reload_changed, &waiter);
    while (server->reloads == before)
        if (fiber_park(deadline_us) != IO_OK)
            break;
    waitlist_leave(&server->reload_changed, &waiter);
    snprintf(why, why_room, "%s",
             server->reloads == before ? "no answer from the parent" : server->reload_why);
    return server->reloads != before && server->reloaded;
}

static void hear(struct server *server, const struct channel_packet *packet)
{
    switch (packet->kind) {
    case CHANNEL_LISTENER:
        if (!worker_adopt(packet))
            observe_note(LOG_ERROR, "worker", "too many sockets");
        break;
    case CHANNEL_RELOAD:
        reload(server, packet);
        break;
    case CHANNEL_DROP:
        listener_disown(&packet->at);
        break;
    case CHANNEL_SAID:
        reload_is_over(server, false, packet->text);
        break;
    case CHANNEL_NONE:
    case CHANNEL_BEGIN:
    case CHANNEL_READY:
    case CHANNEL_RELOADED:
    case CHANNEL_REFUSED:
    case CHANNEL_ASK:
        break;
    }
}

/* A signal ends the channel, which ends the loop that listens there. */
static void signals_main(void *argument)
{
    bool *ended = argument;
    int number = 0;

    while (process_wait_signal(&number, DEADLINE_NEVER) == IO_OK && number == SIGHUP)
        tell(CHANNEL_ASK, "");
    shutdown(WORKER_CHANNEL, SHUT_RD);
    *ended = true;
}

void worker_attend(struct server *server)
{
    static struct channel_packet packet;
    bool signals_ended = false;
    struct fiber *signals = fiber_start("signals", signals_main, &signals_ended);

    while (descriptor_wait(WORKER_CHANNEL, false, DEADLINE_NEVER).status == IO_OK &&
           channel_receive(WORKER_CHANNEL, &packet))
        hear(server, &packet);
    if (signals && !signals_ended)
        fiber_cancel(signals);
    while (signals && !signals_ended)
        fiber_yield();
}
