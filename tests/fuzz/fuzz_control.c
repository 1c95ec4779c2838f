/*
 * Requests on the control socket, cut anywhere: each whole line gets one answer, JSON on one line;
 * and what reaches the scheduler is bounded and asks for something that may be asked for.
 */
#include "../unit/memory_stream.h"

/* Status and health ask every room, which have tests of their own. */
#define console_status whole_status
#define console_health whole_health
#include "console/status.c"
#undef console_status
#undef console_health

json_t *console_status(struct console *console);
json_t *console_health(struct console *console);
#include "console/control.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

json_t *console_status(struct console *console)
{
    (void)console;
    return json_pack("{s:s}", "status", "fine");
}

json_t *console_health(struct console *console)
{
    return console_status(console);
}

/* The linker puts these in the places of the real ones. */
struct lookup __wrap_schedule_act(struct schedule *schedule, const struct schedule_request *request,
                                  uint64_t *touched);
struct lookup __wrap_schedule_act(struct schedule *schedule, const struct schedule_request *request,
                                  uint64_t *touched)
{
    (void)schedule;
    const bool by_some = request->destination_domain || request->cause || request->sender;

    INVARIANT(request->who && strlen(request->who) < 96);
    INVARIANT(request->id || by_some || request->all);
    INVARIANT(!request->destination_domain || strlen(request->destination_domain) < 320);
    *touched = 1;
    return request->all ? lookup_absent() : lookup_found();
}

void __wrap_history_flush(struct history *history);
void __wrap_history_flush(struct history *history)
{
    (void)history;
}

void __wrap_console_trace(const struct console *console, const json_t *request,
                          struct stream *stream);
void __wrap_console_trace(const struct console *console, const json_t *request,
                          struct stream *stream)
{
    (void)console, (void)request, (void)stream;
}

/* The first octet chooses the cut. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct console console;

    if (size == 0)
        return 0;
    const struct bytes line = bytes_of(data + 1, size - 1);
    struct memory_stream memory = memory_stream_of(line);
    memory.fragment = data[0];
    struct control_session session = {&console, &memory.stream};
    control_serve(&session);
    const struct bytes said = buffer_view(&memory.written);
    INVARIANT(said.count == 0 || bytes_find_byte(said, '\n') == said.count - 1);
    if (said.count > 0) {
        json_t *answer = json_loadb((const char *)said.at, said.count, 0, NULL);
        INVARIANT(json_is_object(answer));
        json_decref(answer);
    }
    buffer_free(&memory.written);
    return 0;
}
