/*
 * Files that the parent opens or makes for the worker.
 */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/processes.h"
#include "observe/observe.h"

enum { ALIASES_MOST = 16 * 1024 * 1024, INCLUDES_DEEP = 8 };

/* ------------------------------------------------------------------ opening */

static const char *path_of(const char *source)
{
    return strncmp(source, "file:", 5) == 0 ? source + 5 : NULL;
}

/* Does the file name `path` behind ":include:"? Files of aliases that it includes count, too. */
static bool file_includes(const char *file, const char *path, unsigned depth)
{
    static const char mark[] = ":include:";
    const size_t length = strlen(path);
    FILE *opened = depth < INCLUDES_DEEP ? fopen(file, "re") : NULL;
    char *line = NULL;
    size_t room = 0;
    bool found = false;
    long left = ALIASES_MOST;

    while (opened && !found && left > 0) {
        const ssize_t count = getline(&line, &room, opened);
        if (count < 0)
            break;
        left -= count;
        for (char *at = line; !found && (at = strcasestr(at, mark)) != NULL;) {
            at += sizeof mark - 1;
            const size_t end = strcspn(at, "\", \t\r\n");
            found = end == length && strncmp(at, path, length) == 0;
            const char after = at[end];
            at[end] = 0;
            found = found || (*at == '/' && file_includes(at, path, depth + 1));
            at[end] = after;
            at += end;
        }
    }
    free(line);
    if (opened)
        fclose(opened);
    return found;
}

/* Secrets for next hops: the worker asks for them when it logs in. */
static bool is_login(const struct config *config, const char *path)
{
    bool found = strcmp(config->relay_sending.login, path) == 0;

    for (unsigned i = 0; i < config->route_count; i++)
        found = found || strcmp(config->routes[i].sending.login, path) == 0;
    return found && *path;
}

/* Does a source in LDAP name this file of a password? */
static bool source_names(const char *source, const char *path)
{
    static const char mark[] = "x-password-file=";
    const char *at = strncmp(source, "ldap", 4) == 0 ? strstr(source, mark) : NULL;
    struct arena arena = ARENA_WITH_LIMIT(16 * KIB);
    struct bytes plain = BYTES_EMPTY;
    bool found = false;

    if (at) {
        at += sizeof mark - 1;
        const struct bytes coded = bytes_of(at, strcspn(at, ",?"));
        found = percent_decode(&arena, coded, &plain) && bytes_equal_text(plain, path);
    }
    arena_clear(&arena);
    return found;
}

bool files_allow(const struct config *config, const char *path)
{
    if (is_login(config, path))
        return true;
    if (config->forward.srs_secrets[0] && strcmp(config->forward.srs_secrets, path) == 0)
        return true;
    for (unsigned i = 0; i < config->domain_count; i++) {
        const char *users = path_of(config->domains[i].users);
        const char *aliases = path_of(config->domains[i].aliases);
        if ((users && strcmp(users, path) == 0) || (aliases && strcmp(aliases, path) == 0) ||
            source_names(config->domains[i].users, path) ||
            source_names(config->domains[i].aliases, path))
            return true;
    }
    for (unsigned i = 0; i < config->domain_count; i++) {
        const char *aliases = path_of(config->domains[i].aliases);
        if (aliases && *path == '/' && file_includes(aliases, path, 0))
            return true;
    }
    return false;
}

/* ------------------------------------------------------------------ resolvers */

enum { RESOLVERS_MOST = 8 };

void files_name_resolvers(struct config *config)
{
    FILE *file = config->resolver.forward_count == 0 ? fopen("/etc/resolv.conf", "re") : NULL;
    struct endpoint *all =
        file ? ARENA_NEW_ARRAY(&config->arena, RESOLVERS_MOST, struct endpoint) : NULL;
    char text[512];

    config->resolver.forward = all ? all : config->resolver.forward;
    while (all && config->resolver.forward_count < RESOLVERS_MOST &&
           fgets(text, sizeof text, file)) {
        struct bytes word = BYTES_EMPTY;
        const struct bytes rest = bytes_cut(bytes_trim(bytes_of_text(text)), ' ', &word);
        if (bytes_equal_text(word, "nameserver") &&
            endpoint_parse_resolver(bytes_trim(rest), &all[config->resolver.forward_count]))
            config->resolver.forward_count++;
    }
    if (file)
        fclose(file);
}

