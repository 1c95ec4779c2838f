/*
 * recipient: RCPT. A domain of ours asks the directory and takes what it leads to; any other domain
 * needs a client that may relay.
 */
#include <string.h>

#include "policy/authenticate.h"
#include "policy/filter.h"
#include "policy/inside.h"

enum { ALIAS_SURPLUS = 1000, RECIPIENTS_DEFAULT = 1000 };

enum cause directory_cause(enum lookup_reason reason)
{
    return reason == LOOKUP_REASON_MISCONFIGURED ? CAUSE_DIRECTORY_MISCONFIGURED
                                                 : CAUSE_DIRECTORY_UNAVAILABLE;
}

/* ------------------------------------------------------------------ the envelope grows */

static uint32_t recipients_limit(const struct policy *policy)
{
    const uint32_t limit = policy->settings.config->limits.recipients;

    return limit ? limit : RECIPIENTS_DEFAULT;
}

/* Addresses by their hash, so that an envelope of many costs no more for each. Keyed: a client
 * chooses the addresses. An entry is a hint: what it points to is compared, and may be gone. */
struct recipient_places {
    const struct recipient *recipients; /* the array that it was made for */
    uint64_t key;
    uint32_t room;     /* a power of two, twice the array's at least */
    uint32_t filled;   /* with those that were taken back, until it is made anew */
    uint32_t places[]; /* index + 1; 0: free */
};

static uint32_t place_first(const struct recipient_places *places, struct address address)
{
    const uint64_t hash = bytes_hash_nocase(address.local) * 31 + bytes_hash_nocase(address.domain);

    return (uint32_t)(((hash ^ places->key) * UINT64_C(0x9e3779b97f4a7c15)) >> 32) &
           (places->room - 1);
}

static void place_put(struct recipient_places *places, struct address address, uint32_t index)
{
    uint32_t at = place_first(places, address);

    while (places->places[at] != 0)
        at = (at + 1) & (places->room - 1);
    places->places[at] = index + 1;
    places->filled++;
}

static void places_fill(struct recipient_places *places, const struct envelope *envelope)
{
    memset(places->places, 0, places->room * sizeof places->places[0]);
    places->filled = 0;
    for (uint32_t i = 0; i < envelope->recipient_count; i++)
        place_put(places, envelope->recipients[i].address, i);
}

/* NULL without memory: then they are looked through. */
static struct recipient_places *places_make(struct arena *arena, const struct envelope *envelope,
                                            uint32_t recipient_room)
{
    uint32_t room = 16;

    while (room < 2 * recipient_room)
        room *= 2;
    struct recipient_places *places =
        arena_take(arena, sizeof *places + room * sizeof places->places[0]);
    if (!places)
        return NULL;
    *places = (struct recipient_places){.recipients = envelope->recipients, .room = room};
    random_fill((struct span){(uint8_t *)&places->key, sizeof places->key});
    places_fill(places, envelope);
    return places;
}

static bool envelope_has_room(struct transaction *transaction, uint32_t more)
{
    const uint32_t count = transaction->envelope.recipient_count;
    uint32_t room = MAX_OF(transaction->recipient_room, 4u);

    if (count + more <= transaction->recipient_room)
        return true;
    while (room < count + more)
        room *= 2;
    struct recipient *grown = ARENA_NEW_ARRAY(transaction->arena, room, struct recipient);

    if (!grown)
        return false;
    for (uint32_t i = 0; i < count; i++)
        grown[i] = transaction->envelope.recipients[i];
    transaction->envelope.recipients = grown;
    transaction->recipient_room = room;
    transaction->places = places_make(transaction->arena, &transaction->envelope, room);
    return true;
}

static void envelope_append(struct transaction *transaction, const struct recipient *recipient)
{
    struct envelope *envelope = &transaction->envelope;

    struct recipient_places *places = transaction->places;

    if (places && places->recipients == envelope->recipients) {
        if (places->filled >= places->room / 4 * 3)
            places_fill(places, envelope);
        place_put(places, recipient->address, envelope->recipient_count);
    }
    envelope->recipients[envelope->recipient_count++] = *recipient;
}

static bool recipient_is(const struct transaction *transaction, uint32_t index,
                         const struct directory_target *target)
{
    const struct recipient *recipient = &transaction->envelope.recipients[index];

    return recipient->policy_class == transaction->class_now &&
           address_equal(recipient->address, target->address) &&
           bytes_equal(recipient->deliver, target->deliver);
}

