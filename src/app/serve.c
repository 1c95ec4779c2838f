/*
 * The wiring: opens the rooms from the disk upwards, runs until a signal, closes them in reverse
 * order.
 */
#include "app/serve.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "observe/observe.h"
#include "runtime/runtime.h"

enum { STOP_PATIENCE_S = 20, DESCRIPTORS_OF_HOUSE = 128, DESCRIPTORS_OF_SESSION = 3 };

static uint32_t server_sessions(const void *argument)
{
    const struct server *server = argument;

    return formers_sessions(server) +
           (server->house.receive ? receive_session_count(server->house.receive) : 0);
}

static bool open_server_tls(struct house *house)
{
    const struct config *config = house->config;

    if (!*config->tls_certificate)
        return true;
    house->tls_in = house->keys ? tls_context_server_by(house->keys, house->why, HOUSE_WHY_ROOM)
                                : tls_context_server(config->tls_certificate, config->tls_key,
                                                     house->why, HOUSE_WHY_ROOM);
    return house->tls_in != NULL;
}

bool serve_open_tls(struct house *house, int keeper)
{
    if (keeper >= 0) {
        house->keys = key_service_open(keeper);
        if (!house->keys) {
            snprintf(house->why, HOUSE_WHY_ROOM, "no way to the keeper of keys");
            return false;
        }
    }
    house->tls_out = tls_context_client(house->why, HOUSE_WHY_ROOM);
    return house->tls_out &&
           (!*house->config->tls_authorities ||
            tls_context_trust(house->tls_out, house->config->tls_authorities, house->why,
                              HOUSE_WHY_ROOM)) &&
           open_server_tls(house);
}

void serve_close_tls(struct house *house)
{
    tls_context_free(house->tls_in);
    tls_context_free(house->tls_out);
    key_service_close(&house->keys);
    house->tls_in = house->tls_out = NULL;
}

/* A session has its connection, and may need a body's file and a filter's connection at the same
 * time; the rest of the house (databases, resolver, deliveries, the page) needs some, too. */
static uint32_t connections_by_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return 0;
    const rlim_t left = limit.rlim_cur - MIN_OF(limit.rlim_cur, (rlim_t)DESCRIPTORS_OF_HOUSE);

    return (uint32_t)MAX_OF(left / DESCRIPTORS_OF_SESSION, (rlim_t)1);
}

static bool open_console(struct server *server)
{
    struct house *house = &server->house;
    const struct console_settings console = {.config = house->config,
                                             .spool = house->spool,
                                             .schedule = house->schedule,
                                             .policy = house->policy,
                                             .history = house->history,
                                             .locks = server->guard_words,
                                             .started_wall_us = server->started_wall_us,
                                             .reload = server->worker ? worker_ask_reload : NULL,
                                             .reload_argument = server,
                                             .session_count = server_sessions,
                                             .session_argument = server,
                                             .sessions_by_descriptors = house->connections_max,
                                             .certificate_end_wall_us =
                                                 tls_context_end_wall_us(house->tls_in)};

    server->console = console_open(&console, house->why, HOUSE_WHY_ROOM);
    return server->console != NULL;
}

void runner_forget(const struct helpers *helpers)
{
    if (helpers->runner_life >= 0)
        close(helpers->runner_life);
}

static void close_all(struct server *server)
{
    const uint64_t deadline_us = deadline_in(STOP_PATIENCE_S * US_PER_S);

    sentry_close(server->sentry);
    formers_stop(server, deadline_us);
    house_stop(&server->house, deadline_us);
    console_close(server->console);
    formers_close(server);
    if (!house_close(&server->house)) {
        observe_note(LOG_ERROR, "app", "left without a clean end: the disk does not answer");
        return;
    }
    serve_close_tls(&server->house);
}

