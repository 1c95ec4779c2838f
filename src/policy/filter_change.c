/*
 * What a milter changed, done to the envelope and the message. All addresses are read before
 * anything is done, so that a change that cannot be done leaves nothing half done.
 */
#include "policy/filter.h"

/* "<a@b>", or "a@b" as some milters write it. */
static bool path_read(struct arena *arena, struct bytes path, enum path_kind kind,
                      struct address *address)
{
    struct bytes rest = bytes_trim(path);

    if (rest.count == 0 && kind == PATH_REVERSE) {
        *address = (struct address){0};
        return true;
    }
    if (rest.count > 0 && rest.at[0] != '<')
        return address_parse(arena, rest, address);
    return address_parse_path(arena, &rest, kind, address) && rest.count == 0;
}

static bool is_path(const struct milter_change *change)
{
    return change->kind == MILTER_RECIPIENT_ADD || change->kind == MILTER_RECIPIENT_DELETE ||
           change->kind == MILTER_SENDER_CHANGE;
}

static enum path_kind path_kind_of(const struct milter_change *change)
{
    return change->kind == MILTER_SENDER_CHANGE ? PATH_REVERSE : PATH_FORWARD;
}

/* ------------------------------------------------------------------ the envelope */

/* A record has to say to whom it would have gone, also when a milter takes away everybody. */
static bool recipients_keep(struct transaction *transaction, const struct milter_changes *changes,
                            struct envelope *kept)
{
    const struct envelope *envelope = &transaction->envelope;
    bool deletes = false;

    *kept = *envelope;
    for (const struct milter_change *change = changes->first; change; change = change->next)
        deletes |= change->kind == MILTER_RECIPIENT_DELETE;
    if (!deletes || envelope->recipient_count == 0)
        return true;
    kept->recipients =
        ARENA_NEW_ARRAY(transaction->arena, envelope->recipient_count, struct recipient);
    for (uint32_t i = 0; kept->recipients && i < envelope->recipient_count; i++)
        kept->recipients[i] = envelope->recipients[i];
    return kept->recipients != NULL;
}

/* Both the address that was asked for and where an alias led count as its name. */
static void recipient_delete(struct envelope *envelope, struct address address)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < envelope->recipient_count; i++) {
        const struct recipient *recipient = &envelope->recipients[i];
        if (address_equal(recipient->address, address) || address_equal(recipient->asked, address))
            continue;
        envelope->recipients[kept++] = *recipient;
    }
    envelope->recipient_count = kept;
}

MUST_USE static struct verdict path_apply(struct policy *policy, struct transaction *transaction,
                                          const struct milter_change *change,
                                          struct address address)
{
    switch (change->kind) {
    case MILTER_RECIPIENT_ADD:
        return recipient_add(policy, transaction, address);
    case MILTER_RECIPIENT_DELETE:
        recipient_delete(&transaction->envelope, address);
        return verdict_accept();
    case MILTER_SENDER_CHANGE:
        transaction->envelope.from = address;
        return verdict_accept();
    case MILTER_HEADER_ADD:
    case MILTER_HEADER_INSERT:
    case MILTER_HEADER_CHANGE:
        break;
    }
    return verdict_accept();
}

static struct scan bad_path(struct transaction *transaction, const struct config_filter *filter,
                            struct bytes path)
{
    return filter_scan_fault(transaction->arena, filter, FILTER_FAULT_MISCONFIGURED,
                             arena_print(transaction->arena, "\"%.*s\" is no address",
                                         BYTES_PRINT(bytes_slice(path, 0, 200))));
}

static struct scan envelope_apply(struct policy *policy, struct transaction *transaction,
                                  const struct config_filter *filter,
                                  const struct milter_changes *changes)
{
    const struct milter_change *change;
    struct address address;

    for (change = changes->first; change; change = change->next)
        if (is_path(change) &&
            !path_read(transaction->arena, change->name, path_kind_of(change), &address))
            return bad_path(transaction, filter, change->name);
    for (change = changes->first; change; change = change->next) {
        if (!is_path(change) ||
            !path_read(transaction->arena, change->name, path_kind_of(change), &address))
            continue;
        const struct verdict done = path_apply(policy, transaction, change, address);
        if (!verdict_accepts(&done))
            return (struct scan){.verdict = done};
    }
    return (struct scan){.verdict = verdict_accept()};
}

/* ------------------------------------------------------------------ the message */

static bool has_header_change(const struct milter_changes *changes)
{
    for (const struct milter_change *change = changes->first; change; change = change->next)
        if (!is_path(change))
            return true;
    return false;
}

static void quarantine(struct transaction *transaction, const struct config_filter *filter,
                       struct bytes why)
{
    transaction->disposition = DISPOSITION_HOLD;
    transaction->hold_why = filter_words(transaction->arena, filter, why);
}

struct scan milter_apply(struct policy *policy, struct transaction *transaction,
                         const struct config_filter *filter, const struct milter_changes *changes,
                         const struct message_source *body)
{
    struct envelope before;

    if (!recipients_keep(transaction, changes, &before))
        return (struct scan){.verdict = verdict_of(CAUSE_SERVER_BUSY), .fault = true};
    const struct scan envelope = envelope_apply(policy, transaction, filter, changes);
    if (!verdict_accepts(&envelope.verdict))
        return envelope;
    if ((body || has_header_change(changes)) && !filtering_change(transaction, changes, body))
        return (struct scan){
            .verdict = verdict_with(CAUSE_SERVER_BUSY, BYTES_LITERAL("the changed header")),
            .fault = true};
    if (changes->quarantined)
        quarantine(transaction, filter, changes->quarantine_why);
    if (transaction->envelope.recipient_count == 0) {
        observe_note(LOG_WARNING, "policy", "filter %s took away every recipient: discarded",
                     filter->name);
        transaction->envelope.recipients = before.recipients;
        transaction->envelope.recipient_count = before.recipient_count;
        filter_discard(transaction, filter);
    }
    return (struct scan){.verdict = verdict_accept()};
}
