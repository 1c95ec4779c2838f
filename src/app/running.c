/*
 * When the configuration file is broken, the commands that look and act go by the configuration
 * that the server runs with: the file still names the spool, and the server answers at its socket.
 */
#include "app/app.h"

#include <jansson.h>
#include <string.h>

#include "console/console.h"

enum { LINE_MOST = 8192, PATH_MOST = 4096 };

/* The path of a line `spool = "PATH"`; empty for every other line, and for one with escapes. */
static struct bytes spool_of_line(struct bytes line)
{
    struct bytes name = BYTES_EMPTY, path = BYTES_EMPTY;
    const struct bytes value = bytes_trim(bytes_cut(line, '=', &name));

    if (!bytes_equal_text(bytes_trim(name), "spool") || value.count < 3 ||
        (value.at[0] != '"' && value.at[0] != '\''))
        return BYTES_EMPTY;
    const struct bytes rest = bytes_skip(value, 1);

    if (bytes_find_byte(rest, value.at[0]) == rest.count)
        return BYTES_EMPTY;
    bytes_cut(rest, value.at[0], &path);
    return bytes_find_byte(path, '\\') < path.count || bytes_find_byte(path, '$') < path.count
               ? BYTES_EMPTY
               : path;
}

/* The first such line decides. */
static bool find_spool(const char *file, char *into, size_t room)
{
    char line[LINE_MOST];
    FILE *const stream = fopen(file, "re");

    into[0] = '\0';
    while (stream && !into[0] && fgets(line, sizeof line, stream)) {
        const struct bytes path = spool_of_line(bytes_of_text(line));
        if (path.count > 0 && path.count < room)
            snprintf(into, room, "%.*s", BYTES_PRINT(path));
    }
    if (stream && fclose(stream) != 0)
        return false;
    return into[0] != '\0';
}

/* What the server at that spool runs with; NULL with the reason on standard error. */
static struct config *ask_for_config(const char *spool, const char *file)
{
    CLEANUP(buffer_free) struct buffer reply = {0};
    struct config_errors errors = {0};
    struct config *config = NULL;
    json_error_t fault;
    char why[512];

    if (!console_ask(spool, BYTES_LITERAL("{\"do\":\"config\"}"), &reply, why, sizeof why)) {
        fprintf(stderr, "holdfast: nor does a server tell what it runs with: %s\n", why);
        return NULL;
    }
    json_t *answer = json_loadb((const char *)reply.at, reply.count, 0, &fault);
    const char *text = json_string_value(json_object_get(answer, "config"));

    if (text)
        config = config_parse(text, file, &errors);
    if (!config)
        fprintf(stderr, "holdfast: the server does not tell what it runs with\n%.*s",
                BYTES_PRINT(buffer_view(&errors.text)));
    config_errors_free(&errors);
    json_decref(answer);
    return config;
}

struct config *app_config_running(const char *named)
{
    struct config_errors errors = {0};
    const char *const file = app_config_file(named);
    char spool[PATH_MOST];
    struct config *config = app_config_read(named, &errors);

    if (!config)
        fprintf(stderr, "%.*s", BYTES_PRINT(buffer_view(&errors.text)));
    config_errors_free(&errors);
    if (config || !file)
        return config;
    if (!find_spool(file, spool, sizeof spool)) {
        fprintf(stderr, "holdfast: no line of %s names the spool, so no server can be asked\n",
                file);
        return NULL;
    }
    config = ask_for_config(spool, file);
    if (config)
        fprintf(stderr,
                "holdfast: what is wrong with %s stands above; it keeps the server from being "
                "reloaded or started again.\nholdfast: what follows is of the server that runs, "
                "with the configuration that it took before\n",
                file);
    return config;
}
