/*
 * policy: opening and closing, the breakers' rows, and the check of a connection and of a sender.
 */
#include "policy/authenticate.h"
#include "policy/filter.h"
#include "policy/inside.h"

enum { FILTER_THRESHOLD = 5, RESOLVER_THRESHOLD = 1 };
/* libunbound remembers for five seconds that a name failed, also when it was not the name's fault.
 */
static const uint64_t FAULT_ECHOES_US = 6 * US_PER_S;

/* ------------------------------------------------------------------ probes */

static bool probe_filter(struct breaker *breaker, struct arena *arena, struct bytes *words)
{
    const struct filter_instance *instance = breaker->argument;

    switch (instance->filter->speaks) {
    case FILTER_CLAMD:
        return clamd_instance_ping(instance, arena, words);
    case FILTER_SPAMD:
        return spamd_instance_ping(instance, arena, words);
    case FILTER_MILTER:
        return milter_instance_ping(instance, arena, words);
    }
    return false;
}

static enum resolver_state resolver_ask_canary(struct policy *policy, struct arena *arena,
                                               struct bytes *words)
{
    const struct policy_settings *settings = &policy->settings;
    const enum resolver_state state =
        resolve_canary(settings->resolver, arena, settings->config->hostname, words);

    if (state != RESOLVER_ANSWERS)
        policy->resolver_failed_us = clock_now_us();
    return state;
}

static bool probe_resolver(struct breaker *breaker, struct arena *arena, struct bytes *words)
{
    return resolver_ask_canary(breaker->policy, arena, words) == RESOLVER_ANSWERS;
}

/* ------------------------------------------------------------------ open and close */

static void instance_open(struct policy *policy, const struct config_filter *filter, unsigned index)
{
    struct filter_instance *instance = &policy->instances[policy->instance_count++];
    struct breaker *breaker = &instance->breaker;
    char at[ENDPOINT_TEXT_MAX];

    *instance = (struct filter_instance){.filter = filter, .at = &filter->addresses[index]};
    if (filter->address_count > 1)
        snprintf(breaker->name, sizeof breaker->name, "%.40s@%.40s", filter->name,
                 endpoint_print(instance->at, at, sizeof at));
    else
        snprintf(breaker->name, sizeof breaker->name, "%.60s", filter->name);
    pthread_mutex_init(&instance->idle_lock, NULL);
    breaker->probe = probe_filter;
    breaker->argument = instance;
    breaker_init(breaker, policy, FILTER_THRESHOLD);
}

static unsigned count_instances(const struct config *config)
{
    unsigned count = 0;

    for (unsigned i = 0; i < config->filter_count; i++)
        count += config->filters[i].address_count;
    return count;
}

struct policy *policy_open(const struct policy_settings *settings, char *why, size_t why_room)
{
    const struct config *config = settings->config;
    struct policy *policy = calloc(1, sizeof *policy);

    if (policy) {
        policy->instances = calloc(count_instances(config) + 1u, sizeof *policy->instances);
        policy->memory = memory_open();
        policy->poison = poison_open(settings->directory_of_poison);
    }
    if (!policy || !policy->instances || !policy->memory || !policy->poison) {
        if (policy) {
            free(policy->instances);
            memory_close(policy->memory);
            poison_close(policy->poison);
        }
        free(policy);
        snprintf(why, why_room, "policy: out of memory");
        return NULL;
    }
    policy->settings = *settings;
    pthread_mutex_init(&policy->lock, NULL);
    for (unsigned i = 0; i < config->filter_count; i++)
        for (unsigned j = 0; j < config->filters[i].address_count; j++)
            instance_open(policy, &config->filters[i], j);
    snprintf(policy->resolver.name, sizeof policy->resolver.name, "resolver");
    policy->resolver.probe = probe_resolver;
    breaker_init(&policy->resolver, policy, RESOLVER_THRESHOLD);
    if (authenticate_open(policy, why, why_room))
        return policy;
    policy_close(policy);
    return NULL;
}

void policy_close(struct policy *policy)
{
    if (!policy)
        return;
    breakers_stop(policy);
    if (policy->background > 0) {
        observe_note(LOG_WARNING, "policy", "a probe did not end in time, memory kept");
        return;
    }
    for (unsigned i = 0; i < policy->instance_count; i++) {
        milter_instance_close(&policy->instances[i]);
        breaker_free(&policy->instances[i].breaker);
        pthread_mutex_destroy(&policy->instances[i].idle_lock);
    }
    breaker_free(&policy->resolver);
    authenticate_close(policy);
    memory_close(policy->memory);
    poison_close(policy->poison);
    pthread_mutex_destroy(&policy->lock);
    free(policy->instances);
    free(policy);
}

static void breaker_fill_row(struct breaker *breaker, struct breaker_row *row)
{
    pthread_mutex_lock(&breaker->lock);
    *row = (struct breaker_row){.dependency = breaker->name,
                                .open = breaker->open,
                                .failures = breaker->failures,
                                .last_failure_wall_us = breaker->last_failure_wall_us,
                                .last_probe_wall_us = breaker->last_probe_wall_us};
    snprintf(row->words, sizeof row->words, "%s", breaker->words);
    pthread_mutex_unlock(&breaker->lock);
}

