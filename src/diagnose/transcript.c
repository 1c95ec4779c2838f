/*
 * Transcripts for a terminal. They were made without secrets and bodies; here they only have to be
 * made harmless.
 */
#include "diagnose/diagnose_private.h"

struct transcript_list {
    json_t *list;
};

static bool transcript_add(void *argument, const struct transcript_row *row)
{
    const struct transcript_list *list = argument;
    char message[ID_TEXT_MAX] = "", session[ID_TEXT_MAX] = "";
    struct bytes rest = row->text, line = BYTES_EMPTY;
    json_t *lines = json_array();

    if (row->message)
        id_print(row->message, message, sizeof message);
    if (row->session)
        id_print(row->session, session, sizeof session);
    while (rest.count > 0) {
        rest = bytes_cut(rest, '\n', &line);
        json_array_append_new(lines, diagnose_text(line));
    }
    json_array_append_new(list->list,
                          json_pack("{s:o, s:s, s:s, s:o}", "time", diagnose_time(row->wall_us),
                                    "message", message, "session", session, "lines", lines));
    return json_array_size(list->list) < DIAGNOSE_EVENTS_MAX;
}

bool diagnose_transcripts(const struct diagnose_place *place, uint64_t id, json_t **transcripts,
                          char *why, size_t why_room)
{
    struct transcript_list list = {.list = json_array()};

    *transcripts = NULL;
    if (!transcript_view(place->history_directory, id, transcript_add, &list, why, why_room)) {
        json_decref(list.list);
        return false;
    }
    *transcripts = list.list;
    return true;
}

void diagnose_print_transcripts(struct buffer *into, const json_t *transcripts)
{
    char moment[40];

    for (size_t i = 0; i < json_array_size(transcripts); i++) {
        const json_t *transcript = json_array_get(transcripts, i),
                     *lines = json_object_get(transcript, "lines");
        buffer_print(into,
                     "Recorded %s (seconds from its begin; > us, < the other side, * note):\n",
                     diagnose_moment(transcript, "time", moment, sizeof moment));
        for (size_t k = 0; k < json_array_size(lines); k++) {
            diagnose_add_safe(into, json_string_value(json_array_get(lines, k)), "");
            buffer_add_text(into, "\n");
        }
    }
    if (json_array_size(transcripts) == 0)
        buffer_add_text(into, "No dialogue of it is kept.\n");
}
