/*
 * What the answers of `dns propagation` mean: who agrees with whom, who is behind and for how long
 * yet, who does not answer, and over which transport.
 */
#include <string.h>

#include "diagnose/dns_propagation.h"

enum { RCODE_NOERROR = 0, RCODE_FORMERR = 1, RCODE_NXDOMAIN = 3, RCODE_BADVERS = 16 };
enum { GROUPS_MAX = PROBE_SERVERS_MAX };

static const char *const WAY_NAMES[] = {"udp", "udp+edns", "tcp", "tcp+edns"};

/* ------------------------------------------------------------------ one answer */

static bool is_answered(const struct direct_answer *answer)
{
    return answer->outcome == DIRECT_ANSWERED;
}

/* An answer that says something about the name. */
static bool says_something(const struct direct_answer *answer)
{
    return is_answered(answer) && !answer->truncated &&
           (answer->rcode == RCODE_NOERROR || answer->rcode == RCODE_NXDOMAIN);
}

const struct direct_answer *probe_best(const struct probe_server *server, unsigned type)
{
    static const enum probe_way order[] = {WAY_TCP_EDNS, WAY_TCP, WAY_UDP_EDNS, WAY_UDP};

    for (size_t i = 0; i < COUNT_OF(order); i++)
        if (says_something(&server->seen[type][order[i]]))
            return &server->seen[type][order[i]];
    for (size_t i = 0; i < COUNT_OF(order); i++)
        if (is_answered(&server->seen[type][order[i]]))
            return &server->seen[type][order[i]];
    return NULL;
}

bool probe_is_lame(const struct direct_answer *answer)
{
    return !answer->authoritative ||
           (answer->rcode != RCODE_NOERROR && answer->rcode != RCODE_NXDOMAIN);
}

static int order_of_text(const void *a, const void *b)
{
    return bytes_compare(*(const struct bytes *)a, *(const struct bytes *)b);
}

/* The records of the name itself, of the type or an alias, sorted. */
static unsigned collect(const struct propagation *run, const struct direct_answer *answer,
                        unsigned type, struct bytes *lines)
{
    unsigned count = 0;

    for (unsigned i = 0; i < answer->answer_count && count < DIRECT_RECORDS_MAX; i++) {
        const struct direct_record *record = &answer->answers[i];
        if ((record->type == run->numbers[type] || record->type == DNS_CNAME) &&
            bytes_equal_nocase(record->owner, run->request->name))
            lines[count++] = record->data;
    }
    qsort(lines, count, sizeof *lines, order_of_text);
    return count;
}

struct bytes probe_key(const struct propagation *run, const struct direct_answer *answer,
                       unsigned type)
{
    CLEANUP(buffer_free) struct buffer key = BUFFER_WITH_LIMIT(256 * KIB);
    struct bytes lines[DIRECT_RECORDS_MAX];
    const unsigned count = collect(run, answer, type, lines);

    if (answer->rcode == RCODE_NXDOMAIN)
        return BYTES_LITERAL("NXDOMAIN");
    if (count == 0)
        return BYTES_LITERAL("nothing");
    for (unsigned i = 0; i < count; i++) {
        buffer_add(&key, lines[i]);
        buffer_add_byte(&key, '\n');
    }
    return arena_copy(run->arena, buffer_view(&key));
}

static uint32_t ttl_of(const struct propagation *run, const struct direct_answer *answer)
{
    uint32_t ttl_s = 0;

    for (unsigned i = 0; i < answer->answer_count; i++)
        if (bytes_equal_nocase(answer->answers[i].owner, run->request->name))
            ttl_s = MAX_OF(ttl_s, answer->answers[i].ttl_s);
    for (unsigned i = 0; answer->answer_count == 0 && i < answer->authority_count; i++)
        ttl_s = MAX_OF(ttl_s, answer->authorities[i].ttl_s);
    return ttl_s;
}

static struct bytes failure_text(const struct propagation *run, const struct direct_answer *answer)
{
    switch (answer->outcome) {
    case DIRECT_FAILED:
        return arena_copy(run->arena, bytes_of_text(io_result_text(answer->io)));
    case DIRECT_SILENT:
        return BYTES_LITERAL("no answer in time");
    case DIRECT_MALFORMED:
        return BYTES_LITERAL("the answer is no DNS message");
    case DIRECT_ANSWERED:
        break;
    }
    return bytes_of_text(direct_rcode_name(answer->rcode));
}

