/*
 * `route`: the way mail for an address would take now, and what TLS it demands of each host.
 * `tls-report`: what came of TLS on the days before. Both work with the server down.
 */
#include "app/app.h"

#include <jansson.h>
#include <string.h>
#include <time.h>

#include "deliver/deliver.h"
#include "diagnose/diagnose.h"
#include "resolve/resolve.h"
#include "runtime/runtime.h"

enum { WHY_ROOM = 512, DAY_S = 86400 };
#define ROUTE_ARENA_BYTES (4 * MIB)
#define ANSWER_LIMIT (16 * MIB)

/* ------------------------------------------------------------------ route ADDRESS */

struct route_question {
    const struct config *config;
    const struct command_line *line;
    struct endpoint resolvers[COMMAND_WORDS_MAX];
};

static json_t *plan_json(const struct destination *destination, const struct deliver_plan *plan)
{
    static const char *const uses[] = {[TLS_USE_MAY] = "may",
                                       [TLS_USE_MUST] = "must",
                                       [TLS_USE_DANE] = "dane",
                                       [TLS_USE_NEVER] = "never",
                                       [TLS_USE_VERIFY] = "verify"};
    const bool found = verdict_accepts(&plan->verdict);
    json_t *const json =
        json_pack("{s:s, s:s, s:s, s:s, s:s%, s:[]}", "destination", destination->key, "tls",
                  uses[destination->tls], "mta_sts", plan->sts, "cause",
                  found ? "" : cause_name(plan->verdict.cause), "text",
                  plan->verdict.detail.count ? (const char *)plan->verdict.detail.at : "",
                  plan->verdict.detail.count, "hosts");

    for (unsigned i = 0; i < plan->count; i++)
        json_array_append_new(json_object_get(json, "hosts"),
                              json_pack("{s:s, s:s, s:s, s:s}", "host", plan->hosts[i].host, "tls",
                                        plan->hosts[i].level, "by", plan->hosts[i].by, "text",
                                        plan->hosts[i].words));
    return json;
}

static void print_plan(struct buffer *text, const struct destination *destination,
                       const struct deliver_plan *plan)
{
    static const struct {
        const char *level, *words;
    } LEVELS[] = {{"clear", "never encrypted"},
                  {"may", "encrypted if it offers that, else in clear"},
                  {"encrypt", "encrypted, or not at all"},
                  {"prove", "encrypted and proved to be the host, or not at all"},
                  {"unusable", "not to be used now"}};

    buffer_print(text, "%s\n", destination->key);
    if (plan->sts[0])
        buffer_print(text, "  MTA-STS: %s\n", plan->sts);
    if (!verdict_accepts(&plan->verdict))
        buffer_print(text, "  %s: %s%s%.*s\n", cause_name(plan->verdict.cause),
                     cause_row(plan->verdict.cause)->meaning,
                     plan->verdict.detail.count ? ": " : "", BYTES_PRINT(plan->verdict.detail));
    for (unsigned i = 0; i < plan->count; i++) {
        const struct deliver_host_plan *host = &plan->hosts[i];
        const char *words = host->level;
        for (size_t k = 0; k < COUNT_OF(LEVELS); k++)
            words = strcmp(LEVELS[k].level, host->level) == 0 ? LEVELS[k].words : words;
        buffer_print(text, "  %-48s %s%s%s%s%s%s\n", host->host, words, host->by[0] ? " (" : "",
                     host->by, host->by[0] ? ")" : "", host->words[0] ? ": " : "", host->words);
    }
}

static int route_tell(const struct route_question *question, const struct destination *destination,
                      const struct deliver_plan *plan)
{
    struct buffer text = BUFFER_WITH_LIMIT(ANSWER_LIMIT);
    int code = EXIT_FINE;

    if (question->line->json) {
        code = app_print_json(plan_json(destination, plan));
    } else {
        print_plan(&text, destination, plan);
        code = app_print_buffer(&text);
    }
    return verdict_accepts(&plan->verdict) ? code : EXIT_FINDINGS;
}

/* A user of ours may have a way of delivery of his own; only the directory knows. */
static void route_find_own(const struct config *config, struct arena *arena,
                           struct recipient *recipient)
{
    char why[WHY_ROOM] = "";
    struct directory_user user = {0};

    if (!config_find_domain(config, recipient->address.domain))
        return;
    struct directory *directory = directory_open(config, why, sizeof why);
    const struct lookup found =
        directory ? directory_find_user(directory, arena, recipient->address, &user)
                  : lookup_failed(LOOKUP_REASON_MISCONFIGURED, bytes_of_text(why));
    if (found.status == LOOKUP_FOUND)
        recipient->deliver = arena_copy(arena, user.deliver);
    if (found.status == LOOKUP_FAILED)
        fprintf(stderr, "holdfast: the directory does not say: %.*s\n", BYTES_PRINT(found.detail));
    directory_close(directory);
}

/* The command as it stands in the setting, each argument in quotes. */
static void tell_pipe(const struct config_pipe *pipe)
{
    printf(" ");
    for (unsigned i = 0; pipe && i < pipe->command_count; i++)
        printf(" '%s'", pipe->command[i]);
    if (pipe)
        printf("\n  as %s, at most %u at once\n",
               *pipe->user ? pipe->user : "the server's own user", pipe->concurrency);
}

