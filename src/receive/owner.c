/*
 * Whose address is it? A user may send from his own address (with any tag), from aliases that lead
 * to him, and from what his `senders` lists: addresses, "@domain", or "*". The null sender is
 * everyone's.
 *
 * Sleeps: on the directory. Fails: a directory that does not answer defers, it never refuses.
 */
#include "receive/session.h"

static bool same_nocase(struct address a, struct address b)
{
    return bytes_equal_nocase(a.local, b.local) && bytes_equal_nocase(a.domain, b.domain);
}

static struct address without_tag(const struct config *config, struct address address)
{
    const struct config_domain *domain = config_find_domain(config, address.domain);
    const size_t at = domain && domain->tag_separator
                          ? bytes_find_byte(address.local, (uint8_t)domain->tag_separator)
                          : address.local.count;

    if (at > 0)
        address.local = bytes_slice(address.local, 0, at);
    return address;
}

static bool is_listed(struct bytes senders, struct address from)
{
    while (senders.count > 0) {
        struct bytes one;

        senders = bytes_cut(senders, ',', &one);
        one = bytes_trim(one);
        const size_t at = bytes_find_last_byte(one, '@');
        const struct address listed = {bytes_slice(one, 0, at), bytes_skip(one, at + 1)};

        if (bytes_equal_text(one, "*"))
            return true;
        if (at < one.count && bytes_equal_nocase(listed.domain, from.domain) &&
            (at == 0 || bytes_equal_nocase(listed.local, from.local)))
            return true;
    }
    return false;
}

MUST_USE static struct verdict owner_unknown(const struct lookup *lookup)
{
    return verdict_with(lookup->reason == LOOKUP_REASON_MISCONFIGURED
                            ? CAUSE_DIRECTORY_MISCONFIGURED
                            : CAUSE_DIRECTORY_UNAVAILABLE,
                        lookup->detail);
}

/* Do the aliases of this address lead to the user? */
MUST_USE static struct verdict owner_by_alias(struct session *session, struct address user,
                                              struct address from)
{
    struct directory_targets targets = {0};
    const struct lookup lookup = directory_expand(session->receive->settings.directory,
                                                  &session->transaction_arena, from, &targets);

    if (lookup.status == LOOKUP_FAILED)
        return owner_unknown(&lookup);
    for (unsigned i = 0; lookup.status == LOOKUP_FOUND && i < targets.count; i++)
        if (targets.targets[i].local &&
            same_nocase(without_tag(session->config, targets.targets[i].address), user))
            return verdict_accept();
    return verdict_with(CAUSE_SENDER_NOT_OWNED,
                        arena_print(&session->transaction_arena, "user \"%.*s\"",
                                    BYTES_PRINT(session->client.user)));
}

struct verdict sender_is_owned(struct session *session, struct address from)
{
    const struct bytes name = session->client.user;
    const size_t at = bytes_find_last_byte(name, '@');
    const struct address user = {bytes_slice(name, 0, at), bytes_skip(name, at + 1)};
    struct directory_user facts;

    if (address_is_null(from) || same_nocase(without_tag(session->config, from), user))
        return verdict_accept();
    const struct lookup lookup = directory_find_user(session->receive->settings.directory,
                                                     &session->transaction_arena, user, &facts);
    if (lookup.status == LOOKUP_FAILED)
        return owner_unknown(&lookup);
    if (lookup.status == LOOKUP_FOUND && is_listed(facts.senders, from))
        return verdict_accept();
    return owner_by_alias(session, user, from);
}
