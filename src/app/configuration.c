/*
 * Finding a configuration, and the embedded default.
 */
#include "app/app.h"
#include "runtime/runtime.h"

#include <crypt.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_NAME "embedded default"
#define SYSTEM_FILE "/etc/holdfast/holdfast.conf"

/* Loopback only, no root, no outside service; %s is the state folder beside the binary. */
static const char DEFAULT_TEXT[] =
    "hostname = \"localhost\"\n"
    "spool = \"%1$s/spool\"\n"
    "listen smtp { address = \"127.0.0.1:2525\" }\n"
    "listen submission { address = \"127.0.0.1:2587\"  kind = submission }\n"
    "tls { certificate = \"%1$s/cert.pem\"  key = \"%1$s/key.pem\" }\n"
    "domain \"localhost\" { users = \"file:%1$s/users\"  deliver = "
    "\"maildir:%1$s/mail/{domain}/{user}\" }\n"
    "domain \"demo.example\" { users = \"file:%1$s/users\"  deliver = "
    "\"maildir:%1$s/mail/{domain}/{user}\" }\n"
    "auth { domain = \"demo.example\" }\n"
    "relay { from = {\"127.0.0.0/8\"}  via = \"\" }\n"
    "web { address = \"127.0.0.1:8025\" }\n";

/* %s is the hash of a password made for this folder alone: none is shipped. */
static const char DEFAULT_USERS[] =
    "# name, or name@domain, one a line; then :HASH of a password (mkpasswd makes one)\n"
    "postmaster\ndemo:%1$s\nalice:%1$s\nbob:%1$s\n";

static bool state_directory(char *into, size_t room)
{
    char binary[4096];
    const ssize_t count = readlink("/proc/self/exe", binary, sizeof binary - 1);

    if (count <= 0)
        return false;
    binary[count] = 0;
    char *slash = strrchr(binary, '/');
    if (!slash)
        return false;
    *slash = 0;
    const int printed = snprintf(into, room, "%s/state", binary);
    return printed > 0 && (size_t)printed < room;
}

static struct config *default_open(struct config_errors *errors)
{
    char state[4096];
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(64 * KIB);

    if (!state_directory(state, sizeof state)) {
        buffer_add_text(&errors->text, "holdfast: cannot tell where the binary lies; give a "
                                       "configuration with -c\n");
        return NULL;
    }
    buffer_print(&text, DEFAULT_TEXT, state);
    buffer_add_byte(&text, 0);
    return text.failed ? NULL : config_parse((const char *)text.at, DEFAULT_NAME, errors);
}

const char *app_config_file(const char *named)
{
    const char *const file = named ? named : getenv("HOLDFAST_CONFIG");

    return file ? file : access(SYSTEM_FILE, F_OK) == 0 ? SYSTEM_FILE : NULL;
}

struct config *app_config_read(const char *named, struct config_errors *errors)
{
    const char *const file = app_config_file(named);

    errors->text.limit_bytes = 128 * KIB;
    return file ? config_load(file, errors) : default_open(errors);
}

struct config *app_config_open(const char *file)
{
    struct config_errors errors = {0};
    struct config *config = app_config_read(file, &errors);

    if (!config)
        fprintf(stderr, "%.*s", BYTES_PRINT(buffer_view(&errors.text)));
    config_errors_free(&errors);
    return config;
}

bool app_config_is_default(const struct config *config)
{
    return strcmp(config->file, DEFAULT_NAME) == 0;
}

static bool make_folder(const char *path)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST)
        return true;
    fprintf(stderr, "holdfast: %s: %s\n", path, strerror(errno));
    return false;
}

/* A password of 80 bits and its hash. */
static bool make_password(char *password, size_t room, char *hash, size_t hash_room)
{
    static const char letters[] = "abcdefghijkmnpqrstuvwxyz23456789"; /* 32, none like another */
    uint8_t octets[16];
    char setting[CRYPT_GENSALT_OUTPUT_SIZE];
    struct crypt_data *data = calloc(1, sizeof *data);
    const char *made = NULL;

    random_fill((struct span){octets, sizeof octets});
    for (size_t i = 0; i < sizeof octets && i + 1 < room; i++)
        password[i] = letters[octets[i] % 32];
    password[MIN_OF(sizeof octets, room - 1)] = '\0';
    if (data && crypt_gensalt_rn("$y$", 0, NULL, 0, setting, sizeof setting))
        made = crypt_rn(password, setting, data, (int)sizeof *data);
    if (made)
        snprintf(hash, hash_room, "%s", made);
    free(data);
    return made != NULL;
}

static bool write_users(FILE *users)
{
    char password[17], hash[256];

    if (!make_password(password, sizeof password, hash, sizeof hash))
        return false;
    fprintf(stderr,
            "holdfast: made the users demo, alice and bob; to log in on port 2587 all three have "
            "the password %s\n(said only once; delete state/users beside the binary for a new "
            "one)\n",
            password);
    return fprintf(users, DEFAULT_USERS, hash) > 0;
}

bool app_prepare_default(const struct config *config)
{
    char state[4096], path[4200];

    (void)config;
    if (!state_directory(state, sizeof state) || !make_folder(state))
        return false;
    snprintf(path, sizeof path, "%s/mail", state);
    if (!make_folder(path))
        return false;
    snprintf(path, sizeof path, "%s/users", state);
    FILE *users = fopen(path, "wx");
    if (!users)
        return errno == EEXIST;
    const bool written = write_users(users);
    const bool closed = fclose(users) == 0;
    if (!written || !closed)
        unlink(path);
    return written && closed;
}
