/*
 * PROXY headers as bytes. Pure; every read is bounded.
 */
#include "receive/proxy.h"

static const struct bytes SIGNATURE = BYTES_LITERAL("\r\n\r\n\0\r\nQUIT\n");
static const struct bytes WORD = BYTES_LITERAL("PROXY ");

enum proxy_version proxy_version_of(struct bytes start)
{
    if (bytes_starts_with(start, SIGNATURE))
        return PROXY_2;
    return bytes_starts_with(start, WORD) ? PROXY_1 : PROXY_NONE;
}

/* ------------------------------------------------------------------ version 1 */

static bool parse_port(struct bytes text, uint16_t *port)
{
    uint64_t value = 0;

    if (!bytes_to_u64(text, &value) || value > UINT16_MAX || text.count > 5)
        return false;
    *port = (uint16_t)value;
    return true;
}

/* An IPv4-mapped address of TCP6 becomes IPv4, so the family is not compared. */
static bool parse_ip(struct bytes text, struct endpoint *endpoint)
{
    if (!ip_parse(text, &endpoint->ip))
        return false;
    endpoint->family = endpoint->ip.family;
    return true;
}

bool proxy_parse_1(struct bytes line, struct proxy_facts *facts)
{
    struct bytes kind, from, to, from_port;

    *facts = (struct proxy_facts){0};
    if (!bytes_starts_with(line, WORD) || line.count > PROXY_V1_MAX)
        return false;
    if (bytes_ends_with_nocase(line, BYTES_LITERAL("\r\n")))
        line.count -= 2;
    line = bytes_cut(bytes_skip(line, WORD.count), ' ', &kind);
    if (bytes_equal_text(kind, "UNKNOWN")) {
        facts->local = true;
        return true;
    }
    line = bytes_cut(line, ' ', &from);
    line = bytes_cut(line, ' ', &to);
    line = bytes_cut(line, ' ', &from_port);
    return (bytes_equal_text(kind, "TCP4") || bytes_equal_text(kind, "TCP6")) &&
           parse_ip(from, &facts->from) && parse_ip(to, &facts->to) &&
           parse_port(from_port, &facts->from.port) && parse_port(line, &facts->to.port);
}

/* ------------------------------------------------------------------ version 2 */

bool proxy_parse_2_head(struct bytes head, size_t *follow)
{
    struct reader reader = READER_OF(bytes_skip(head, PROXY_START_BYTES));
    const uint8_t version = reader_u8(&reader);

    reader_u8(&reader);
    *follow = reader_u16(&reader);
    return head.count == PROXY_V2_HEAD && bytes_starts_with(head, SIGNATURE) && !reader.failed &&
           version >> 4 == 2 && (version & 15) <= 1;
}

static void read_ip(struct reader *reader, enum endpoint_family family, struct endpoint *endpoint)
{
    const struct bytes octets = reader_bytes(reader, family == ENDPOINT_IPV4 ? 4 : 16);

    endpoint->family = endpoint->ip.family = family;
    for (size_t i = 0; i < octets.count; i++)
        endpoint->ip.octets[i] = octets.at[i];
}

bool proxy_parse_2(struct bytes head, struct bytes body, struct proxy_facts *facts)
{
    struct reader reader = READER_OF(body);
    size_t follow = 0;

    *facts = (struct proxy_facts){.local = true};
    if (!proxy_parse_2_head(head, &follow))
        return false;
    const uint8_t kind = head.at[13];
    /* LOCAL, and kinds of address that are none of ours, leave the connection as it is. */
    if ((head.at[12] & 15) == 0 || (kind != 0x11 && kind != 0x21))
        return true;
    const enum endpoint_family family = kind == 0x11 ? ENDPOINT_IPV4 : ENDPOINT_IPV6;
    facts->local = false;
    read_ip(&reader, family, &facts->from);
    read_ip(&reader, family, &facts->to);
    facts->from.port = reader_u16(&reader);
    facts->to.port = reader_u16(&reader);
    return !reader.failed;
}