/* The directory's own breakers, behind ours. */
static unsigned directory_rows(struct policy *policy, struct breaker_row *rows, unsigned room)
{
    struct directory_breaker theirs[16];
    const unsigned count = policy->settings.directory
                               ? directory_breakers(policy->settings.directory, theirs,
                                                    MIN_OF(room, (unsigned)COUNT_OF(theirs)))
                               : 0;

    for (unsigned i = 0; i < count; i++) {
        rows[i] = (struct breaker_row){.dependency = theirs[i].dependency,
                                       .open = theirs[i].open,
                                       .failures = theirs[i].failures,
                                       .last_failure_wall_us = theirs[i].last_failure_wall_us,
                                       .last_probe_wall_us = theirs[i].last_probe_wall_us};
        snprintf(rows[i].words, sizeof rows[i].words, "%.150s", theirs[i].words);
    }
    return count;
}

unsigned policy_breakers(struct policy *policy, struct breaker_row *rows, unsigned room)
{
    unsigned count = 0;

    for (unsigned i = 0; i < policy->instance_count && count < room; i++)
        breaker_fill_row(&policy->instances[i].breaker, &rows[count++]);
    if (count < room)
        breaker_fill_row(&policy->resolver, &rows[count++]);
    return count + directory_rows(policy, &rows[count], room - count);
}

/* ------------------------------------------------------------------ DNS and its breaker */

bool resolver_is_down(struct policy *policy, struct arena *arena, struct lookup *lookup)
{
    enum cause cause = CAUSE_UNDECIDED;
    struct bytes words = BYTES_EMPTY;

    if (breaker_allows(&policy->resolver, arena, &cause, &words))
        return false;
    *lookup = lookup_failed(LOOKUP_REASON_UNAVAILABLE, words);
    return true;
}

/* Asks the canary, unless it is known already. Sleeps. */
static enum resolver_state resolver_judge(struct policy *policy, struct arena *arena,
                                          struct bytes *words)
{
    enum cause cause = CAUSE_UNDECIDED;

    if (!breaker_allows(&policy->resolver, arena, &cause, words))
        return RESOLVER_MUTE;
    const enum resolver_state state = resolver_ask_canary(policy, arena, words);

    if (state == RESOLVER_MUTE && !fiber_cancelled())
        breaker_failed(&policy->resolver, CAUSE_DNS_RESOLVER_DOWN, *words);
    return state;
}

struct verdict dns_fault(struct policy *policy, struct arena *arena, enum cause theirs,
                         struct bytes detail)
{
    const uint64_t failed_us = policy->resolver_failed_us;
    struct bytes words = BYTES_EMPTY;
    const enum resolver_state state = resolver_judge(policy, arena, &words);

    if (fiber_cancelled())
        return verdict_of(CAUSE_SERVER_STOPPING);
    switch (state) {
    case RESOLVER_MUTE:
        return verdict_with(CAUSE_DNS_RESOLVER_FAILED, words);
    case RESOLVER_STARVED:
        return verdict_with(CAUSE_SERVER_BUSY, words);
    case RESOLVER_ANSWERS:
        break;
    }
    if (failed_us != 0 && clock_now_us() - failed_us < FAULT_ECHOES_US)
        return verdict_with(CAUSE_DNS_RESOLVER_FAILED,
                            arena_print(arena,
                                        "%.*s; our resolver answers again, but did not a "
                                        "moment ago",
                                        BYTES_PRINT(detail)));
    return verdict_with(theirs, detail);
}

/* ------------------------------------------------------------------ the connection */

bool client_is_trusted(const struct config *config, const struct endpoint *remote)
{
    if (remote->family == ENDPOINT_UNIX)
        return true;
    for (unsigned i = 0; i < config->relay_from_count; i++)
        if (ip_network_contains(&config->relay_from[i], &remote->ip))
            return true;
    return false;
}

static struct lookup client_reverse(struct policy *policy, struct client_facts *client)
{
    struct lookup lookup;

    if (resolver_is_down(policy, client->arena, &lookup))
        return lookup;
    return resolve_reverse(policy->settings.resolver, client->arena, &client->remote.ip,
                           &client->reverse_name);
}

/* Who has just come is told so with the code that sends him elsewhere. */
static struct verdict reverse_fault(struct policy *policy, const struct client_facts *client)
{
    const struct verdict fault =
        dns_fault(policy, client->arena, CAUSE_DNS_REVERSE_TEMPERROR, client->reverse.detail);

    return fault.cause == CAUSE_DNS_RESOLVER_FAILED
               ? verdict_with(CAUSE_DNS_RESOLVER_DOWN, fault.detail)
               : fault;
}

static struct verdict reverse_verdict(struct policy *policy, const struct client_facts *client)
{
    switch (client->reverse.status) {
    case LOOKUP_FOUND:
        return verdict_accept();
    case LOOKUP_ABSENT:
        return verdict_with(CAUSE_REVERSE_ABSENT, client->reverse.detail);
    case LOOKUP_FAILED:
        break;
    }
    return reverse_fault(policy, client);
}

