/*
 * The reader of DATA (RFC 5321 4.5.2). Scans line by line with memchr and gives out the longest run
 * that needs no change, as a view. Bytes that cannot be judged yet (a CR or a dot at the end of the
 * buffer) stay in the buffer, so the result is the same however the input is cut.
 */
#include "wire/input.h"

#include <string.h>

enum data_state { DATA_LINE_START = 0, DATA_IN_LINE };

/* The answer of looking at a dot that begins a line. */
enum dot { DOT_UNKNOWN, DOT_ENDS, DOT_STUFFED };

static enum dot judge_dot(struct bytes view)
{
    static const struct bytes end = BYTES_LITERAL(".\r\n");

    if (!bytes_starts_with(end, bytes_slice(view, 0, end.count)))
        return DOT_STUFFED;
    return view.count >= end.count ? DOT_ENDS : DOT_UNKNOWN;
}

static void end_line(struct wire_data *data, size_t length)
{
    data->line_length += length;
    data->longest_line = MAX_OF(data->longest_line, data->line_length);
    data->line_length = 0;
    data->state = DATA_LINE_START;
}

/* The rest of the buffer has no LF. A CR at its very end is left for the next look. */
static size_t scan_open_line(struct wire_data *data, struct bytes rest)
{
    const size_t cr = bytes_find_byte(rest, '\r');
    size_t length = rest.count;

    if (cr < rest.count) {
        data->malformed |= cr < rest.count - 1;
        length -= rest.at[rest.count - 1] == '\r';
    }
    if (length > 0)
        data->state = DATA_IN_LINE;
    data->line_length += length;
    data->longest_line = MAX_OF(data->longest_line, data->line_length);
    return length;
}

/* How many bytes from the front can be given out as they are. Stops before a dot at a line start.
 */
static size_t scan_run(struct wire_data *data, struct bytes view)
{
    size_t at = 0;

    while (at < view.count && !(data->state == DATA_LINE_START && view.at[at] == '.')) {
        const uint8_t *from = view.at + at;
        const uint8_t *lf = memchr(from, '\n', view.count - at);

        if (!lf)
            return at + scan_open_line(data, bytes_skip(view, at));
        const size_t length = (size_t)(lf - from);
        const uint8_t *cr = length > 0 ? memchr(from, '\r', length) : NULL;
        at += length + 1;
        if (cr && cr == lf - 1) {
            end_line(data, length - 1);
            continue;
        }
        data->malformed = true;
        if (length > 0 && lf[-1] == '\r') {
            end_line(data, length - 1);
        } else {
            data->line_length += length + 1;
            data->state = DATA_IN_LINE;
        }
    }
    return at;
}

/* Deals with a dot at the front of the line, if there is one and enough is known about it. */
static enum dot take_dot(struct wire_data *data)
{
    const struct bytes view = input_view(data->input);

    if (data->state != DATA_LINE_START || view.count == 0 || view.at[0] != '.')
        return DOT_STUFFED;
    const enum dot dot = judge_dot(view);
    if (dot == DOT_STUFFED) {
        input_consume(data->input, 1);
        data->state = DATA_IN_LINE;
    } else if (dot == DOT_ENDS) {
        input_consume(data->input, 3);
        data->ended = true;
    }
    return dot;
}

/* What can be given out of the buffer now; empty when more input is needed or the end was met. */
static struct bytes take_run(struct wire_data *data)
{
    if (take_dot(data) != DOT_STUFFED)
        return BYTES_EMPTY;
    const struct bytes view = input_view(data->input);
    const struct bytes run = bytes_slice(view, 0, scan_run(data, view));
    input_consume(data->input, run.count);
    data->malformed |= bytes_find_byte(run, 0) < run.count;
    data->bytes += run.count;
    /* An end that follows at once is taken along, which saves its caller a turn. */
    if (run.count > 0 && data->state == DATA_LINE_START &&
        judge_dot(input_view(data->input)) == DOT_ENDS)
        take_dot(data);
    return run;
}

enum wire_status wire_read_data(struct wire_data *data, uint64_t deadline_us, struct bytes *piece)
{
    *piece = BYTES_EMPTY;
    while (!data->ended) {
        *piece = take_run(data);
        if (piece->count > 0)
            break;
        if (data->ended)
            break;
        const enum wire_status filled = input_fill(data->input, deadline_us);
        if (filled != WIRE_OK)
            return filled;
    }
    return WIRE_OK;
}