/* The same address twice in one transaction gets one copy (RFC 5321 4.5.5 leaves it to us); an
 * alias may lead both to a mailbox and to a command. Each class has its own. */
static bool envelope_holds(const struct transaction *transaction,
                           const struct directory_target *target)
{
    const struct envelope *envelope = &transaction->envelope;
    const struct recipient_places *places = transaction->places;

    /* Filters take recipients away after the dot, and every other one moves up. */
    if (!places || places->recipients != envelope->recipients || transaction->judging) {
        for (uint32_t i = 0; i < envelope->recipient_count; i++)
            if (recipient_is(transaction, i, target))
                return true;
        return false;
    }
    for (uint32_t at = place_first(places, target->address); places->places[at] != 0;
         at = (at + 1) & (places->room - 1))
        if (places->places[at] <= envelope->recipient_count &&
            recipient_is(transaction, places->places[at] - 1, target))
            return true;
    return false;
}

/* What the author asked for ends at the list (RFC 3461 5.2.7.1); at an alias of several, success is
 * told once, of the alias (5.2.7.3). */
static void notify_limit(struct recipient *member, bool is_list, bool is_several)
{
    if (is_list) {
        member->notify = NOTIFY_DEFAULT;
        member->original = BYTES_EMPTY;
    } else if (is_several && member->notify & NOTIFY_SUCCESS) {
        member->notify &= ~(unsigned)NOTIFY_SUCCESS;
        if (member->notify == NOTIFY_DEFAULT) /* nothing else was asked for */
            member->notify = NOTIFY_NEVER;
    }
}

/* The list or alias itself, for the sender who wants to hear that it was reached. */
static void envelope_add_itself(struct transaction *transaction, const struct recipient *asked,
                                bool is_list)
{
    struct recipient itself = *asked;

    itself.policy_class = transaction->class_now;
    itself.notify = NOTIFY_SUCCESS;
    itself.deliver = bytes_of_text(is_list ? RECIPIENT_IS_LIST : RECIPIENT_IS_ALIAS);
    envelope_append(transaction, &itself);
}

static void envelope_add(struct transaction *transaction, const struct recipient *asked,
                         const struct directory_target *target, bool is_several)
{
    struct recipient added = *asked;

    if (envelope_holds(transaction, target))
        return;
    added.policy_class = transaction->class_now;
    added.address = target->address;
    added.deliver = target->deliver;
    added.owner = target->owner; /* members report to him */
    notify_limit(&added, !address_is_null(target->owner), is_several);
    if (!address_equal(target->address, asked->address))
        added.asked = asked->address;
    envelope_append(transaction, &added);
}

/* ------------------------------------------------------------------ verdicts */

/* What the directory says of a mailbox; a list takes mail even when one member's is full. */
static struct verdict targets_check(const struct policy *policy,
                                    const struct directory_targets *targets)
{
    const unsigned flags = targets->count == 1 ? targets->targets[0].flags : 0;
    const struct config_domain *domain =
        flags ? config_find_domain(policy->settings.config, targets->targets[0].address.domain)
              : NULL;

    for (unsigned i = 0; i < targets->count; i++)
        if (targets->targets[i].file_or_pipe.count > 0)
            return verdict_with(CAUSE_DIRECTORY_MISCONFIGURED,
                                BYTES_LITERAL("the alias leads to a file, or to a command that is "
                                              "none of the domain's `alias_pipes`"));
    if (flags & DIRECTORY_DISABLED)
        return verdict_of(domain && domain->disabled == REFUSAL_REFUSE
                              ? CAUSE_RECIPIENT_DISABLED_FINAL
                              : CAUSE_RECIPIENT_DISABLED);
    if (flags & DIRECTORY_OVER_QUOTA)
        return verdict_of(domain && domain->full == REFUSAL_REFUSE ? CAUSE_RECIPIENT_FULL_FINAL
                                                                   : CAUSE_RECIPIENT_FULL);
    return verdict_accept();
}