/* ------------------------------------------------------------------ serials */

static const struct direct_record *find_soa(const struct direct_record *records, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (records[i].type == DNS_SOA)
            return &records[i];
    return NULL;
}

/* "mname rname serial refresh retry expire minimum" */
static void take_serial(struct propagation *run, struct probe_server *server)
{
    const struct direct_answer *answer = probe_best(server, 0);
    uint64_t numbers[4] = {0};
    struct bytes word = BYTES_EMPTY;

    if (!answer || probe_is_lame(answer))
        return;
    const struct direct_record *soa = find_soa(answer->answers, answer->answer_count);
    if (!soa)
        soa = find_soa(answer->authorities, answer->authority_count);
    if (!soa)
        return;
    struct bytes rest = bytes_cut(bytes_cut(soa->data, ' ', &word), ' ', &word);
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        rest = bytes_cut(rest, ' ', &word);
        if (!bytes_to_u64(word, &numbers[i]) || numbers[i] > UINT32_MAX)
            return;
    }
    server->has_serial = true;
    server->serial = (uint32_t)numbers[0];
    server->refresh_s = numbers[1];
    server->retry_s = numbers[2];
    server->expire_s = numbers[3];
    run->zone = soa->owner;
}

/* RFC 1982: is a before b on the circle? */
static bool serial_is_before(uint32_t a, uint32_t b)
{
    return a != b && (int32_t)(b - a) > 0;
}

static void judge_serials(struct propagation *run)
{
    const struct probe_server *newest = NULL;
    char refresh[64], retry[64], expire[64];

    for (unsigned i = 0; i < run->server_count; i++) {
        struct probe_server *server = &run->servers[i];
        if (!server->resolver)
            take_serial(run, server);
        if (server->has_serial && (!newest || serial_is_before(newest->serial, server->serial)))
            newest = server;
    }
    for (unsigned i = 0; newest && i < run->server_count; i++) {
        const struct probe_server *server = &run->servers[i];
        if (!server->has_serial || server->serial == newest->serial)
            continue;
        dns_find(&run->findings, FINDING_PROPAGATION_STALE, server->label,
                 arena_print(run->arena,
                             "serial %u where %.*s has %u. It asks its primary again within %s, "
                             "after a failure every %s, and serves what it has for up to %s",
                             server->serial, BYTES_PRINT(newest->label), newest->serial,
                             duration_print(server->refresh_s * US_PER_S, refresh, sizeof refresh),
                             duration_print(server->retry_s * US_PER_S, retry, sizeof retry),
                             duration_print(server->expire_s * US_PER_S, expire, sizeof expire)));
    }
}

/* ------------------------------------------------------------------ one server */

struct ways {
    bool answered[WAYS];                   /* at least one type */
    const struct direct_answer *bad[WAYS]; /* one that was not, or not understood */
    bool truncated;                        /* with EDNS, so TCP is needed */
};

static struct ways look_at_ways(const struct propagation *run, const struct probe_server *server)
{
    struct ways ways = {0};

    for (unsigned type = 0; type < run->type_count; type++)
        for (enum probe_way way = WAY_UDP; way < WAYS; way++) {
            const struct direct_answer *answer = &server->seen[type][way];
            const bool refused = is_answered(answer) &&
                                 (answer->rcode == RCODE_FORMERR || answer->rcode == RCODE_BADVERS);
            if (is_answered(answer) && !refused)
                ways.answered[way] = true;
            else
                ways.bad[way] = answer;
            ways.truncated =
                ways.truncated || (way == WAY_UDP_EDNS && is_answered(answer) && answer->truncated);
        }
    return ways;
}

