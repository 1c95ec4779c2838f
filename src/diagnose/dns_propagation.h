/* What the files of `dns propagation` share. Private to the room. */
#ifndef DIAGNOSE_DNS_PROPAGATION_H
#define DIAGNOSE_DNS_PROPAGATION_H

#include "diagnose/dns_inside.h"

enum { PROBE_SERVERS_MAX = 32, PROBE_TYPES_MAX = 7, PROBE_HOSTS_MAX = 16 };

/* The ways one question goes to one server. */
enum probe_way { WAY_UDP = 0, WAY_UDP_EDNS, WAY_TCP, WAY_TCP_EDNS, WAYS };
#define WAY_IS_TCP(way) ((way) >= WAY_TCP)
#define WAY_IS_EDNS(way) ((way) == WAY_UDP_EDNS || (way) == WAY_TCP_EDNS)

/* One server by one address, with all that it answered. */
struct probe_server {
    struct bytes host;  /* empty: only the address is known */
    struct bytes label; /* "ns1.example 192.0.2.1:53" */
    struct endpoint at;
    bool resolver;
    struct direct_answer (*seen)[WAYS]; /* a row each type */
    bool has_serial;
    uint32_t serial;
    uint64_t refresh_s, retry_s, expire_s;
};

struct propagation {
    const struct dns_propagation_request *request;
    struct arena *arena;
    struct dns_findings findings;
    json_t *answer;
    struct bytes zone;
    struct probe_server servers[PROBE_SERVERS_MAX];
    unsigned server_count;
    const char *types[PROBE_TYPES_MAX]; /* the first is SOA */
    uint16_t numbers[PROBE_TYPES_MAX];
    unsigned type_count;
};

/* The answer of a server that counts: the most whole one; NULL: none. */
const struct direct_answer *probe_best(const struct probe_server *server, unsigned type);
/* What is compared: the records of the name, sorted; "NXDOMAIN", "nothing". */
struct bytes probe_key(const struct propagation *run, const struct direct_answer *answer,
                       unsigned type);
bool probe_is_lame(const struct direct_answer *answer);
/* Fills the answer's "types", "servers", "agree" and the findings. */
void propagation_judge(struct propagation *run);

#endif
