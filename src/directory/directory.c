/*
 * directory: the domains' sources, opened by their settings, and one look-up in one source. Nothing
 * here follows aliases (expand.c does).
 */
#include <string.h>

#include "directory/source.h"

enum { REMOTES_A_DOMAIN = 3 }; /* users, logins, aliases */

/* ------------------------------------------------------------------ open and close */

static bool setting_is(const char *setting, const char *prefix, const char **rest)
{
    const size_t length = strlen(prefix);

    if (strncmp(setting, prefix, length) != 0)
        return false;
    *rest = setting + length;
    return true;
}

/* What is being opened: a source of a domain, by its setting. */
struct opening {
    struct directory *directory;
    const struct config_domain *domain;
    const char *setting;
    bool of_aliases, of_logins;
    char *why;
    size_t why_room;
};

static void opening_complain(const struct opening *opening, const char *what)
{
    snprintf(opening->why, opening->why_room, "domain %s: %s = \"%.200s\": %s",
             opening->domain->name, opening->of_aliases ? "aliases" : "users", opening->setting,
             what);
}

/* The label of its breaker shows no password: what is before an @ is left out. */
static void remote_name(const struct opening *opening, char *into, size_t room)
{
    const struct bytes setting = bytes_of_text(opening->setting);
    const size_t scheme = bytes_find_byte(setting, ':');
    struct bytes host = bytes_skip(setting, scheme + 3);

    host = bytes_slice(host, 0, bytes_find_byte(host, '?'));
    host = bytes_slice(host, 0, bytes_find_byte(host, '/'));
    if (bytes_find_last_byte(host, '@') < host.count)
        host = bytes_skip(host, bytes_find_last_byte(host, '@') + 1);
    snprintf(into, room, "%.*s://%.*s %s", BYTES_PRINT(bytes_slice(setting, 0, scheme)),
             (int)MIN_OF(host.count, (size_t)60), (const char *)host.at,
             opening->of_aliases  ? "aliases"
             : opening->of_logins ? "logins"
                                  : "users");
}

static char remote_kind(const struct opening *opening)
{
    return opening->of_aliases ? 'a' : opening->of_logins ? 'l' : 'u';
}

static struct remote *remote_find(const struct opening *opening)
{
    const struct directory *directory = opening->directory;

    for (unsigned i = 0; i < directory->remote_count; i++)
        if (strcmp(directory->remote_settings[i] + 1, opening->setting) == 0 &&
            directory->remote_settings[i][0] == remote_kind(opening))
            return directory->remotes[i];
    return NULL;
}

static bool remote_keep(const struct opening *opening, struct remote *remote)
{
    struct directory *directory = opening->directory;
    char *setting = NULL;

    if (asprintf(&setting, "%c%s", remote_kind(opening), opening->setting) < 0)
        return false;
    directory->remotes[directory->remote_count] = remote;
    directory->remote_settings[directory->remote_count++] = setting;
    return true;
}

static struct remote *remote_make(const struct opening *opening, const struct remote_driver *driver)
{
    const struct config_directory *config = &opening->directory->config->directory;
    const struct remote_settings settings = {.location = opening->setting,
                                             .of_aliases = opening->of_aliases,
                                             .timeout_us = config->timeout_us};
    char why[200] = "", name[96];
    struct remote_pool_settings pool = {
        .name = name, .connections = config->connections, .timeout_us = config->timeout_us};

    remote_name(opening, name, sizeof name);
    void *source = driver->open(&settings, why, sizeof why);
    struct remote *remote = source ? remote_open(driver, source, &pool) : NULL;

    if (remote && remote_keep(opening, remote))
        return remote;
    opening_complain(opening, why[0] ? why : "out of memory");
    if (remote)
        remote_close(remote);
    else if (source)
        driver->close(source);
    return NULL;
}

static struct remote *remote_get(const struct opening *opening, const struct remote_driver *driver)
{
    struct remote *remote = remote_find(opening);

    return remote ? remote : remote_make(opening, driver);
}

static bool remote_source_open(const struct opening *opening, const struct remote_driver *driver,
                               struct source *source)
{
    struct opening logins = *opening;

    if (!driver) {
        opening_complain(opening, "this program was built without that library");
        return false;
    }
    source->remote = remote_get(opening, driver);
    source->kind = source->remote ? SOURCE_REMOTE : SOURCE_NONE;
    logins.of_logins = true;
    if (source->remote && driver->checks_passwords && !opening->of_aliases)
        source->logins = remote_get(&logins, driver);
    return source->remote && (source->logins || !driver->checks_passwords || opening->of_aliases);
}

