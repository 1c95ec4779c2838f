/*
 * The Received-SPF field (RFC 7208 9.1). Values that come from the peer are quoted strings without
 * anything that could end them.
 */
#include "auth/auth.h"

static void add_quoted(struct buffer *into, struct bytes value)
{
    buffer_add_byte(into, '"');
    for (size_t i = 0; i < value.count && i < 256; i++) {
        const uint8_t byte = value.at[i];
        if (!ascii_is_print(byte)) {
            buffer_add_byte(into, '?');
            continue;
        }
        if (byte == '"' || byte == '\\')
            buffer_add_byte(into, '\\');
        buffer_add_byte(into, byte);
    }
    buffer_add_byte(into, '"');
}

static void add_pair(struct buffer *into, const char *name, struct bytes value)
{
    buffer_print(into, ";\r\n\t%s=", name);
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
