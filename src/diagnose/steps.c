/*
 * What to run next, by cause: the rows of next_steps.def with the facts at hand filled in.
 */
#include "diagnose/diagnose_private.h"

#include <string.h>

enum step_direction { STEP_IN, STEP_OUT, STEP_EITHER };

static const struct step {
    const char *prefix;
    enum step_direction direction;
    const char *command, *purpose;
} STEPS[] = {
#define STEP(prefix, direction, command, purpose) {prefix, STEP_##direction, command, purpose},
#include "diagnose/next_steps.def"
#undef STEP
};

/* A word that a shell takes as it stands. */
static bool is_plain(const char *word)
{
    return *word && strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                 "@._:/+=-[],") == strlen(word);
}

static const char *fact_of(const struct step_facts *facts, struct bytes name)
{
    const struct {
        const char *name, *value;
    } known[] = {{"subject", facts->subject},     {"domain", facts->domain},
                 {"queued", facts->queued},       {"id", facts->id},
                 {"recipient", facts->recipient}, {"incident", facts->incident},
                 {"spool", facts->spool}};

    for (size_t i = 0; i < COUNT_OF(known); i++)
        if (bytes_equal_text(name, known[i].name))
            return known[i].value ? known[i].value : "";
    return "";
}

/* False when a fact that it needs is not known. */
static bool step_fill(struct buffer *into, const char *command, const struct step_facts *facts)
{
    struct bytes rest = bytes_of_text(command);

    while (rest.count > 0) {
        struct bytes plain = BYTES_EMPTY, name = BYTES_EMPTY;
        const bool has_name = bytes_find_byte(rest, '{') < rest.count;
        rest = bytes_cut(rest, '{', &plain);
        buffer_add(into, plain);
        if (!has_name)
            break;
        rest = bytes_cut(rest, '}', &name);
        const char *value = fact_of(facts, name);
        if (!is_plain(value))
            return false;
        buffer_add_text(into, value);
    }
    return !into->failed;
}

/* The more particular row comes first, and says it. */
static bool is_told(const json_t *list, struct bytes command)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (bytes_equal_text(command, diagnose_word(json_array_get(list, i), "command")))
            return true;
    return false;
}

json_t *diagnose_steps(const struct step_facts *facts)
{
    json_t *list = json_array();
    const enum step_direction direction = facts->out ? STEP_OUT : STEP_IN;

    for (size_t i = 0; i < COUNT_OF(STEPS); i++) {
        CLEANUP(buffer_free) struct buffer command = BUFFER_WITH_LIMIT(2048);
        const struct step *step = &STEPS[i];
        if (strncmp(facts->cause, step->prefix, strlen(step->prefix)) != 0 ||
            (step->direction != direction && step->direction != STEP_EITHER) ||
            !step_fill(&command, step->command, facts) || is_told(list, buffer_view(&command)))
            continue;
        json_array_append_new(list, json_pack("{s:o, s:s}", "command",
                                              diagnose_text(buffer_view(&command)), "purpose",
                                              step->purpose));
    }
    return list;
}

void diagnose_print_steps(struct buffer *into, const json_t *steps, const char *indent)
{
    for (size_t i = 0; i < json_array_size(steps); i++) {
        const json_t *step = json_array_get(steps, i);
        buffer_print(into, "%s%-40s  # %s\n", indent, diagnose_word(step, "command"),
                     diagnose_word(step, "purpose"));
    }
}