/* ------------------------------------------------------------------ folders */

struct owner {
    uid_t uid;
    gid_t gid;
    bool given;
};

/* Of a folder that was just made. Who can write in the one above may have put a link in its place
 * since, to have root give away what it leads to: no link is followed. The owner comes first, since
 * a change of it takes the set-group-id bit away. */
static bool folder_give(const char *path, const struct owner *owner, mode_t mode)
{
    const int folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    const bool fine = folder >= 0 &&
                      (!owner->given || fchown(folder, owner->uid, owner->gid) == 0) &&
                      fchmod(folder, mode) == 0;
    const int error = errno;

    if (folder >= 0)
        close(folder);
    errno = error;
    return fine;
}

static bool folder_make_one(const char *path, const struct owner *owner)
{
    if (mkdir(path, owner ? 0700 : 0755) == 0)
        return !owner || !owner->given || folder_give(path, owner, 0700);
    return errno == EEXIST;
}

/* The owner's alone; what has to be made above it stays the parent's, and may be passed through. */
static bool folder_make(char *path, const struct owner *owner)
{
    char *slash = strrchr(path, '/');

    if (folder_make_one(path, owner))
        return true;
    if (errno != ENOENT || !slash || slash == path)
        return false;
    *slash = 0;
    const bool above = folder_make(path, NULL);
    *slash = '/';
    return above && folder_make_one(path, owner);
}

static bool folder_prepare(struct bytes path, const struct owner *owner, char *why, size_t why_room)
{
    char text[1024];

    if (path.count == 0 || path.count >= sizeof text)
        return true; /* what opens it will complain */
    snprintf(text, sizeof text, "%.*s", BYTES_PRINT(path));
    if (folder_make(text, owner))
        return true;
    snprintf(why, why_room, "%s: %s", text, strerror(errno));
    return false;
}

/* Of "/var/mail/{domain}/{user}": "/var/mail". */
static struct bytes mailbox_root(struct bytes target)
{
    size_t count = bytes_find_byte(target, '{');

    while (count > 0 && count <= target.count && target.at[count - 1] != '/')
        count--;
    return (struct bytes){target.at, count > 1 ? count - 1 : 0};
}

/* Where every user may leave mail (docs/sendmail.md). Without it the server runs all the same; a
 * directory that is there already stays as it is. */
static void drop_prepare(const struct config *config, const struct owner *owner)
{
    char path[CONFIG_DROP_ROOM];

    config_drop_path(config->spool, path, sizeof path);
    if (mkdir(path, 0700) != 0 && errno == EEXIST)
        return;
    if (!folder_give(path, owner, 03733))
        observe_note(LOG_WARNING, "parent", "drop %s: %s: sendmail cannot leave mail there", path,
                     strerror(errno));
}

bool files_prepare(const struct config *config, char *why, size_t why_room)
{
    struct owner owner = {.given = *config->user && geteuid() == 0};
    const struct passwd *entry = owner.given ? getpwnam(config->user) : NULL;

    if (owner.given && !entry) {
        snprintf(why, why_room, "user \"%s\" is unknown", config->user);
        return false;
    }
    if (entry) {
        owner.uid = entry->pw_uid;
        owner.gid = entry->pw_gid;
    }
    bool fine = folder_prepare(bytes_of_text(config->spool), &owner, why, why_room);
    if (fine)
        drop_prepare(config, &owner);
    fine = fine && folder_prepare(bytes_of_text(config->history), &owner, why, why_room);
    for (unsigned i = 0; fine && i < config->domain_count; i++)
        if (config->domains[i].deliver.kind == DELIVER_MAILDIR)
            fine = folder_prepare(mailbox_root(config->domains[i].deliver.target), &owner, why,
                                  why_room);
    struct bytes own = bytes_trim(bytes_of_text(config->directory.own_delivery));
    struct config_deliver deliver;
    while (fine && own.count > 0 && config_next_delivery(&own, &deliver))
        if (deliver.kind == DELIVER_MAILDIR)
            fine = folder_prepare(deliver.target, &owner, why, why_room);
    return fine;
}
