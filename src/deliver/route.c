/*
 * Where a recipient goes, from the configuration alone: a local domain's `deliver`, a `route`, the
 * `relay` next hop, or the MX records of the domain.
 */
#include "deliver/inside.h"

#include <string.h>

static const char *const KIND_NAMES[] = {
    [DELIVER_NONE] = "none", [DELIVER_MAILDIR] = "maildir", [DELIVER_LMTP] = "lmtp",
    [DELIVER_SMTP] = "smtp", [DELIVER_PIPE] = "pipe",       [DELIVER_LIST] = "list"};
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
    static const char *const downgrades[] = {[DOWNGRADE_CONVERT] = "",
                                             [DOWNGRADE_REFUSE] = ",8bit=refuse",
                                             [DOWNGRADE_SEND] = ",8bit=send"};
    const size_t used = strlen(destination->key);

    destination->sending = sending;
    if (sending->source4.family != ENDPOINT_NONE)
        ip_print(&sending->source4, v4, sizeof v4);
    if (sending->source6.family != ENDPOINT_NONE)
        ip_print(&sending->source6, v6, sizeof v6);
    const char *const helo = text_or_empty(sending->helo), *const login =
                                                               text_or_empty(sending->login);
    snprintf(destination->key + used, sizeof destination->key - used, "%s%s%s%s%s%s%s%s%s",
             *helo ? ",helo=" : "", helo, *login ? ",login=" : "", login, *v4 ? ",from=" : "", v4,
             *v6 ? ",from=" : "", v6, downgrades[sending->downgrade]);
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
    if (via->kind == DELIVER_PIPE)
        snprintf(destination->key, sizeof(destination->key), "pipe:%.*s", BYTES_PRINT(via->target));
    else if (by_domain)
        snprintf(destination->key, sizeof(destination->key), "%s:%s", KIND_NAMES[via->kind],
                 destination->domain);
    else
        snprintf(destination->key, sizeof(destination->key), "%s%s:%.*s%s", KIND_NAMES[via->kind],
                 via->implicit_tls ? "s" : "", BYTES_PRINT(via->target), TLS_NAMES[tls]);
}

/* A pipe has a bound of its own, whatever domains lead there. */
static void route_bound(const struct config *config, struct destination *destination)
{
    const struct config_pipe *pipe = destination->kind == DELIVER_PIPE
                                         ? config_find_pipe(config, destination->via->target)
                                         : NULL;

    destination->most = pipe ? pipe->concurrency : 0;
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

/* ------------------------------------------------------------------ a user's own way */

static const struct config_deliver *own_find(struct deliver *deliver, unsigned count,
                                             const struct config_deliver *way)
{
    for (unsigned i = 0; i < count; i++) {
        const struct config_deliver *known = deliver->own_targets[i];
        if (known->kind == way->kind && bytes_equal(known->target, way->target))
            return known;
    }
    return NULL;
}

/* A copy that lives as long as the room; its views lie behind it. */
static struct config_deliver *own_copy(struct bytes text)
{
    struct config_deliver *copy = malloc(sizeof(*copy) + text.count);

    if (!copy)
        return NULL;
    memcpy(copy + 1, text.at, text.count);
    if (config_parse_deliver(bytes_of(copy + 1, text.count), copy))
        return copy;
    free(copy);
    return NULL;
}

/* Places outlive the message that made them, so a next hop of somebody's own is kept. NULL: no
 * memory, or too many of them. */
static const struct config_deliver *own_keep(struct deliver *deliver, struct bytes text,
                                             const struct config_deliver *way)
{
    const struct config_deliver *found =
        own_find(deliver, atomic_load(&deliver->own_target_count), way);

    if (found)
        return found;
    pthread_mutex_lock(&deliver->own_lock);
    const unsigned count = atomic_load(&deliver->own_target_count);
    found = own_find(deliver, count, way);
    struct config_deliver *copy = !found && count < DELIVER_OWN_TARGETS ? own_copy(text) : NULL;
    if (copy) {
        deliver->own_targets[count] = copy;
        atomic_store(&deliver->own_target_count, count + 1);
        found = copy;
    }
    pthread_mutex_unlock(&deliver->own_lock);
    return found;
}

/* Maildirs of their own share the domain's place: which one is looked up for each recipient. */
static void route_own(struct deliver *deliver, const struct config_domain *local, struct bytes text,
                      struct destination *destination)
{
    struct config_deliver way;

    if (!config_parse_deliver(text, &way) || way.kind == DELIVER_NONE ||
        (way.kind == DELIVER_PIPE && !config_names(local->alias_pipes, way.target))) {
        way = (struct config_deliver){0};
        destination->kind = DELIVER_NONE;
    } else if (way.kind == DELIVER_MAILDIR) {
        destination->kind = DELIVER_MAILDIR;
        destination->via = local->deliver.kind == DELIVER_MAILDIR ? &local->deliver : NULL;
        snprintf(destination->key, sizeof(destination->key), "maildir:%s", destination->domain);
        return;
    }
    const struct config_deliver *via = own_keep(deliver, text, &way);
    if (via && way.kind != DELIVER_NONE)
        route_by(destination, via, TLS_USE_MAY);
    else
        snprintf(destination->key, sizeof(destination->key), "none:%s", destination->domain);
}

void deliver_route(struct deliver *deliver, const struct recipient *recipient,
                   struct destination *destination)
{
    const struct config *config = deliver->config;
    const struct bytes domain = route_domain(config, recipient->address);
    const struct config_domain *local = config_find_domain(config, domain);
    const struct config_route *route = config_find_route(config, domain);

    memset(destination, 0, sizeof(*destination));
    snprintf(destination->domain, sizeof(destination->domain), "%.*s", BYTES_PRINT(domain));
    if (bytes_equal_text(recipient->deliver, RECIPIENT_IS_LIST) ||
        bytes_equal_text(recipient->deliver, RECIPIENT_IS_ALIAS)) {
        destination->kind = DELIVER_LIST;
        snprintf(destination->key, sizeof(destination->key), "list:%s", destination->domain);
        return;
    }
    if (local && recipient->deliver.count > 0) {
        route_own(deliver, local, recipient->deliver, destination);
        route_bound(config, destination);
        return;
    }
    if (local) {
        route_by(destination, &local->deliver, TLS_USE_MAY);
        route_bound(config, destination);
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
