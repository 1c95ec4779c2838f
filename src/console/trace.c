/*
 * Live dialogues over the control socket: lines as they come, until the client leaves. A client
 * that does not read is dropped: the mail path never waits for it.
 */
#include "console/console_private.h"

#include <string.h>

#define TRACE_WRITE_US (2 * US_PER_S)
#define TRACE_LOOK_US (500 * US_PER_MS)

static bool trace_filter_of(const json_t *request, struct trace_filter *filter)
{
    const char *direction = json_string_value(json_object_get(request, "direction"));
    const char *client = json_string_value(json_object_get(request, "client"));
    const char *destination = json_string_value(json_object_get(request, "dest"));
    struct ip_address ip;

    *filter = (struct trace_filter){0};
    if (!direction || (strcmp(direction, "in") != 0 && strcmp(direction, "out") != 0))
        return false;
    filter->direction = strcmp(direction, "in") == 0 ? DIALOGUE_IN : DIALOGUE_OUT;
    if (destination)
        snprintf(filter->destination, sizeof filter->destination, "%s", destination);
    if (!client)
        return true;
    if (!ip_parse(bytes_of_text(client), &ip))
        return false;
    ip_print(&ip, filter->client, sizeof filter->client);
    return true;
}

/* Did the client close its end? It has nothing more to say to us. */
static bool client_left(struct stream *stream)
{
    return stream_wait_readable(stream, clock_now_us()).status != IO_TIMEOUT;
}

static void trace_say(struct stream *stream, const char *text)
{
    const struct io_result sent UNUSED =
        stream_write(stream, bytes_of_text(text), deadline_in(TRACE_WRITE_US));
}

static void trace_run(const struct console *console, struct trace *trace, struct stream *stream)
{
    CLEANUP(buffer_free) struct buffer lines = BUFFER_WITH_LIMIT(MIB);

    trace_say(stream, "{\"tracing\":true}\n");
    while (!console->closing && !client_left(stream)) {
        buffer_clear(&lines);
        if (!trace_read(trace, deadline_in(TRACE_LOOK_US), &lines)) {
            trace_say(stream, "{\"error\":\"lines came faster than they were read: dropped\"}\n");
            return;
        }
        if (lines.count > 0 &&
            stream_write(stream, buffer_view(&lines), deadline_in(TRACE_WRITE_US)).status != IO_OK)
            return;
    }
}

void console_trace(const struct console *console, const json_t *request, struct stream *stream)
{
    struct trace_filter filter;

    if (!trace_filter_of(request, &filter)) {
        trace_say(stream,
                  "{\"error\":\"trace wants a direction, in or out, and an IP as client\"}\n");
        return;
    }
    struct trace *trace = trace_open(&filter);
    if (!trace) {
        trace_say(stream, "{\"error\":\"as many traces as are possible run already\"}\n");
        return;
    }
    trace_run(console, trace, stream);
    trace_close(trace);
}
