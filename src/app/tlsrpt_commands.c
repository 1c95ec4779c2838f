/*
 * `tlsrpt report`: what came of TLS with other domains on whole days, to those who ask for it in
 * DNS (RFC 8460). With --send by mail through the drop directory, so that the server's own rules
 * hold for it, signing among them; without, it only says to whom it would go.
 */
#include "app/app.h"

#include <jansson.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "app/drop.h"
#include "auth/auth.h"
#include "diagnose/diagnose.h"
#include "resolve/resolve.h"
#include "runtime/runtime.h"

enum { WHY_ROOM = 512, DAY_S = 86400, MAIL_LIMIT = 16 * 1024 * 1024 };

struct reporting {
    const struct config *config;
    const struct command_line *line;
    json_t *reports;
    struct arena arena;
    struct resolver *resolver;
    struct drop_place place;
    unsigned sent, failed;
    char why[WHY_ROOM];
};

/* Of one domain: where its reports go; empty: it asks for none, or for several things at once. */
static struct bytes find_rua(struct reporting *reporting, const char *domain)
{
    struct dns_answer answer = {0};
    struct bytes rua = BYTES_EMPTY, one = BYTES_EMPTY;
    unsigned found = 0;
    const struct lookup lookup =
        resolve_ask(reporting->resolver, &reporting->arena,
                    arena_print(&reporting->arena, "_smtp._tls.%s", domain), DNS_TXT, &answer);

    if (lookup.status == LOOKUP_FAILED) {
        fprintf(stderr, "holdfast: _smtp._tls.%s: %s; not reported\n", domain,
                lookup_reason_name(lookup.reason));
        reporting->failed++;
    }
    for (unsigned i = 0; i < answer.count; i++)
        if (tlsrpt_parse_record(answer.records[i].text, &one)) {
            rua = one;
            found++;
        }
    return found == 1 ? rua : BYTES_EMPTY;
}

/* An exit code of sysexits.h. */
static int send_mail(const struct reporting *reporting, struct bytes to, struct bytes mail)
{
    struct drop_message message;
    struct arena arena = ARENA_WITH_LIMIT(64 * KIB);
    const struct bytes rcpt = arena_print(&arena, "RCPT TO:<%.*s> NOTIFY=NEVER", BYTES_PRINT(to));
    const struct drop_envelope envelope = {
        .mail = arena_print(&arena, "MAIL FROM:<%s>", reporting->config->tls_report_from),
        .rcpts = &rcpt,
        .rcpt_count = 1};
    int code = drop_begin(&message, &reporting->place);

    if (code == 0)
        code = drop_add(&message, mail);
    if (code == 0)
        code = drop_commit(&message, &envelope);
    drop_abandon(&message);
    arena_clear(&arena);
    return code;
}

static void report_to(struct reporting *reporting, const json_t *report, struct bytes to)
{
    const char *const domain = diagnose_tls_report_domain(report);
    const struct tls_mail facts = {.hostname = reporting->config->hostname,
                                   .from = reporting->config->tls_report_from,
                                   .to = to,
                                   .wall_us = app_now_wall_us()};
    CLEANUP(buffer_free) struct buffer mail = BUFFER_WITH_LIMIT(MAIL_LIMIT);
    struct address address;
    int64_t good = 0, failed = 0;

    if (!address_parse(&reporting->arena, to, &address) || address_is_null(address)) {
        app_print("%s: \"%.*s\" is no address\n", domain, BYTES_PRINT(to));
        return;
    }
    diagnose_tls_report_sessions(report, &good, &failed);
    app_print(
        "%s %.10s: %lld good, %lld failed: %s %.*s\n", domain,
        json_string_value(json_object_get(json_object_get(report, "date-range"), "start-datetime")),
        (long long)good, (long long)failed, reporting->line->send ? "queued for" : "would go to",
        BYTES_PRINT(to));
    if (!reporting->line->send)
        return;
    if (diagnose_tls_mail(&mail, report, &facts) &&
        send_mail(reporting, to, buffer_view(&mail)) == 0)
        reporting->sent++;
    else
        reporting->failed++;
}

