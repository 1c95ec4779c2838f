/*
 * unbound: the seam to libunbound: resolver_open, resolver_close, the asking functions, and nothing
 * else. The simulator links its own instead of this file.
 *
 * One context a session loop; its worker thread validates, a pump fiber on the loop waits for its
 * descriptor and hands out the answers. Contexts are made in the worker pool: libunbound puts 64
 * KiB on the stack for that, more than a fiber has. libunbound retries for minutes, so the deadline
 * is ours: a question that is late is cancelled and reported as a time-out.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unbound.h>

#include "resolve/cache.h"

enum {
    DNS_LOOPS_MAX = 256,
    DNS_CLASS_IN = 1,
    RCODE_NOERROR = 0,
    RCODE_NXDOMAIN = 3,
};
#define CONTEXT_END_US (2 * US_PER_S)

/* What one loop has. The context and the count are touched by that loop's thread only. */
struct dns_loop {
    struct resolver *resolver;
    struct loop *loop;
    struct ub_ctx *context;
    struct fiber *pump; /* guarded by the resolver's lock */
    unsigned waiting;   /* questions that libunbound has */
};

struct resolver {
    pthread_mutex_t lock; /* around memory operations only */
    struct endpoint *forward;
    unsigned forward_count;
    uint64_t timeout_us;
    char *trust_anchor;
    struct dns_loop *loops; /* one a session loop, fixed once opened */
    unsigned loop_count;
    struct dns_cache *cache;
    uint64_t patience_us;
    unsigned asking; /* fibers that ask, on all loops */
    unsigned pumps;
    bool closing;
    struct waitlist changed; /* asking or pumps went down */
};

struct question {
    struct fiber *fiber;
    struct ub_result *result;
    int error;
    bool done;
};

/* ------------------------------------------------------------------ a context */

struct context_option {
    const char *name, *value;
};

/*
 * Loopback servers are asked like others. A server that was down must be tried again soon after it
 * came back: by default libunbound remembers it as dead for a quarter of an hour.
 */
static const struct context_option CONTEXT_OPTIONS[] = {
    {"do-not-query-localhost:", "no"},   {"unblock-lan-zones:", "yes"},
    {"infra-host-ttl:", "10"},           {"infra-keep-probing:", "yes"},
    {"outgoing-range:", "256"},          {"outgoing-num-tcp:", "16"},
    {"num-queries-per-thread:", "4096"}, {"msg-cache-size:", "4m"},
    {"rrset-cache-size:", "8m"},         {"use-syslog:", "no"},
};

/* libunbound answers these by itself; whoever names servers to ask wants to hear those. */
static const char *const BUILT_IN_ZONES[] = {
    "127.in-addr.arpa.",
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa.",
};

static int context_set_options(struct ub_ctx *context)
{
    int error = 0;

    for (size_t i = 0; error == 0 && i < COUNT_OF(CONTEXT_OPTIONS); i++)
        error = ub_ctx_set_option(context, CONTEXT_OPTIONS[i].name, CONTEXT_OPTIONS[i].value);
    return error;
}

static int context_set_servers(struct ub_ctx *context, const struct resolver *resolver)
{
    int error = 0;

    if (resolver->forward_count == 0)
        return ub_ctx_resolvconf(context, NULL);
    for (unsigned i = 0; error == 0 && i < resolver->forward_count; i++) {
        char ip[ENDPOINT_TEXT_MAX], server[ENDPOINT_TEXT_MAX + 8];

        ip_print(&resolver->forward[i].ip, ip, sizeof ip);
        snprintf(server, sizeof server, "%s@%u", ip, resolver->forward[i].port);
        error = ub_ctx_set_fwd(context, server);
    }
    return error;
}

static int context_set_trust(struct ub_ctx *context, const struct resolver *resolver)
{
    if (!resolver->trust_anchor)
        return ub_ctx_set_option(context, "module-config:", "iterator");
    return ub_ctx_add_ta_file(context, resolver->trust_anchor);
}

/* A change of zones ends the set-up of a context at once, instead of on the first question's stack.
 */
static int context_settle(struct ub_ctx *context, const struct resolver *resolver)
{
    int error = ub_ctx_zone_remove(context, "unused.invalid.");

    for (size_t i = 0; !error && resolver->forward_count > 0 && i < COUNT_OF(BUILT_IN_ZONES); i++)
        error = ub_ctx_zone_remove(context, BUILT_IN_ZONES[i]);
    return error;
}