static void judge_transport(struct propagation *run, const struct probe_server *server)
{
    const struct ways ways = look_at_ways(run, server);
    const bool udp = ways.answered[WAY_UDP] || ways.answered[WAY_UDP_EDNS];
    const bool tcp = ways.answered[WAY_TCP] || ways.answered[WAY_TCP_EDNS];

    if (!udp)
        dns_find(&run->findings, FINDING_PROPAGATION_SILENT, server->label,
                 failure_text(run, ways.bad[WAY_UDP]));
    if (udp && !tcp)
        dns_find(&run->findings,
                 ways.truncated ? FINDING_PROPAGATION_TCP_NEEDED : FINDING_PROPAGATION_TCP,
                 server->label, failure_text(run, ways.bad[WAY_TCP]));
    if (ways.answered[WAY_UDP] && !ways.answered[WAY_UDP_EDNS])
        dns_find(&run->findings, FINDING_PROPAGATION_EDNS, server->label,
                 failure_text(run, ways.bad[WAY_UDP_EDNS]));
    if (!ways.answered[WAY_UDP] && ways.answered[WAY_UDP_EDNS])
        dns_find(&run->findings, FINDING_PROPAGATION_PLAIN, server->label,
                 failure_text(run, ways.bad[WAY_UDP]));
}

static void judge_lameness(struct propagation *run, const struct probe_server *server)
{
    for (unsigned type = 0; type < run->type_count; type++) {
        const struct direct_answer *answer = probe_best(server, type);
        if (!answer || !probe_is_lame(answer))
            continue;
        dns_find(&run->findings, FINDING_PROPAGATION_LAME, server->label,
                 answer->rcode != RCODE_NOERROR && answer->rcode != RCODE_NXDOMAIN
                     ? bytes_of_text(direct_rcode_name(answer->rcode))
                     : BYTES_LITERAL("it answers without authority"));
        return;
    }
}

static void judge_consistency(struct propagation *run, const struct probe_server *server)
{
    for (unsigned type = 0; type < run->type_count; type++) {
        struct bytes first = BYTES_EMPTY;
        for (enum probe_way way = WAY_UDP; way < WAYS; way++) {
            const struct direct_answer *answer = &server->seen[type][way];
            if (!says_something(answer) || probe_is_lame(answer))
                continue;
            const struct bytes key = probe_key(run, answer, type);
            if (first.count > 0 && !bytes_equal(first, key))
                dns_find(&run->findings, FINDING_PROPAGATION_TRANSPORT, server->label, BYTES_EMPTY);
            first = key;
        }
    }
}

/* ------------------------------------------------------------------ groups of one type */

struct group {
    struct bytes key;
    json_t *servers, *resolvers;
    uint32_t ttl_s;
    bool authoritative;
};

static struct group *find_group(struct group *groups, unsigned *count, struct bytes key)
{
    for (unsigned i = 0; i < *count; i++)
        if (bytes_equal(groups[i].key, key))
            return &groups[i];
    groups[*count] = (struct group){.key = key, .servers = json_array(), .resolvers = json_array()};
    return &groups[(*count)++];
}

static json_t *lines_of(struct bytes key)
{
    json_t *lines = json_array();

    while (key.count > 0) {
        struct bytes line = BYTES_EMPTY;
        key = bytes_cut(key, '\n', &line);
        json_array_append_new(lines, diagnose_text(line));
    }
    return lines;
}

/* A resolver's answer that nobody with authority gives any more. */
static void judge_resolver(struct propagation *run, const struct probe_server *server,
                           unsigned type, const struct group *group)
{
    const struct direct_answer *answer = probe_best(server, type);
    char left[64];

    if (group->authoritative || !answer)
        return;
    duration_print(ttl_of(run, answer) * US_PER_S, left, sizeof left);
    dns_find(&run->findings, FINDING_PROPAGATION_RESOLVER_OLD, server->label,
             arena_print(run->arena, "%s (%s)", left, run->types[type]));
}

static void take_group(struct propagation *run, struct probe_server *server, unsigned type,
                       struct group *groups, unsigned *count)
{
    const struct direct_answer *answer = probe_best(server, type);

