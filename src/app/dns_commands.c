/*
 * `dns check` and `dns propagation`: the questions are asked in a world of their own, so they work
 * with the server down.
 */
#include "app/app.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <jansson.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

#include "diagnose/diagnose.h"
#include "resolve/resolve.h"
#include "runtime/runtime.h"

enum { WHY_ROOM = 512, SYSTEM_RESOLVERS_MAX = 3, RESOLVERS_MAX = 16, PATIENCE_S = 120 };
#define DNS_ARENA_BYTES (64 * MIB)
#define ANSWER_LIMIT (16 * MIB)

/* Asked with --public only: they learn the name. */
static const char *const PUBLIC_RESOLVERS[] = {"1.1.1.1", "8.8.8.8", "9.9.9.9", "208.67.222.222"};

struct dns_job {
    const struct command_line *line;
    struct arena arena;
    struct resolver *resolver;
    struct endpoint resolvers[RESOLVERS_MAX]; /* that were named, else the system's */
    unsigned resolver_count;
    struct endpoint servers[COMMAND_WORDS_MAX];
    struct ip_address ips[COMMAND_WORDS_MAX];
    uint64_t port;
    struct bytes name; /* without the final dot */
    json_t *answer;
    json_t *(*work)(struct dns_job *job);
    struct config *config; /* of this machine's server, or NULL */
    unsigned ip_count;
    uint64_t https_port;
};

/* ------------------------------------------------------------------ what was typed */

static bool parse_endpoints(const char *option, const char *const *words, unsigned count,
                            struct endpoint *into)
{
    for (unsigned i = 0; i < count; i++) {
        if (!endpoint_parse_resolver(bytes_of_text(words[i]), &into[i])) {
            fprintf(stderr, "holdfast: %s %s is no IP[@PORT]\n", option, words[i]);
            return false;
        }
    }
    return true;
}

static bool parse_line(struct dns_job *job)
{
    const struct command_line *line = job->line;

    for (unsigned i = 0; i < line->ips.count; i++) {
        if (!ip_parse(bytes_of_text(line->ips.words[i]), &job->ips[i])) {
            fprintf(stderr, "holdfast: --ip %s is no IP address\n", line->ips.words[i]);
            return false;
        }
    }
    if (line->port && (!bytes_to_u64(bytes_of_text(line->port), &job->port) || job->port == 0 ||
                       job->port > UINT16_MAX)) {
        fprintf(stderr, "holdfast: --port %s is no port\n", line->port);
        return false;
    }
    if (line->https_port && (!bytes_to_u64(bytes_of_text(line->https_port), &job->https_port) ||
                             job->https_port > UINT16_MAX)) {
        fprintf(stderr, "holdfast: --https-port %s is no port\n", line->https_port);
        return false;
    }
    job->ip_count = line->ips.count;
    job->name = bytes_of_text(line->words[2]);
    if (job->name.count > 1 && job->name.at[job->name.count - 1] == '.')
        job->name.count--;
    job->resolver_count = line->resolver_count;
    return parse_endpoints("--resolver", line->resolvers, line->resolver_count, job->resolvers) &&
           parse_endpoints("--server", line->servers.words, line->servers.count, job->servers);
}

/* The servers that resolv.conf(5) names. */
static void read_system_resolvers(struct dns_job *job)
{
    FILE *file = fopen("/etc/resolv.conf", "r");
    char text[512];

    while (file && job->resolver_count < SYSTEM_RESOLVERS_MAX && fgets(text, sizeof text, file)) {
        struct bytes word = BYTES_EMPTY;
        const struct bytes rest = bytes_cut(bytes_trim(bytes_of_text(text)), ' ', &word);
        if (bytes_equal_text(word, "nameserver") &&
            endpoint_parse_resolver(bytes_trim(rest), &job->resolvers[job->resolver_count]))
            job->resolver_count++;
    }
    if (file)
        fclose(file);
}