/* "mailto:a@b.example,https://c.example/": each of them (RFC 8460 3). mailto: may add fields. */
static void report_one(struct reporting *reporting, const json_t *report)
{
    const char *const domain = diagnose_tls_report_domain(report);
    struct bytes rest = find_rua(reporting, domain), uri = BYTES_EMPTY;

    while (rest.count > 0) {
        rest = bytes_cut(rest, ',', &uri);
        uri = bytes_trim(uri);
        if (bytes_starts_with_nocase(uri, BYTES_LITERAL("mailto:"))) {
            struct bytes to = BYTES_EMPTY;
            bytes_cut(bytes_skip(uri, strlen("mailto:")), '?', &to);
            report_to(reporting, report, to);
        } else {
            app_print("%s: %.*s is left out: only mail is sent\n", domain, BYTES_PRINT(uri));
        }
    }
}

static int reporting_main(void *argument)
{
    struct reporting *reporting = argument;
    const struct config_resolver *config = &reporting->config->resolver;
    const struct resolver_settings settings = {.forward = config->forward,
                                               .forward_count = config->forward_count,
                                               .timeout_us = config->timeout_us};
    const json_t *report = NULL;
    size_t i = 0;

    reporting->resolver = resolver_open(&settings, reporting->why, sizeof reporting->why);
    if (!reporting->resolver) {
        fprintf(stderr, "holdfast: %s\n", reporting->why);
        return EXIT_FINDINGS;
    }
    json_array_foreach(reporting->reports, i, report)
    {
        report_one(reporting, report);
        arena_clear(&reporting->arena);
        reporting->arena = (struct arena)ARENA_WITH_LIMIT(MIB);
    }
    resolver_close(reporting->resolver);
    return reporting->failed > 0 ? EXIT_FINDINGS : EXIT_FINE;
}

/* Today is not over. */
static void drop_today(json_t *reports)
{
    const time_t now = time(NULL);
    struct tm parts;
    char today[16];

    gmtime_r(&now, &parts);
    strftime(today, sizeof today, "%Y-%m-%d", &parts);
    for (size_t i = json_array_size(reports); i-- > 0;) {
        const json_t *const range = json_object_get(json_array_get(reports, i), "date-range");
        const char *const start = json_string_value(json_object_get(range, "start-datetime"));
        if (start && strncmp(start, today, strlen(today)) == 0)
            json_array_remove(reports, i);
    }
}

static int report_days(struct reporting *reporting, uint64_t since_us)
{
    const struct config *config = reporting->config;
    const struct tls_report_request request = {
        .directory = config->spool,
        .hostname = config->hostname,
        .contact = config->tls_report_from,
        .domain = reporting->line->word_count == 3 ? reporting->line->words[2] : NULL,
        .since_day = (time(NULL) - (time_t)(since_us / US_PER_S)) / DAY_S};

    reporting->reports = diagnose_tls_report(&request);
    if (!reporting->reports) {
        fprintf(stderr, "holdfast: %s/tls.db cannot be read\n", config->spool);
        return EXIT_UNREACHABLE;
    }
    drop_today(reporting->reports);
    const int code = world_run(reporting_main, reporting, 1);
    json_decref(reporting->reports);
    return code;
}

int command_tlsrpt(const struct command_line *line)
{
    uint64_t since_us = DAY_S * US_PER_S;
    struct reporting reporting = {.line = line, .arena = ARENA_WITH_LIMIT(MIB)};

    if (line->word_count < 2 || line->word_count > 3 || strcmp(line->words[1], "report") != 0 ||
        (line->since && !duration_parse(bytes_of_text(line->since), &since_us))) {
        fputs("usage: holdfast tlsrpt report [DOMAIN] [--since 1d] [--send] [-c FILE]\n", stderr);
        return EXIT_USAGE;
    }
    struct config *config = app_config_open(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    reporting.config = config;
    int code = EXIT_FINE;
    if (line->send && !*config->tls_report_from) {
        fputs("holdfast: tls_report { from = \"...\" } is not set, so nothing is sent\n", stderr);
        code = EXIT_FINDINGS;
    } else if (line->send && drop_place_find(&reporting.place, line->config_file) != 0) {
        code = EXIT_UNREACHABLE;
    }
    if (code == EXIT_FINE)
        code = report_days(&reporting, since_us);
    arena_clear(&reporting.arena);
    config_free(config);
    return code;
}
