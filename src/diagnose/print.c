/*
 * Stories as text for a terminal. Everything printed comes from the document; foreign text cannot
 * move the cursor.
 */
#include "diagnose/diagnose_private.h"

#include <string.h>

const char *diagnose_word(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));

    return text ? text : "";
}

int64_t diagnose_number(const json_t *object, const char *member)
{
    return json_integer_value(json_object_get(object, member));
}

const char *diagnose_moment(const json_t *object, const char *member, char *into, size_t room)
{
    const char *text = diagnose_word(object, member);

    if (strlen(text) < 20)
        snprintf(into, room, "-");
    else
        snprintf(into, room, "%.10s %.8sZ", text, text + 11);
    return into;
}

void diagnose_add_safe(struct buffer *into, const char *text, const char *indent)
{
    for (; *text; text++) {
        const uint8_t byte = (uint8_t)*text;
        if (byte == '\n') {
            buffer_add_text(into, "\n");
            buffer_add_text(into, indent);
        } else {
            buffer_add_byte(into, byte < 0x20 || byte == 0x7f ? (uint8_t)'?' : byte);
        }
    }
}

void diagnose_add_plain(struct buffer *into, const char *text)
{
    for (; *text; text++)
        buffer_add_byte(into, ascii_is_print((uint8_t)*text) ? (uint8_t)*text : (uint8_t)'?');
}

static void add_if(struct buffer *into, const json_t *object, const char *member,
                   const char *before)
{
    const char *text = diagnose_word(object, member);

    if (!*text)
        return;
    buffer_add_text(into, before);
    diagnose_add_safe(into, text, "                        ");
}

static void print_event(struct buffer *into, const json_t *event)
{
    char moment[40];

    buffer_print(into, "  %s  %s", diagnose_moment(event, "time", moment, sizeof moment),
                 diagnose_word(event, "event"));
    if (diagnose_number(event, "attempt") > 0)
        buffer_print(into, " attempt %lld", (long long)diagnose_number(event, "attempt"));
    add_if(into, event, "from", " from=");
    add_if(into, event, "to", " to=");
    add_if(into, event, "client", " client=");
    add_if(into, event, "mx", " at ");
    add_if(into, event, "tls", ", ");
    add_if(into, event, "filter", " filter=");
    add_if(into, event, "stage", " stage=");
    add_if(into, event, "session", " session=");
    if (diagnose_number(event, "took_ms") > 0)
        buffer_print(into, " took %lld ms", (long long)diagnose_number(event, "took_ms"));
    buffer_add_text(into, "\n");
    if (*diagnose_word(event, "cause") && strcmp(diagnose_word(event, "cause"), "accepted") != 0)
        buffer_print(into, "                        cause %s (%s)\n", diagnose_word(event, "cause"),
                     diagnose_word(event, "side"));
    if (*diagnose_word(event, "text")) {
        buffer_add_text(into, "                        said: ");
        diagnose_add_safe(into, diagnose_word(event, "text"), "                              ");
        buffer_add_text(into, "\n");
    }
    if (json_is_string(json_object_get(event, "next")))
        buffer_print(into, "                        next try %s\n",
                     diagnose_moment(event, "next", moment, sizeof moment));
}

static void print_earlier(struct buffer *into, const json_t *rows)
{
    char first[40], ended[40];

    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        buffer_print(into,
                     "Before it was accepted, the client was asked to come back %lld time(s):\n",
                     (long long)diagnose_number(row, "attempts"));
        buffer_print(into, "  %s  deferred with cause %s (%s), from=",
                     diagnose_moment(row, "first", first, sizeof first),
                     diagnose_word(row, "cause"), diagnose_word(row, "side"));
        diagnose_add_safe(into, diagnose_word(row, "from"), "");
        buffer_add_text(into, " to=");
        diagnose_add_safe(into, diagnose_word(row, "to"), "");
        buffer_print(into, ", session=%s\n  %s  came back\n", diagnose_word(row, "session"),
                     diagnose_moment(row, "ended", ended, sizeof ended));
    }
}

static void print_recipient(struct buffer *into, const json_t *row)
{
    char moment[40];

    buffer_add_text(into, "  to ");
    diagnose_add_safe(into, diagnose_word(row, "to"), "");
    buffer_print(into, ": %s after %lld attempt(s)", diagnose_word(row, "state"),
                 (long long)diagnose_number(row, "attempts"));
    if (json_is_string(json_object_get(row, "next")))
        buffer_print(into, ", next try %s", diagnose_moment(row, "next", moment, sizeof moment));
    if (json_is_string(json_object_get(row, "expires")))
        buffer_print(into, ", returned to the sender after %s",
                     diagnose_moment(row, "expires", moment, sizeof moment));
    add_if(into, row, "cause", ", cause ");
    add_if(into, row, "side", ", side ");
    buffer_add_text(into, "\n");
}

void diagnose_print_cause(struct buffer *into, const json_t *cause)
{
    buffer_print(into, "  %s: %s, %s, answered %lld %s\n    means: %s\n    do:    %s\n",
                 diagnose_word(cause, "cause"), diagnose_word(cause, "kind"),
                 diagnose_word(cause, "side"), (long long)diagnose_number(cause, "code"),
                 diagnose_word(cause, "enhanced"), diagnose_word(cause, "meaning"),
                 diagnose_word(cause, "advice"));
}

