/*
 * users_file: a line per user, `name` or `name@domain`, then optionally `:HASH` and `:key=value`
 * fields, of which `deliver=` is the last; `#` comments. A malformed line fails the whole file with
 * its number: skipping it could turn a user into "no such user".
 */
#include "directory/source.h"

enum { USER_NAME_MAX = 512 };

const char *user_deliver_check(struct bytes deliver)
{
    struct config_deliver way;

    if (!config_parse_deliver(deliver, &way) || way.kind == DELIVER_NONE)
        return "deliver must be maildir:/PATH, lmtp:unix:PATH, lmtp:HOST:PORT or smtp:HOST:PORT";
    if (way.kind == DELIVER_MAILDIR && way.target.at[0] != '/')
        return "deliver: a path begins with a slash";
    return way.kind == DELIVER_PIPE ? "deliver: pipe: is for the configuration only" : NULL;
}

static bool path_climbs(struct bytes path)
{
    const size_t found = bytes_find(path, BYTES_LITERAL("/../"));

    return found < path.count ||
           (path.count >= 3 && bytes_equal_text(bytes_skip(path, path.count - 3), "/.."));
}

static bool delivery_allows(const struct config_deliver *allowed, const struct config_deliver *way)
{
    struct bytes folder = allowed->target;

    if (allowed->kind != way->kind)
        return false;
    if (way->kind != DELIVER_MAILDIR)
        return bytes_equal(folder, way->target);
    while (folder.count > 0 && folder.at[folder.count - 1] == '/')
        folder.count--;
    return bytes_starts_with(way->target, folder) && way->target.count > folder.count &&
           way->target.at[folder.count] == '/' && !path_climbs(way->target);
}

const char *user_deliver_allowed(const struct config *config, struct bytes deliver)
{
    const char *setting = config->directory.own_delivery;
    struct bytes rest = bytes_trim(bytes_of_text(setting ? setting : ""));
    struct config_deliver allowed, way;
    const char *wrong = user_deliver_check(deliver);

    if (wrong || !config_parse_deliver(deliver, &way))
        return wrong;
    while (rest.count > 0 && config_next_delivery(&rest, &allowed))
        if (delivery_allows(&allowed, &way))
            return NULL;
    return "deliver: not among `directory { own_delivery }`";
}

static bool name_is_fine(struct bytes name)
{
    const size_t at = bytes_find_last_byte(name, '@');

    if (name.count == 0 || name.count > USER_NAME_MAX || at == 0 || !bytes_is_utf8(name))
        return false;
    for (size_t i = 0; i < name.count; i++)
        if (name.at[i] <= 0x20 || name.at[i] == 0x7f)
            return false;
    return at == name.count || domain_is_valid(bytes_skip(name, at + 1));
}

/* "key=value" with a key of small letters; a crypt hash may hold '=' only behind a '$'. */
static bool field_is_option(struct bytes field)
{
    const struct bytes key = bytes_slice(field, 0, bytes_find_byte(field, '='));

    if (key.count == 0 || key.count == field.count)
        return false;
    for (size_t i = 0; i < key.count; i++)
        if (!(key.at[i] >= 'a' && key.at[i] <= 'z') && key.at[i] != '_')
            return false;
    return true;
}

static bool hash_is_fine(struct bytes hash)
{
    for (size_t i = 0; i < hash.count; i++)
        if (!ascii_is_print(hash.at[i]) || hash.at[i] == ' ')
            return false;
    return true;
}

static bool flag_read(struct bytes value, unsigned flag, unsigned *flags)
{
    if (bytes_equal_text(value, "yes"))
        *flags |= flag;
    return bytes_equal_text(value, "yes") || bytes_equal_text(value, "no");
}

/* NULL or what is wrong. */
static const char *option_read(struct bytes field, struct file_user *user)
{
    struct bytes key;
    const struct bytes value = bytes_cut(field, '=', &key);

    if (bytes_equal_text(key, "disabled"))
        return flag_read(value, DIRECTORY_DISABLED, &user->flags) ? NULL
                                                                  : "disabled must be yes or no";
    if (bytes_equal_text(key, "full"))
        return flag_read(value, DIRECTORY_OVER_QUOTA, &user->flags) ? NULL
                                                                    : "full must be yes or no";
    if (bytes_equal_text(key, "scram")) {
        user->scram = value;
        return hash_is_fine(value) ? NULL : "scram must be SCRAM-SHA-256$...";
    }
    if (bytes_equal_text(key, "senders")) {
        user->senders = value;
        return NULL;
    }
    return "unknown field (disabled, full, scram, senders and deliver are known)";
}

/* A field up to its colon; the two colons within SCRAM keys end nothing. */
static struct bytes cut_field(struct bytes fields, struct bytes *field)
{
    static const struct bytes scram = BYTES_LITERAL("SCRAM-SHA-256$");
    const struct bytes whole = fields;
    struct bytes more = BYTES_EMPTY;

    fields = bytes_cut(fields, ':', field);
    if (bytes_find(*field, scram) < field->count) {
        fields = bytes_cut(fields, ':', &more);
        fields = bytes_cut(fields, ':', &more);
        *field =
            more.count ? bytes_slice(whole, 0, (size_t)(more.at + more.count - whole.at)) : whole;
    }
    *field = bytes_trim(*field);
    return fields;
}

/* The last field, since its value has colons of its own. */
static const char *deliver_read(struct bytes value, struct file_user *user)
{
    user->deliver = bytes_trim(value);
    return user_deliver_check(user->deliver);
}

static const char *fields_read(struct bytes fields, struct file_user *user)
{
    bool first = true;

    while (fields.count > 0) {
        struct bytes field;
        const char *wrong = NULL;

        if (bytes_starts_with(fields, BYTES_LITERAL("deliver=")))
            return deliver_read(bytes_skip(fields, sizeof "deliver=" - 1), user);
        fields = cut_field(fields, &field);
        if (field_is_option(field))
            wrong = option_read(field, user);
        else if (first && hash_is_fine(field))
            user->password = field;
        else if (field.count > 0)
            wrong = "a field must be key=value";
        if (wrong)
            return wrong;
        first = false;
    }
    return NULL;
}

/* NULL or what is wrong. */
static const char *line_read(struct snapshot *snapshot, struct bytes line)
{
    struct file_user *user = ARENA_NEW(&snapshot->arena, struct file_user);
    struct bytes name;
    const struct bytes fields = bytes_cut(line, ':', &name);

    if (!user)
        return "out of memory";
    user->name = bytes_trim(name);
    if (!name_is_fine(user->name))
        return "this is no user name";
    const char *wrong = fields_read(fields, user);

    if (!wrong && !name_table_add(&snapshot->names, user->name, user))
        wrong = "this user is there twice";
    return wrong;
}

static size_t count_lines(struct bytes text)
{
    size_t count = 1;

    for (size_t i = 0; i < text.count; i++)
        count += text.at[i] == '\n';
    return count;
}

void users_parse(struct snapshot *snapshot, struct bytes text)
{
    if (!name_table_open(&snapshot->names, &snapshot->arena, count_lines(text)))
        return; /* the arena's sticky flag tells */
    for (unsigned number = 1; text.count > 0; number++) {
        struct bytes line;

        text = bytes_cut(text, '\n', &line);
        line = bytes_trim(line);
        if (line.count == 0 || line.at[0] == '#')
            continue;
        const char *wrong = line_read(snapshot, line);

        if (wrong) {
            snapshot_malformed(snapshot, number, wrong);
            return;
        }
    }
}
