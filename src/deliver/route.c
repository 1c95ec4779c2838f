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
                                        [TLS_USE_VERIFY] = ",tls=verify",
                                        [TLS_USE_NEVER] = ",tls=never"};

static const char *text_or_empty(const char *text)
{
    return text ? text : "";
}

/* Routes that differ in how we show up never share a connection. */
static void route_add_sending(struct destination *destination, const struct config_sending *sending)
{
    char v4[ENDPOINT_TEXT_MAX] = "", v6[ENDPOINT_TEXT_MAX] = "";
    const size_t used = strlen(destination->key);

    destination->sending = sending;
    if (sending->source4.family != ENDPOINT_NONE)
        ip_print(&sending->source4, v4, sizeof v4);
    if (sending->source6.family != ENDPOINT_NONE)
        ip_print(&sending->source6, v6, sizeof v6);
    const char *const helo = text_or_empty(sending->helo), *const login =
                                                               text_or_empty(sending->login);
    snprintf(destination->key + used, sizeof destination->key - used, "%s%s%s%s%s%s%s%s",
             *helo ? ",helo=" : "", helo, *login ? ",login=" : "", login, *v4 ? ",from=" : "", v4,
             *v6 ? ",from=" : "", v6);
}

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
        snprintf(destination->key, sizeof(destination->key), "%s%s:%.*s%s", KIND_NAMES[via->kind],
                 via->implicit_tls ? "s" : "", BYTES_PRINT(via->target), TLS_NAMES[tls]);
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
    if (local) {
        route_by(destination, &local->deliver, TLS_USE_MAY);
        return;
    }
    const struct config_deliver *via = route ? &route->via : &config->relay_via;
    const enum tls_use tls = route ? route->tls : config->relay_tls;
    if (via->kind != DELIVER_NONE)
        route_by(destination, via, tls);
    else
        route_by_mx(destination, tls);
    route_add_sending(destination, route ? &route->sending : &config->relay_sending);
}

void deliver_route_by(struct destination *destination, const struct config_deliver *via)
{
    route_by(destination, via, destination->tls);
}
