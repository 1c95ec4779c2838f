/* From the setting and the values to what execve(2) takes. */
#include "runner/inside.h"

#include <string.h>

static bool is_plain(const char *value)
{
    for (const char *at = value; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            return false;
    return true;
}

/* -x@a.example is "-x"@a.example, too. */
static void add_quoted(struct buffer *into, const char *address)
{
    const char *at = strrchr(address, '@');

    buffer_add_byte(into, '"');
    for (const char *from = address; *from && from != at; from++) {
        if (*from == '"' || *from == '\\')
            buffer_add_byte(into, '\\');
        buffer_add_byte(into, (uint8_t)*from);
    }
    buffer_add_byte(into, '"');
    buffer_add_text(into, at ? at : "");
}

static const char HYPHEN[] =
    "the address begins with a hyphen, which the command would read as an option";

static char *argument_fill(struct arena *arena, const char *setting,
                           const struct runner_values *values, const char **why)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(64 * KIB);
    size_t length = 0;

    for (const char *at = setting; *at; at += length ? length : 1) {
        const enum pipe_value which = config_pipe_value(at, &length);
        const char *value = which == PIPE_VALUES ? "" : values->of[which];
        const bool leads = text.count == 0 && value[0] == '-';

        if (which == PIPE_VALUES)
            buffer_add_byte(&text, (uint8_t)*at);
        else if (!is_plain(value))
            *why = "the address has control characters";
        else if (leads && which == PIPE_SENDER)
            add_quoted(&text, value);
        else if (leads)
            *why = HYPHEN;
        else
            buffer_add_text(&text, value);
    }
    /* "{tag}-{user}" of somebody without a tag: a hyphen of the setting's own has come to the
     * front. */
    if (text.count > 0 && text.at[0] == '-' && setting[0] != '-')
        *why = HYPHEN;
    return text.failed ? NULL : arena_text(arena, buffer_view(&text));
}

char **runner_arguments(struct arena *arena, const struct config_pipe *pipe,
                        const struct runner_values *values, const char **why)
{
    char **arguments = ARENA_NEW_ARRAY(arena, pipe->command_count + 1, char *);

    *why = NULL;
    for (unsigned i = 0; arguments && i < pipe->command_count; i++) {
        arguments[i] = argument_fill(arena, pipe->command[i], values, why);
        if (!arguments[i] && !*why)
            *why = "the address is too long";
    }
    if (arguments)
        return *why ? NULL : arguments;
    *why = "out of memory";
    return NULL;
}

static void variable_add(struct arena *arena, char ***next, const char *name, const char *value)
{
    if (is_plain(value))
        *(*next)++ = arena_text(arena, arena_print(arena, "%s=%s", name, value));
}

char **runner_environment(struct arena *arena, const struct runner_user *user,
                          const struct runner_values *values)
{
    const struct {
        const char *name, *value;
    } variables[] = {
        {"PATH", "/usr/local/bin:/usr/bin:/bin"},
        {"SHELL", "/bin/sh"},
        {"HOME", user->home},
        {"USER", user->name},
        {"LOGNAME", user->name},
        {"SENDER", values->of[PIPE_SENDER]},
        {"RECIPIENT", values->of[PIPE_RECIPIENT]},
        {"ORIGINAL_RECIPIENT", values->of[PIPE_ORIGINAL]},
        {"LOCAL", values->of[PIPE_USER]},
        {"EXTENSION", values->of[PIPE_TAG]},
        {"DOMAIN", values->of[PIPE_DOMAIN]},
        {"CLIENT_ADDRESS", values->of[PIPE_CLIENT]},
        {"HOLDFAST_MESSAGE", values->of[PIPE_ID]},
    };
    char **environment = ARENA_NEW_ARRAY(arena, COUNT_OF(variables) + 1, char *);
    char **next = environment;

    for (size_t i = 0; environment && i < COUNT_OF(variables); i++)
        variable_add(arena, &next, variables[i].name, variables[i].value);
    return environment;
}
