#include "base/endpoint.h"

#include <arpa/inet.h>
#include <string.h>

bool ip_parse(struct bytes text, struct ip_address *ip)
{
    char copy[INET6_ADDRSTRLEN];
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

    if (text.count == 0 || text.count >= sizeof copy || memchr(text.at, 0, text.count))
        return false;
    memcpy(copy, text.at, text.count);
    copy[text.count] = 0;
    *ip = (struct ip_address){.family = ENDPOINT_IPV4};
    if (inet_pton(AF_INET, copy, ip->octets) == 1)
        return true;
    *ip = (struct ip_address){.family = ENDPOINT_IPV6};
    if (inet_pton(AF_INET6, copy, ip->octets) != 1)
        return false;
    if (memcmp(ip->octets, mapped, sizeof mapped) == 0) {
        struct ip_address inner = {.family = ENDPOINT_IPV4};
        memcpy(inner.octets, ip->octets + 12, 4);
        *ip = inner;
    }
    return true;
}

bool ip_network_parse(struct bytes text, struct ip_network *network)
{
    struct bytes address = BYTES_EMPTY;
    const struct bytes prefix = bytes_cut(text, '/', &address);
    uint64_t bits = 0;

    if (!ip_parse(address, &network->base))
        return false;
    const uint64_t most = ip_bytes(&network->base) * 8;
    if (address.count == text.count)
        bits = most;
    else if (!bytes_to_u64(prefix, &bits) || bits > most)
        return false;
    network->prefix_bits = (unsigned)bits;
    return true;
}

bool ip_network_contains(const struct ip_network *network, const struct ip_address *ip)
{
    const unsigned whole = network->prefix_bits / 8, rest = network->prefix_bits % 8;

    if (network->base.family != ip->family)
        return false;
    if (memcmp(network->base.octets, ip->octets, whole) != 0)
        return false;
    if (rest == 0)
        return true;
    const uint8_t mask = (uint8_t)(0xff << (8 - rest));
    return (network->base.octets[whole] & mask) == (ip->octets[whole] & mask);
}

bool ip_equal(const struct ip_address *a, const struct ip_address *b)
{
    return a->family == b->family && memcmp(a->octets, b->octets, ip_bytes(a)) == 0;
}

bool ip_is_loopback(const struct ip_address *ip)
{
    static const uint8_t loopback6[16] = {[15] = 1};

    if (ip->family == ENDPOINT_IPV4)
        return ip->octets[0] == 127;
    return ip->family == ENDPOINT_IPV6 && memcmp(ip->octets, loopback6, sizeof loopback6) == 0;
}

size_t ip_bytes(const struct ip_address *ip)
{
    return ip->family == ENDPOINT_IPV4 ? 4 : 16;
}

char *ip_print(const struct ip_address *ip, char *into, size_t room)
{
    const int family = ip->family == ENDPOINT_IPV4 ? AF_INET : AF_INET6;

    if (ip->family == ENDPOINT_NONE || !inet_ntop(family, ip->octets, into, (socklen_t)room))
        snprintf(into, room, "unknown");
    return into;
}

char *endpoint_print(const struct endpoint *endpoint, char *into, size_t room)
{
    char ip[ENDPOINT_TEXT_MAX];

    switch (endpoint->family) {
    case ENDPOINT_IPV4:
        snprintf(into, room, "%s:%u", ip_print(&endpoint->ip, ip, sizeof ip), endpoint->port);
        break;
    case ENDPOINT_IPV6:
        snprintf(into, room, "[%s]:%u", ip_print(&endpoint->ip, ip, sizeof ip), endpoint->port);
        break;
    case ENDPOINT_UNIX:
        snprintf(into, room, "unix:%s", endpoint->path);
        break;
    case ENDPOINT_NONE:
        snprintf(into, room, "none");
        break;
    }
    return into;
}

static bool parse_unix(struct bytes path, struct endpoint *endpoint)
{
    if (path.count == 0 || path.count >= sizeof endpoint->path || memchr(path.at, 0, path.count))
        return false;
    *endpoint = (struct endpoint){.family = ENDPOINT_UNIX};
    memcpy(endpoint->path, path.at, path.count);
    return true;
}

static bool set_ip(struct bytes ip, struct bytes port, struct endpoint *endpoint)
{
    uint64_t number = 0;

    *endpoint = (struct endpoint){0};
    if (!ip_parse(ip, &endpoint->ip) || !bytes_to_u64(port, &number) || number > UINT16_MAX)
        return false;
    endpoint->family = endpoint->ip.family;
    endpoint->port = (uint16_t)number;
    return true;
}

bool endpoint_parse(struct bytes text, struct endpoint *endpoint)
{
    const size_t colon = bytes_find_last_byte(text, ':');

    if (bytes_starts_with(text, BYTES_LITERAL("unix:")))
        return parse_unix(bytes_skip(text, 5), endpoint);
    if (colon == text.count)
        return false;
    const struct bytes port = bytes_skip(text, colon + 1);
    if (text.at[0] != '[')
        return bytes_find_byte(text, ':') == colon &&
               set_ip(bytes_slice(text, 0, colon), port, endpoint);
    if (colon < 2 || text.at[colon - 1] != ']')
        return false;
    return set_ip(bytes_slice(text, 1, colon - 2), port, endpoint);
}

bool endpoint_parse_resolver(struct bytes text, struct endpoint *endpoint)
{
    struct bytes ip = BYTES_EMPTY;
    const struct bytes port = bytes_cut(text, '@', &ip);

    return set_ip(ip, ip.count == text.count ? BYTES_LITERAL("53") : port, endpoint);
}

char *ip_reverse_name(const struct ip_address *ip, const char *zone4, const char *zone6,
                      struct span into)
{
    char *text = (char *)into.at;
    int used = 0;

    if (ip->family == ENDPOINT_IPV4) {
        snprintf(text, into.count, "%u.%u.%u.%u.%s", ip->octets[3], ip->octets[2], ip->octets[1],
                 ip->octets[0], zone4);
        return text;
    }
    for (size_t i = 16; i-- > 0 && used >= 0 && (size_t)used < into.count;)
        used += snprintf(text + used, into.count - (size_t)used, "%x.%x.", ip->octets[i] & 15,
                         ip->octets[i] >> 4);
    if (used >= 0 && (size_t)used < into.count)
        snprintf(text + used, into.count - (size_t)used, "%s", zone6);
    return text;
}
