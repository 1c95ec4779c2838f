/*
 * The worker's begin: it takes sockets and configuration from the parent, gives up all that it does
 * not need, and serves.
 */
#include "app/serve.h"

#include <errno.h>
#include <string.h>
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
static struct config *begin(int *keeper)
{
    static struct channel_packet packet;

    while (channel_receive(WORKER_CHANNEL, &packet)) {
        if (packet.kind == CHANNEL_LISTENER) {
            if (!worker_adopt(&packet))
                return NULL;
        } else if (packet.kind == CHANNEL_BEGIN && packet.descriptor_count > 0) {
            *keeper = packet.descriptor_count > 1 ? packet.descriptors[1] : -1;
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
    struct server server = {.keeper = -1, .worker = true};

    if (fstat(WORKER_CHANNEL, &facts) != 0 || !S_ISSOCK(facts.st_mode)) {
        fputs("holdfast worker: started by `holdfast serve` only\n", stderr);
        return EXIT_USAGE;
    }
    struct config *config = begin(&server.keeper);
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
