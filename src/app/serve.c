/*
 * The wiring: opens the rooms from the disk upwards, runs until a signal, closes them in reverse
 * order.
 */
#include "app/app.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "console/console.h"
#include "crypto/crypto.h"
#include "deliver/deliver.h"
#include "directory/directory.h"
#include "history/history.h"
#include "observe/observe.h"
#include "policy/policy.h"
#include "receive/receive.h"
#include "resolve/resolve.h"
#include "runtime/runtime.h"
#include "schedule/schedule.h"
#include "spool/spool.h"

enum { STOP_PATIENCE_S = 20, WHY_ROOM = 512 };

struct server {
    const struct config *config;
    int64_t started_wall_us;
    struct spool *spool;
    struct history *history;
    struct resolver *resolver;
    struct directory *directory;
    struct policy *policy;
    struct tls_context *tls_in, *tls_out;
    struct deliver *deliver;
    struct schedule *schedule;
    struct receive *receive;
    struct console *console;
    char why[WHY_ROOM];
};

static uint32_t server_sessions(const void *argument)
{
    const struct server *server = argument;

    return server->receive ? receive_session_count(server->receive) : 0;
}

static bool open_storage(struct server *server)
{
    const struct config *config = server->config;
    const struct spool_settings spool = {.directory = config->spool};
    const struct history_settings history = {.directory = config->spool};

    if (!spool_open(&spool, &server->spool, server->why, WHY_ROOM))
        return false;
    server->history = history_open(&history, server->why, WHY_ROOM);
    return server->history != NULL;
}

static bool open_knowledge(struct server *server)
{
    const struct config *config = server->config;
    const struct resolver_settings resolver = {
        .forward = config->resolver.forward,
        .forward_count = config->resolver.forward_count,
        .timeout_us = config->resolver.timeout_us,
        .trust_anchor = *config->resolver.trust_anchor ? config->resolver.trust_anchor : NULL,
    };

    server->resolver = resolver_open(&resolver, server->why, WHY_ROOM);
    if (!server->resolver)
        return false;
    server->directory = directory_open(config, server->why, WHY_ROOM);
    if (!server->directory)
        return false;
    const struct policy_settings policy = {
        .config = config, .directory = server->directory, .resolver = server->resolver};
    server->policy = policy_open(&policy, server->why, WHY_ROOM);
    return server->policy != NULL;
}

static bool open_tls(struct server *server)
{
    const struct config *config = server->config;

    server->tls_out = tls_context_client(server->why, WHY_ROOM);
    if (!server->tls_out)
        return false;
    if (!*config->tls_certificate)
        return true;
    if (app_config_is_default(config) && access(config->tls_certificate, F_OK) != 0 &&
        !tls_make_self_signed(config->hostname, config->tls_certificate, config->tls_key,
                              server->why, WHY_ROOM))
        return false;
    server->tls_in =
        tls_context_server(config->tls_certificate, config->tls_key, server->why, WHY_ROOM);
    return server->tls_in != NULL;
}

static bool open_delivery(struct server *server)
{
    const struct deliver_settings deliver = {.config = server->config,
                                             .resolver = server->resolver,
                                             .directory = server->directory,
                                             .spool = server->spool,
                                             .tls = server->tls_out};

    server->deliver = deliver_open(&deliver, server->why, WHY_ROOM);
    if (!server->deliver)
        return false;
    const struct schedule_settings schedule = {
        .config = server->config, .spool = server->spool, .deliver = server->deliver};
    server->schedule = schedule_open(&schedule, server->why, WHY_ROOM);
    return server->schedule != NULL;
}

static bool open_doors(struct server *server)
{
    const struct receive_settings receive = {.config = server->config,
                                             .policy = server->policy,
                                             .spool = server->spool,
                                             .directory = server->directory,
                                             .tls = server->tls_in};
    const struct console_settings console = {.config = server->config,
                                             .spool = server->spool,
                                             .schedule = server->schedule,
                                             .policy = server->policy,
                                             .history = server->history,
                                             .started_wall_us = server->started_wall_us,
                                             .session_count = server_sessions,
                                             .session_argument = server};

    server->console = console_open(&console, server->why, WHY_ROOM);
    if (!server->console)
        return false;
    server->receive = receive_open(&receive, server->why, WHY_ROOM);
    return server->receive != NULL;
}

/* Doors first, so that nothing new comes in; the spool last, since all the others write to it. */
static void close_all(struct server *server)
{
    const uint64_t deadline_us = deadline_in(STOP_PATIENCE_S * US_PER_S);

    if (server->receive)
        receive_stop(server->receive, deadline_us);
    if (server->schedule)
        schedule_stop(server->schedule, deadline_us);
    console_close(server->console);
    if (server->receive)
        receive_close(server->receive);
    if (server->schedule)
        schedule_close(server->schedule);
    if (server->deliver)
        deliver_close(server->deliver);
    tls_context_free(server->tls_in);
    tls_context_free(server->tls_out);
    if (server->policy)
        policy_close(server->policy);
    if (server->directory)
        directory_close(server->directory);
    if (server->resolver)
        resolver_close(server->resolver);
    if (server->history)
        history_close(server->history);
    if (server->spool)
        spool_close(server->spool);
}

static void note_addresses(const struct server *server)
{
    char text[ENDPOINT_TEXT_MAX];

    for (unsigned i = 0; i < server->config->listen_count; i++) {
        const char *name = server->config->listens[i].name;
        const struct endpoint *at = receive_address(server->receive, name);
        if (at)
            observe_note(LOG_INFO, "receive", "listening: %s on %s", name,
                         endpoint_print(at, text, sizeof text));
    }
    if (server->config->web.family != ENDPOINT_NONE)
        observe_note(LOG_INFO, "console", "page and metrics on http://%s/",
                     endpoint_print(&server->config->web, text, sizeof text));
}

static void run_until_signal(void)
{
    int signal_number = 0;

    while (process_wait_signal(&signal_number, DEADLINE_NEVER) == IO_OK) {
        if (signal_number != SIGHUP)
            return;
        observe_note(LOG_WARNING, "app",
                     "SIGHUP: this version reloads nothing; restart to apply a new configuration");
    }
}

static int serve_main(void *argument)
{
    struct server *server = argument;

    server->started_wall_us = clock_wall_us();
    const bool opened = open_storage(server) && open_knowledge(server) && open_tls(server) &&
                        open_delivery(server) && open_doors(server);
    if (opened) {
        observe_event(&(struct event){.kind = EVENT_SERVER_STARTED});
        note_addresses(server);
        run_until_signal();
        observe_event(&(struct event){.kind = EVENT_SERVER_STOPPED});
    } else {
        fprintf(stderr, "holdfast: %s\n", server->why);
    }
    close_all(server);
    return opened ? EXIT_FINE : EXIT_FINDINGS;
}

int command_serve(const struct command_line *line)
{
    struct server server = {0};
    struct config *config = app_config_open(line->config_file);

    if (!config)
        return EXIT_FINDINGS;
    if (app_config_is_default(config) && !app_prepare_default(config)) {
        config_free(config);
        return EXIT_FINDINGS;
    }
    server.config = config;
    observe_configure((enum log_format)config->log_format, (enum log_level)config->log_level);
    const int code = world_run(serve_main, &server, config->loops);
    config_free(config);
    return code;
}