void diagnose_print_story(struct buffer *into, const json_t *story)
{
    const json_t *queued = json_object_get(story, "recipients"),
                 *events = json_object_get(story, "events");
    const json_t *causes = json_object_get(story, "causes");
    const char *name;
    json_t *cause;

    buffer_print(into, "%s: %s\n", diagnose_word(story, "id"), diagnose_word(story, "state"));
    print_earlier(into, json_object_get(story, "earlier"));
    if (json_array_size(events) > 0)
        buffer_add_text(into, "What happened:\n");
    for (size_t i = 0; i < json_array_size(events); i++)
        print_event(into, json_array_get(events, i));
    if (json_object_get(story, "queue_unreadable"))
        buffer_print(into, "Where it stands cannot be read: %s\n",
                     diagnose_word(story, "queue_unreadable"));
    if (json_array_size(queued) > 0)
        buffer_add_text(into, "Where it stands:\n");
    for (size_t i = 0; i < json_array_size(queued); i++)
        print_recipient(into, json_array_get(queued, i));
    if (json_object_size(causes) > 0)
        buffer_add_text(into, "What the causes mean:\n");
    json_object_foreach((json_t *)(uintptr_t)causes, name, cause) diagnose_print_cause(into, cause);
    diagnose_print_outlook(into, story);
}

static void print_explained(struct buffer *into, const json_t *explained)
{
    if (!*diagnose_word(explained, "meaning"))
        return;
    buffer_print(into, "The last answer (%s, side: %s%s%s):\n    means: %s\n    do:    %s\n",
                 diagnose_word(explained, "kind"), diagnose_word(explained, "side"),
                 *diagnose_word(explained, "confidence") ? ", confidence: " : "",
                 diagnose_word(explained, "confidence"), diagnose_word(explained, "meaning"),
                 diagnose_word(explained, "advice"));
}

static void print_others(struct buffer *into, const json_t *others)
{
    char oldest[40];

    if (diagnose_number(others, "recipients") == 0)
        return;
    buffer_print(into, "Who else waits: %lld more recipient(s) of ",
                 (long long)diagnose_number(others, "recipients"));
    diagnose_add_safe(into, diagnose_word(others, "domain"), "");
    buffer_print(into, ", %lld of them for the same cause; the oldest since %s\n",
                 (long long)diagnose_number(others, "same_cause"),
                 diagnose_moment(others, "oldest", oldest, sizeof oldest));
}

static void print_incident_lines(struct buffer *into, const json_t *incidents)
{
    char first[40];

    for (size_t i = 0; i < json_array_size(incidents); i++) {
        const json_t *incident = json_array_get(incidents, i);
        buffer_print(into,
                     "Incident %s (%s): %s since %s, %lld failure(s), %lld waiting, %lld passed "
                     "meanwhile\n",
                     diagnose_word(incident, "id"), diagnose_word(incident, "state"),
                     diagnose_word(incident, "cause"),
                     diagnose_moment(incident, "first", first, sizeof first),
                     (long long)diagnose_number(incident, "failures"),
                     (long long)diagnose_number(incident, "waiting"),
                     (long long)diagnose_number(incident, "successes_since"));
    }
}

void diagnose_print_outlook(struct buffer *into, const json_t *story)
{
    print_explained(into, json_object_get(story, "explained"));
    print_others(into, json_object_get(story, "others"));
    print_incident_lines(into, json_object_get(story, "incidents"));
    if (json_array_size(json_object_get(story, "run")) > 0)
        buffer_add_text(into, "What to run:\n");
    diagnose_print_steps(into, json_object_get(story, "run"), "  ");
}

void diagnose_print_destination(struct buffer *into, const json_t *story)
{
    const json_t *rows = json_object_get(story, "recipients");
    const char *name;
    json_t *count;
    char moment[40];

    diagnose_add_safe(into, diagnose_word(story, "domain"), "");
    buffer_print(into, ": %lld recipient(s) wait", (long long)diagnose_number(story, "waiting"));
    if (json_is_string(json_object_get(story, "oldest")))
        buffer_print(into, ", the oldest since %s",
                     diagnose_moment(story, "oldest", moment, sizeof moment));
    buffer_add_text(into, "\n");
    json_object_foreach(json_object_get(story, "by_cause"), name, count)
        buffer_print(into, "  %6lld  %s\n", (long long)json_integer_value(count), name);
    diagnose_print_outlook(into, story);
    if (json_array_size(rows) > 0) {
        buffer_add_text(into, "The first of them:\n");
        diagnose_print_queue(into, rows, DIAGNOSE_BY_NONE);
    }
}

json_t *diagnose_cause(enum cause cause)
{
    const struct cause_row *row = cause_row(cause);
    char enhanced[16];
    static const char *const kinds[] = {"temporary", "permanent", "success"};

    snprintf(enhanced, sizeof enhanced, "%u.%s", row->code / 100, row->enhanced);
    return json_pack("{s:s, s:s, s:s, s:i, s:s, s:s, s:s, s:s, s:s}", "cause", row->name, "side",
                     side_name(row->side), "kind", kinds[row->kind], "code", (int)row->code,
                     "enhanced", enhanced, "text", row->text, "meaning", row->meaning, "advice",
                     row->advice, "confidence", "high");
}