/* Own networks and submission clients are not asked for a reverse name. */
struct verdict policy_connect(struct policy *policy, struct client_facts *client)
{
    const struct config *config = policy->settings.config;

    client->may_relay = client->may_relay || client_is_trusted(config, &client->remote);
    if (client->may_relay || client->kind != LISTEN_SMTP)
        return verdict_accept();
    REQUIRE(policy_check_lists(policy, client));
    if (config->checks.reverse_dns == CHECK_OFF)
        return verdict_accept();
    client->reverse = client_reverse(policy, client);
    const struct verdict verdict = reverse_verdict(policy, client);
    return config->checks.reverse_dns == CHECK_ENFORCE ? verdict : verdict_accept();
}

/* ------------------------------------------------------------------ the sender */

/* One question of this check; an old answer stands in for a failed one (RFC 8767). Sleeps. */
static struct lookup sender_ask(struct policy *policy, struct arena *arena,
                                const struct resolve_question *question, struct dns_answer *answer)
{
    struct resolver *resolver = policy->settings.resolver;
    struct dns_answer recalled;
    struct lookup lookup;

    if (!resolver_is_down(policy, arena, &lookup))
        lookup = resolve_ask_by(resolver, arena, question, answer);
    if (lookup.status != LOOKUP_FAILED || lookup.reason == LOOKUP_REASON_BOGUS)
        return lookup;
    const struct lookup known =
        resolve_recall(resolver, arena, question->name, question->type, &recalled);

    if (known.status != LOOKUP_FOUND)
        return lookup;
    *answer = recalled;
    return known;
}

/* Addresses stand in for a missing MX (RFC 5321 5.1). */
static struct lookup sender_addresses(struct policy *policy, struct arena *arena,
                                      struct resolve_question question)
{
    struct dns_answer answer;

    question.type = DNS_A;
    const struct lookup v4 = sender_ask(policy, arena, &question, &answer);

    if (v4.status == LOOKUP_FOUND)
        return v4;
    question.type = DNS_AAAA;
    const struct lookup v6 = sender_ask(policy, arena, &question, &answer);

    if (v6.status == LOOKUP_ABSENT && v4.status == LOOKUP_FAILED)
        return v4;
    return v6;
}

/* Can the domain take a reply? FOUND, ABSENT, or FAILED. Sleeps. */
static struct lookup sender_lookup(struct policy *policy, struct arena *arena, struct bytes domain,
                                   bool *null_mx)
{
    const struct resolve_question question = {domain, DNS_MX,
                                              resolver_patience_end(policy->settings.resolver)};
    struct dns_answer mx = {0};
    const struct lookup lookup = sender_ask(policy, arena, &question, &mx);

    *null_mx = lookup.status == LOOKUP_FOUND && mx.count == 1 && mx.records[0].name.count == 0;
    if (*null_mx && mx.stale) /* what is old never keeps mail out */
        return lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_LITERAL("what is known is too old"));
    if (lookup.status == LOOKUP_ABSENT && !mx.nxdomain)
        return sender_addresses(policy, arena, question);
    return lookup;
}

static struct verdict sender_verdict(struct policy *policy, struct arena *arena,
                                     const struct lookup *lookup, bool null_mx)
{
    switch (lookup->status) {
    case LOOKUP_FOUND:
        return null_mx ? verdict_of(CAUSE_SENDER_NULL_MX) : verdict_accept();
    case LOOKUP_ABSENT:
        return verdict_with(CAUSE_SENDER_UNRESOLVABLE, lookup->detail);
    case LOOKUP_FAILED:
        break;
    }
    return dns_fault(policy, arena, CAUSE_DNS_SENDER_TEMPERROR, lookup->detail);
}

static bool sender_needs_lookup(struct policy *policy, struct address from)
{
    return policy->settings.config->checks.sender_domain != CHECK_OFF && !address_is_null(from) &&
           from.domain.count > 0 && from.domain.at[0] != '[' &&
           !config_find_domain(policy->settings.config, from.domain);
}

MUST_USE static struct verdict sender_judge(struct policy *policy, struct transaction *transaction,
                                            struct address from)
{
    bool null_mx = false;

    if (!sender_needs_lookup(policy, from))
        return verdict_accept();
    const struct lookup lookup = sender_lookup(policy, transaction->arena, from.domain, &null_mx);
    const struct verdict verdict = sender_verdict(policy, transaction->arena, &lookup, null_mx);

    if (policy->settings.config->checks.sender_domain == CHECK_ENFORCE)
        return verdict;
    if (!verdict_accepts(&verdict))
        observe_note(LOG_INFO, "policy", "sender %.*s would have been answered %s",
                     BYTES_PRINT(from.domain), cause_name(verdict.cause));
    return verdict_accept();
}

struct verdict policy_sender(struct policy *policy, struct transaction *transaction,
                             struct address from)
{
    REQUIRE(policy_check_filters(policy, transaction));
    REQUIRE(sender_judge(policy, transaction, from));
    REQUIRE(authenticate_sender(policy, transaction, from));
    return milters_sender(policy, transaction);
}