static int context_configure(struct ub_ctx *context, const struct resolver *resolver)
{
    int error = ub_ctx_debugout(context, NULL);

    error = error ? error : context_set_options(context);
    error = error ? error : context_set_servers(context, resolver);
    error = error ? error : context_set_trust(context, resolver);
    error = error ? error : ub_ctx_async(context, 1);
    return error ? error : context_settle(context, resolver);
}

static void on_first_answer(void *argument UNUSED, int error UNUSED, struct ub_result *result)
{
    ub_resolve_free(result);
}

/*
 * The first question starts libunbound's thread with its event base, for which libevent ends the
 * process when there is no descriptor or memory left. So it is asked now, while there are some, for
 * a name that is answered without the network.
 */
static int context_start(struct ub_ctx *context)
{
    const int error =
        ub_resolve_async(context, "localhost.", DNS_A, DNS_CLASS_IN, NULL, on_first_answer, NULL);

    return error ? error : ub_wait(context);
}

/* NULL with *error set. */
static struct ub_ctx *context_open(const struct resolver *resolver, int *error)
{
    struct ub_ctx *context = ub_ctx_create();

    *error = context ? context_configure(context, resolver) : UB_NOMEM;
    *error = *error ? *error : context_start(context);
    if (*error != 0 && context) {
        ub_ctx_delete(context);
        return NULL;
    }
    return context;
}

/* ------------------------------------------------------------------ the pump */

static void pump_wait(struct dns_loop *here)
{
    const struct io_result ready =
        descriptor_wait(ub_fd(here->context), false, deadline_in(60 * US_PER_S));

    if (ready.status == IO_OK)
        ub_process(here->context);
    else if (ready.status == IO_FAILED)
        fiber_sleep_until(deadline_in(100 * US_PER_MS));
}

/* Hands out the answers until it is cancelled (close, or the end of its loop). */
static void pump_main(void *argument)
{
    struct dns_loop *here = argument;
    struct resolver *resolver = here->resolver;

    while (!fiber_cancelled())
        pump_wait(here);
    pthread_mutex_lock(&resolver->lock);
    here->pump = NULL;
    resolver->pumps--;
    waitlist_wake_all(&resolver->changed);
    pthread_mutex_unlock(&resolver->lock);
}

/* ------------------------------------------------------------------ open and close */

static bool resolver_copy_settings(struct resolver *resolver,
                                   const struct resolver_settings *settings)
{
    const char *anchor = settings->trust_anchor;

    resolver->timeout_us = settings->timeout_us ? settings->timeout_us : 5 * US_PER_S;
    resolver->patience_us =
        settings->patience_us ? settings->patience_us : 2 * resolver->timeout_us;
    resolver->forward_count = settings->forward_count;
    resolver->cache =
        dns_cache_open(&(struct dns_cache_settings){.stale_us = settings->serve_stale_us});
    resolver->forward = calloc(settings->forward_count + 1u, sizeof *resolver->forward);
    if (!resolver->forward || !resolver->cache)
        return false;
    for (unsigned i = 0; i < settings->forward_count; i++)
        resolver->forward[i] = settings->forward[i];
    if (anchor && anchor[0] != '\0')
        resolver->trust_anchor = strdup(anchor);
    return !anchor || anchor[0] == '\0' || resolver->trust_anchor;
}

/* libunbound's end of a context waits for a thread of its own, and for ever when that could not be
 * told: so that it is none of ours that waits. */
struct context_end {
    struct ub_ctx *context;
    atomic_bool over;
};

static void *context_end_main(void *argument)
{
    struct context_end *end = argument;

    ub_ctx_delete(end->context);
    atomic_store(&end->over, true);
    return NULL;
}

static void context_end_await(const struct context_end *end)
{
    const uint64_t until_us = deadline_in(CONTEXT_END_US);
    const struct timespec moment = {.tv_nsec = 1000 * 1000};

    while (!atomic_load(&end->over) && clock_now_us() < until_us)
        if (!fiber_self() || fiber_sleep_until(deadline_in(US_PER_MS)) == IO_CANCELLED)
            nanosleep(&moment, NULL);
}

