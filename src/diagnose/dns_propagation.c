/*
 * `dns propagation`: finds the authoritative servers of a name, by the zone and by its parent, and
 * asks each of them by each address over UDP and TCP, with and without EDNS; resolvers as well. All
 * side by side; what it means is judged elsewhere.
 */
#include <string.h>

#include "diagnose/dns_propagation.h"

#define ONE_QUESTION_US (3 * US_PER_S)
enum { DNS_PORT = 53 };

static const struct {
    const char *name;
    uint16_t number;
} TYPES[] = {{"SOA", 6}, {"A", 1},       {"AAAA", 28}, {"CNAME", 5}, {"MX", 15},
             {"NS", 2},  {"PTR", 12},    {"TXT", 16},  {"SRV", 33},  {"TLSA", 52},
             {"DS", 43}, {"DNSKEY", 48}, {"CAA", 257}, {"SPF", 99},  {"HTTPS", 65}};
static const char *const USUAL[] = {"A", "AAAA", "MX", "NS", "TXT"};

/* ------------------------------------------------------------------ types */

static uint16_t type_number(const char *name)
{
    uint64_t number = 0;

    for (size_t i = 0; i < COUNT_OF(TYPES); i++)
        if (strcasecmp(name, TYPES[i].name) == 0)
            return TYPES[i].number;
    if (strncasecmp(name, "TYPE", 4) == 0 && bytes_to_u64(bytes_of_text(name + 4), &number) &&
        number <= UINT16_MAX)
        return (uint16_t)number;
    return 0;
}

bool diagnose_dns_type_is_known(const char *name)
{
    return type_number(name) != 0;
}

static void take_types(struct propagation *run)
{
    const struct dns_propagation_request *request = run->request;
    const char *const *types = request->type_count > 0 ? request->types : USUAL;
    const unsigned count = request->type_count > 0 ? request->type_count : COUNT_OF(USUAL);

    run->types[0] = "SOA"; /* for the serials, whatever was asked */
    run->numbers[0] = DNS_SOA;
    run->type_count = 1;
    for (unsigned i = 0; i < count && run->type_count < PROBE_TYPES_MAX; i++) {
        const uint16_t number = type_number(types[i]);
        if (number == 0 || number == DNS_SOA)
            continue;
        run->types[run->type_count] = types[i];
        run->numbers[run->type_count++] = number;
    }
}

/* ------------------------------------------------------------------ servers */

static void add_server(struct propagation *run, struct bytes host, const struct endpoint *at,
                       bool resolver)
{
    char text[ENDPOINT_TEXT_MAX];

    if (run->server_count == PROBE_SERVERS_MAX)
        return;
    endpoint_print(at, text, sizeof text);
    struct probe_server *server = &run->servers[run->server_count++];
    *server = (struct probe_server){.host = host, .at = *at, .resolver = resolver};
    server->label =
        arena_print(run->arena, "%.*s%s%s", BYTES_PRINT(host), host.count > 0 ? " " : "", text);
}

static uint16_t port_of(const struct propagation *run)
{
    return run->request->port ? run->request->port : DNS_PORT;
}

static unsigned add_host(struct propagation *run, struct bytes host, enum dns_type type)
{
    struct dns_answer answer;
    const struct lookup lookup =
        resolve_ask(run->request->resolver, run->arena, host, type, &answer);

    for (unsigned i = 0; lookup.status == LOOKUP_FOUND && i < answer.count; i++) {
        const struct endpoint at = {.family = answer.records[i].ip.family,
                                    .ip = answer.records[i].ip,
                                    .port = port_of(run)};
        add_server(run, host, &at, false);
    }
    return lookup.status == LOOKUP_FOUND ? answer.count : 0;
}

/* The zone that holds the name: the first one upwards that has NS records. */
static bool find_zone(struct propagation *run, struct bytes name, struct bytes *zone,
                      struct dns_answer *hosts)
{
    while (name.count > 0) {
        struct bytes label = BYTES_EMPTY;
        const struct lookup lookup =
            resolve_ask(run->request->resolver, run->arena, name, DNS_NS, hosts);
        *zone = name;
        if (lookup.status == LOOKUP_FOUND)
            return true;
        if (lookup.status == LOOKUP_FAILED)
            dns_find(&run->findings, FINDING_DNS_LOOKUP_FAILED, name,
                     bytes_of_text(lookup_reason_name(lookup.reason)));
        name = bytes_cut(name, '.', &label);
    }
    return false;
}

static bool is_among(struct bytes host, const struct bytes *hosts, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (bytes_equal_nocase(host, hosts[i]))
            return true;
    return false;
}

/* What a server of the parent says about the zone. Returns how many hosts; 0 is not known. */
static unsigned ask_parent(struct propagation *run, struct bytes *hosts)
{
    struct bytes label = BYTES_EMPTY, parent = BYTES_EMPTY;
    struct dns_answer names, addresses;
    struct direct_answer answer;
    unsigned count = 0;

    if (!find_zone(run, bytes_cut(run->zone, '.', &label), &parent, &names) ||
        resolve_ask(run->request->resolver, run->arena, names.records[0].name, DNS_A, &addresses)
                .status != LOOKUP_FOUND)
        return 0;
    const struct direct_question question = {
        .server = {.family = ENDPOINT_IPV4, .ip = addresses.records[0].ip, .port = port_of(run)},
        .name = run->zone,
        .type = DNS_NS,
        .edns = true,
        .timeout_us = ONE_QUESTION_US};
    resolve_direct(run->arena, &question, &answer);
    const struct direct_record *records =
        answer.answer_count > 0 ? answer.answers : answer.authorities;
    const unsigned there = answer.answer_count > 0 ? answer.answer_count : answer.authority_count;
    for (unsigned i = 0; i < there && count < PROBE_HOSTS_MAX; i++)
        if (records[i].type == DNS_NS && bytes_equal_nocase(records[i].owner, run->zone))
            hosts[count++] = records[i].data;
    return count;
}