static void note_addresses(const struct server *server)
{
    char text[ENDPOINT_TEXT_MAX];

    for (unsigned i = 0; i < server->house.config->listen_count; i++) {
        const char *name = server->house.config->listens[i].name;
        const struct endpoint *at = receive_address(server->house.receive, name);
        if (at)
            observe_note(LOG_INFO, "receive", "listening: %s on %s", name,
                         endpoint_print(at, text, sizeof text));
    }
    if (server->house.config->web.family != ENDPOINT_NONE)
        observe_note(LOG_INFO, "console", "page and metrics on http://%s/",
                     endpoint_print(&server->house.config->web, text, sizeof text));
}

static void tell_parent(const struct server *server, enum channel_kind kind)
{
    const struct channel_packet packet = {.kind = kind};

    if (server->worker && !channel_send(WORKER_CHANNEL, &packet))
        observe_note(LOG_ERROR, "worker", "the parent does not listen");
}

static void run_until_signal(void)
{
    int signal_number = 0;

    while (process_wait_signal(&signal_number, DEADLINE_NEVER) == IO_OK) {
        if (signal_number != SIGHUP)
            return;
        observe_note(LOG_WARNING, "app", "SIGHUP: one process alone cannot reload; restart it");
    }
}

static int serve_main(void *argument)
{
    struct server *server = argument;

    server->started_wall_us = clock_wall_us();
    const bool opened = serve_open_tls(&server->house, server->helpers.keeper) &&
                        house_open(&server->house) && open_console(server) &&
                        house_open_doors(&server->house);
    if (opened) {
        observe_event(&(struct event){.kind = EVENT_SERVER_STARTED});
        server->sentry = sentry_open(&server->house);
        if (!server->sentry)
            observe_note(LOG_ERROR, "app", "nobody watches clock and certificate: no memory");
        note_addresses(server);
        tell_parent(server, CHANNEL_READY);
        if (server->worker)
            worker_attend(server);
        else
            run_until_signal();
        observe_event(&(struct event){.kind = EVENT_SERVER_STOPPED});
    } else {
        fprintf(stderr, "holdfast: %s\n", server->house.why);
    }
    close_all(server);
    return opened ? EXIT_FINE : EXIT_FINDINGS;
}

int serve_run(struct server *server, struct config *config)
{
    server->house.config = server->config = config;
    server->house.picks_up = true;
    server->house.runner = server->helpers.runner;
    server->house.connections_max = connections_by_descriptors();
    observe_configure((enum log_format)config->log_format, (enum log_level)config->log_level);
    const int code = world_run(serve_main, server, config->loops);
    config_free(server->config); /* a reload has put another in the first one's place */
    return code;
}

/* The first start makes what the embedded default needs. */
static bool prepare_default(const struct config *config)
{
    char why[HOUSE_WHY_ROOM];

    if (!app_config_is_default(config))
        return true;
    if (!app_prepare_default(config))
        return false;
    if (access(config->tls_certificate, F_OK) == 0 ||
        tls_make_self_signed(config->hostname, config->tls_certificate, config->tls_key, why,
                             sizeof why))
        return true;
    fprintf(stderr, "holdfast: %s\n", why);
    return false;
}

/* One process, for debuggers; commands have a runner even so. */
static int serve_alone(struct server *server, struct config *config)
{
    struct runner_place runner;
    char why[HOUSE_WHY_ROOM];

    if (!runner_start(config, &runner, why, sizeof why)) {
        fprintf(stderr, "holdfast: %s\n", why);
        config_free(config);
        return EXIT_FINDINGS;
    }
    snprintf(server->helpers.runner, sizeof server->helpers.runner, "%s", runner.path);
    const int code = serve_run(server, config);
    if (runner.listener >= 0)
        unlink(runner.path);
    runner_leave(&runner);
    return code;
}

int command_serve(const struct command_line *line)
{
    struct server server = {.helpers = {.keeper = -1, .runner_life = -1}};
    struct config *config = app_config_open(line->config_file);

    if (!config)
        return EXIT_FINDINGS;
    if (!prepare_default(config)) {
        config_free(config);
        return EXIT_FINDINGS;
    }
    observe_configure((enum log_format)config->log_format, (enum log_level)config->log_level);
    return line->one_process ? serve_alone(&server, config) : parent_run(line->config_file, config);
}