static int route_find(const struct route_question *question, struct deliver *deliver,
                      struct arena *arena)
{
    struct recipient recipient = {0};
    struct destination destination = {0};
    struct deliver_plan plan = {.verdict = verdict_accept()};

    if (!address_parse(arena, bytes_of_text(question->line->words[1]), &recipient.address)) {
        fprintf(stderr, "holdfast: %s is no address\n", question->line->words[1]);
        return EXIT_USAGE;
    }
    route_find_own(question->config, arena, &recipient);
    deliver_route(deliver, &recipient, &destination);
    if (recipient.deliver.count > 0 && destination.kind == DELIVER_MAILDIR)
        printf("%.*s\n", BYTES_PRINT(recipient.deliver));
    if (destination.kind == DELIVER_SMTP || destination.kind == DELIVER_LMTP)
        deliver_plan(deliver, &destination, arena, &plan);
    const int code = route_tell(question, &destination, &plan);
    if (destination.kind == DELIVER_PIPE && !question->line->json)
        tell_pipe(config_find_pipe(question->config, destination.via->target));
    return code;
}

static int route_open(const struct route_question *question, struct resolver *resolver,
                      struct tls_context *tls)
{
    const struct deliver_settings settings = {
        .config = question->config, .resolver = resolver, .tls = tls};
    struct arena arena = ARENA_WITH_LIMIT(ROUTE_ARENA_BYTES);
    char why[WHY_ROOM];
    struct deliver *const deliver = deliver_open(&settings, why, sizeof why);

    if (!deliver) {
        fprintf(stderr, "holdfast: %s\n", why);
        return EXIT_FINDINGS;
    }
    const int code = route_find(question, deliver, &arena);
    arena_clear(&arena);
    deliver_close(deliver);
    return code;
}

static int route_main(void *argument)
{
    const struct route_question *question = argument;
    const struct config_resolver *set = &question->config->resolver;
    const bool named = question->line->resolver_count > 0;
    const struct resolver_settings settings = {
        .timeout_us = set->timeout_us,
        .forward = named ? question->resolvers : set->forward,
        .forward_count = named ? question->line->resolver_count : set->forward_count,
        .trust_anchor = set->trust_anchor};
    char why[WHY_ROOM];
    int code = EXIT_FINDINGS;
    struct tls_context *const tls = tls_context_client(why, sizeof why);
    struct resolver *const resolver = tls ? resolver_open(&settings, why, sizeof why) : NULL;

    if (resolver)
        code = route_open(question, resolver, tls);
    else
        fprintf(stderr, "holdfast: %s\n", why);
    resolver_close(resolver);
    tls_context_free(tls);
    return code;
}

int command_route(const struct command_line *line)
{
    struct route_question question = {.line = line};

    if (line->word_count != 2) {
        fputs("usage: holdfast route ADDRESS [--json] [--resolver IP[@PORT]]... [-c FILE]\n",
              stderr);
        return EXIT_USAGE;
    }
    for (unsigned i = 0; i < line->resolver_count; i++) {
        if (!endpoint_parse_resolver(bytes_of_text(line->resolvers[i]), &question.resolvers[i])) {
            fprintf(stderr, "holdfast: --resolver %s is no IP[@PORT]\n", line->resolvers[i]);
            return EXIT_USAGE;
        }
    }
    struct config *config = app_config_open(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    question.config = config;
    const int code = world_run(route_main, &question, 1);
    config_free(config);
    return code;
}

/* ------------------------------------------------------------------ tls-report [DOMAIN] */

/* With --json each report is a line of its own, as it would be sent. */
static int print_reports(const struct command_line *line, const json_t *reports)
{
    struct buffer text = BUFFER_WITH_LIMIT(ANSWER_LIMIT);

    if (!line->json)
        diagnose_print_tls_report(&text, reports);
    for (size_t i = 0; line->json && i < json_array_size(reports); i++) {
        char *const one = json_dumps(json_array_get(reports, i), JSON_COMPACT);
        buffer_print(&text, "%s\n", one ? one : "");
        free(one);
    }
    return app_print_buffer(&text);
}

int command_tls_report(const struct command_line *line)
{
    uint64_t since_us = 0;

    if (line->word_count > 2 ||
        (line->since && !duration_parse(bytes_of_text(line->since), &since_us))) {
        fputs("usage: holdfast tls-report [DOMAIN] [--since 2d] [--json] [-c FILE]\n", stderr);
        return EXIT_USAGE;
    }
    struct config *config = app_config_open(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    const struct tls_report_request request = {
        .directory = config->spool,
        .hostname = config->hostname,
        .domain = line->word_count == 2 ? line->words[1] : NULL,
        .since_day = (time(NULL) - (time_t)(since_us / US_PER_S)) / DAY_S};
    json_t *const reports = diagnose_tls_report(&request);
    int code = EXIT_UNREACHABLE;
    if (reports)
        code = print_reports(line, reports);
    else
        fprintf(stderr, "holdfast: %s/tls.db cannot be read\n", config->spool);
    json_decref(reports);
    config_free(config);
    return code;
}
