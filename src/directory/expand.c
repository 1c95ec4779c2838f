/*
 * expand: from an address to where it leads. Aliases come before users, the whole local part before
 * the one without its tag, the catch-all last. A failed look-up on the way fails the whole, since
 * it might have led elsewhere.
 */
#include "directory/source.h"

/* The recursion is 32 deep on a session's stack, so what it calls at its ends keeps its frame
 * apart. */
#define FRAME_APART __attribute__((noinline))

enum { DEPTH_MAX = 32, TARGETS_MAX = 1000, ABSENT_TRIES = 3 };

/* The names that led here, on the stack of the recursion. */
struct chain {
    const struct chain *parent;
    struct bytes name; /* of the alias or catch-all */
    const struct directory_domain *domain;
    struct address owner; /* of the innermost list on the way that has one */
    unsigned depth;
};

struct expansion {
    struct search search;
    struct directory_targets *targets;
    unsigned room;
};

static struct lookup expand_address(struct expansion *expansion, struct address address,
                                    const struct chain *parent);

FRAME_APART static struct lookup misconfigured(struct expansion *expansion, const char *what,
                                               struct bytes name)
{
    return lookup_failed(LOOKUP_REASON_MISCONFIGURED,
                         arena_print(expansion->search.arena, "%s: %.*s", what, BYTES_PRINT(name)));
}

/* ------------------------------------------------------------------ targets */

static bool target_equal(const struct directory_target *a, const struct directory_target *b)
{
    if (a->local != b->local || !bytes_equal(a->file_or_pipe, b->file_or_pipe) ||
        !bytes_equal(a->deliver, b->deliver))
        return false;
    return a->local ? bytes_equal_nocase(a->address.local, b->address.local) &&
                          bytes_equal_nocase(a->address.domain, b->address.domain)
                    : address_equal(a->address, b->address);
}

static bool targets_grow(struct expansion *expansion)
{
    const unsigned room = expansion->room ? 2 * expansion->room : 4;
    struct directory_target *grown =
        ARENA_NEW_ARRAY(expansion->search.arena, room, struct directory_target);

    if (!grown)
        return false;
    for (unsigned i = 0; i < expansion->targets->count; i++)
        grown[i] = expansion->targets->targets[i];
    expansion->targets->targets = grown;
    expansion->room = room;
    return true;
}

/* Once each: a person on two lists gets one copy. */
FRAME_APART static struct lookup target_add(struct expansion *expansion,
                                            struct directory_target target)
{
    struct directory_targets *targets = expansion->targets;

    for (unsigned i = 0; i < targets->count; i++)
        if (target_equal(&targets->targets[i], &target))
            return lookup_found();
    if (targets->count == TARGETS_MAX)
        return misconfigured(expansion, "an alias leads to too many targets", BYTES_EMPTY);
    if (targets->count == expansion->room && !targets_grow(expansion))
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
    targets->targets[targets->count++] = target;
    return lookup_found();
}

static struct address chain_owner(const struct chain *chain)
{
    return chain ? chain->owner : (struct address){0};
}

static struct bytes arena_keep(struct expansion *expansion, struct bytes view)
{
    return arena_copy(expansion->search.arena, view);
}

/* The user's own spelling, with the tag as it was given: `deliver` fills in {tag} from it. */
FRAME_APART static struct lookup target_add_user(struct expansion *expansion,
                                                 const struct directory_user *user,
                                                 struct bytes tag, const struct chain *parent)
{
    const struct directory_domain *domain =
        directory_domain_of(expansion->search.directory, user->address);
    const char separator =
        domain && domain->config->tag_separator ? domain->config->tag_separator : '+';
    struct bytes local = user->address.local;

    if (tag.count > 0)
        local = arena_print(expansion->search.arena, "%.*s%c%.*s", BYTES_PRINT(local), separator,
                            BYTES_PRINT(tag));
    return target_add(expansion, (struct directory_target){.address = {local, user->address.domain},
                                                           .local = true,
                                                           .owner = chain_owner(parent),
                                                           .deliver = user->deliver,
                                                           .flags = user->flags});
}

