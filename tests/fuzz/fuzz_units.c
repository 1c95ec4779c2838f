/* Durations, sizes, ids, addresses and ways of delivery, as settings and commands write them: what
 * is taken prints as something that is taken as the same. */
#include "config/config.h"
#include "verdict/verdict.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ip(struct bytes text)
{
    struct ip_address ip, again;
    struct ip_network network;
    char printed[ENDPOINT_TEXT_MAX];

    if (ip_parse(text, &ip)) {
        ip_print(&ip, printed, sizeof printed);
        INVARIANT(ip_parse(bytes_of_text(printed), &again) && ip_equal(&ip, &again));
    }
    if (ip_network_parse(text, &network)) {
        INVARIANT(network.prefix_bits <= ip_bytes(&network.base) * 8);
        INVARIANT(ip_network_contains(&network, &network.base));
    }
}

static void check_endpoint(struct bytes text)
{
    struct endpoint endpoint, again;
    char printed[ENDPOINT_TEXT_MAX];

    if (endpoint_parse(text, &endpoint)) {
        endpoint_print(&endpoint, printed, sizeof printed);
        INVARIANT(endpoint_parse(bytes_of_text(printed), &again));
        INVARIANT(endpoint.family == again.family && endpoint.port == again.port);
        INVARIANT(endpoint.family == ENDPOINT_UNIX ? strcmp(endpoint.path, again.path) == 0
                                                   : ip_equal(&endpoint.ip, &again.ip));
    }
    if (endpoint_parse_resolver(text, &endpoint))
        INVARIANT(endpoint.family == ENDPOINT_IPV4 || endpoint.family == ENDPOINT_IPV6);
}

static void check_numbers(struct arena *arena, struct bytes text)
{
    uint64_t value = 0, again = 0;
    char printed[ID_TEXT_MAX];
    struct bytes plain = BYTES_EMPTY;

    if (duration_parse(text, &value))
        INVARIANT(text.count > 0);
    if (size_parse(text, &value))
        INVARIANT(text.count > 0);
    if (id_parse(text, &value))
        INVARIANT(id_parse(bytes_of_text(id_print(value, printed, sizeof printed)), &again) &&
                  value == again);
    enum cause cause = CAUSE_UNDECIDED;
    if (cause_parse(text, &cause))
        INVARIANT(bytes_equal_text(text, cause_name(cause)));
    if (percent_decode(arena, text, &plain))
        INVARIANT(plain.count <= text.count && bytes_find_byte(plain, 0) == plain.count);
}

static void check_delivery(struct bytes text)
{
    struct config_deliver way;
    struct bytes rest = text;

    if (config_parse_deliver(text, &way))
        INVARIANT((way.kind == DELIVER_NONE) == (text.count == 0));
    if (config_parse_next_hop(text, &way))
        INVARIANT(way.kind == DELIVER_SMTP || way.kind == DELIVER_LMTP);
    for (size_t before = rest.count + 1; config_next_delivery(&rest, &way); before = rest.count)
        INVARIANT(rest.count < before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    const struct bytes text = bytes_of(data, MIN_OF(size, (size_t)4096));

    check_numbers(&arena, text);
    check_ip(text);
    check_endpoint(text);
    check_delivery(text);
    arena_clear(&arena);
    return 0;
}