static void context_close(struct ub_ctx *context)
{
    struct context_end *end = calloc(1, sizeof *end);
    pthread_t thread;

    if (end)
        end->context = context;
    if (!end || pthread_create(&thread, NULL, context_end_main, end) != 0) {
        observe_note(LOG_WARNING, "resolve", "no thread to close the resolver, memory kept");
        free(end);
        return;
    }
    context_end_await(end);
    if (atomic_load(&end->over)) {
        pthread_join(thread, NULL);
        free(end);
        return;
    }
    pthread_detach(thread);
    observe_note(LOG_WARNING, "resolve", "libunbound does not end, memory and a thread kept");
}

static void resolver_free(struct resolver *resolver)
{
    for (unsigned i = 0; i < resolver->loop_count; i++)
        context_close(resolver->loops[i].context);
    dns_cache_close(resolver->cache);
    free(resolver->loops);
    free(resolver->forward);
    free(resolver->trust_anchor);
    pthread_mutex_destroy(&resolver->lock);
    free(resolver);
}

struct opening {
    struct resolver *resolver;
    int error;
};

/* In the worker pool. */
static void resolver_open_loops(void *argument)
{
    struct opening *opening = argument;
    struct resolver *resolver = opening->resolver;
    const unsigned count = MIN_OF(loop_session_count(), (unsigned)DNS_LOOPS_MAX);

    opening->error = UB_NOMEM;
    resolver->loops = calloc(count + 1u, sizeof *resolver->loops);
    while (resolver->loops && resolver->loop_count < count) {
        struct dns_loop *here = &resolver->loops[resolver->loop_count];

        *here = (struct dns_loop){.resolver = resolver, .loop = loop_session(resolver->loop_count)};
        here->context = context_open(resolver, &opening->error);
        if (!here->context)
            return;
        resolver->loop_count++;
    }
}

struct resolver *resolver_open(const struct resolver_settings *settings, char *why, size_t why_room)
{
    struct resolver *resolver = calloc(1, sizeof *resolver);
    struct opening opening = {.resolver = resolver, .error = UB_NOMEM};

    if (!resolver) {
        snprintf(why, why_room, "resolver: out of memory");
        return NULL;
    }
    pthread_mutex_init(&resolver->lock, NULL);
    if (resolver_copy_settings(resolver, settings) &&
        work_run(resolver_open_loops, &opening) == IO_OK && opening.error == 0)
        return resolver;
    snprintf(why, why_room, "resolver: %s", ub_strerror(opening.error));
    resolver_free(resolver);
    return NULL;
}

/* Sleeps until *count is zero. False when it took too long. */
static bool resolver_drain(struct resolver *resolver, const unsigned *count, uint64_t deadline_us)
{
    struct waiter waiter;
    bool drained = false;

    if (!fiber_self())
        return *count == 0;
    waitlist_join(&resolver->changed, &waiter);
    for (;;) {
        pthread_mutex_lock(&resolver->lock);
        drained = *count == 0;
        pthread_mutex_unlock(&resolver->lock);
        if (drained || fiber_park(deadline_us) == IO_TIMEOUT)
            break;
    }
    waitlist_leave(&resolver->changed, &waiter);
    return drained;
}

/* Sleeps until the questions in flight and the pumps have ended, which is bounded. */
void resolver_close(struct resolver *resolver)
{
    if (!resolver)
        return;
    const bool masked = fiber_self() ? fiber_mask_cancel(true) : false;

    pthread_mutex_lock(&resolver->lock);
    resolver->closing = true;
    pthread_mutex_unlock(&resolver->lock);
    bool drained =
        resolver_drain(resolver, &resolver->asking, deadline_in(resolver->timeout_us + US_PER_S));
    pthread_mutex_lock(&resolver->lock);
    for (unsigned i = 0; i < resolver->loop_count; i++)
        if (resolver->loops[i].pump)
            fiber_cancel(resolver->loops[i].pump);
    pthread_mutex_unlock(&resolver->lock);
    drained = resolver_drain(resolver, &resolver->pumps, deadline_in(2 * US_PER_S)) && drained;
    if (drained)
        resolver_free(resolver);
    else
        observe_note(LOG_WARNING, "resolve", "questions still open at the end, memory kept");
    if (fiber_self())
        fiber_mask_cancel(masked);
}

/* ------------------------------------------------------------------ a question */