/* ------------------------------------------------------------------ lists */

static struct lookup expand_item(struct expansion *expansion, const struct alias_item *item,
                                 const struct chain *here);

/* FOUND when at least one value leads somewhere. A member that is no user is left out, with a note:
 * one leaver must not stop a whole list. */
static struct lookup expand_list(struct expansion *expansion, const struct alias_list *list,
                                 const struct chain *here)
{
    bool found = false;

    if (list->state.status != LOOKUP_FOUND)
        return lookup_failed(list->state.reason, arena_keep(expansion, list->state.detail));
    for (const struct alias_item *item = list->items; item; item = item->next) {
        const struct lookup lookup = expand_item(expansion, item, here);

        if (lookup.status == LOOKUP_FAILED)
            return lookup;
        found = found || lookup.status == LOOKUP_FOUND;
        if (lookup.status == LOOKUP_ABSENT)
            observe_note(LOG_WARNING, "directory", "alias %.*s: no such user: %.*s",
                         BYTES_PRINT(here->name), BYTES_PRINT(item->text));
    }
    return found ? lookup_found()
                 : misconfigured(expansion, "an alias leads to nobody", here->name);
}

/* "\name": the user itself. */
FRAME_APART static struct lookup expand_user_itself(struct expansion *expansion, struct bytes name,
                                                    const struct chain *here)
{
    struct directory_domain *domain = (struct directory_domain *)here->domain;
    struct directory_user user;
    const struct lookup lookup =
        search_user(&expansion->search, domain,
                    (struct address){arena_keep(expansion, name), BYTES_EMPTY}, &user);

    return lookup.status == LOOKUP_FOUND ? target_add_user(expansion, &user, BYTES_EMPTY, here)
                                         : lookup;
}

/* "|NAME" of a pipe that the configuration lets aliases lead to is the alias's own address, given
 * to that command; what else begins like this is left to who asks, and nobody runs it. */
FRAME_APART static struct lookup expand_program(struct expansion *expansion, struct bytes text,
                                                const struct chain *here)
{
    const struct config_domain *domain = here->domain->config;
    const struct bytes name = bytes_trim(bytes_skip(text, 1));

    if (text.at[0] != '|' || !config_names(domain->alias_pipes, name))
        return target_add(expansion,
                          (struct directory_target){.file_or_pipe = arena_keep(expansion, text),
                                                    .owner = here->owner});
    return target_add(
        expansion,
        (struct directory_target){
            .address = {arena_keep(expansion, here->name), bytes_of_text(domain->name)},
            .local = true,
            .owner = here->owner,
            .deliver = arena_print(expansion->search.arena, "pipe:%.*s", BYTES_PRINT(name))});
}

static struct lookup expand_item(struct expansion *expansion, const struct alias_item *item,
                                 const struct chain *here)
{
    const struct bytes domain = bytes_of_text(here->domain->config->name);

    switch (item->kind) {
    case ALIAS_NAME:
        return expand_address(expansion,
                              (struct address){arena_keep(expansion, item->text), domain}, here);
    case ALIAS_ADDRESS:
        return expand_address(expansion,
                              (struct address){arena_keep(expansion, item->address.local),
                                               arena_keep(expansion, item->address.domain)},
                              here);
    case ALIAS_USER:
        return expand_user_itself(expansion, item->text, here);
    case ALIAS_PROGRAM:
        return expand_program(expansion, item->text, here);
    case ALIAS_INCLUDE:
        return expand_list(expansion, item->list, here);
    }
    return lookup_failed(LOOKUP_REASON_UNKNOWN, BYTES_EMPTY);
}

/* ------------------------------------------------------------------ an address */

static bool chain_is(const struct chain *chain, const struct directory_domain *domain,
                     struct bytes name)
{
    return chain->domain == domain && bytes_equal_nocase(chain->name, name);
}

