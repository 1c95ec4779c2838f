/*
 * batch: questions side by side. The caller sleeps until each helper has ended, even when it is
 * cancelled itself, because the helpers write into its memory; they are cancelled with it.
 */
#include "resolve/batch.h"

struct batch {
    struct resolver *resolver;
    struct arena *arena;
    struct fiber *waiting;
    unsigned open;
};

struct helper {
    struct batch *batch;
    struct resolve_batched *question;
    struct fiber *fiber; /* NULL once it has ended: fibers are reused */
};

static void helper_main(void *argument)
{
    struct helper *helper = argument;
    struct resolve_batched *question = helper->question;
    struct batch *batch = helper->batch;

    question->lookup =
        resolve_ask_by(batch->resolver, batch->arena, &question->question, &question->answer);
    helper->fiber = NULL;
    batch->open--;
    fiber_wake(batch->waiting);
}

static void helper_start(struct helper *helper)
{
    helper->batch->open++;
    helper->fiber = fiber_start("dns.ask", helper_main, helper);
    if (!helper->fiber)
        helper_main(helper);
}

static void batch_cancel(struct helper *helpers, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (helpers[i].fiber)
            fiber_cancel(helpers[i].fiber);
}

static void batch_wait(struct batch *batch, struct helper *helpers, unsigned count)
{
    bool masked = false, cancelled = false;

    while (batch->open > 0) {
        const enum io_status status = fiber_park(deadline_in(60 * US_PER_S));

        if (status == IO_CANCELLED && !cancelled) {
            batch_cancel(helpers, count);
            masked = fiber_mask_cancel(true);
            cancelled = true;
        }
    }
    if (cancelled)
        fiber_mask_cancel(masked);
}

void resolve_ask_all(struct resolver *resolver, struct arena *arena,
                     struct resolve_batched *questions, unsigned count)
{
    struct helper helpers[RESOLVE_BATCH_MAX] = {{0}};
    struct batch batch = {.resolver = resolver, .arena = arena, .waiting = fiber_self()};

    count = MIN_OF(count, (unsigned)RESOLVE_BATCH_MAX);
    for (unsigned i = 0; i + 1 < count; i++) {
        helpers[i] = (struct helper){.batch = &batch, .question = &questions[i]};
        helper_start(&helpers[i]);
    }
    if (count > 0) /* the last one needs no fiber of its own */
        questions[count - 1].lookup = resolve_ask_by(
            resolver, arena, &questions[count - 1].question, &questions[count - 1].answer);
    batch_wait(&batch, helpers, count);
}
