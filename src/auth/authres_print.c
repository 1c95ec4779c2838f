/*
 * Writing Authentication-Results (RFC 8601): one line a method. What comes from the peer is either
 * made of harmless bytes or quoted, so that nobody can add a method of their own.
 */
#include "auth/auth.h"

static bool is_harmless(struct bytes value)
{
    for (size_t i = 0; i < value.count; i++) {
        const uint8_t byte = value.at[i];
        const bool mark = (byte >= '+' && byte <= ':' && byte != ',') || byte == '=' ||
                          byte == '@' || byte == '_';
        if (!mark && !ascii_is_alpha(byte))
            return false;
    }
    return value.count > 0;
}

static void add_value(struct buffer *into, struct bytes value)
{
    if (is_harmless(value)) {
        buffer_add(into, value);
        return;
    }
    buffer_add_byte(into, '"');
    for (size_t i = 0; i < value.count && i < 512; i++) {
        if (value.at[i] == '"' || value.at[i] == '\\')
            buffer_add_byte(into, '\\');
        buffer_add_byte(into, value.at[i] < 0x20 || value.at[i] == 0x7f ? '?' : value.at[i]);
    }
    buffer_add_byte(into, '"');
}

static void add_property(struct buffer *into, const char *name, struct bytes value)
{
    if (value.count == 0)
        return;
    buffer_add_byte(into, ' ');
    buffer_add_text(into, name);
    buffer_add_byte(into, '=');
    add_value(into, value);
}

static void add_method(struct buffer *into, const char *method, enum auth_result result,
                       struct bytes reason)
{
    buffer_add_text(into, ";\r\n\t");
    buffer_add_text(into, method);
    buffer_add_byte(into, '=');
    buffer_add_text(into, auth_result_name(result));
    if (result != AUTH_PASS && result != AUTH_NONE)
        add_property(into, "reason", reason);
}

static void add_spf(struct buffer *into, const struct auth_facts *facts)
{
    struct buffer sender = BUFFER_WITH_LIMIT(MAIL_ADDRESS_MAX);
    const bool by_helo =
        facts->spf_request->identity == SPF_HELO || address_is_null(facts->spf_request->from);

    address_print(&sender, facts->spf_request->from);
    add_method(into, "spf", facts->spf->result, facts->spf->problem);
    if (by_helo)
        add_property(into, "smtp.helo", facts->spf_request->helo);
    else
        add_property(into, "smtp.mailfrom", buffer_view(&sender));
    buffer_free(&sender);
}

static void add_dkim(struct buffer *into, const struct dkim_report *report)
{
    if (report->count == 0)
        add_method(into, "dkim", AUTH_NONE, BYTES_EMPTY);
    for (unsigned i = 0; i < report->count; i++) {
        const struct dkim_facts *one = &report->facts[i];
        add_method(into, "dkim", one->result, one->reason);
        add_property(into, "header.d", one->domain);
        add_property(into, "header.s", one->selector);
        add_property(into, "header.a", one->algorithm);
        add_property(into, "header.b", one->signature_start);
    }
}

static void add_dmarc(struct buffer *into, const struct dmarc_facts *facts)
{
    add_method(into, "dmarc", facts->result, facts->reason);
    if (facts->result == AUTH_PASS || facts->result == AUTH_FAIL)
        buffer_print(into, " (p=%s)", dmarc_policy_name(facts->policy));
    add_property(into, "header.from", facts->author_domain);
}

void authres_print(struct buffer *into, const struct auth_facts *facts)
{
    char client[ENDPOINT_TEXT_MAX];
    const size_t before = into->count;

    buffer_add_text(into, facts->authserv_id);
    const size_t id_end = into->count;
    if (facts->iprev.count > 0) {
        buffer_print(into, ";\r\n\tiprev=%.*s", BYTES_PRINT(facts->iprev));
        buffer_print(into, " policy.iprev=%s", ip_print(&facts->client, client, sizeof client));
    }
    if (facts->spf && facts->spf_request)
        add_spf(into, facts);
    if (facts->dkim)
        add_dkim(into, facts->dkim);
    if (facts->arc)
        add_method(into, "arc", facts->arc->result, facts->arc->reason);
    if (facts->dmarc)
        add_dmarc(into, facts->dmarc);
    if (into->count == id_end && id_end > before)
        buffer_add_text(into, "; none");
}
