/*
 * Where a recipient goes, from the configuration alone: a local domain's `deliver`, a `route`, the
 * `relay` next hop, or the MX records of the domain.
 */
#include "deliver/inside.h"

#include <string.h>

static const char *const KIND_NAMES[] = {[DELIVER_NONE] = "none",
                                         [DELIVER_MAILDIR] = "maildir",
                                         [DELIVER_LMTP] = "lmtp",
                                         [DELIVER_SMTP] = "smtp",
                                         [DELIVER_PIPE] = "pipe"};
static const char *const TLS_NAMES[] = {[TLS_USE_MAY] = "",
                                        [TLS_USE_MUST] = ",tls=must",
                                        [TLS_USE_DANE] = ",tls=dane",
                                        [TLS_USE_NEVER] = ",tls=never"};

/* Mailboxes are counted by domain; next hops by where they are, whatever domain leads there. Two
 * routes that differ in TLS never share a connection. */
static void route_by(struct destination *destination, const struct config_deliver *via,
                     enum tls_use tls)
{
    const bool by_domain = via->kind == DELIVER_NONE || via->kind == DELIVER_MAILDIR;

    destination->kind = via->kind;
    destination->via = via;
    destination->tls = tls;
    if (by_domain)
        snprintf(destination->key, sizeof(destination->key), "%s:%s", KIND_NAMES[via->kind],
                 destination->domain);
    else
        snprintf(destination->key, sizeof(destination->key), "%s:%.*s%s", KIND_NAMES[via->kind],
                 BYTES_PRINT(via->target), TLS_NAMES[tls]);
}

static void route_by_mx(struct destination *destination, enum tls_use tls)
{
    destination->kind = DELIVER_SMTP;
    destination->via = NULL;
    destination->tls = tls;
    snprintf(destination->key, sizeof(destination->key), "mx:%s", destination->domain);
}

/* <postmaster> without a domain is the first domain's. */
static struct bytes route_domain(const struct config *config, struct address recipient)
{
    if (recipient.domain.count == 0 && config->domain_count > 0)
        return bytes_of_text(config->domains[0].name);
    return recipient.domain;
}

void deliver_route(const struct deliver *deliver, struct address recipient,
                   struct destination *destination)
{
    const struct config *config = deliver->config;
    const struct bytes domain = route_domain(config, recipient);
    const struct config_domain *local = config_find_domain(config, domain);
    const struct config_route *route = config_find_route(config, domain);

    memset(destination, 0, sizeof(*destination));
    snprintf(destination->domain, sizeof(destination->domain), "%.*s", BYTES_PRINT(domain));
    if (local)
        route_by(destination, &local->deliver, TLS_USE_MAY);
    else if (route && route->via.kind != DELIVER_NONE)
        route_by(destination, &route->via, route->tls);
    else if (route)
        route_by_mx(destination, route->tls);
    else if (config->relay_via.kind != DELIVER_NONE)
        route_by(destination, &config->relay_via, config->relay_tls);
    else
        route_by_mx(destination, TLS_USE_MAY);
}

void deliver_route_by(struct destination *destination, const struct config_deliver *via)
{
    route_by(destination, via, destination->tls);
}
