/*
 * What the worker needs, read off the configuration. What it reads of the directory by files
 * (users, aliases) is not here: the parent opens those for it, so that they may lie beside what it
 * must not see, and may be replaced at any time.
 */
#include <limits.h>
#include <string.h>

#include "guard/inside.h"

/* ------------------------------------------------------------------ paths */

static void plan_path(struct guard_plan *plan, struct bytes path, enum guard_access access)
{
    if (path.count == 0)
        return;
    if (plan->path_count == GUARD_PATHS_MAX || path.count >= GUARD_PATH_ROOM) {
        plan->full = true;
        return;
    }
    struct guard_path *row = &plan->paths[plan->path_count++];
    snprintf(row->path, sizeof row->path, "%.*s", BYTES_PRINT(path));
    row->access = access;
    for (unsigned i = 0; i + 1 < plan->path_count; i++)
        if (plan->paths[i].access == access && strcmp(plan->paths[i].path, row->path) == 0) {
            plan->path_count--;
            return;
        }
}

static void plan_text(struct guard_plan *plan, const char *path, enum guard_access access)
{
    plan_path(plan, bytes_of_text(path), access);
}

/* The folder that a path lies in. */
static struct bytes folder_of(struct bytes path)
{
    while (path.count > 0 && path.at[path.count - 1] != '/')
        path.count--;
    while (path.count > 1 && path.at[path.count - 1] == '/')
        path.count--;
    return path.count > 0 ? path : BYTES_LITERAL(".");
}

/* What every worker reads: names of services and hosts, the trust store, the time zone. */
static void plan_system(struct guard_plan *plan)
{
    static const char *const paths[] = {"/etc/resolv.conf",
                                        "/etc/hosts",
                                        "/etc/nsswitch.conf",
                                        "/etc/host.conf",
                                        "/etc/services",
                                        "/etc/protocols",
                                        "/etc/gai.conf",
                                        "/etc/localtime",
                                        "/etc/passwd",
                                        "/etc/group",
                                        "/etc/ssl/certs",
                                        "/etc/ssl/openssl.cnf",
                                        "/etc/ldap",
                                        "/etc/gnutls",
                                        "/etc/ca-certificates",
                                        "/usr/share/zoneinfo",
                                        "/usr/share/ca-certificates",
                                        "/usr/local/share/ca-certificates",
                                        "/usr/share/dns",
                                        "/usr/lib/ssl",
                                        "/usr/lib/locale",
                                        "/dev/urandom",
                                        "/dev/random",
                                        "/sys/devices/system/cpu",
                                        "/proc/sys/vm",
                                        "/proc/sys/kernel",
                                        "/proc/sys/net",
                                        "/proc/meminfo",
                                        "/proc/cpuinfo",
                                        "/proc/stat"};

    for (size_t i = 0; i < COUNT_OF(paths); i++)
        plan_text(plan, paths[i], GUARD_READ);
    plan_text(plan, "/dev/null", GUARD_WRITE);
}

/* ------------------------------------------------------------------ ports */

static void plan_port(struct guard_plan *plan, uint16_t port)
{
    if (port == 0)
        return;
    for (unsigned i = 0; i < plan->port_count; i++)
        if (plan->ports[i] == port)
            return;
    if (plan->port_count == GUARD_PORTS_MAX)
        plan->any_port = true;
    else
        plan->ports[plan->port_count++] = port;
}

static void plan_endpoint(struct guard_plan *plan, const struct endpoint *endpoint)
{
    if (endpoint->family == ENDPOINT_IPV4 || endpoint->family == ENDPOINT_IPV6)
        plan_port(plan, endpoint->port);
}

/* "PORT" behind the last colon of an authority such as "[::1]:389" or "host:5432"; 0: none. */
static unsigned authority_port(struct bytes authority)
{
    unsigned port = 0, factor = 1;
    size_t at = authority.count;

    while (at > 0 && authority.at[at - 1] >= '0' && authority.at[at - 1] <= '9' &&
           factor < 1000000) {
        port += factor * (unsigned)(authority.at[at - 1] - '0');
        factor *= 10;
        at--;
    }
    return at > 0 && authority.at[at - 1] == ':' && port <= UINT16_MAX ? port : 0;
}

/* Hosts of a URL, separated by blanks or commas, each with a port or the scheme's. */
static void plan_url(struct guard_plan *plan, struct bytes url, uint16_t usual, uint16_t secure)
{
    plan_port(plan, usual);
    plan_port(plan, secure);
    for (size_t i = 0, from = 0; i <= url.count; i++) {
        const bool ends = i == url.count || url.at[i] == '/' || url.at[i] == ',' ||
                          url.at[i] == ' ' || url.at[i] == '?';
        if (!ends)
            continue;
        plan_port(plan, (uint16_t)authority_port(bytes_of(url.at + from, i - from)));
        from = i + 1;
    }
}

/* ------------------------------------------------------------------ sections */

/* A file that a library opens by itself, as `name` in a URL has it (percent-coded). */
static void plan_named(struct guard_plan *plan, struct bytes url, const char *name)
{
    const struct bytes mark = bytes_of_text(name);
    const size_t at = bytes_find(url, mark);
    struct arena arena = ARENA_WITH_LIMIT(16 * KIB);
    struct bytes coded = bytes_skip(url, at + mark.count), path = BYTES_EMPTY;

    coded = bytes_slice(coded, 0, bytes_find_byte(coded, ','));
    coded = bytes_slice(coded, 0, bytes_find_byte(coded, '&'));
    if (at < url.count && percent_decode(&arena, coded, &path))
        plan_path(plan, path, GUARD_READ);
    arena_clear(&arena);
}