/* ------------------------------------------------------------------ the world */

static json_t *work_check(struct dns_job *job)
{
    const struct dns_check_request request = {
        .resolver = job->resolver,
        .domain = job->name,
        .ips = job->ips,
        .ip_count = job->ip_count,
        .selectors = job->line->selectors.words,
        .selector_count = job->line->selectors.count,
        .validator = job->resolver_count > 0 ? &job->resolvers[0] : NULL,
        .connect = job->line->connect,
        .config = job->config,
        .authorities = job->line->authorities,
        .https_port = (uint16_t)job->https_port,
        .port = (uint16_t)job->port,
        .deadline_us = deadline_in(PATIENCE_S * US_PER_S)};

    return diagnose_dns_check(&job->arena, &request);
}

static json_t *work_propagation(struct dns_job *job)
{
    struct endpoint public_one;

    for (size_t i = 0; job->line->ask_public && i < COUNT_OF(PUBLIC_RESOLVERS); i++)
        if (job->resolver_count < RESOLVERS_MAX &&
            endpoint_parse_resolver(bytes_of_text(PUBLIC_RESOLVERS[i]), &public_one))
            job->resolvers[job->resolver_count++] = public_one;
    const struct dns_propagation_request request = {.resolver = job->resolver,
                                                    .name = job->name,
                                                    .types = job->line->words + 3,
                                                    .type_count = job->line->word_count - 3,
                                                    .servers = job->servers,
                                                    .server_count = job->line->servers.count,
                                                    .port = (uint16_t)job->port,
                                                    .resolvers = job->resolvers,
                                                    .resolver_count = job->resolver_count,
                                                    .deadline_us =
                                                        deadline_in(PATIENCE_S * US_PER_S)};

    return diagnose_dns_propagation(&job->arena, &request);
}

static int job_main(void *argument)
{
    struct dns_job *job = argument;
    char why[WHY_ROOM];
    const struct resolver_settings settings = {.forward = job->resolvers,
                                               .forward_count = job->line->resolver_count,
                                               .timeout_us = 5 * US_PER_S};

    job->resolver = resolver_open(&settings, why, sizeof why);
    if (!job->resolver) {
        fprintf(stderr, "holdfast: %s\n", why);
        return EXIT_FINDINGS;
    }
    job->answer = job->work(job);
    resolver_close(job->resolver);
    return EXIT_FINE;
}

static int print_answer(struct dns_job *job,
                        void (*print)(struct buffer *into, const json_t *answer), bool bad)
{
    struct buffer text = BUFFER_WITH_LIMIT(ANSWER_LIMIT);
    int code = EXIT_FINE;

    if (job->line->json) {
        code = app_print_json(job->answer);
    } else {
        print(&text, job->answer);
        code = app_print_buffer(&text);
        json_decref(job->answer);
    }
    return bad ? EXIT_FINDINGS : code;
}

static bool job_run(struct dns_job *job)
{
    /* With --server the operator says whom to ask; the system's resolvers are then not asked. */
    if (job->resolver_count == 0 && job->line->servers.count == 0)
        read_system_resolvers(job);
    job->arena = ARENA_WITH_LIMIT(DNS_ARENA_BYTES);
    const int code = world_run(job_main, job, 1);
    if (code == EXIT_FINE && !job->answer)
        fputs("holdfast: the answer is too large\n", stderr);
    return code == EXIT_FINE && job->answer;
}

/* ------------------------------------------------------------------ this machine's own */

