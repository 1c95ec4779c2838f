/*
 * One journal line under construction: fixed room on the caller's stack, never an allocation. What
 * does not fit is cut at the end of a field, so that a line is always whole JSON.
 */
#ifndef OBSERVE_LINE_H
#define OBSERVE_LINE_H

#include "observe/observe.h"

/* PIPE_BUF: a line up to this length reaches a pipe whole or not at all. */
#define LINE_ROOM 4096

struct line {
    char at[LINE_ROOM];
    size_t count;
};

void line_add(struct line *line, struct bytes plain);
void line_add_text(struct line *line, const char *plain);
void line_add_u64(struct line *line, uint64_t value);
/* Milliseconds with three decimals. */
void line_add_ms(struct line *line, uint64_t duration_us);
void line_add_id(struct line *line, uint64_t id);
/* "2026-11-24T09:26:54.000123Z"; the text of the second is remembered per thread. */
void line_add_time(struct line *line, int64_t wall_us);
/* Escaped for the inside of a JSON string; at most `most` bytes of output. Bad UTF-8 becomes
 * U+FFFD; controls of C0 and C1 are escaped, so that a terminal is safe too. */
void line_add_json(struct line *line, struct bytes foreign, size_t most);
/* Printable ASCII only, everything else '?': for the postfix form. */
void line_add_safe(struct line *line, struct bytes foreign, size_t most);
struct bytes line_view(const struct line *line);

/* "5.1.1" of the event: as received, or from the cause; into must hold 16. */
const char *event_enhanced(const struct event *event, char into[16]);
enum log_level event_level(enum event_kind kind);
const char *level_name(enum log_level level);

void line_of_event_json(struct line *line, const struct event *event, int64_t wall_us);
void line_of_event_postfix(struct line *line, const struct event *event, int64_t wall_us);
void line_of_note_json(struct line *line, enum log_level level, const char *room,
                       struct bytes words);
void line_of_note_postfix(struct line *line, const char *room, struct bytes words);

/* Hands a finished line (or several) to standard error; never blocks. urgent: at once. */
void journal_put(struct bytes lines, bool urgent);

/* Bumps what the event stands for. */
void metrics_count_event(const struct event *event);

#endif
