/*
 * directory: the domains' sources, opened by their settings, and one look-up in one source. Nothing
 * here follows aliases (expand.c does).
 */
#include <string.h>

#include "directory/source.h"

/* ------------------------------------------------------------------ open and close */

static bool setting_is(const char *setting, const char *prefix, const char **rest)
{
    const size_t length = strlen(prefix);

    if (strncmp(setting, prefix, length) != 0)
        return false;
    *rest = setting + length;
    return true;
}

static bool users_open(struct directory_domain *domain, char *why, size_t why_room)
{
    const char *setting = domain->config->users, *rest = NULL;

    if (!setting || setting[0] == '\0')
        return true;
    if (setting_is(setting, "file:", &rest)) {
        cached_file_open(&domain->users_file, rest, users_parse);
        domain->users_kind = SOURCE_FILE;
        return true;
    }
    if (setting_is(setting, "sqlite:", &rest)) {
        domain->users_sqlite = sqlite_source_open(rest, why, why_room);
        domain->users_kind = domain->users_sqlite ? SOURCE_SQLITE : SOURCE_EVERYONE;
        return domain->users_sqlite != NULL;
    }
    snprintf(why, why_room, "domain %s: users = \"%s\" is no source that is known (file:, sqlite:)",
             domain->config->name, setting);
    return false;
}

static bool aliases_open(struct directory_domain *domain, char *why, size_t why_room)
{
    const char *setting = domain->config->aliases, *rest = NULL;

    if (!setting || setting[0] == '\0')
        return true;
    if (!setting_is(setting, "file:", &rest)) {
        snprintf(why, why_room, "domain %s: aliases = \"%s\" is no source that is known (file:)",
                 domain->config->name, setting);
        return false;
    }
    cached_file_open(&domain->aliases_file, rest, aliases_parse);
    domain->has_aliases = true;
    return true;
}

struct directory *directory_open(const struct config *config, char *why, size_t why_room)
{
    struct directory *directory = calloc(1, sizeof *directory);
    struct directory_domain *domains = calloc(config->domain_count + 1u, sizeof *domains);

    if (!directory || !domains) {
        free(directory);
        free(domains);
        snprintf(why, why_room, "directory: out of memory");
        return NULL;
    }
    *directory = (struct directory){.config = config, .domains = domains};
    password_desk_open(&directory->passwords);
    while (directory->domain_count < config->domain_count) {
        struct directory_domain *domain = &domains[directory->domain_count];

        domain->config = &config->domains[directory->domain_count++];
        if (!users_open(domain, why, why_room) || !aliases_open(domain, why, why_room)) {
            directory_close(directory);
            return NULL;
        }
    }
    return directory;
}

void directory_close(struct directory *directory)
{
    if (!directory)
        return;
    for (unsigned i = 0; i < directory->domain_count; i++) {
        struct directory_domain *domain = &directory->domains[i];

        if (domain->users_kind == SOURCE_FILE)
            cached_file_close(&domain->users_file);
        if (domain->has_aliases)
            cached_file_close(&domain->aliases_file);
        sqlite_source_close(domain->users_sqlite);
    }
    password_desk_close(&directory->passwords);
    free(directory->domains);
    free(directory);
}

struct directory_domain *directory_domain_of(struct directory *directory, struct address address)
{
    if (address.domain.count == 0)
        return directory->domain_count > 0 && bytes_equal_text_nocase(address.local, "postmaster")
                   ? &directory->domains[0]
                   : NULL;
    for (unsigned i = 0; i < directory->domain_count; i++)
        if (bytes_equal_text_nocase(address.domain, directory->domains[i].config->name))
            return &directory->domains[i];
    return NULL;
}

/* ------------------------------------------------------------------ one look-up */

bool address_split_tag(const struct config_domain *domain, struct bytes local, struct bytes *user,
                       struct bytes *tag)
{
    const size_t at = domain->tag_separator ? bytes_find_byte(local, (uint8_t)domain->tag_separator)
                                            : local.count;

    if (at == 0 || at == local.count)
        return false;
    *user = bytes_slice(local, 0, at);
    *tag = bytes_skip(local, at + 1);
    return true;
}

/* Finds "local@domain", then "local"; the value lives as long as *held. */
static struct lookup search_file(struct search *search, struct cached_file *file,
                                 struct address address, struct snapshot **held, void **value)
{
    *held = cached_file_take(file, search->since_us);
    if (!*held)
        return lookup_failed(LOOKUP_REASON_UNAVAILABLE,
                             BYTES_LITERAL("the file could not be read in time"));
    if ((*held)->state.status != LOOKUP_FOUND)
        return lookup_failed((*held)->state.reason,
                             arena_copy(search->arena, (*held)->state.detail));
    search->fresh = search->fresh || (*held)->fresh;
    const struct bytes whole = arena_print(search->arena, "%.*s@%.*s", BYTES_PRINT(address.local),
                                           BYTES_PRINT(address.domain));

    if (search->arena->failed)
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
    *value = name_table_find(&(*held)->names, whole);
    if (!*value)
        *value = name_table_find(&(*held)->names, address.local);
    return *value ? lookup_found() : lookup_absent();
}

static struct lookup search_user_file(struct search *search, struct directory_domain *domain,
                                      struct address address, struct directory_user *user)
{
    struct snapshot *held = NULL;
    void *value = NULL;
    const struct lookup lookup = search_file(search, &domain->users_file, address, &held, &value);

    if (lookup.status == LOOKUP_FOUND) {
        const struct file_user *found = value;
        const struct bytes local =
            bytes_slice(found->name, 0, bytes_find_last_byte(found->name, '@'));

        *user =
            (struct directory_user){.address = {arena_copy(search->arena, local), address.domain},
                                    .password = arena_copy(search->arena, found->password),
                                    .scram = arena_copy(search->arena, found->scram),
                                    .senders = arena_copy(search->arena, found->senders),
                                    .flags = found->flags};
    }
    snapshot_release(held);
    return lookup;
}

struct lookup search_user(struct search *search, struct directory_domain *domain,
                          struct address address, struct directory_user *user)
{
    address.domain = bytes_of_text(domain->config->name);
    switch (domain->users_kind) {
    case SOURCE_EVERYONE:
        *user = (struct directory_user){.address = address};
        return lookup_found();
    case SOURCE_FILE:
        return search_user_file(search, domain, address, user);
    case SOURCE_SQLITE:
        return sqlite_find_user(domain->users_sqlite, search->arena, address, user);
    }
    return lookup_failed(LOOKUP_REASON_UNKNOWN, BYTES_EMPTY);
}

struct lookup search_alias(struct search *search, struct directory_domain *domain,
                           struct address address, struct snapshot **held,
                           const struct alias_list **list)
{
    void *value = NULL;

    *held = NULL;
    address.domain = bytes_of_text(domain->config->name);
    if (!domain->has_aliases)
        return lookup_absent();
    const struct lookup lookup = search_file(search, &domain->aliases_file, address, held, &value);

    *list = value;
    return lookup;
}
