/*
 * classes: which filters judge the mail of which recipient, and whether a recipient may share its
 * transaction with those before it. Nobody's mail goes past a filter that his domain has: an alias
 * that leads to another domain of ours brings the filters of both.
 *
 * Never sleeps.
 */
#include <string.h>

#include "policy/filter.h"

/* ------------------------------------------------------------------ who has which filters */

/* Of mail for a domain that is not ours: all. */
static uint64_t filters_of_domain(const struct policy *policy, struct bytes name)
{
    const struct config_domain *domain =
        name.count > 0 ? config_find_domain(policy->settings.config, name) : NULL;

    return config_filters_of(policy->settings.config, domain);
}

/* Where an alias leads out of here, the domain that was asked for speaks for its mail. */
static uint64_t filters_of_recipient(const struct policy *policy, struct address asked,
                                     struct address target)
{
    const bool here = config_find_domain(policy->settings.config, target.domain) != NULL;
    const uint64_t bits = filters_of_domain(policy, asked.domain);

    return here ? bits | filters_of_domain(policy, target.domain) : bits;
}

uint64_t filters_of_envelope(const struct policy *policy, const struct envelope *envelope)
{
    uint64_t bits = 0;

    for (uint32_t i = 0; i < envelope->recipient_count; i++) {
        const struct recipient *one = &envelope->recipients[i];
        const struct address asked = address_is_null(one->asked) ? one->address : one->asked;
        bits |= filters_of_recipient(policy, asked, one->address);
    }
    return bits;
}

bool class_wants(const struct policy *policy, const struct transaction *transaction, uint8_t which,
                 const struct config_filter *filter)
{
    const size_t index = (size_t)(filter - policy->settings.config->filters);

    if (which >= transaction->class_count)
        return !filter->partial || transaction->judging;
    return (transaction->classes[which] >> index & 1) != 0;
}

bool filter_is_wanted(const struct policy *policy, const struct transaction *transaction,
                      const struct config_filter *filter)
{
    return class_wants(policy, transaction, transaction->class_now, filter);
}

/* ------------------------------------------------------------------ RCPT */

/* Room for the class of the RCPT at hand. */
static bool command_has_room(struct transaction *transaction)
{
    const uint32_t count = transaction->accepted_commands;
    const uint32_t room = MAX_OF(2 * transaction->command_room, 16u);

    if (count < transaction->command_room)
        return true;
    uint8_t *grown = ARENA_NEW_ARRAY(transaction->arena, room, uint8_t);

    if (!grown)
        return false;
    if (count > 0)
        memcpy(grown, transaction->command_classes, count);
    transaction->command_classes = grown;
    transaction->command_room = room;
    return true;
}

static bool class_find(const struct transaction *transaction, uint64_t bits, uint8_t *which)
{
    for (unsigned i = 0; i < transaction->class_count; i++)
        if (transaction->classes[i] == bits) {
            *which = (uint8_t)i;
            return true;
        }
    return false;
}

/* A client of our own may be somebody's mail program, which does not come again by itself. */
static bool client_is_own(const struct transaction *transaction)
{
    const struct client_facts *client = transaction->client;

    return client && (client->may_relay || client->user.count > 0);
}

MUST_USE static struct verdict class_enter(struct transaction *transaction, uint64_t bits,
                                           uint8_t *which)
{
    const bool alone = transaction->replies == REPLY_TO_ALL;

    if (transaction->envelope.recipient_count == 0)
        transaction->class_count = 0; /* those before were not taken after all */
    if (class_find(transaction, bits, which))
        return verdict_accept();
    if (alone && transaction->class_count > 0 && client_is_own(transaction)) {
        transaction->classes[0] |= bits;
        *which = 0;
        return verdict_accept();
    }
    if ((alone && transaction->class_count > 0) || transaction->class_count == POLICY_CLASSES_MAX)
        return verdict_of(CAUSE_RECIPIENT_OTHER_CLASS);
    *which = (uint8_t)transaction->class_count;
    transaction->classes[transaction->class_count++] = bits;
    return verdict_accept();
}

struct verdict class_choose(const struct policy *policy, struct transaction *transaction,
                            struct address asked, const struct directory_targets *targets)
{
    uint64_t bits = 0;

    for (unsigned i = 0; i < targets->count; i++)
        bits |= filters_of_recipient(policy, asked, targets->targets[i].address);
    if (transaction->judging) { /* a filter added it: those that have not judged yet will */
        if (transaction->class_now < transaction->class_count)
            transaction->classes[transaction->class_now] |= bits;
        return verdict_accept();
    }
    if (!command_has_room(transaction))
        return verdict_of(CAUSE_SERVER_BUSY);
    REQUIRE(class_enter(transaction, bits, &transaction->class_now));
    transaction->command_classes[transaction->accepted_commands] = transaction->class_now;
    return verdict_accept();
}