/* Did this alias lead here already? `direct`: by itself, as in "bob: bob, carol@example.org". */
static bool chain_holds(const struct chain *chain, const struct directory_domain *domain,
                        struct bytes name, bool *direct)
{
    *direct = chain && chain_is(chain, domain, name);
    for (; chain; chain = chain->parent)
        if (chain_is(chain, domain, name))
            return true;
    return false;
}

/* "owner-LIST", when that is an alias, too: the sender of what goes to the list's members, so that
 * its owner hears of failures and its authors do not (RFC 5321 3.9.2). */
FRAME_APART static struct lookup expand_owner(struct expansion *expansion,
                                              struct directory_domain *domain, struct bytes name,
                                              struct address *owner)
{
    static const struct bytes prefix = BYTES_LITERAL("owner-");
    const struct alias_list *list = NULL;
    struct snapshot *held = NULL;
    const struct address found = {
        arena_print(expansion->search.arena, "owner-%.*s", BYTES_PRINT(name)),
        bytes_of_text(domain->config->name)};

    if (bytes_starts_with_nocase(name, prefix))
        return lookup_absent();
    const struct lookup lookup = search_alias(&expansion->search, domain, found, &held, &list);

    snapshot_release(held);
    if (lookup.status == LOOKUP_FOUND)
        *owner = found;
    return lookup;
}

FRAME_APART static struct lookup expand_members(struct expansion *expansion,
                                                const struct alias_list *list, struct chain *here)
{
    const struct lookup owner =
        expand_owner(expansion, (struct directory_domain *)here->domain, here->name, &here->owner);

    return owner.status == LOOKUP_FAILED ? owner : expand_list(expansion, list, here);
}

/* The alias of one form of the local part. ABSENT also when it names itself: then the user is
 * meant. */
static struct lookup expand_alias(struct expansion *expansion, struct directory_domain *domain,
                                  struct address address, const struct chain *parent)
{
    const struct alias_list *list = NULL;
    struct snapshot *held = NULL;
    bool direct = false;
    struct lookup lookup = search_alias(&expansion->search, domain, address, &held, &list);
    struct chain here = {parent, address.local, domain, chain_owner(parent),
                         parent ? parent->depth + 1 : 1};

    if (lookup.status == LOOKUP_FOUND) {
        if (!chain_holds(parent, domain, address.local, &direct))
            lookup = here.depth > DEPTH_MAX
                         ? misconfigured(expansion, "aliases are too deep", address.local)
                         : expand_members(expansion, list, &here);
        else
            lookup = direct ? lookup_absent()
                            : misconfigured(expansion, "an alias leads to itself", address.local);
    }
    snapshot_release(held);
    return lookup;
}

FRAME_APART static struct lookup expand_user(struct expansion *expansion,
                                             struct directory_domain *domain,
                                             struct address address, struct bytes tag,
                                             const struct chain *parent)
{
    struct directory_user user;
    const struct lookup lookup = search_user(&expansion->search, domain, address, &user);

    if (lookup.status != LOOKUP_FOUND)
        return lookup;
    return target_add_user(expansion, &user, tag, parent);
}

/* Alias, then user. */
static struct lookup expand_form(struct expansion *expansion, struct directory_domain *domain,
                                 struct address address, struct bytes tag,
                                 const struct chain *parent)
{
    const struct lookup alias = expand_alias(expansion, domain, address, parent);

    if (alias.status != LOOKUP_ABSENT)
        return alias;
    return expand_user(expansion, domain, address, tag, parent);
}

