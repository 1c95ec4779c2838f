/* What is to happen: a heap by time, then by a seeded tie-break, then by the order of adding. */
#include "sim/inside.h"

static struct {
    struct sim_event *heap;
    size_t count, room;
    uint64_t order;
} events;

static bool before(const struct sim_event *a, const struct sim_event *b)
{
    if (a->at_us != b->at_us)
        return a->at_us < b->at_us;
    return a->tie != b->tie ? a->tie < b->tie : a->order < b->order;
}

static void add(uint64_t at_us, void (*run)(void *argument), void *argument, bool owned)
{
    const struct sim_event event = {.at_us = MAX_OF(at_us, sim_world.now_us),
                                    .order = ++events.order,
                                    .tie = (uint32_t)chance_next(),
                                    .run = run,
                                    .argument = argument,
                                    .owned = owned};
    size_t index = events.count++;

    if (events.count > events.room) {
        events.room = events.room ? 2 * events.room : 64;
        events.heap = sim_grow(events.heap, events.room, sizeof event);
    }
    for (; index > 0 && before(&event, &events.heap[(index - 1) / 2]); index = (index - 1) / 2)
        events.heap[index] = events.heap[(index - 1) / 2];
    events.heap[index] = event;
}

void events_add(uint64_t at_us, void (*run)(void *argument), void *argument)
{
    add(at_us, run, argument, false);
}

void events_add_owned(uint64_t at_us, void (*run)(void *argument), void *argument)
{
    add(at_us, run, argument, true);
}

static struct sim_event take_first(void)
{
    const struct sim_event first = events.heap[0];
    const struct sim_event last = events.heap[--events.count];
    size_t index = 0;

    for (size_t child = 1; child < events.count; child = 2 * index + 1) {
        if (child + 1 < events.count && before(&events.heap[child + 1], &events.heap[child]))
            child++;
        if (!before(&events.heap[child], &last))
            break;
        events.heap[index] = events.heap[child];
        index = child;
    }
    if (events.count > 0)
        events.heap[index] = last;
    return first;
}

uint64_t events_next_us(void)
{
    return events.count ? events.heap[0].at_us : DEADLINE_NEVER;
}

void events_run_due(void)
{
    while (!sim_world.crashed && events.count > 0 && events.heap[0].at_us <= sim_world.now_us) {
        const struct sim_event event = take_first();

        event.run(event.argument);
    }
}

void events_close(void)
{
    for (size_t i = 0; i < events.count; i++)
        if (events.heap[i].owned)
            free(events.heap[i].argument);
    free(events.heap);
    events.heap = NULL;
    events.count = events.room = 0;
    events.order = 0;
}