/* NULL on a loop that is none of the sessions'. */
static struct dns_loop *resolver_find_loop(struct resolver *resolver)
{
    for (unsigned i = 0; i < resolver->loop_count; i++)
        if (resolver->loops[i].loop == loop_self())
            return &resolver->loops[i];
    return NULL;
}

/* Called with the lock held. */
static bool loop_has_pump(struct dns_loop *here)
{
    if (!here->pump) {
        here->pump = fiber_start("dns.pump", pump_main, here);
        here->resolver->pumps += here->pump ? 1 : 0;
    }
    return here->pump != NULL;
}

/* This loop's context with its pump running, counted as asking; NULL when we cannot ask. */
static struct dns_loop *resolver_enter(struct resolver *resolver)
{
    pthread_mutex_lock(&resolver->lock);
    struct dns_loop *here = resolver->closing ? NULL : resolver_find_loop(resolver);

    if (here && !loop_has_pump(here))
        here = NULL;
    if (here)
        resolver->asking++;
    pthread_mutex_unlock(&resolver->lock);
    return here;
}

static void resolver_leave(struct dns_loop *here)
{
    struct resolver *resolver = here->resolver;

    pthread_mutex_lock(&resolver->lock);
    resolver->asking--;
    if (resolver->closing)
        waitlist_wake_all(&resolver->changed);
    pthread_mutex_unlock(&resolver->lock);
}

/* Runs in the pump, on the asking fiber's loop. */
static void on_answer(void *argument, int error, struct ub_result *result)
{
    struct question *question = argument;

    question->error = error;
    question->result = result;
    question->done = true;
    fiber_wake(question->fiber);
}

/* Sleeps until the answer, the deadline or cancellation; the latter two take the question back. */
static enum io_status question_wait(struct question *question, uint64_t deadline_us)
{
    while (!question->done) {
        const enum io_status status = fiber_park(deadline_us);

        if (status != IO_OK && !question->done)
            return status;
    }
    return IO_OK;
}

static struct lookup answer_fill(struct arena *arena, const struct ub_result *result,
                                 enum dns_type type, struct dns_answer *answer)
{
    unsigned count = 0;

    while (count < DNS_RECORDS_MAX && result->data[count])
        count++;
    answer->records = ARENA_NEW_ARRAY(arena, count + 1u, struct dns_record);
    if (!answer->records)
        return lookup_failed(LOOKUP_REASON_PARTIAL, BYTES_LITERAL("the answer is too large"));
    for (unsigned i = 0; i < count; i++) {
        const struct bytes data = bytes_of(result->data[i], (size_t)MAX_OF(result->len[i], 0));

        if (dns_record_decode(arena, type, data, &answer->records[answer->count]))
            answer->count++;
    }
    if (answer->count == 0)
        return lookup_failed(LOOKUP_REASON_PARTIAL, BYTES_LITERAL("the answer makes no sense"));
    return lookup_found();
}

static struct lookup answer_failed(struct arena *arena, const struct ub_result *result)
{
    static const char *const names[] = {"NOERROR",  "FORMERR", "SERVFAIL",
                                        "NXDOMAIN", "NOTIMP",  "REFUSED"};
    const unsigned rcode = (unsigned)result->rcode;

    return lookup_failed(LOOKUP_REASON_UNAVAILABLE, rcode < COUNT_OF(names)
                                                        ? bytes_of_text(names[rcode])
                                                        : arena_print(arena, "RCODE %u", rcode));
}

static struct bytes name_without_dot(const char *text)
{
    const struct bytes name = bytes_of_text(text ? text : "");

    return bytes_slice(name, 0, name.count - (name.count > 0 && name.at[name.count - 1] == '.'));
}

/* libunbound gives it always, also where no CNAME led away. */
static struct bytes answer_canonical(struct arena *arena, const struct ub_result *result)
{
    const struct bytes name = name_without_dot(result->canonname);

    if (name.count == 0 || bytes_equal_nocase(name, name_without_dot(result->qname)))
        return BYTES_EMPTY;
    char *const copy = arena_text(arena, name);
    for (char *at = copy; at && *at; at++)
        *at = (char)ascii_lower((uint8_t)*at);
    return bytes_of_text(copy ? copy : "");
}

