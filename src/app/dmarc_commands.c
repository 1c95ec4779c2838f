/*
 * `dmarc report`: what the history knows of a domain's mail, as an aggregate report (RFC 9990).
 */
#include "app/app.h"

#include <string.h>
#include <time.h>

#include "auth/auth.h"
#include "diagnose/diagnose.h"

enum { WHY_ROOM = 512 };
#define REPORT_LIMIT (16 * MIB)
#define SINCE_DEFAULT_US (24 * 3600 * US_PER_S)

struct record_job {
    const struct config *config;
    struct arena *arena;
    struct bytes domain;
    struct dmarc_record record;
    char why[WHY_ROOM];
};

static void take_record(struct record_job *job, struct resolver *resolver)
{
    const struct bytes name = arena_print(job->arena, "_dmarc.%.*s", BYTES_PRINT(job->domain));
    struct dns_answer answer = {0};
    const struct lookup lookup = resolve_ask(resolver, job->arena, name, DNS_TXT, &answer);

    for (unsigned i = 0; i < answer.count; i++)
        if (dmarc_parse(answer.records[i].text, &job->record) == AUTH_PASS)
            return;
    snprintf(job->why, sizeof job->why, "%.*s: %s", BYTES_PRINT(name),
             lookup.status == LOOKUP_FAILED ? lookup_reason_name(lookup.reason)
                                            : "no DMARC record is published now");
}

static int record_main(void *argument)
{
    struct record_job *job = argument;
    const struct config_resolver *config = &job->config->resolver;
    const struct resolver_settings settings = {.forward = config->forward,
                                               .forward_count = config->forward_count,
                                               .timeout_us = config->timeout_us};
    struct resolver *resolver = resolver_open(&settings, job->why, sizeof job->why);

    if (!resolver)
        return EXIT_FINDINGS;
    take_record(job, resolver);
    resolver_close(resolver);
    return *job->why ? EXIT_FINDINGS : EXIT_FINE;
}

static int64_t now_wall_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * (int64_t)US_PER_S + now.tv_nsec / 1000;
}

static int print_report(const struct config *config, struct bytes domain, uint64_t since_us)
{
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    struct record_job job = {.config = config, .arena = &arena, .domain = domain};
    struct buffer text = BUFFER_WITH_LIMIT(REPORT_LIMIT);
    char why[WHY_ROOM] = "";
    const int64_t now_us = now_wall_us();

    /* Without its record there is nobody to report to, yet the operator may want to see the rows.
     */
    if (world_run(record_main, &job, 1) != EXIT_FINE)
        fprintf(stderr, "holdfast: %s\n", job.why);
    const struct dmarc_report_request request = {.history_directory = config->history,
                                                 .hostname = config->hostname,
                                                 .domain = domain,
                                                 .record = &job.record,
                                                 .since_wall_us = now_us - (int64_t)since_us,
                                                 .until_wall_us = now_us};
    const bool made = diagnose_dmarc_report(&text, &request, why, sizeof why);
    if (*why)
        fprintf(stderr, "holdfast: %s\n", why);
    const int code = made ? app_print_buffer(&text) : EXIT_UNREACHABLE;
    if (!made)
        buffer_free(&text);
    arena_clear(&arena);
    return code;
}

int command_dmarc(const struct command_line *line)
{
    uint64_t since_us = SINCE_DEFAULT_US;

    if (line->word_count != 3 || strcmp(line->words[1], "report") != 0 ||
        (line->since && !duration_parse(bytes_of_text(line->since), &since_us))) {
        fputs("usage: holdfast dmarc report DOMAIN [--since 24h] [-c FILE]\n", stderr);
        return EXIT_USAGE;
    }
    struct config *config = app_config_open(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    const int code = print_report(config, bytes_of_text(line->words[2]), since_us);
    config_free(config);
    return code;
}
