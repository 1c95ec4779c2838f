/*
 * The Received-SPF field (RFC 7208 9.1). Values that come from the peer are quoted strings without
 * anything that could end them.
 */
#include "auth/auth.h"

enum { QUOTED_MOST = 256 };

static void add_quoted(struct buffer *into, struct bytes value)
{
    uint8_t quoted[2 * QUOTED_MOST + 2];
    size_t count = 0;

    quoted[count++] = '"';
    for (size_t i = 0; i < value.count && i < QUOTED_MOST; i++) {
        const uint8_t byte = value.at[i];
        if (byte == '"' || byte == '\\')
            quoted[count++] = '\\';
        quoted[count++] = ascii_is_print(byte) ? byte : '?';
    }
    quoted[count++] = '"';
    buffer_add(into, bytes_of(quoted, count));
}

static void add_pair(struct buffer *into, const char *name, struct bytes value)
{
    buffer_add_text(into, ";\r\n\t");
    buffer_add_text(into, name);
    buffer_add_byte(into, '=');
    add_quoted(into, value);
}

void spf_print_received(struct buffer *into, const struct spf_request *request,
                        const struct spf_facts *facts)
{
    char client[ENDPOINT_TEXT_MAX];
    struct buffer sender = BUFFER_WITH_LIMIT(MAIL_ADDRESS_MAX);

    address_print(&sender, request->from);
    buffer_print(into, "Received-SPF: %s\r\n\tidentity=%s", auth_result_name(facts->result),
                 request->identity == SPF_HELO ? "helo" : "mailfrom");
    buffer_print(into, ";\r\n\tclient-ip=%s", ip_print(&request->client, client, sizeof client));
    add_pair(into, "helo", request->helo);
    add_pair(into, "envelope-from", buffer_view(&sender));
    if (request->receiver)
        add_pair(into, "receiver", bytes_of_text(request->receiver));
    if (facts->mechanism.count > 0)
        add_pair(into, "mechanism", facts->mechanism);
    if (facts->problem.count > 0)
        add_pair(into, "problem", facts->problem);
    buffer_add_text(into, "\r\n");
    buffer_free(&sender);
}
