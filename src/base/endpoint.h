/* Where a socket is: an IP address and port, or a Unix path. Pure data; runtime dials it. */
#ifndef BASE_ENDPOINT_H
#define BASE_ENDPOINT_H

#include "base/bytes.h"

enum endpoint_family { ENDPOINT_NONE = 0, ENDPOINT_IPV4, ENDPOINT_IPV6, ENDPOINT_UNIX };

struct ip_address {
    enum endpoint_family family; /* ENDPOINT_IPV4 or ENDPOINT_IPV6 */
    uint8_t octets[16];          /* network order; IPv4 uses the first four */
};

struct ip_network {
    struct ip_address base;
    unsigned prefix_bits;
};

struct endpoint {
    enum endpoint_family family;
    struct ip_address ip;
    uint16_t port;
    char path[108]; /* ENDPOINT_UNIX */
};

/* Bare address: "192.0.2.1", "2001:db8::1"; an IPv4-mapped IPv6 address becomes IPv4. */
MUST_USE bool ip_parse(struct bytes text, struct ip_address *ip);
MUST_USE bool ip_network_parse(struct bytes text, struct ip_network *network); /* prefix optional */
bool ip_network_contains(const struct ip_network *network, const struct ip_address *ip);
bool ip_equal(const struct ip_address *a, const struct ip_address *b);
bool ip_is_loopback(const struct ip_address *ip);
size_t ip_bytes(const struct ip_address *ip); /* 4 or 16 */

/* Text forms; `room` of 128 always suffices. They return `into`. */
#define ENDPOINT_TEXT_MAX 128
char *ip_print(const struct ip_address *ip, char *into, size_t room);
char *endpoint_print(const struct endpoint *endpoint, char *into,
                     size_t room); /* 1.2.3.4:25, [::1]:25, unix:/x */

/* "127.0.0.1:25", "[::1]:25", "unix:/path"; also "127.0.0.1@53" when allow_at. Names are refused.
 */
MUST_USE bool endpoint_parse(struct bytes text, struct endpoint *endpoint);
MUST_USE bool
endpoint_parse_resolver(struct bytes text,
                        struct endpoint *endpoint); /* IP[@PORT], port 53 by default */

/* An address as reverse DNS name, without the final dot: "1.2.0.192.in-addr.arpa". */
char *ip_reverse_name(const struct ip_address *ip, const char *zone4, const char *zone6,
                      struct span into);

#endif