/* A database is read with what SQLite keeps beside it: its log, its shared memory. */
static void plan_source(struct guard_plan *plan, const char *source)
{
    const struct bytes text = bytes_of_text(source);
    struct bytes path = BYTES_EMPTY;

    if (bytes_starts_with(text, BYTES_LITERAL("sqlite:"))) {
        const struct bytes rest UNUSED = bytes_cut(bytes_skip(text, 7), '?', &path);
        plan_path(plan, folder_of(path), GUARD_WRITE);
    } else if (bytes_starts_with(text, BYTES_LITERAL("ldap"))) {
        plan_url(plan, text, 389, 636);
        plan_named(plan, text, "x-ca-file=");
    } else if (bytes_starts_with(text, BYTES_LITERAL("postgres"))) {
        plan_url(plan, text, 5432, 0);
        plan_named(plan, text, "passfile=");
        plan_named(plan, text, "sslrootcert=");
        plan_named(plan, text, "sslcert=");
        plan_named(plan, text, "sslkey=");
    }
}

/* The part of a mailbox's path that is the same for all users. */
static struct bytes mailbox_root(struct bytes target)
{
    const size_t placeholder = bytes_find_byte(target, '{');

    return placeholder < target.count ? folder_of((struct bytes){target.at, placeholder}) : target;
}

static void plan_deliver(struct guard_plan *plan, const struct config_deliver *deliver)
{
    if (deliver->kind == DELIVER_MAILDIR)
        plan_path(plan, mailbox_root(deliver->target), GUARD_WRITE);
    plan_endpoint(plan, &deliver->endpoint);
    plan_port(plan, deliver->port);
}

static void plan_hosts(struct guard_plan *plan, const struct config *config)
{
    static const uint16_t REROUTE_PORTS[] = {24, 25, 465, 587, 2525}; /* an operator's `reroute` */

    for (size_t i = 0; i < COUNT_OF(REROUTE_PORTS); i++)
        plan_port(plan, REROUTE_PORTS[i]);
    plan_port(plan, config->smtp_port);
    plan_port(plan, 53);
    if (config->sts_enabled)
        plan_port(plan, config->sts_port);
    plan_deliver(plan, &config->relay_via);
    for (unsigned i = 0; i < config->route_count; i++)
        plan_deliver(plan, &config->routes[i].via);
    for (unsigned i = 0; i < config->filter_count; i++)
        for (unsigned k = 0; k < config->filters[i].address_count; k++)
            plan_endpoint(plan, &config->filters[i].addresses[k]);
    for (unsigned i = 0; i < config->resolver.forward_count; i++)
        plan_endpoint(plan, &config->resolver.forward[i]);
    for (unsigned i = 0; i < config->domain_count; i++)
        plan_endpoint(plan, &config->domains[i].passwords);
}

struct guard_plan *guard_plan_of(const struct config *config)
{
    struct guard_plan *plan = calloc(1, sizeof *plan);
    char drop[CONFIG_DROP_ROOM];

    if (!plan)
        return NULL;
    plan_system(plan);
    plan_text(plan, config->spool, GUARD_WRITE);
    plan_text(plan, config->history, GUARD_WRITE);
    config_drop_path(config->spool, drop, sizeof drop);
    plan_text(plan, drop, GUARD_WRITE);
    plan_text(plan, config->resolver.trust_anchor, GUARD_READ);
    plan_text(plan, config->tls_authorities, GUARD_READ);
    for (unsigned i = 0; i < config->domain_count; i++) {
        plan_source(plan, config->domains[i].users);
        plan_source(plan, config->domains[i].aliases);
        plan_deliver(plan, &config->domains[i].deliver);
    }
    struct bytes own = bytes_trim(bytes_of_text(config->directory.own_delivery));
    struct config_deliver deliver;
    while (own.count > 0 && config_next_delivery(&own, &deliver))
        plan_deliver(plan, &deliver);
    plan_hosts(plan, config);
    return plan;
}

/* ------------------------------------------------------------------ one plan in another */

static bool path_is_below(const char *path, const char *folder)
{
    const size_t count = strlen(folder);

    return strncmp(path, folder, count) == 0 &&
           (path[count] == 0 || path[count] == '/' || (count > 0 && folder[count - 1] == '/'));
}

static bool covers_path(const struct guard_plan *had, const struct guard_path *wanted)
{
    for (unsigned i = 0; i < had->path_count; i++)
        if (path_is_below(wanted->path, had->paths[i].path) &&
            had->paths[i].access >= wanted->access)
            return true;
    return false;
}

static bool covers_port(const struct guard_plan *had, uint16_t port)
{
    for (unsigned i = 0; i < had->port_count; i++)
        if (had->ports[i] == port)
            return true;
    return had->any_port;
}

bool guard_plan_covers(const struct guard_plan *had, const struct guard_plan *wanted, char *what,
                       size_t what_room)
{
    if (had->full)
        return true; /* nothing is locked */
    for (unsigned i = 0; i < wanted->path_count; i++)
        if (!covers_path(had, &wanted->paths[i])) {
            snprintf(what, what_room, "%s", wanted->paths[i].path);
            return false;
        }
    for (unsigned i = 0; i < wanted->port_count; i++)
        if (!covers_port(had, wanted->ports[i])) {
            snprintf(what, what_room, "port %u", wanted->ports[i]);
            return false;
        }
    return !wanted->any_port || had->any_port;
}
