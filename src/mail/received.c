/*
 * The Received field (RFC 5321 4.4, protocol names of RFC 3848 and 6531). What the client said is
 * reduced to letters, digits and a few marks, so that it can end neither a comment nor the field.
 */
#include "mail/text.h"

#include <string.h>

enum { NAME_SHOWN_MAX = 255 };

static void add_name(struct buffer *into, struct bytes name)
{
    for (size_t i = 0; i < MIN_OF(name.count, (size_t)NAME_SHOWN_MAX); i++) {
        const uint8_t byte = name.at[i];
        const bool safe = ascii_is_alnum(byte) || (byte && strchr(".-_:[]", byte));

        buffer_add_byte(into, safe ? byte : '?');
    }
}

static void add_from(struct buffer *into, const struct received_facts *facts)
{
    char ip[ENDPOINT_TEXT_MAX];
    const bool known =
        facts->client.family == ENDPOINT_IPV4 || facts->client.family == ENDPOINT_IPV6;

    if (facts->helo.count == 0 && !known)
        return;
    buffer_add_text(into, "from ");
    if (facts->helo.count > 0)
        add_name(into, facts->helo);
    else
        buffer_add_text(into, "unknown");
    if (known) {
        buffer_add_text(into, facts->helo.count > 32 ? "\r\n\t(" : " (");
        add_name(into, facts->client_name);
        buffer_print(into, "%s[%s%s])", facts->client_name.count > 0 ? " " : "",
                     facts->client.family == ENDPOINT_IPV6 ? "IPv6:" : "",
                     ip_print(&facts->client.ip, ip, sizeof ip));
    }
    buffer_add_text(into, "\r\n\t");
}

static void add_tls(struct buffer *into, struct bytes tls)
{
    if (tls.count == 0)
        return;
    buffer_add_text(into, "(using ");
    for (size_t i = 0; i < MIN_OF(tls.count, (size_t)NAME_SHOWN_MAX); i++) {
        const uint8_t byte = tls.at[i];

        buffer_add_byte(into, ascii_is_print(byte) && !strchr("()\\", byte) ? byte : '?');
    }
    buffer_add_text(into, ")\r\n\t");
}

/* Only a UTF8SMTP trace may show letters beyond ASCII (RFC 6531 3.7.3). */
static bool recipient_is_shown(const struct received_facts *facts)
{
    return facts->only_recipient.local.count > 0 &&
           (address_is_ascii(facts->only_recipient) ||
            (facts->protocol && strncmp(facts->protocol, "UTF8", 4) == 0));
}

static void add_for(struct buffer *into, struct address recipient)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(2 * MAIL_ADDRESS_MAX);

    address_print(&text, recipient);
    buffer_add_text(into, "\r\n\tfor <");
    text_add_safe(into, buffer_view(&text), TEXT_UTF8);
    buffer_add_byte(into, '>');
}

void received_print(struct buffer *into, const struct received_facts *facts)
{
    char id[ID_TEXT_MAX], date[TIME_TEXT_MAX];

    buffer_add_text(into, "Received: ");
    add_from(into, facts);
    add_tls(into, facts->tls);
    buffer_print(into, "by %s", facts->hostname ? facts->hostname : "localhost");
    buffer_print(into, " with %s", facts->protocol ? facts->protocol : "SMTP");
    buffer_print(into, " id %s", id_print(facts->message, id, sizeof id));
    if (recipient_is_shown(facts))
        add_for(into, facts->only_recipient);
    buffer_print(into, ";\r\n\t%s\r\n", time_print_rfc5322(facts->wall_us, date, sizeof date));
}
