/*
 * What was found, for who reads the message and for who reads the journal.
 */
#include "policy/authenticate.h"

static struct bytes iprev_result(const struct authentication *it, const struct client_facts *client)
{
    if (it->policy->settings.config->checks.reverse_dns == CHECK_OFF)
        return BYTES_EMPTY;
    switch (client->reverse.status) {
    case LOOKUP_FOUND:
        return BYTES_LITERAL("pass");
    case LOOKUP_ABSENT:
        return BYTES_LITERAL("fail");
    case LOOKUP_FAILED:
        break;
    }
    return BYTES_LITERAL("temperror");
}

void authenticate_results(const struct authentication *it, const struct transaction *transaction,
                          struct buffer *into)
{
    const struct auth_facts facts = {
        .authserv_id = it->policy->settings.config->hostname,
        .spf_request = it->has_from ? &it->from_request : NULL,
        .spf = it->has_from ? &it->from : NULL,
        .dkim = it->has_dkim ? &it->dkim_report : NULL,
        .arc = it->has_arc ? &it->arc : NULL,
        .dmarc = it->has_dmarc ? &it->dmarc : NULL,
        .iprev = iprev_result(it, transaction->client),
        .client = transaction->client->remote.ip,
    };

    authres_print(into, &facts);
}

void authenticate_print(const struct authentication *it, const struct transaction *transaction)
{
    const struct config *config = it->policy->settings.config;

    buffer_add_text(transaction->headers, "Authentication-Results: ");
    authenticate_results(it, transaction, transaction->headers);
    buffer_add_text(transaction->headers, "\r\n");
    if (it->has_from && config->checks.spf != CHECK_OFF)
        spf_print_received(transaction->headers, &it->from_request, &it->from);
    /* HELO's own is told where it says more than the sender's. */
    if (it->has_helo && config->checks.spf != CHECK_OFF && it->helo.result != AUTH_NONE &&
        it->helo.result != it->from.result)
        spf_print_received(transaction->headers, &it->helo_request, &it->helo);
}

/* ------------------------------------------------------------------ the journal */

static void add(struct buffer *into, const char *name, struct bytes value)
{
    if (value.count == 0)
        return;
    buffer_add_byte(into, ' ');
    buffer_add_text(into, name);
    buffer_add_byte(into, '=');
    buffer_add(into, value);
}

static void add_text(struct buffer *into, const char *name, const char *value)
{
    add(into, name, bytes_of_text(value));
}

static void add_dkim(struct buffer *into, const struct dkim_report *report)
{
    for (unsigned i = 0; i < report->count; i++) {
        const struct dkim_facts *one = &report->facts[i];

        add_text(into, "dkim", auth_result_name(one->result));
        add(into, "dkim_domain", one->domain);
        add(into, "dkim_selector", one->selector);
    }
    if (report->count == 0)
        buffer_add_text(into, " dkim=none");
}

/* What was done with the message, in the words of an aggregate report. */
static const char *disposition(const struct authentication *it, const struct verdict *verdict)
{
    if (verdict->kind != VERDICT_ACCEPT)
        return verdict->kind == VERDICT_DEFER ? "deferred" : "reject";
    if (it->has_dmarc && it->dmarc.result == AUTH_FAIL && !it->overridden &&
        it->dmarc.policy == DMARC_POLICY_QUARANTINE &&
        it->policy->settings.config->checks.dmarc == CHECK_ENFORCE)
        return "quarantine";
    return "none";
}

static void add_dmarc(struct buffer *into, const struct authentication *it)
{
    const struct dmarc_facts *facts = &it->dmarc;

    add_text(into, "dmarc", auth_result_name(facts->result));
    add_text(into, "policy", dmarc_policy_name(facts->policy));
    add(into, "author", facts->author_domain);
    add(into, "policy_domain", facts->policy_domain);
    add_text(into, "spf_aligned", facts->spf_aligned ? "yes" : "no");
    add_text(into, "dkim_aligned", facts->dkim_aligned ? "yes" : "no");
    if (it->overridden)
        buffer_add_text(into, " override=trusted_forwarder");
}

void authenticate_tell(const struct authentication *it, const struct transaction *transaction,
                       const struct verdict *verdict)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(16 * KIB);
    const struct client_facts *client = transaction->client;

    buffer_add_text(&text, "disposition=");
    buffer_add_text(&text, disposition(it, verdict));
    if (it->has_dmarc)
        add_dmarc(&text, it);
    if (it->has_from) {
        add_text(&text, "spf", auth_result_name(it->from.result));
        add(&text, "spf_domain", it->from.domain);
    }
    if (it->has_dkim)
        add_dkim(&text, &it->dkim_report);
    if (it->has_arc)
        add_text(&text, "arc", auth_result_name(it->arc.result));
    if (it->has_arc && it->arc.result != AUTH_NONE)
        add(&text, "arc_sealer", it->arc.sealer);
    const struct event event = {
        .kind = EVENT_MESSAGE_AUTHENTICATED,
        .stage = STAGE_DOT,
        .message = transaction->message,
        .session = client->session,
        .client = transaction->envelope.client,
        .helo = client->helo,
        .text = buffer_view(&text),
    };
    observe_event(&event);
}
