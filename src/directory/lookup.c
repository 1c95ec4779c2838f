/*
 * lookup: the room's two look-ups. For sources that cost a question, sessions that ask for the same
 * address share it, an answer may be kept for a while, and a last known FOUND may stand in while
 * the directory is down. What stands in never refuses: an ABSENT is not kept, and neither is an
 * answer served that says "disabled" or "full".
 */
#include "directory/source.h"

enum { KEY_MAX = 1024 };

/* ------------------------------------------------------------------ what is worth sharing */

static bool domain_is_shared(const struct directory *directory,
                             const struct directory_domain *domain)
{
    const struct config_directory *config = &directory->config->directory;

    return config->cache_us > 0 || config->stale_positive_us > 0 ||
           domain->users.kind == SOURCE_SQLITE || domain->users.kind == SOURCE_REMOTE ||
           domain->aliases.kind == SOURCE_SQLITE || domain->aliases.kind == SOURCE_REMOTE;
}

static void key_print(struct buffer *key, char kind, struct address address)
{
    buffer_add_byte(key, (uint8_t)kind);
    buffer_add(key, address.local);
    buffer_add_byte(key, '@');
    buffer_add(key, address.domain);
}

static struct address address_copy(struct arena *arena, struct address address)
{
    return (struct address){arena_copy(arena, address.local), arena_copy(arena, address.domain)};
}

static void targets_copy(struct arena *arena, const struct known *known,
                         struct directory_targets *targets)
{
    const unsigned count = known->targets.count;

    *targets = (struct directory_targets){
        .targets = ARENA_NEW_ARRAY(arena, count + 1u, struct directory_target)};
    for (unsigned i = 0; targets->targets && i < count; i++) {
        const struct directory_target *from = &known->targets.targets[i];

        targets->targets[targets->count++] =
            (struct directory_target){.address = address_copy(arena, from->address),
                                      .local = from->local,
                                      .file_or_pipe = arena_copy(arena, from->file_or_pipe),
                                      .owner = address_copy(arena, from->owner),
                                      .deliver = arena_copy(arena, from->deliver),
                                      .flags = from->flags};
    }
}

static void user_copy(struct arena *arena, const struct known *known, struct directory_user *user)
{
    *user = (struct directory_user){.address = address_copy(arena, known->user.address),
                                    .tag = arena_copy(arena, known->user.tag),
                                    .password = arena_copy(arena, known->user.password),
                                    .scram = arena_copy(arena, known->user.scram),
                                    .senders = arena_copy(arena, known->user.senders),
                                    .deliver = arena_copy(arena, known->user.deliver),
                                    .flags = known->user.flags};
}

/* ------------------------------------------------------------------ standing in */

static bool may_stand_in(const struct known *known)
{
    unsigned flags = known->user.flags;

    for (unsigned i = 0; i < known->targets.count; i++)
        flags |= known->targets.targets[i].flags;
    return flags == 0;
}

static void tell_stale(struct address address, const struct known *failed)
{
    metric_add(COUNTER_DIRECTORY_STALE, 1);
    observe_note(LOG_INFO, "directory", "%.*s@%.*s: the last known answer stands in: %.*s",
                 BYTES_PRINT(address.local), BYTES_PRINT(address.domain),
                 BYTES_PRINT(failed->lookup.detail));
}

/* Replaces a failed answer by the last known one, where the settings allow and there is one. */
static void stand_in(struct directory *directory, struct address address, struct known **known)
{
    const uint64_t stale_us = directory->config->directory.stale_positive_us;

    if ((*known)->lookup.status != LOOKUP_FAILED || stale_us == 0)
        return;
    struct known *former = known_stale(&directory->known, (*known)->key, stale_us);

    if (!former || !may_stand_in(former)) {
        known_release(former);
        return;
    }
    tell_stale(address, *known);
    known_release(*known);
    *known = former;
}

/* ------------------------------------------------------------------ asking once for all */

static void known_fill(struct directory *directory, char kind, struct address address,
                       struct known *known)
{
    const struct address own = address_copy(&known->arena, address);

    if (kind == 'u')
        known->lookup = find_user_now(directory, &known->arena, own, &known->user);
    else
        known->lookup = expand_now(directory, &known->arena, own, &known->targets);
    if (known->arena.failed)
        known->lookup = lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
    known_end(&directory->known, known);
}

/* The answer of this address, held; NULL when there is no memory or nobody answered. Sleeps. */
static struct known *known_take(struct directory *directory, char kind, struct address address)
{
    struct buffer key = BUFFER_WITH_LIMIT(KEY_MAX);
    struct known *known = NULL;
    enum known_step step = KNOWN_FAILED;

    key_print(&key, kind, address);
    if (!key.failed)
        step = known_begin(&directory->known, buffer_view(&key),
                           directory->config->directory.cache_us, &known);
    buffer_free(&key);
    if (step == KNOWN_FAILED)
        return NULL;
    if (step == KNOWN_ASK)
        known_fill(directory, kind, address, known);
    stand_in(directory, address, &known);
    return known;
}

static struct lookup lookup_of(struct arena *arena, const struct known *known)
{
    switch (known->lookup.status) {
    case LOOKUP_FOUND:
        return lookup_found();
    case LOOKUP_ABSENT:
        return lookup_absent();
    case LOOKUP_FAILED:
        break;
    }
    struct lookup failed =
        lookup_failed(known->lookup.reason, arena_copy(arena, known->lookup.detail));
    failed.source = known->lookup.source;
    return failed;
}

static struct lookup nobody_answered(void)
{
    return lookup_failed(LOOKUP_REASON_OVERLOADED,
                         BYTES_LITERAL("the directory's answer did not come in time"));
}

static struct lookup out_of_memory(void)
{
    return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
}

/* A notification on its way back to the sender of what we forwarded. */
static struct lookup expand_srs(struct directory *directory, struct arena *arena,
                                struct address address, struct directory_targets *targets)
{
    struct address original;
    const struct lookup lookup = srs_reverse(directory, arena, address, &original);

    return lookup.status == LOOKUP_FOUND ? expand_now(directory, arena, original, targets) : lookup;
}

struct lookup directory_expand(struct directory *directory, struct arena *arena,
                               struct address address, struct directory_targets *targets)
{
    const struct directory_domain *domain = directory_domain_of(directory, address);

    *targets = (struct directory_targets){0};
    if (directory_is_srs(directory, address))
        return expand_srs(directory, arena, address, targets);
    if (!domain || !domain_is_shared(directory, domain))
        return expand_now(directory, arena, address, targets);
    struct known *known = known_take(directory, 'e', address);

    if (!known)
        return nobody_answered();
    const struct lookup lookup = lookup_of(arena, known);

    targets_copy(arena, known, targets);
    known_release(known);
    return arena->failed ? out_of_memory() : lookup;
}

struct lookup directory_find_user(struct directory *directory, struct arena *arena,
                                  struct address address, struct directory_user *user)
{
    const struct directory_domain *domain = directory_domain_of(directory, address);

    *user = (struct directory_user){0};
    if (!domain || !domain_is_shared(directory, domain))
        return find_user_now(directory, arena, address, user);
    struct known *known = known_take(directory, 'u', address);

    if (!known)
        return nobody_answered();
    const struct lookup lookup = lookup_of(arena, known);

    user_copy(arena, known, user);
    known_release(known);
    return arena->failed ? out_of_memory() : lookup;
}
