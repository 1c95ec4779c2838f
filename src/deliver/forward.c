/*
 * What an alias or a list of ours leads to elsewhere: with which sender it leaves (the list's
 * owner, or by SRS), and what may leave together.
 */
#include "deliver/inside.h"

bool recipient_is_forwarded(const struct config *config, const struct recipient *recipient)
{
    return !address_is_null(recipient->asked) && recipient->address.domain.count > 0 &&
           !config_find_domain(config, recipient->address.domain);
}

bool deliver_may_share(const struct deliver *deliver, const struct recipient *a,
                       const struct recipient *b)
{
    const bool forwarded = recipient_is_forwarded(deliver->config, a);

    if (!address_equal(a->owner, b->owner) ||
        forwarded != recipient_is_forwarded(deliver->config, b))
        return false;
    return !forwarded || address_equal(a->asked, b->asked);
}

struct verdict attempt_find_sender(const struct deliver *deliver, const struct attempt *attempt,
                                   struct address *sender)
{
    const struct recipient *recipient = attempt_recipient(attempt, 0);

    *sender = envelope_return_path(&attempt->message->envelope, recipient);
    if (!deliver->directory || !recipient_is_forwarded(deliver->config, recipient))
        return verdict_accept();
    const struct lookup lookup =
        directory_srs_forward(deliver->directory, attempt->arena, *sender, sender);
    if (lookup.status == LOOKUP_FOUND)
        return verdict_accept();
    return verdict_with(lookup.reason == LOOKUP_REASON_MISCONFIGURED ? CAUSE_DIRECTORY_MISCONFIGURED
                                                                     : CAUSE_DIRECTORY_UNAVAILABLE,
                        lookup.detail);
}

/* Delivered-To is how a loop of forwarding hosts is noticed at its second round (RFC 9228). */
struct verdict attempt_find_trace(const struct deliver *deliver, const struct attempt *attempt,
                                  struct bytes *trace)
{
    const struct recipient *recipient = attempt_recipient(attempt, 0);
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(4 * MAIL_ADDRESS_MAX);

    if (!recipient_is_forwarded(deliver->config, recipient) || !address_is_ascii(recipient->asked))
        return verdict_accept();
    buffer_add_text(&text, "Delivered-To: ");
    address_print(&text, recipient->asked);
    buffer_add_text(&text, "\r\n");
    *trace = arena_copy(attempt->arena, buffer_view(&text));
    return text.failed || trace->count == 0
               ? verdict_with(CAUSE_LOCAL_FAILED, BYTES_LITERAL("out of memory"))
               : verdict_accept();
}

/* Only towards other hosts: a mailbox here has no use for it, and a notification no sender. */
const struct config_verp *verp_of(const struct deliver_channel *channel, struct address from)
{
    const struct config *config = channel->deliver->config;

    for (unsigned i = 0; i < config->verp_count && channel->to.kind == DELIVER_SMTP; i++) {
        struct bytes local;
        const struct bytes domain = bytes_cut(bytes_of_text(config->verps[i].sender), '@', &local);
        if (bytes_equal_nocase(local, from.local) && bytes_equal_nocase(domain, from.domain))
            return &config->verps[i];
    }
    return NULL;
}

void notify_print(struct buffer *out, unsigned notify)
{
    static const struct {
        unsigned flag;
        const char *name;
    } NAMES[] = {{NOTIFY_SUCCESS, "SUCCESS"}, {NOTIFY_FAILURE, "FAILURE"}, {NOTIFY_DELAY, "DELAY"}};
    const char *separator = " NOTIFY=";

    if (notify & NOTIFY_NEVER) {
        buffer_add_text(out, " NOTIFY=NEVER");
        return;
    }
    for (unsigned i = 0; i < COUNT_OF(NAMES); i++) {
        if (!(notify & NAMES[i].flag))
            continue;
        buffer_print(out, "%s%s", separator, NAMES[i].name);
        separator = ",";
    }
}