/* An address of an interface that the Internet can reach. */
static void add_interface(struct dns_job *job, const struct sockaddr *at)
{
    static const char *const private[] = {"10.0.0.0/8",     "100.64.0.0/10", "127.0.0.0/8",
                                          "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
                                          "::1/128",        "fc00::/7",      "fe80::/10"};
    char text[INET6_ADDRSTRLEN];
    struct ip_address ip;
    struct ip_network network;

    if (!at || getnameinfo(at,
                           at->sa_family == AF_INET ? sizeof(struct sockaddr_in)
                                                    : sizeof(struct sockaddr_in6),
                           text, sizeof text, NULL, 0, NI_NUMERICHOST) != 0)
        return;
    if (!ip_parse(bytes_of_text(text), &ip) || job->ip_count == COUNT_OF(job->ips))
        return;
    for (size_t i = 0; i < COUNT_OF(private); i++)
        if (ip_network_parse(bytes_of_text(private[i]), &network) &&
            ip_network_contains(&network, &ip))
            return;
    job->ips[job->ip_count++] = ip;
}

static bool is_own(const struct config *config, struct bytes domain)
{
    for (unsigned i = 0; i < config->sign_count; i++)
        if (bytes_equal_text_nocase(domain, config->signs[i].domain))
            return true;
    return config_find_domain(config, domain) != NULL;
}

/* The server's configuration, where there is one that may be read. For a domain of its own the
 * addresses that it sends from are checked, too, unless they were named, or another host sends. */
static bool take_own(struct dns_job *job)
{
    struct ifaddrs *interfaces = NULL;
    const bool named = job->line->config_file || getenv("HOLDFAST_CONFIG");

    if (!named && access("/etc/holdfast/holdfast.conf", R_OK) != 0)
        return true;
    job->config = app_config_open(job->line->config_file);
    if (!job->config)
        return false;
    if (job->ip_count > 0 || !is_own(job->config, job->name) ||
        job->config->relay_via.kind != DELIVER_NONE || getifaddrs(&interfaces) != 0)
        return true;
    for (const struct ifaddrs *one = interfaces; one; one = one->ifa_next)
        if (one->ifa_addr &&
            (one->ifa_addr->sa_family == AF_INET || one->ifa_addr->sa_family == AF_INET6))
            add_interface(job, one->ifa_addr);
    freeifaddrs(interfaces);
    return true;
}

/* ------------------------------------------------------------------ commands */

static int command_dns_check(struct dns_job *job)
{
    job->work = work_check;
    if (!parse_line(job))
        return EXIT_USAGE;
    if (!take_own(job))
        return EXIT_FINDINGS;
    const bool done = job_run(job);
    if (job->config)
        config_free(job->config);
    const int code =
        done ? print_answer(job, diagnose_print_dns_check, diagnose_dns_has_error(job->answer))
             : EXIT_FINDINGS;
    arena_clear(&job->arena);
    return code;
}

static int command_dns_propagation(struct dns_job *job)
{
    job->work = work_propagation;
    for (unsigned i = 3; i < job->line->word_count; i++) {
        if (!diagnose_dns_type_is_known(job->line->words[i])) {
            fprintf(stderr, "holdfast: %s is no type of record\n", job->line->words[i]);
            return EXIT_USAGE;
        }
    }
    if (!parse_line(job))
        return EXIT_USAGE;
    const bool done = job_run(job);
    const int code = done ? print_answer(job, diagnose_print_dns_propagation,
                                         !json_is_true(json_object_get(job->answer, "agree")))
                          : EXIT_FINDINGS;
    arena_clear(&job->arena);
    return code;
}

int command_dns(const struct command_line *line)
{
    struct dns_job job = {.line = line};

    if (line->word_count == 3 && strcmp(line->words[1], "check") == 0)
        return command_dns_check(&job);
    if (line->word_count >= 3 && strcmp(line->words[1], "propagation") == 0)
        return command_dns_propagation(&job);
    fputs("usage: holdfast dns check DOMAIN [--ip IP]... [--selector S]... [--connect] [-c FILE]\n"
          "       holdfast dns propagation NAME [TYPE]... [--server IP[@PORT]]... [--public]\n"
          "       both with [--resolver IP[@PORT]]... [--json]\n",
          stderr);
    return EXIT_USAGE;
}