static void compare_delegation(struct propagation *run, const struct bytes *ours, unsigned count)
{
    struct bytes theirs[PROBE_HOSTS_MAX];
    const unsigned there = ask_parent(run, theirs);

    for (unsigned i = 0; i < there; i++) {
        if (is_among(theirs[i], ours, count))
            continue;
        dns_find(&run->findings, FINDING_PROPAGATION_DELEGATION, run->zone,
                 arena_print(run->arena, "%.*s stands only at the parent", BYTES_PRINT(theirs[i])));
        if (add_host(run, theirs[i], DNS_A) + add_host(run, theirs[i], DNS_AAAA) == 0)
            dns_find(&run->findings, FINDING_PROPAGATION_LAME, theirs[i],
                     BYTES_LITERAL("it has no address"));
    }
    for (unsigned i = 0; there > 0 && i < count; i++)
        if (!is_among(ours[i], theirs, there))
            dns_find(&run->findings, FINDING_PROPAGATION_DELEGATION, run->zone,
                     arena_print(run->arena, "%.*s stands only in the zone", BYTES_PRINT(ours[i])));
}

static void find_servers(struct propagation *run)
{
    struct bytes hosts[PROBE_HOSTS_MAX];
    struct dns_answer names;
    unsigned count = 0;

    if (!find_zone(run, run->request->name, &run->zone, &names)) {
        dns_find(&run->findings, FINDING_PROPAGATION_NO_SERVERS, run->request->name,
                 BYTES_LITERAL("neither the name nor one above it has NS records"));
        return;
    }
    for (unsigned i = 0; i < names.count && count < PROBE_HOSTS_MAX; i++) {
        hosts[count++] = names.records[i].name;
        if (add_host(run, names.records[i].name, DNS_A) +
                add_host(run, names.records[i].name, DNS_AAAA) ==
            0)
            dns_find(&run->findings, FINDING_PROPAGATION_LAME, names.records[i].name,
                     BYTES_LITERAL("it has no address"));
    }
    compare_delegation(run, hosts, count);
}

/* ------------------------------------------------------------------ questions */

/* Where an answer belongs; the questions of one volley are a flat list. */
struct place {
    unsigned server, type;
    enum probe_way way;
};

/* What each question may take, so that all rounds of the volley end in time. */
static uint64_t question_patience(const struct propagation *run)
{
    const uint64_t now_us = clock_now_us();
    const uint64_t rounds =
        (uint64_t)run->server_count * run->type_count * WAYS / DIRECT_PARALLEL_MAX + 1;
    const uint64_t left_us =
        run->request->deadline_us > now_us ? run->request->deadline_us - now_us : 0;

    return MIN_OF(ONE_QUESTION_US, left_us / rounds);
}

static struct direct_question make_question(const struct propagation *run,
                                            const struct place *place)
{
    const struct probe_server *server = &run->servers[place->server];

    return (struct direct_question){.server = server->at,
                                    .name = run->request->name,
                                    .type = run->numbers[place->type],
                                    .tcp = WAY_IS_TCP(place->way),
                                    .edns = WAY_IS_EDNS(place->way),
                                    .recursive = server->resolver,
                                    .timeout_us = question_patience(run)};
}

static bool ask_all(struct propagation *run)
{
    const size_t room = (size_t)run->server_count * run->type_count * WAYS;
    struct place *places = ARENA_NEW_ARRAY(run->arena, room + 1, struct place);
    struct direct_question *questions =
        ARENA_NEW_ARRAY(run->arena, room + 1, struct direct_question);
    struct direct_answer *answers = ARENA_NEW_ARRAY(run->arena, room + 1, struct direct_answer);
    unsigned count = 0;

    if (!places || !questions || !answers)
        return false;
    for (unsigned i = 0; i < run->server_count; i++)
        for (unsigned j = 0; j < run->type_count; j++)
            for (enum probe_way way = WAY_UDP; way < WAYS; way++) {
                places[count] = (struct place){i, j, way};
                questions[count] = make_question(run, &places[count]);
                count++;
            }
    resolve_direct_all(run->arena, questions, answers, count);
    for (unsigned i = 0; i < run->server_count; i++)
        run->servers[i].seen =
            (struct direct_answer(*)[WAYS])(void *)&answers[(size_t)i * run->type_count * WAYS];
    return !run->arena->failed;
}

json_t *diagnose_dns_propagation(struct arena *arena, const struct dns_propagation_request *request)
{
    struct propagation *run = ARENA_NEW(arena, struct propagation);
    json_t *answer = json_pack("{s:o, s:[]}", "name", diagnose_text(request->name), "findings");

    if (!run || !answer) {
        json_decref(answer);
        return NULL;
    }
    *run = (struct propagation){.request = request, .arena = arena, .answer = answer};
    run->findings =
        (struct dns_findings){.list = json_object_get(answer, "findings"), .domain = request->name};
    take_types(run);
    for (unsigned i = 0; i < request->server_count; i++)
        add_server(run, BYTES_EMPTY, &request->servers[i], false);
    if (request->server_count == 0)
        find_servers(run);
    for (unsigned i = 0; i < request->resolver_count; i++)
        add_server(run, BYTES_EMPTY, &request->resolvers[i], true);
    if (!ask_all(run)) {
        json_decref(answer);
        return NULL;
    }
    propagation_judge(run);
    return answer;
}
