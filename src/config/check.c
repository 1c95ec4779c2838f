/*
 * The checks across settings. Every complaint stands at the place of the later or wrong setting.
 */
#include "config/check.h"

#include <string.h>

int name_compare(struct bytes a, struct bytes b)
{
    const size_t common = MIN_OF(a.count, b.count);

    for (size_t i = 0; i < common; i++) {
        const int order = ascii_lower(a.at[i]) - ascii_lower(b.at[i]);
        if (order != 0)
            return order;
    }
    return (a.count > b.count) - (a.count < b.count);
}

static struct place head_of(const struct scan *scan, enum section section, unsigned instance)
{
    const struct statement *head = scan_find(scan, section, instance, NULL);

    return head ? head->at : (struct place){.file = "configuration", .line = 1};
}

/* Where the setting was given, wherever its (untitled) section was split. */
static struct place setting_of(const struct scan *scan, enum section section, const char *name)
{
    const struct option_row *row = option_find(section, bytes_of_text(name));

    for (unsigned i = 0; i < MAX_OF(scan->instances[section], 1U); i++) {
        const struct statement *statement = scan_find(scan, section, i, row);
        if (statement)
            return statement->at;
    }
    return head_of(scan, section, 0);
}

struct config_complaint {
    struct config_errors *errors;
    struct place at;
    const char *who;
};

static bool is_plain_name(const char *text)
{
    const struct bytes name = bytes_of_text(text);

    for (size_t i = 0; i < name.count; i++)
        if (!ascii_is_alnum(name.at[i]) && name.at[i] != '_' && name.at[i] != '-' &&
            name.at[i] != '.')
            return false;
    return name.count > 0 && name.count <= 63;
}

/* The title of each as the first member; host names are lower-cased in place. */
static void check_names(struct scan *scan, enum section section, void *array, unsigned count)
{
    const bool host = section == SECTION_DOMAIN || section == SECTION_ROUTE ||
                      section == SECTION_DNSBL || section == SECTION_DESTINATION;

    for (unsigned i = 0; i < count; i++) {
        char *name = NULL;
        memcpy(&name, (uint8_t *)array + i * SECTIONS[section].size, sizeof name);
        if (host ? !hostname_is_valid(bytes_of_text(name)) : !is_plain_name(name))
            errors_add(scan->errors, head_of(scan, section, i), "%s \"%.80s\" is not a %s",
                       SECTIONS[section].name, name,
                       host ? "domain name" : "name of letters, digits, -, _ and .");
        for (char *at = name; host && *at; at++)
            *at = (char)ascii_lower((uint8_t)*at);
    }
}

static bool endpoints_equal(const struct endpoint *a, const struct endpoint *b)
{
    if (a->family != b->family)
        return false;
    if (a->family == ENDPOINT_UNIX)
        return strcmp(a->path, b->path) == 0;
    /* Port 0 takes a free one, each time another. */
    return a->family != ENDPOINT_NONE && a->port == b->port && a->port != 0 &&
           ip_equal(&a->ip, &b->ip);
}

static void check_listens(const struct config *config, struct scan *scan)
{
    char text[ENDPOINT_TEXT_MAX];
    const struct option_row *address = option_find(SECTION_LISTEN, BYTES_LITERAL("address"));

    for (unsigned i = 0; i < config->listen_count; i++) {
        const struct config_listen *listen = &config->listens[i];
        const struct statement *said = scan_find(scan, SECTION_LISTEN, i, address);
        for (unsigned k = 0; said && k < i; k++)
            if (endpoints_equal(&listen->address, &config->listens[k].address))
                errors_add(scan->errors, said->at, "listen \"%s\": %s is taken by listen \"%s\"",
                           listen->name, endpoint_print(&listen->address, text, sizeof text),
                           config->listens[k].name);
        if (said && endpoints_equal(&listen->address, &config->web))
            errors_add(scan->errors, said->at, "listen \"%s\": %s is taken by web", listen->name,
                       endpoint_print(&listen->address, text, sizeof text));
        if (listen->tls == TLS_MODE_IMPLICIT && !*config->tls_certificate)
            errors_add(scan->errors, head_of(scan, SECTION_LISTEN, i),
                       "listen \"%s\": tls = implicit needs a certificate in section tls",
                       listen->name);
    }
}

static void check_tls(const struct config *config, struct scan *scan)
{
    if (!*config->tls_certificate != !*config->tls_key)
        errors_add(scan->errors,
                   setting_of(scan, SECTION_TLS, *config->tls_key ? "key" : "certificate"),
                   "tls: certificate and key belong together");
}