static struct lookup answer_read(struct arena *arena, const struct ub_result *result,
                                 enum dns_type type, struct dns_answer *answer)
{
    if (result->bogus)
        return lookup_failed(LOOKUP_REASON_BOGUS,
                             arena_copy(arena, bytes_of_text(result->why_bogus)));
    answer->secure = result->secure != 0;
    answer->ttl_s = (uint32_t)MAX_OF(result->ttl, 0);
    answer->canonical = answer_canonical(arena, result);
    if (result->rcode == RCODE_NOERROR && result->havedata)
        return answer_fill(arena, result, type, answer);
    answer->nxdomain = result->rcode == RCODE_NXDOMAIN;
    if (result->rcode == RCODE_NOERROR || answer->nxdomain)
        return lookup_absent();
    return answer_failed(arena, result);
}

static struct lookup question_failed(enum io_status status)
{
    if (status == IO_TIMEOUT)
        return lookup_failed(LOOKUP_REASON_TIMEOUT, BYTES_LITERAL("no answer in time"));
    return lookup_failed(LOOKUP_REASON_CANCELLED, BYTES_EMPTY);
}

/* As libunbound reads names: a blank is written as an escape. */
static void name_escape(const char *name, char *into, size_t room)
{
    size_t length = 0;

    for (; *name && length + 5 < room; name++) {
        if (*name == ' ')
            length += (size_t)snprintf(into + length, room - length, "\\032");
        else
            into[length++] = *name;
    }
    into[length] = 0;
}

/* The asker of dns_cache_ask. Sleeps. */
static struct lookup ask_here(void *argument, struct arena *arena, const struct dns_question *asked,
                              struct dns_answer *answer)
{
    const struct dns_loop *here = argument;
    struct question question = {.fiber = fiber_self()};
    const uint64_t start_us = clock_now_us();
    int id = 0;
    char name[4 * DNS_NAME_MAX + 8];
    name_escape(asked->name, name, sizeof name);
    const int error = ub_resolve_async(here->context, name, (int)asked->type, DNS_CLASS_IN,
                                       &question, on_answer, &id);

    if (error != 0)
        return lookup_failed(LOOKUP_REASON_UNAVAILABLE, bytes_of_text(ub_strerror(error)));
    const enum io_status status = question_wait(&question, asked->deadline_us);

    metric_observe(HISTOGRAM_DNS, clock_now_us() - start_us);
    if (status != IO_OK) {
        ub_cancel(here->context, id);
        return question_failed(status);
    }
    if (question.error != 0 || !question.result) {
        ub_resolve_free(question.result);
        return lookup_failed(LOOKUP_REASON_UNAVAILABLE, bytes_of_text(ub_strerror(question.error)));
    }
    const struct lookup lookup = answer_read(arena, question.result, asked->type, answer);
    ub_resolve_free(question.result);
    return lookup;
}

struct lookup resolve_ask_by(struct resolver *resolver, struct arena *arena,
                             const struct resolve_question *question, struct dns_answer *answer)
{
    char text[DNS_NAME_MAX + 2];
    const struct dns_question asked = {text, question->type, question->deadline_us};

    *answer = (struct dns_answer){0};
    if (!dns_name_text(question->name, text, sizeof text)) {
        answer->nxdomain = true;
        return lookup_absent();
    }
    struct dns_loop *here = resolver_enter(resolver);

    if (!here)
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("too many questions"));
    const struct dns_asker asker = {ask_here, here, resolver->timeout_us, &here->waiting};
    const struct lookup lookup = dns_cache_ask(resolver->cache, &asker, arena, &asked, answer);

    resolver_leave(here);
    return lookup;
}

struct lookup resolve_ask(struct resolver *resolver, struct arena *arena, struct bytes name,
                          enum dns_type type, struct dns_answer *answer)
{
    const struct resolve_question question = {name, type, .deadline_us = DEADLINE_NEVER};

    return resolve_ask_by(resolver, arena, &question, answer);
}

uint64_t resolver_patience_end(const struct resolver *resolver)
{
    return deadline_in(resolver->patience_us);
}

struct lookup resolve_recall(struct resolver *resolver, struct arena *arena, struct bytes name,
                             enum dns_type type, struct dns_answer *answer)
{
    char text[DNS_NAME_MAX + 2];
    const struct dns_question asked = {.name = text, .type = type};

    *answer = (struct dns_answer){0};
    if (!dns_name_text(name, text, sizeof text))
        return lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_EMPTY);
    return dns_cache_recall(resolver->cache, arena, &asked, answer);
}