FRAME_APART static struct lookup expand_catch_all(struct expansion *expansion,
                                                  struct directory_domain *domain,
                                                  const struct chain *parent)
{
    const struct bytes name = bytes_of_text(domain->config->catch_all);
    const struct chain here = {parent, name, domain, chain_owner(parent),
                               parent ? parent->depth + 1 : 1};
    struct address address;
    bool direct = false;

    if (name.count == 0)
        return lookup_absent();
    if (here.depth > DEPTH_MAX || chain_holds(parent, domain, name, &direct) ||
        !address_parse(expansion->search.arena, name, &address))
        return misconfigured(expansion, "the catch-all leads to nobody", name);
    return expand_address(expansion, address, &here);
}

static struct lookup expand_local(struct expansion *expansion, struct directory_domain *domain,
                                  struct address address, const struct chain *parent)
{
    struct bytes user, tag;
    const struct lookup whole = expand_form(expansion, domain, address, BYTES_EMPTY, parent);

    if (whole.status != LOOKUP_ABSENT)
        return whole;
    if (address_split_tag(domain->config, address.local, &user, &tag)) {
        const struct lookup base =
            expand_form(expansion, domain, (struct address){user, address.domain}, tag, parent);

        if (base.status != LOOKUP_ABSENT)
            return base;
    }
    return expand_catch_all(expansion, domain, parent);
}

static struct lookup expand_address(struct expansion *expansion, struct address address,
                                    const struct chain *parent)
{
    struct directory_domain *domain = directory_domain_of(expansion->search.directory, address);

    if (!domain)
        return target_add(
            expansion, (struct directory_target){.address = address, .owner = chain_owner(parent)});
    address.domain = bytes_of_text(domain->config->name);
    return expand_local(expansion, domain, address, parent);
}

/* ------------------------------------------------------------------ the room's look-ups */

/* An "absent" out of a file that changed a moment ago may be a writer half way through: wait until
 * the file has settled, and look again. False when it never settles. Sleeps. */
static bool settle(struct search *search)
{
    const enum io_status slept = fiber_sleep_until(deadline_in(US_PER_S + 100 * US_PER_MS));

    search->since_us = clock_now_us();
    search->fresh = false;
    return slept == IO_OK;
}

static struct lookup unsettled(void)
{
    return lookup_failed(LOOKUP_REASON_UNAVAILABLE,
                         BYTES_LITERAL("the directory's file keeps changing"));
}

struct lookup expand_now(struct directory *directory, struct arena *arena, struct address address,
                         struct directory_targets *targets)
{
    struct expansion expansion = {.search = {.directory = directory, .arena = arena},
                                  .targets = targets};

    for (int i = 0; i < ABSENT_TRIES; i++) {
        *targets = (struct directory_targets){0};
        expansion.room = 0;
        const struct lookup lookup = expand_address(&expansion, address, NULL);

        if (arena->failed)
            return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
        if (lookup.status != LOOKUP_ABSENT || !expansion.search.fresh)
            return lookup;
        if (!settle(&expansion.search))
            break;
    }
    return unsettled();
}

static struct lookup find_user_once(struct search *search, struct directory_domain *domain,
                                    struct address address, struct directory_user *user)
{
    const struct lookup whole = search_user(search, domain, address, user);
    struct bytes local, tag;

    if (whole.status != LOOKUP_ABSENT ||
        !address_split_tag(domain->config, address.local, &local, &tag))
        return whole;
    address.local = local;
    const struct lookup base = search_user(search, domain, address, user);

    if (base.status == LOOKUP_FOUND)
        user->tag = tag;
    return base;
}

struct lookup find_user_now(struct directory *directory, struct arena *arena,
                            struct address address, struct directory_user *user)
{
    struct directory_domain *domain = directory_domain_of(directory, address);
    struct search search = {.directory = directory, .arena = arena};

    *user = (struct directory_user){0};
    if (!domain)
        return lookup_absent();
    for (int i = 0; i < ABSENT_TRIES; i++) {
        const struct lookup lookup = find_user_once(&search, domain, address, user);

        if (arena->failed)
            return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
        if (lookup.status != LOOKUP_ABSENT || !search.fresh)
            return lookup;
        if (!settle(&search))
            break;
    }
    return unsettled();
}