/* Ages rise, and what comes last repeats without end. */
static void check_retry(const struct config *config, struct scan *scan)
{
    const struct config_retry *retry = &config->retry;
    const struct place place = setting_of(scan, SECTION_RETRY, "schedule");
    uint64_t until_us = 0;

    if (retry->step_count == 0)
        errors_add(scan->errors, place, "retry: schedule is empty");
    for (unsigned i = 0; i < retry->step_count; i++) {
        const struct config_retry_step *step = &retry->steps[i];
        if (step->until_us == 0)
            continue;
        if (step->until_us <= until_us || step->until_us < step->every_us)
            errors_add(scan->errors, place,
                       "retry: schedule: the ages behind \"until\" must rise and exceed the wait");
        until_us = step->until_us;
    }
    if (retry->step_count > 0 && retry->steps[retry->step_count - 1].until_us != 0)
        errors_add(scan->errors, place,
                   "retry: schedule: the last wait repeats, so it has no \"until\"");
}

static void check_filters(const struct config *config, struct scan *scan)
{
    const struct option_row *address = option_find(SECTION_FILTER, BYTES_LITERAL("address"));

    for (unsigned i = 0; i < config->filter_count; i++)
        if (config->filters[i].address_count == 0 && scan_find(scan, SECTION_FILTER, i, address))
            errors_add(scan->errors, head_of(scan, SECTION_FILTER, i),
                       "filter \"%s\": address names no instance", config->filters[i].name);
}

/* The bit of that filter; 0: there is none of that name. */
static uint64_t filter_bit(const struct config *config, const char *name)
{
    for (unsigned i = 0; i < MIN_OF(config->filter_count, (unsigned)CONFIG_FILTERS_MAX); i++)
        if (strcmp(config->filters[i].name, name) == 0)
            return UINT64_C(1) << i;
    return 0;
}

/* Which filters judge the mail of each domain. */
static void check_domain_filters(struct config *config, struct scan *scan)
{
    const struct option_row *row = option_find(SECTION_DOMAIN, BYTES_LITERAL("filters"));

    for (unsigned i = 0; i < config->filter_count; i++)
        if (strcmp(config->filters[i].name, "all") == 0 || i >= CONFIG_FILTERS_MAX)
            errors_add(scan->errors, head_of(scan, SECTION_FILTER, i), "filter \"%s\": %s",
                       config->filters[i].name,
                       i >= CONFIG_FILTERS_MAX ? "no more than 64 are possible"
                                               : "\"all\" means each of them and is no name");
    for (unsigned i = 0; i < config->domain_count; i++) {
        struct config_domain *domain = &config->domains[i];
        uint64_t judging = 0;
        const struct statement *said = scan_find(scan, SECTION_DOMAIN, i, row);
        for (unsigned k = 0; k < domain->filter_count; k++) {
            const bool all = strcmp(domain->filters[k], "all") == 0;
            const uint64_t bit = all ? UINT64_MAX : filter_bit(config, domain->filters[k]);
            if (bit == 0 && said)
                errors_add(scan->errors, said->at,
                           "domain \"%s\": filters: \"%.80s\" is none of the filters here",
                           domain->name, domain->filters[k]);
            judging |= bit;
        }
        domain->spared_filters = ~judging;
        for (unsigned k = 0; k < MIN_OF(config->filter_count, (unsigned)CONFIG_FILTERS_MAX); k++)
            if (domain->spared_filters >> k & 1)
                config->filters[k].partial = true;
    }
}

/* A milter hears the dialogue with a client, which is over by then. */
static void check_scan_later(const struct config *config, struct scan *scan)
{
    for (unsigned i = 0; i < config->filter_count; i++)
        if (config->filters[i].on_fault == ON_FAULT_SCAN_LATER &&
            config->filters[i].speaks == FILTER_MILTER)
            errors_add(scan->errors, head_of(scan, SECTION_FILTER, i),
                       "filter \"%s\": on_fault = scan_later is for clamd and spamd",
                       config->filters[i].name);
}

static void check_routes(const struct config *config, struct scan *scan)
{
    for (unsigned i = 0; i < config->route_count; i++)
        if (config_find_domain(config, bytes_of_text(config->routes[i].domain)))
            errors_add(scan->errors, head_of(scan, SECTION_ROUTE, i),
                       "route \"%s\" would never be used: that domain's mail ends here",
                       config->routes[i].domain);
}