    if (server->resolver && (!answer || !says_something(answer)))
        dns_find(&run->findings, FINDING_PROPAGATION_RESOLVER_FAILED, server->label,
                 failure_text(run, answer ? answer : &server->seen[type][WAY_UDP_EDNS]));
    if (!answer || !says_something(answer) || (!server->resolver && probe_is_lame(answer)))
        return;
    struct group *group = find_group(groups, count, probe_key(run, answer, type));
    json_array_append_new(server->resolver ? group->resolvers : group->servers,
                          diagnose_text(server->label));
    group->ttl_s = MAX_OF(group->ttl_s, ttl_of(run, answer));
    group->authoritative = group->authoritative || !server->resolver;
}

static json_t *groups_json(const struct propagation *run, unsigned type, const struct group *groups,
                           unsigned count)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < count; i++)
        json_array_append_new(list,
                              json_pack("{s:o, s:o, s:o, s:I}", "answer", lines_of(groups[i].key),
                                        "servers", groups[i].servers, "resolvers",
                                        groups[i].resolvers, "ttl", (json_int_t)groups[i].ttl_s));
    return json_pack("{s:s, s:o}", "type", run->types[type], "groups", list);
}

/* Returns whether all that answered agree. */
static bool judge_type(struct propagation *run, unsigned type, json_t *types)
{
    struct group groups[GROUPS_MAX];
    unsigned count = 0, authoritative = 0;

    for (unsigned i = 0; i < run->server_count; i++)
        take_group(run, &run->servers[i], type, groups, &count);
    for (unsigned i = 0; i < count; i++)
        authoritative += groups[i].authoritative;
    if (authoritative > 1)
        dns_find(
            &run->findings, FINDING_PROPAGATION_DIFFERS,
            arena_print(run->arena, "%.*s %s", BYTES_PRINT(run->request->name), run->types[type]),
            dns_number(run->arena, authoritative));
    for (unsigned i = 0; authoritative > 0 && i < run->server_count; i++) {
        const struct probe_server *server = &run->servers[i];
        const struct direct_answer *answer = probe_best(server, type);
        if (server->resolver && answer && says_something(answer))
            judge_resolver(run, server, type,
                           find_group(groups, &count, probe_key(run, answer, type)));
    }
    json_array_append_new(types, groups_json(run, type, groups, count));
    return count <= 1;
}

/* ------------------------------------------------------------------ the whole */

static json_t *server_json(const struct propagation *run, const struct probe_server *server)
{
    char text[ENDPOINT_TEXT_MAX];
    json_t *ways = json_array();
    json_t *object = json_pack("{s:o, s:s, s:s, s:o}", "host", diagnose_text(server->host),
                               "address", endpoint_print(&server->at, text, sizeof text), "kind",
                               server->resolver ? "resolver" : "authoritative", "answers", ways);

    if (server->has_serial)
        json_object_set_new(object, "serial", json_integer(server->serial));
    for (unsigned type = 0; type < run->type_count; type++)
        for (enum probe_way way = WAY_UDP; way < WAYS; way++) {
            const struct direct_answer *answer = &server->seen[type][way];
            json_array_append_new(
                ways,
                json_pack("{s:s, s:s, s:o, s:b, s:b, s:i, s:I}", "type", run->types[type], "over",
                          WAY_NAMES[way], "result", diagnose_text(failure_text(run, answer)),
                          "authoritative", answer->authoritative, "truncated", answer->truncated,
                          "octets", (int)answer->octets, "ttl", (json_int_t)ttl_of(run, answer)));
        }
    return object;
}

void propagation_judge(struct propagation *run)
{
    json_t *types = json_array(), *servers = json_array();
    bool agree = true;

    judge_serials(run);
    for (unsigned i = 0; i < run->server_count; i++) {
        const struct probe_server *server = &run->servers[i];
        if (!server->resolver) {
            judge_transport(run, server);
            judge_lameness(run, server);
            judge_consistency(run, server);
        }
        json_array_append_new(servers, server_json(run, server));
    }
    for (unsigned type = 0; type < run->type_count; type++)
        agree = judge_type(run, type, types) && agree;
    json_object_set_new(run->answer, "zone", diagnose_text(run->zone));
    json_object_set_new(run->answer, "types", types);
    json_object_set_new(run->answer, "servers", servers);
    json_object_set_new(run->answer, "agree",
                        json_boolean(agree && !dns_findings_have_error(run->findings.list)));
}
