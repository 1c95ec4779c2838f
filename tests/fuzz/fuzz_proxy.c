/* PROXY headers: whatever comes, an address is whole or there is none. */
#include "receive/proxy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_whole(const struct endpoint *endpoint)
{
    return (endpoint->family == ENDPOINT_IPV4 || endpoint->family == ENDPOINT_IPV6) &&
           endpoint->ip.family == endpoint->family;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct bytes input = bytes_of(data, size);
    struct proxy_facts facts;
    size_t follow = 0;

    if (proxy_parse_1(input, &facts))
        INVARIANT(size <= PROXY_V1_MAX &&
                  (facts.local || (is_whole(&facts.from) && is_whole(&facts.to))));
    const struct bytes head = bytes_slice(input, 0, PROXY_V2_HEAD);
    if (proxy_parse_2_head(head, &follow))
        INVARIANT(follow <= UINT16_MAX && proxy_version_of(head) == PROXY_2);
    if (proxy_parse_2(head, bytes_slice(input, PROXY_V2_HEAD, PROXY_V2_KEPT), &facts))
        INVARIANT(facts.local || (is_whole(&facts.from) && is_whole(&facts.to)));
    return 0;
}