/* A seal says what became of the chain that was there, so that has to be looked at. */
static void check_signs(const struct config *config, struct scan *scan)
{
    for (unsigned i = 0; i < config->sign_count; i++)
        if (config->signs[i].seal && config->checks.arc == CHECK_OFF)
            errors_add(scan->errors, head_of(scan, SECTION_SIGN, i),
                       "sign \"%s\": seal needs arc = record or enforce in section checks",
                       config->signs[i].name);
}

/* What would defer all mail for want of another setting is a mistake, not a policy. */
static void check_sending(const struct config *config, const struct config_deliver *via,
                          enum tls_use tls, const struct config_sending *sending,
                          struct config_complaint complaint)
{
    if (tls == TLS_USE_DANE && !*config->resolver.trust_anchor)
        errors_add(complaint.errors, complaint.at,
                   "%s: tls = dane needs resolver { trust_anchor = ... }", complaint.who);
    if (via->implicit_tls && tls == TLS_USE_NEVER)
        errors_add(complaint.errors, complaint.at,
                   "%s: tls = never contradicts smtps:", complaint.who);
    if (*sending->login && (via->kind != DELIVER_SMTP || tls == TLS_USE_NEVER))
        errors_add(complaint.errors, complaint.at, "%s: login needs via = smtp: or smtps:, and TLS",
                   complaint.who);
}

static void check_all_sending(const struct config *config, struct scan *scan)
{
    char who[300];

    check_sending(
        config, &config->relay_via, config->relay_tls, &config->relay_sending,
        (struct config_complaint){scan->errors, head_of(scan, SECTION_RELAY, 0), "relay"});
    for (unsigned i = 0; i < config->route_count; i++) {
        const struct config_route *route = &config->routes[i];
        snprintf(who, sizeof who, "route \"%.250s\"", route->domain);
        check_sending(
            config, &route->via, route->tls, &route->sending,
            (struct config_complaint){scan->errors, head_of(scan, SECTION_ROUTE, i), who});
    }
}

static int compare_first(const void *a, const void *b)
{
    const char *first = NULL, *second = NULL;

    memcpy(&first, a, sizeof first);
    memcpy(&second, b, sizeof second);
    return name_compare(bytes_of_text(first), bytes_of_text(second));
}

static void check_auth(const struct config *config, struct scan *scan)
{
    const char *domain = config->auth.domain;

    if (*domain && !config_find_domain(config, bytes_of_text(domain)))
        errors_add(scan->errors, setting_of(scan, SECTION_AUTH, "domain"),
                   "auth: domain \"%.80s\" is none of the domains here", domain);
}

static void check_incidents(const struct config *config, struct scan *scan)
{
    const struct config_incidents *times = &config->incidents;

    if (times->notice_us >= times->sustained_us || times->sustained_us >= times->escalate_us)
        errors_add(scan->errors, setting_of(scan, SECTION_INCIDENTS, "sustained"),
                   "incidents: notice, sustained and escalate have to rise");
    if (*config->operator_command && config->operator_command[0] != '/')
        errors_add(scan->errors, setting_of(scan, SECTION_OPERATOR, "command"),
                   "operator: command \"%.80s\" has to begin with the whole path of a program",
                   config->operator_command);
}

static void check_verps(const struct config *config, struct scan *scan)
{
    for (unsigned i = 0; i < config->verp_count; i++)
        if (!strchr(config->verps[i].sender, '@'))
            errors_add(scan->errors, head_of(scan, SECTION_VERP, i),
                       "verp \"%.80s\": the title has to be an address", config->verps[i].sender);
}

static void check_forward(const struct config *config, struct scan *scan)
{
    const struct config_forward *forward = &config->forward;

    if (*forward->srs_domain && !config_find_domain(config, bytes_of_text(forward->srs_domain)))
        errors_add(scan->errors, setting_of(scan, SECTION_FORWARD, "srs_domain"),
                   "forward: srs_domain \"%.80s\" is none of the domains here",
                   forward->srs_domain);
    if (*forward->srs_domain && !*forward->srs_secrets)
        errors_add(scan->errors, setting_of(scan, SECTION_FORWARD, "srs_domain"),
                   "forward: srs_domain needs srs_secrets");
}

static void check_own_delivery(const struct config *config, struct scan *scan)
{
    struct bytes rest = bytes_trim(bytes_of_text(config->directory.own_delivery));
    struct config_deliver deliver;

    while (rest.count > 0)
        if (!config_next_delivery(&rest, &deliver)) {
            errors_add(
                scan->errors, setting_of(scan, SECTION_DIRECTORY, "own_delivery"),
                "directory: own_delivery has something that is not maildir:/FOLDER, lmtp:... "
                "or smtp:...");
            return;
        }
}