static struct verdict recipient_take(const struct policy *policy, struct transaction *transaction,
                                     const struct recipient *recipient,
                                     const struct directory_targets *targets)
{
    const uint32_t most = recipients_limit(policy) + ALIAS_SURPLUS;
    const bool is_list = targets->count > 0 && !address_is_null(targets->targets[0].owner);
    const bool is_several = targets->count > 1;

    REQUIRE(targets_check(policy, targets));
    if (transaction->envelope.recipient_count + targets->count > most)
        return verdict_of(CAUSE_RECIPIENT_TOO_MANY);
    if (!envelope_has_room(transaction, targets->count + 1))
        return verdict_with(CAUSE_RECIPIENT_TOO_MANY, BYTES_LITERAL("out of memory"));
    REQUIRE(class_choose(policy, transaction, recipient->address, targets));
    for (unsigned i = 0; i < targets->count; i++)
        envelope_add(transaction, recipient, &targets->targets[i], is_several);
    if ((is_list || is_several) && recipient->notify & NOTIFY_SUCCESS)
        envelope_add_itself(transaction, recipient, is_list);
    return verdict_accept();
}

static struct verdict recipient_ours(struct policy *policy, struct transaction *transaction,
                                     const struct recipient *recipient)
{
    struct directory_targets targets = {0};

    /* It was made for notifications; anything else would be mail that is sent through us. */
    if (directory_is_srs(policy->settings.directory, recipient->address) &&
        !address_is_null(transaction->envelope.from))
        return verdict_with(CAUSE_RELAY_DENIED,
                            BYTES_LITERAL("a rewritten sender (SRS) takes notifications only"));
    const struct lookup lookup = directory_expand(policy->settings.directory, transaction->arena,
                                                  recipient->address, &targets);

    switch (lookup.status) {
    case LOOKUP_FOUND:
        return recipient_take(policy, transaction, recipient, &targets);
    case LOOKUP_ABSENT:
        return verdict_with(CAUSE_RECIPIENT_UNKNOWN, lookup.detail);
    case LOOKUP_FAILED:
        break;
    }
    transaction->filter = lookup.source;
    return verdict_with(directory_cause(lookup.reason), lookup.detail);
}

static struct verdict recipient_elsewhere(const struct policy *policy,
                                          struct transaction *transaction,
                                          const struct recipient *recipient)
{
    struct directory_target target = {.address = recipient->address};
    const struct directory_targets targets = {&target, 1};

    return recipient_take(policy, transaction, recipient, &targets);
}

static bool is_ours(const struct policy *policy, struct address address)
{
    return address.domain.count == 0 || config_find_domain(policy->settings.config, address.domain);
}

static struct verdict recipient_find(struct policy *policy, struct transaction *transaction,
                                     const struct recipient *recipient)
{
    if (is_ours(policy, recipient->address))
        return recipient_ours(policy, transaction, recipient);
    if (!transaction->client->may_relay)
        return verdict_of(CAUSE_RELAY_DENIED);
    return recipient_elsewhere(policy, transaction, recipient);
}

/* An address that does not exist here is the filter's mistake: nobody else's mail fails for it. */
struct verdict recipient_add(struct policy *policy, struct transaction *transaction,
                             struct address address)
{
    const struct recipient recipient = {.address = address};

    if (!is_ours(policy, address))
        return recipient_elsewhere(policy, transaction, &recipient);
    const struct verdict added = recipient_ours(policy, transaction, &recipient);
    if (added.kind != VERDICT_REFUSE)
        return added;
    return verdict_with(
        CAUSE_FILTER_MISCONFIGURED,
        arena_print(transaction->arena, "a filter added a recipient: %s", cause_name(added.cause)));
}

/* Who is asked last may still object; then the envelope is as it was before. */
static struct verdict recipient_agreed(struct policy *policy, struct transaction *transaction,
                                       const struct recipient *recipient)
{
    REQUIRE(policy_check_class(policy, transaction));
    REQUIRE(authenticate_recipient(policy, transaction, recipient->address));
    return milters_recipient(policy, transaction, recipient);
}

struct verdict policy_recipient(struct policy *policy, struct transaction *transaction,
                                const struct recipient *recipient)
{
    const uint32_t before = transaction->envelope.recipient_count;

    transaction->filter = BYTES_EMPTY;
    if (transaction->accepted_commands >= recipients_limit(policy))
        return verdict_of(CAUSE_RECIPIENT_TOO_MANY);
    REQUIRE(recipient_find(policy, transaction, recipient));
    const struct verdict agreed = recipient_agreed(policy, transaction, recipient);
    if (!verdict_accepts(&agreed))
        transaction->envelope.recipient_count = before;
    return agreed;
}
