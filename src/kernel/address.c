/* Endpoints to socket addresses and back. */
#include "kernel/kernel.h"

#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

bool address_of(const struct endpoint *endpoint, struct address_buffer *address)
{
    *address = (struct address_buffer){0};
    switch (endpoint->family) {
    case ENDPOINT_IPV4: {
        struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(endpoint->port)};
        memcpy(&in.sin_addr, endpoint->ip.octets, 4);
        memcpy(&address->storage, &in, address->length = sizeof in);
        return true;
    }
    case ENDPOINT_IPV6: {
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(endpoint->port)};
        memcpy(&in6.sin6_addr, endpoint->ip.octets, 16);
        memcpy(&address->storage, &in6, address->length = sizeof in6);
        return true;
    }
    case ENDPOINT_UNIX: {
        struct sockaddr_un un = {.sun_family = AF_UNIX};
        memcpy(un.sun_path, endpoint->path, sizeof un.sun_path - 1);
        memcpy(&address->storage, &un, address->length = sizeof un);
        return true;
    }
    case ENDPOINT_NONE:
        break;
    }
    return false;
}

static struct endpoint endpoint_of_in6(const struct sockaddr_in6 *in6)
{
    struct endpoint endpoint = {.family = ENDPOINT_IPV6, .port = ntohs(in6->sin6_port)};

    endpoint.ip.family = ENDPOINT_IPV6;
    memcpy(endpoint.ip.octets, &in6->sin6_addr, 16);
    if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
        endpoint.family = endpoint.ip.family = ENDPOINT_IPV4;
        memset(endpoint.ip.octets, 0, 16);
        memcpy(endpoint.ip.octets, in6->sin6_addr.s6_addr + 12, 4);
    }
    return endpoint;
}

struct endpoint endpoint_of(const struct address_buffer *address)
{
    struct endpoint endpoint = {0};

    if (address->any.sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&address->storage;
        endpoint.family = endpoint.ip.family = ENDPOINT_IPV4;
        endpoint.port = ntohs(in->sin_port);
        memcpy(endpoint.ip.octets, &in->sin_addr, 4);
    } else if (address->any.sa_family == AF_INET6) {
        endpoint = endpoint_of_in6((const struct sockaddr_in6 *)&address->storage);
    } else if (address->any.sa_family == AF_UNIX) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)&address->storage;
        endpoint.family = ENDPOINT_UNIX;
        if (address->length > offsetof(struct sockaddr_un, sun_path))
            snprintf(endpoint.path, sizeof endpoint.path, "%.*s", (int)sizeof un->sun_path,
                     un->sun_path);
    }
    return endpoint;
}

struct endpoint endpoint_of_local(int descriptor)
{
    struct address_buffer address = {.length = sizeof address.storage};

    if (getsockname(descriptor, &address.any, &address.length) != 0)
        return (struct endpoint){0};
    return endpoint_of(&address);
}