/* Every brace has to be one of our words: a misspelt one would reach the program as it stands. */
static const char *argument_mistake(const char *argument)
{
    size_t length = 0;

    for (const char *at = argument; *at; at += length ? length : 1) {
        const bool known = config_pipe_value(at, &length) != PIPE_VALUES;
        if (!known && (*at == '{' || *at == '}'))
            return at;
    }
    return NULL;
}

static void check_pipe(const struct config_pipe *pipe, struct config_complaint complaint)
{
    if (pipe->command_count == 0 || pipe->command[0][0] != '/' || strchr(pipe->command[0], '{'))
        errors_add(complaint.errors, complaint.at,
                   "pipe \"%.80s\": command has to begin with the whole path of a program",
                   pipe->name);
    for (unsigned i = 0; i < pipe->command_count; i++) {
        const char *mistake = argument_mistake(pipe->command[i]);
        if (mistake)
            errors_add(complaint.errors, complaint.at,
                       "pipe \"%.80s\": command: \"%.80s\": nothing is filled in for \"%.20s\"",
                       pipe->name, pipe->command[i], mistake);
    }
    for (unsigned i = 0; i < pipe->write_count; i++)
        if (pipe->writes[i][0] != '/')
            errors_add(complaint.errors, complaint.at,
                       "pipe \"%.80s\": writes: \"%.80s\" has to be a whole path", pipe->name,
                       pipe->writes[i]);
    if (strcmp(pipe->user, "root") == 0 || strcmp(pipe->user, "0") == 0)
        errors_add(complaint.errors, complaint.at, "pipe \"%.80s\": user: no command runs as root",
                   pipe->name);
    if (pipe->directory[0] != '/')
        errors_add(complaint.errors, complaint.at,
                   "pipe \"%.80s\": directory has to be a whole path", pipe->name);
}

static void check_pipes(const struct config *config, struct scan *scan)
{
    for (unsigned i = 0; i < config->pipe_count; i++)
        check_pipe(&config->pipes[i],
                   (struct config_complaint){scan->errors, head_of(scan, SECTION_PIPE, i), ""});
    for (unsigned i = 0; i < config->domain_count; i++) { /* they stand as in the file */
        const struct config_domain *domain = &config->domains[i];
        struct bytes rest = bytes_of_text(domain->alias_pipes), name;
        if (domain->deliver.kind == DELIVER_PIPE &&
            !config_find_pipe(config, domain->deliver.target))
            errors_add(scan->errors, head_of(scan, SECTION_DOMAIN, i),
                       "domain \"%s\": deliver: there is no section pipe \"%.*s\"", domain->name,
                       QUOTED_PRINT(domain->deliver.target));
        while (rest.count > 0) {
            rest = bytes_cut(rest, ' ', &name);
            if (name.count > 0 && !config_find_pipe(config, name))
                errors_add(scan->errors, head_of(scan, SECTION_DOMAIN, i),
                           "domain \"%s\": alias_pipes: there is no section pipe \"%.*s\"",
                           domain->name, QUOTED_PRINT(name));
        }
    }
}

void config_check(struct config *config, struct scan *scan)
{
    if (config->history && !*config->history)
        config->history = config->spool;
    check_names(scan, SECTION_LISTEN, config->listens, config->listen_count);
    check_names(scan, SECTION_DOMAIN, config->domains, config->domain_count);
    check_names(scan, SECTION_ROUTE, config->routes, config->route_count);
    check_names(scan, SECTION_FILTER, config->filters, config->filter_count);
    check_names(scan, SECTION_DESTINATION, config->destinations, config->destination_count);
    check_verps(config, scan);
    check_names(scan, SECTION_PIPE, config->pipes, config->pipe_count);
    check_pipes(config, scan);
    check_names(scan, SECTION_DNSBL, config->dnsbls, config->dnsbl_count);
    check_own_delivery(config, scan);
    check_names(scan, SECTION_SIGN, config->signs, config->sign_count);
    check_listens(config, scan);
    check_tls(config, scan);
    check_retry(config, scan);
    check_filters(config, scan);
    check_domain_filters(config, scan); /* while the domains stand as in the file */
    check_scan_later(config, scan);
    check_incidents(config, scan);
    if (config->domain_count > 1)
        qsort(config->domains, config->domain_count, sizeof *config->domains, compare_first);
    check_auth(config, scan); /* looks a domain up, so they have to be in order */
    check_all_sending(config, scan);
    check_forward(config, scan);
    check_routes(config, scan);
    check_signs(config, scan); /* while they stand as in the file */
    if (config->route_count > 1)
        qsort(config->routes, config->route_count, sizeof *config->routes, compare_first);
}