static bool source_open(const struct opening *opening, struct source *source)
{
    const char *setting = opening->setting, *rest = NULL;

    if (!setting || setting[0] == '\0')
        return true;
    if (setting_is(setting, "file:", &rest)) {
        cached_file_open(&source->file, rest, opening->of_aliases ? aliases_parse : users_parse);
        source->kind = SOURCE_FILE;
        return true;
    }
    if (setting_is(setting, "sqlite:", &rest)) {
        source->sqlite =
            sqlite_source_open(rest, opening->of_aliases, opening->why, opening->why_room);
        source->kind = source->sqlite ? SOURCE_SQLITE : SOURCE_NONE;
        return source->sqlite != NULL;
    }
    if (setting_is(setting, "ldap", &rest))
        return remote_source_open(opening, &ldap_driver, source);
    if (setting_is(setting, "postgresql:", &rest))
        return remote_source_open(opening, &postgresql_driver, source);
    opening_complain(opening, "no source that is known (file:, sqlite:, ldap:, postgresql:)");
    return false;
}

static bool domain_open(struct directory *directory, const struct config_domain *config, char *why,
                        size_t why_room)
{
    struct directory_domain *domain = &directory->domains[directory->domain_count++];
    struct opening opening = {.directory = directory,
                              .domain = config,
                              .setting = config->users,
                              .why = why,
                              .why_room = why_room};

    domain->config = config;
    if (!source_open(&opening, &domain->users))
        return false;
    opening.of_aliases = true;
    opening.setting = config->aliases;
    return source_open(&opening, &domain->aliases);
}

struct directory *directory_open(const struct config *config, char *why, size_t why_room)
{
    struct directory *directory = calloc(1, sizeof *directory);
    const size_t room = config->domain_count + 1u;

    if (!directory) {
        snprintf(why, why_room, "directory: out of memory");
        return NULL;
    }
    directory->config = config;
    password_desk_open(&directory->passwords);
    known_table_open(&directory->known);
    cached_file_open(&directory->srs_secrets, config->forward.srs_secrets, srs_secrets_parse);
    directory->domains = calloc(room, sizeof *directory->domains);
    directory->remotes = calloc(REMOTES_A_DOMAIN * room, sizeof *directory->remotes);
    directory->remote_settings =
        calloc(REMOTES_A_DOMAIN * room, sizeof *directory->remote_settings);
    bool fine = directory->domains && directory->remotes && directory->remote_settings;

    if (!fine)
        snprintf(why, why_room, "directory: out of memory");
    while (fine && directory->domain_count < config->domain_count)
        fine = domain_open(directory, &config->domains[directory->domain_count], why, why_room);
    if (fine)
        return directory;
    directory_close(directory);
    return NULL;
}

static void source_close(struct source *source)
{
    if (source->kind == SOURCE_FILE)
        cached_file_close(&source->file);
    sqlite_source_close(source->sqlite);
}

void directory_close(struct directory *directory)
{
    if (!directory)
        return;
    for (unsigned i = 0; i < directory->domain_count; i++) {
        source_close(&directory->domains[i].users);
        source_close(&directory->domains[i].aliases);
    }
    password_desk_close(&directory->passwords);
    cached_file_close(&directory->srs_secrets);
    for (unsigned i = 0; i < directory->remote_count; i++) {
        remote_close(directory->remotes[i]);
        free((char *)directory->remote_settings[i]);
    }
    known_table_close(&directory->known);
    free(directory->remotes);
    free(directory->remote_settings);
    free(directory->domains);
    free(directory);
}

unsigned directory_breakers(struct directory *directory, struct directory_breaker *rows,
                            unsigned room)
{
    const unsigned count = MIN_OF(directory->remote_count, room);

    for (unsigned i = 0; i < count; i++)
        remote_fill_row(directory->remotes[i], &rows[i]);
    return count;
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
    const struct lookup lookup = search_file(search, &domain->users.file, address, &held, &value);

    if (lookup.status == LOOKUP_FOUND) {
        const struct file_user *found = value;
        const struct bytes local =
            bytes_slice(found->name, 0, bytes_find_last_byte(found->name, '@'));

        *user =
            (struct directory_user){.address = {arena_copy(search->arena, local), address.domain},
                                    .password = arena_copy(search->arena, found->password),
                                    .scram = arena_copy(search->arena, found->scram),
                                    .senders = arena_copy(search->arena, found->senders),
                                    .deliver = arena_copy(search->arena, found->deliver),
                                    .flags = found->flags};
    }
    snapshot_release(held);
    return lookup;
}

/* Asks a table or a server. FOUND with *answer in the search's arena; its targets are the caller's
 * to free, always. Sleeps. */
static struct lookup source_ask(struct search *search, const struct source *source,
                                struct remote_question *question, struct remote_answer **answer)
{
    *answer = ARENA_NEW(search->arena, struct remote_answer);
    if (!*answer)
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
    if (source->kind == SOURCE_SQLITE)
        sqlite_ask(source->sqlite, question, *answer);
    else
        remote_ask(source->remote, question, *answer);
    switch ((*answer)->status) {
    case LOOKUP_FOUND:
        return lookup_found();
    case LOOKUP_ABSENT:
        return lookup_absent();
    case LOOKUP_FAILED:
        break;
    }
    return lookup_failed((*answer)->reason,
                         arena_copy(search->arena, bytes_of_text((*answer)->words)));
}

/* The directory's own spelling is the canonical one, when it names an address of the domain. */
static struct lookup search_user_table(struct search *search, const struct source *source,
                                       struct address address, struct directory_user *user)
{
    struct remote_question *question = ARENA_NEW(search->arena, struct remote_question);
    struct remote_answer *answer = NULL;
    struct address found;

    if (!question)
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
    if (!remote_question_fill(question, address))
        return lookup_absent();
    const struct lookup lookup = source_ask(search, source, question, &answer);

    if (lookup.status != LOOKUP_FOUND)
        return lookup;
    *user = (struct directory_user){
        .address = address,
        .password = arena_copy(search->arena, bytes_of_text(answer->password)),
        .scram = arena_copy(search->arena, bytes_of_text(answer->scram)),
        .senders = arena_copy(search->arena, bytes_of_text(answer->senders)),
        .deliver = arena_copy(search->arena, bytes_of_text(answer->deliver)),
        .handle = arena_copy(search->arena, bytes_of_text(answer->handle)),
        .flags = answer->flags};
    if (address_parse(search->arena, bytes_of_text(answer->found), &found) &&
        bytes_equal_nocase(found.domain, address.domain))
        user->address = found;
    return lookup;
}

/* The name that its breaker has, too. */
static const char *source_name(const struct source *source)
{
    struct directory_breaker row;

    switch (source->kind) {
    case SOURCE_NONE:
        break;
    case SOURCE_FILE:
        return source->file.path;
    case SOURCE_SQLITE:
        return sqlite_source_name(source->sqlite);
    case SOURCE_REMOTE:
        remote_fill_row(source->remote, &row);
        return row.dependency;
    }
    return "";
}

/* A failure says whose it is: the name lives as long as the directory. */
static struct lookup lookup_of_source(struct lookup lookup, const struct source *source)
{
    if (lookup.status == LOOKUP_FAILED)
        lookup.source = bytes_of_text(source_name(source));
    return lookup;
}

static struct lookup search_user_source(struct search *search, struct directory_domain *domain,
                                        struct address address, struct directory_user *user)
{
    address.domain = bytes_of_text(domain->config->name);
    switch (domain->users.kind) {
    case SOURCE_NONE:
        *user = (struct directory_user){.address = address};
        return lookup_found();
    case SOURCE_FILE:
        return search_user_file(search, domain, address, user);
    case SOURCE_SQLITE:
    case SOURCE_REMOTE:
        return search_user_table(search, &domain->users, address, user);
    }
    return lookup_failed(LOOKUP_REASON_UNKNOWN, BYTES_EMPTY);
}

struct lookup search_user(struct search *search, struct directory_domain *domain,
                          struct address address, struct directory_user *user)
{
    const struct lookup lookup =
        lookup_of_source(search_user_source(search, domain, address, user), &domain->users);
    const char *wrong = NULL;

    if (lookup.status == LOOKUP_FOUND && user->deliver.count > 0)
        wrong = user_deliver_allowed(search->directory->config, user->deliver);
    if (!wrong)
        return lookup;
    return lookup_failed(
        LOOKUP_REASON_MISCONFIGURED,
        arena_print(search->arena, "user %.*s: %s", BYTES_PRINT(user->address.local), wrong));
}

static struct lookup search_alias_table(struct search *search, const struct source *source,
                                        struct address address, const struct alias_list **list)
{
    struct remote_question *question = ARENA_NEW(search->arena, struct remote_question);
    struct remote_answer *answer = NULL;
    struct alias_list *found = NULL;

    if (!question)
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
    if (!remote_question_fill(question, address))
        return lookup_absent();
    question->of_alias = true;
    const struct lookup lookup = source_ask(search, source, question, &answer);
    const char *wrong = NULL;

    if (lookup.status == LOOKUP_FOUND)
        wrong = alias_values_parse(
            search->arena, arena_copy(search->arena, buffer_view(&answer->targets)), &found);
    if (answer)
        buffer_free(&answer->targets);
    *list = found;
    return wrong ? lookup_failed(LOOKUP_REASON_MISCONFIGURED,
                                 arena_print(search->arena, "alias %.*s: %s",
                                             BYTES_PRINT(address.local), wrong))
                 : lookup;
}

static struct lookup search_alias_source(struct search *search, struct directory_domain *domain,
                                         struct address address, struct snapshot **held,
                                         const struct alias_list **list)
{
    void *value = NULL;
    struct lookup lookup;

    *held = NULL;
    address.domain = bytes_of_text(domain->config->name);
    switch (domain->aliases.kind) {
    case SOURCE_NONE:
        return lookup_absent();
    case SOURCE_FILE:
        lookup = search_file(search, &domain->aliases.file, address, held, &value);
        *list = value;
        return lookup;
    case SOURCE_SQLITE:
    case SOURCE_REMOTE:
        return search_alias_table(search, &domain->aliases, address, list);
    }
    return lookup_failed(LOOKUP_REASON_UNKNOWN, BYTES_EMPTY);
}

struct lookup search_alias(struct search *search, struct directory_domain *domain,
                           struct address address, struct snapshot **held,
                           const struct alias_list **list)
{
    return lookup_of_source(search_alias_source(search, domain, address, held, list),
                            &domain->aliases);
}
