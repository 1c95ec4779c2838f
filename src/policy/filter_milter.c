/*
 * Milters: each client has a seat for every milter of the configuration, with one connection that
 * serves all its messages. The talk begins at MAIL, when there is something to judge: what the
 * milter says to the connection or HELO is said there. An instance that fails hands over to the
 * next, which hears everything from the beginning; when each has failed, `on_fault` decides.
 */
#include "policy/filter.h"

#include <string.h>

enum { IDLE_SECONDS = 30 };

struct milter_seat {
    const struct config_filter *filter;
    struct filter_instance *instance; /* whose milter it is */
    struct milter *milter;            /* NULL: none */
    bool connected, greeted, mail_said;
    uint32_t rcpts_said;
    bool old;     /* served before this message: it may have gone meanwhile */
    bool excused; /* the message goes on without it */
};

struct client_filters {
    struct policy *policy;
    char helo[MAIL_DOMAIN_MAX + 1]; /* as the milters know it */
    bool tls;
    struct recipient *asked; /* accepted ones, as RCPT named them */
    uint32_t asked_count, asked_room;
    unsigned seat_count;
    struct milter_seat seats[];
};

/* What is to be said now: all up to here, the recipient when there is one, the message at the dot.
 */
struct work {
    struct policy *policy;
    struct transaction *transaction;
    struct milter_seat *seat;
    const struct recipient *recipient;
    struct bytes unknown;           /* an unknown command: nothing else is said */
    struct milter_changes *changes; /* NULL before the dot */
    struct message_source body;     /* the new one */
    uint64_t deadline_us;
};

/* ------------------------------------------------------------------ seats */

static struct client_filters *filters_of(struct policy *policy, struct client_facts *client)
{
    const struct config *config = policy->settings.config;
    const size_t seats_bytes = config->filter_count * sizeof(struct milter_seat);

    if (client->filters)
        return client->filters;
    struct client_filters *filters = calloc(1, sizeof *filters + seats_bytes);
    if (!filters)
        return NULL;
    filters->policy = policy;
    for (unsigned i = 0; i < config->filter_count; i++)
        if (config->filters[i].speaks == FILTER_MILTER)
            filters->seats[filters->seat_count++].filter = &config->filters[i];
    client->filters = filters;
    return filters;
}

static void seat_leave(struct milter_seat *seat)
{
    milter_close(&seat->milter);
    seat->connected = seat->greeted = seat->mail_said = false;
    seat->rcpts_said = 0;
}

/* A new HELO, or TLS since then, is told to all. */
static void filters_greet(struct client_filters *filters, const struct client_facts *client)
{
    const bool tls = client->tls.count > 0;

    if (bytes_equal_text(client->helo, filters->helo) && tls == filters->tls)
        return;
    filters->tls = tls;
    snprintf(filters->helo, sizeof filters->helo, "%.*s", BYTES_PRINT(client->helo));
    for (unsigned i = 0; i < filters->seat_count; i++)
        filters->seats[i].greeted = false;
}

void milters_begin_class(struct transaction *transaction)
{
    struct client_filters *filters = transaction->client ? transaction->client->filters : NULL;

    for (unsigned i = 0; filters && i < filters->seat_count; i++) {
        struct milter_seat *seat = &filters->seats[i];
        if (seat->milter && seat->mail_said)
            milter_abort(seat->milter);
        seat->mail_said = seat->excused = false;
        seat->rcpts_said = 0;
    }
}

void milters_forget(struct transaction *transaction)
{
    struct client_filters *filters = transaction->client ? transaction->client->filters : NULL;

    for (unsigned i = 0; filters && i < filters->seat_count; i++) {
        struct milter_seat *seat = &filters->seats[i];
        if (seat->milter)
            milter_abort(seat->milter);
        seat->mail_said = seat->excused = false;
        seat->old = true;
        seat->rcpts_said = 0;
    }
    if (filters)
        filters->asked_count = filters->asked_room = 0;
}

/* ------------------------------------------------------------------ connections that wait */

static struct milter *idle_take(struct filter_instance *instance)
{
    struct milter *found = NULL, *stale[MILTERS_IDLE_MAX] = {0};
    unsigned stale_count = 0;

    pthread_mutex_lock(&instance->idle_lock);
    for (unsigned i = 0; i < MILTERS_IDLE_MAX; i++) {
        struct idle_milter *idle = &instance->idle[i];
        if (!idle->milter || idle->loop != loop_self())
            continue;
        if (clock_now_us() >= idle->until_us)
            stale[stale_count++] = idle->milter;
        else if (!found)
            found = idle->milter;
        else
            continue;
        idle->milter = NULL;
    }
    pthread_mutex_unlock(&instance->idle_lock);
    while (stale_count > 0)
        milter_close(&stale[--stale_count]);
    return found;
}

static bool idle_give(struct filter_instance *instance, struct milter *milter)
{
    bool given = false;

    pthread_mutex_lock(&instance->idle_lock);
    for (unsigned i = 0; i < MILTERS_IDLE_MAX && !given; i++) {
        if (instance->idle[i].milter)
            continue;
        instance->idle[i] =
            (struct idle_milter){milter, loop_self(), deadline_in(IDLE_SECONDS * US_PER_S)};
        given = true;
    }
    pthread_mutex_unlock(&instance->idle_lock);
    return given;
}

void milter_instance_close(struct filter_instance *instance)
{
    for (unsigned i = 0; i < MILTERS_IDLE_MAX; i++)
        milter_close(&instance->idle[i].milter);
}

void policy_client_end(struct client_facts *client)
{
    struct client_filters *filters = client->filters;

    client->filters = NULL;
    for (unsigned i = 0; filters && i < filters->seat_count; i++) {
        struct milter_seat *seat = &filters->seats[i];
        if (seat->milter && seat->filter->reuse && milter_end_session(seat->milter) &&
            idle_give(seat->instance, seat->milter))
            seat->milter = NULL;
        seat_leave(seat);
    }
    free(filters);
}

/* ------------------------------------------------------------------ saying */

static struct milter_call call_of(const struct work *work, struct milter_macro *rows,
                                  const struct recipient *recipient)
{
    const struct config_filter *filter = work->seat->filter;

    return (struct milter_call){
        .arena = work->transaction->arena,
        .deadline_us = work->deadline_us,
        .reply_us = work->changes ? 0 : filter->command_timeout_us,
        .macros = rows,
        .macro_count = milter_macros(rows, work->policy, work->transaction, recipient)};
}

static struct bytes path_text(struct arena *arena, struct address address)
{
    const struct bytes text = address_text(arena, address);

    return arena_print(arena, "<%.*s>", BYTES_PRINT(text));
}

/* ESMTP parameters, one piece each, as the client gave them. */
enum { PARAMETERS_MOST = 16 };
static struct milter_path path_of(struct arena *arena, struct address address, struct bytes given,
                                  struct bytes *parameters)
{
    struct milter_path path = {.path = path_text(arena, address), .parameters = parameters};

    while (given.count > 0 && path.parameter_count < PARAMETERS_MOST) {
        struct bytes parameter;

        given = bytes_cut(given, ' ', &parameter);
        if (parameter.count > 0)
            parameters[path.parameter_count++] = parameter;
    }
    return path;
}

static struct milter_verdict say_mail(const struct work *work, const struct milter_call *call)
{
    struct bytes parameters[PARAMETERS_MOST];
    const struct transaction *transaction = work->transaction;
    const struct milter_path path =
        path_of(call->arena, transaction->envelope.from, transaction->mail_parameters, parameters);

    return milter_mail(work->seat->milter, call, &path);
}

static struct milter_verdict say_rcpt(const struct work *work, const struct recipient *recipient)
{
    struct milter_macro rows[MILTER_MACROS_MAX];
    struct bytes parameters[PARAMETERS_MOST];
    const struct milter_call call = call_of(work, rows, recipient);
    const struct milter_path path =
        path_of(call.arena, recipient->address, recipient->parameters, parameters);

    return milter_rcpt(work->seat->milter, &call, &path);
}

/* All that this connection has not heard yet of the client. */
static struct milter_verdict say_client(const struct work *work, const struct milter_call *call)
{
    const struct client_facts *client = work->transaction->client;
    struct milter_seat *seat = work->seat;
    struct milter_verdict verdict = {.answer = MILTER_CONTINUE};

    if (!seat->connected)
        verdict = milter_connect(seat->milter, call,
                                 &(struct milter_client){&client->remote, client->reverse_name});
    seat->connected = true;
    if (verdict.answer == MILTER_CONTINUE && !seat->greeted && client->helo.count > 0) {
        verdict = milter_helo(seat->milter, call, client->helo);
        seat->greeted = true;
    }
    return verdict;
}

static bool is_objection(const struct milter_verdict *verdict)
{
    return verdict->answer == MILTER_REJECT || verdict->answer == MILTER_TEMPFAIL ||
           verdict->answer == MILTER_REPLY_4 || verdict->answer == MILTER_REPLY_5;
}

/* Is it one of those that this milter is asked about now? */
static bool is_its_recipient(const struct work *work, const struct recipient *asked)
{
    const struct transaction *transaction = work->transaction;

    return (!transaction->judging || asked->policy_class == transaction->class_now) &&
           class_wants(work->policy, transaction, asked->policy_class, work->seat->filter);
}

/* And of the transaction, up to MAIL. */
static struct milter_verdict catch_up(const struct work *work)
{
    struct milter_macro rows[MILTER_MACROS_MAX];
    const struct milter_call call = call_of(work, rows, NULL);
    struct milter_seat *seat = work->seat;
    struct milter_verdict verdict = say_client(work, &call);

    if (verdict.answer == MILTER_CONTINUE && !seat->mail_said) {
        verdict = say_mail(work, &call);
        seat->mail_said = !is_objection(&verdict);
        if (!seat->mail_said)
            milter_abort(seat->milter); /* the next recipient of its domains asks anew */
    }
    return verdict;
}

/* A command that the server does not know: between messages or within one, as it came. */
static struct milter_verdict say_unknown(const struct work *work)
{
    struct milter_macro rows[MILTER_MACROS_MAX];
    const struct milter_call call = call_of(work, rows, NULL);
    const struct milter_verdict verdict = say_client(work, &call);

    if (verdict.answer != MILTER_CONTINUE)
        return verdict;
    return milter_unknown(work->seat->milter, &call, work->unknown);
}

static struct milter_verdict say_message(struct work *work)
{
    struct milter_macro rows[MILTER_MACROS_MAX];
    const struct milter_call call = call_of(work, rows, NULL);
    const struct filtering *filtering = work->transaction->filtering;
    const struct body_store *store = filtering->original.bodies;
    const struct milter_message message = {filtering_headers(filtering), &filtering->body};
    struct milter_verdict verdict = milter_data(work->seat->milter, &call);

    *work->changes = (struct milter_changes){0};
    if (store && !store->begin(store->argument, &work->changes->body))
        return (struct milter_verdict){.fault = FILTER_FAULT_LOCAL};
    if (verdict.answer == MILTER_CONTINUE)
        verdict = milter_message(work->seat->milter, &call, &message, work->changes);
    if (store && work->changes->body_replaced)
        work->body = store->end(store->argument);
    return verdict;
}

static struct milter_verdict say(struct work *work)
{
    const struct client_filters *filters = work->transaction->client->filters;
    struct milter_seat *seat = work->seat;

    if (work->unknown.count > 0)
        return say_unknown(work);
    struct milter_verdict verdict = catch_up(work);

    while (verdict.answer == MILTER_CONTINUE && seat->rcpts_said < filters->asked_count) {
        const struct recipient *asked = &filters->asked[seat->rcpts_said++];
        if (is_its_recipient(work, asked))
            verdict = say_rcpt(work, asked);
    }
    if (verdict.answer == MILTER_CONTINUE && work->recipient)
        verdict = say_rcpt(work, work->recipient);
    if (verdict.answer == MILTER_CONTINUE && work->changes)
        verdict = say_message(work);
    return verdict;
}

/* ------------------------------------------------------------------ what an answer means */

static bool message_was_lost(const struct work *work)
{
    const struct filtering *filtering = work->transaction->filtering;

    return filtering && filtering->source_failed;
}

static bool is_shutdown_reply(struct bytes words)
{
    return bytes_starts_with(words, BYTES_LITERAL("421"));
}

static struct scan scan_of(const struct work *work, const struct milter_verdict *verdict)
{
    struct arena *arena = work->transaction->arena;
    const struct config_filter *filter = work->seat->filter;

    switch (verdict->answer) {
    case MILTER_CONTINUE:
    case MILTER_ACCEPT:
    case MILTER_DISCARD:
        return (struct scan){.verdict = verdict_accept()};
    case MILTER_REJECT:
        return (struct scan){.verdict = verdict_of(CAUSE_FILTER_MILTER_REJECT)};
    case MILTER_TEMPFAIL:
        return (struct scan){.verdict = verdict_of(CAUSE_FILTER_MILTER_TEMPFAIL)};
    case MILTER_REPLY_4:
        return (struct scan){.verdict = verdict_with(is_shutdown_reply(verdict->words)
                                                         ? CAUSE_FILTER_MILTER_SHUTDOWN
                                                         : CAUSE_FILTER_MILTER_REPLYCODE_4,
                                                     verdict->words)};
    case MILTER_REPLY_5:
        return (struct scan){.verdict =
                                 verdict_with(CAUSE_FILTER_MILTER_REPLYCODE_5, verdict->words)};
    case MILTER_SHUTDOWN:
        return (struct scan){.verdict = verdict_of(CAUSE_FILTER_MILTER_SHUTDOWN)};
    case MILTER_REPLY_INVALID:
        return filter_scan_fault(arena, filter, FILTER_FAULT_MISCONFIGURED, verdict->words);
    case MILTER_FAILED:
        break;
    }
    if (message_was_lost(work))
        return (struct scan){.verdict = verdict_with(CAUSE_SPOOL_FAILED, verdict->words),
                             .fault = true};
    return filter_scan_fault(arena, filter, verdict->fault, verdict->words);
}

/* ------------------------------------------------------------------ instances in turn */

static struct milter_verdict seat_open(struct work *work, struct filter_instance *instance)
{
    struct milter_macro rows[MILTER_MACROS_MAX];
    const struct milter_call call = call_of(work, rows, NULL);
    struct milter_seat *seat = work->seat;

    seat->instance = instance;
    seat->old = true;
    seat->milter = idle_take(instance);
    if (seat->milter)
        return (struct milter_verdict){.answer = MILTER_CONTINUE};
    seat->old = false;
    return milter_open(instance->at, deadline_in(instance->filter->connect_timeout_us), &call,
                       &seat->milter);
}

/* Once with the connection at hand. An old one that is gone proves nothing: *again. */
static struct milter_verdict try_once(struct work *work, struct filter_instance *instance,
                                      bool *again)
{
    const uint64_t start_us = clock_now_us();
    struct milter_seat *seat = work->seat;
    struct milter_verdict verdict = {.answer = MILTER_CONTINUE};

    if (!seat->milter)
        verdict = seat_open(work, instance);
    const bool old = seat->old;
    if (verdict.answer == MILTER_CONTINUE)
        verdict = say(work);
    *again = old && verdict.answer == MILTER_FAILED && verdict.fault == FILTER_FAULT_CRASHED;
    if (!*again && !message_was_lost(work))
        instance_learn(instance, verdict.fault, verdict.words, clock_now_us() - start_us);
    if (verdict.fault == FILTER_FAULT_TIMEOUT && seat->milter && milter_is_awaited(seat->milter)) {
        late_begin(&(struct late_talk){instance, NULL, seat->milter, start_us}, work->transaction);
        seat->milter = NULL; /* somebody else's now */
    }
    if (verdict.answer == MILTER_FAILED)
        seat_leave(seat);
    return verdict;
}

static struct milter_verdict try_instance(struct work *work, struct filter_instance *instance)
{
    struct milter_verdict verdict = {.answer = MILTER_FAILED};
    bool again = true;

    for (unsigned i = 0; i < MILTERS_IDLE_MAX + 2 && again; i++)
        verdict = try_once(work, instance, &again);
    return verdict;
}

/* Another instance is asked only when this one is at fault. */
static bool is_final(const struct work *work, const struct milter_verdict *verdict)
{
    return verdict->answer != MILTER_FAILED || verdict->fault == FILTER_FAULT_LOCAL ||
           clock_now_us() >= work->deadline_us || message_was_lost(work);
}

/* True: no other instance is to be asked. */
static bool work_try(struct work *work, struct filter_instance *instance,
                     enum milter_answer *answer, struct scan *scan)
{
    const struct milter_verdict verdict = try_instance(work, instance);

    *answer = verdict.answer;
    *scan = scan_of(work, &verdict);
    scan->asked = true;
    return is_final(work, &verdict);
}

/* Its breaker is open: *scan is then its last failure. */
static bool is_down(const struct work *work, struct filter_instance *instance, struct scan *scan)
{
    struct arena *arena = work->transaction->arena;
    enum cause cause = CAUSE_UNDECIDED;
    struct bytes words = BYTES_EMPTY;

    if (breaker_allows(&instance->breaker, arena, &cause, &words))
        return false;
    *scan =
        (struct scan){.verdict = verdict_with(cause, filter_words(arena, instance->filter, words)),
                      .fault = true};
    return true;
}

static struct scan talk_run(struct work *work, enum milter_answer *answer)
{
    struct policy *policy = work->policy;
    struct milter_seat *seat = work->seat;
    struct filter_instance *failed = seat->milter ? seat->instance : NULL;
    struct scan scan =
        filter_scan_fault(work->transaction->arena, seat->filter, FILTER_FAULT_TIMEOUT,
                          BYTES_LITERAL("no time was left for it"));

    *answer = MILTER_FAILED;
    if (failed && work_try(work, failed, answer, &scan))
        return scan;
    for (unsigned i = 0; i < policy->instance_count; i++) {
        struct filter_instance *instance = &policy->instances[i];

        if (instance->filter != seat->filter || instance == failed ||
            is_down(work, instance, &scan))
            continue;
        if (work_try(work, instance, answer, &scan))
            return scan;
    }
    return scan;
}

/* ------------------------------------------------------------------ one step */

void filter_discard(struct transaction *transaction, const struct config_filter *filter)
{
    transaction->disposition = DISPOSITION_DISCARD;
    transaction->filter = bytes_of_text(filter->name);
}

/* One seat's work; ACCEPT: go on. */
MUST_USE static struct verdict seat_step(struct work *work)
{
    struct milter_seat *seat = work->seat;
    struct transaction *transaction = work->transaction;
    enum milter_answer answer;

    if (seat->excused || transaction->disposition == DISPOSITION_DISCARD)
        return verdict_accept();
    work->deadline_us = deadline_in(seat->filter->timeout_us);
    const struct scan scan = talk_run(work, &answer);
    if (answer == MILTER_DISCARD)
        filter_discard(transaction, seat->filter);
    if (!verdict_accepts(&scan.verdict))
        transaction->filter = bytes_of_text(seat->filter->name);
    if (!scan.fault)
        return scan.verdict;
    REQUIRE(filter_excuse(transaction, seat->filter, &scan.verdict));
    seat->excused = true;
    return verdict_accept();
}

static bool has_milters(const struct policy *policy)
{
    const struct config *config = policy->settings.config;

    for (unsigned i = 0; i < config->filter_count; i++)
        if (config->filters[i].speaks == FILTER_MILTER)
            return true;
    return false;
}

MUST_USE static struct verdict each_seat(struct policy *policy, struct transaction *transaction,
                                         const struct recipient *recipient)
{
    struct client_filters *filters = filters_of(policy, transaction->client);

    if (!filters)
        return verdict_of(CAUSE_SERVER_BUSY);
    filters_greet(filters, transaction->client);
    for (unsigned i = 0; i < filters->seat_count; i++) {
        struct work work = {.policy = policy,
                            .transaction = transaction,
                            .seat = &filters->seats[i],
                            .recipient = recipient};
        if (filter_is_wanted(policy, transaction, work.seat->filter))
            REQUIRE(seat_step(&work));
    }
    return verdict_accept();
}

struct verdict milters_sender(struct policy *policy, struct transaction *transaction)
{
    return has_milters(policy) ? each_seat(policy, transaction, NULL) : verdict_accept();
}

/* Remembers a recipient that all have accepted, for an instance that has to hear it again. */
static bool asked_add(struct transaction *transaction, const struct recipient *recipient)
{
    struct client_filters *filters = transaction->client->filters;

    if (filters->asked_count == filters->asked_room) {
        const uint32_t room = MAX_OF(2 * filters->asked_room, 8u);
        struct recipient *grown = ARENA_NEW_ARRAY(transaction->arena, room, struct recipient);
        if (!grown)
            return false;
        if (filters->asked_count > 0)
            memcpy(grown, filters->asked, filters->asked_count * sizeof *grown);
        filters->asked = grown;
        filters->asked_room = room;
    }
    filters->asked[filters->asked_count] = *recipient;
    filters->asked[filters->asked_count++].policy_class = transaction->class_now;
    for (unsigned i = 0; i < filters->seat_count; i++)
        filters->seats[i].rcpts_said = filters->seats[i].milter ? filters->asked_count : 0;
    return true;
}

struct verdict milters_recipient(struct policy *policy, struct transaction *transaction,
                                 const struct recipient *recipient)
{
    if (!has_milters(policy))
        return verdict_accept();
    REQUIRE(each_seat(policy, transaction, recipient));
    return asked_add(transaction, recipient) ? verdict_accept() : verdict_of(CAUSE_SERVER_BUSY);
}

/* Only a milter that ends the session changes what the client is told. */
struct verdict policy_unknown(struct policy *policy, struct client_facts *client,
                              struct arena *arena, struct bytes line)
{
    struct transaction nothing = {.client = client, .arena = arena};
    struct client_filters *filters = has_milters(policy) ? filters_of(policy, client) : NULL;
    enum milter_answer answer;

    if (!filters || line.count == 0)
        return verdict_accept();
    filters_greet(filters, client);
    for (unsigned i = 0; i < filters->seat_count; i++) {
        struct milter_seat *seat = &filters->seats[i];
        struct work work = {.policy = policy,
                            .transaction = &nothing,
                            .seat = seat,
                            .unknown = line,
                            .deadline_us = deadline_in(seat->filter->timeout_us)};
        const struct scan scan = talk_run(&work, &answer);

        if (!scan.fault && verdict_closes(&scan.verdict))
            return scan.verdict;
    }
    return verdict_accept();
}

/* ------------------------------------------------------------------ the dot */

/* What is temporary is asked again, and what ends a session is not about the message. */
bool milter_kept(const struct milter_verdict *answer, const struct milter_changes *changes,
                 struct kept *kept)
{
    *kept = (struct kept){.cause = CAUSE_ACCEPTED, .words = answer->words};
    switch (answer->answer) {
    case MILTER_CONTINUE:
    case MILTER_ACCEPT:
        kept->changes = *changes;
        return !changes->body_replaced;
    case MILTER_DISCARD:
        kept->discards = true;
        return true;
    case MILTER_REJECT:
        kept->cause = CAUSE_FILTER_MILTER_REJECT;
        return true;
    case MILTER_REPLY_5:
        kept->cause = CAUSE_FILTER_MILTER_REPLYCODE_5;
        return true;
    case MILTER_TEMPFAIL:
    case MILTER_REPLY_4:
    case MILTER_REPLY_INVALID:
    case MILTER_SHUTDOWN:
    case MILTER_FAILED:
        break;
    }
    return false;
}

static struct milter_seat *seat_of(struct client_filters *filters,
                                   const struct config_filter *filter)
{
    for (unsigned i = 0; filters && i < filters->seat_count; i++)
        if (filters->seats[i].filter == filter)
            return &filters->seats[i];
    return NULL;
}

struct scan milter_scan(struct policy *policy, struct transaction *transaction,
                        const struct config_filter *filter)
{
    struct filtering *filtering = transaction->filtering;
    struct milter_changes changes = {0};
    struct work work = {.policy = policy,
                        .transaction = transaction,
                        .seat = seat_of(filters_of(policy, transaction->client), filter),
                        .changes = &changes};
    enum milter_answer answer;

    if (!work.seat)
        return (struct scan){.verdict = verdict_of(CAUSE_SERVER_BUSY), .fault = true};
    if (work.seat->excused)
        return (struct scan){.verdict = verdict_accept()};
    if (!filtering->header_is_whole)
        return (struct scan){
            .verdict = verdict_with(
                CAUSE_FILTER_UNSCANNABLE,
                filter_words(transaction->arena, filter, BYTES_LITERAL("the header is too long"))),
            .fault = true};
    filters_greet(transaction->client->filters, transaction->client);
    work.deadline_us = MIN_OF(filtering->original.deadline_us, deadline_in(filter->timeout_us));
    const uint64_t start_us = clock_now_us();
    const struct scan scan = talk_run(&work, &answer);
    struct kept kept;

    work.seat->mail_said = false;
    work.seat->rcpts_said = 0;
    if (milter_kept(&(struct milter_verdict){.answer = answer, .words = scan.verdict.detail},
                    &changes, &kept))
        verdict_remember(transaction, work.seat->instance, &kept, clock_now_us() - start_us);
    if (answer == MILTER_DISCARD)
        filter_discard(transaction, filter);
    if (answer != MILTER_CONTINUE && answer != MILTER_ACCEPT)
        return scan;
    struct scan applied = milter_apply(policy, transaction, filter, &changes,
                                       changes.body_replaced ? &work.body : NULL);
    applied.asked = true;
    return applied;
}

/* ------------------------------------------------------------------ probes */

static struct milter_verdict negotiate(const struct filter_instance *instance, struct arena *arena,
                                       uint64_t deadline_us)
{
    const struct filter_deadlines deadlines = filter_deadlines_of(instance->filter, deadline_us);
    const struct milter_call call = {.arena = arena, .deadline_us = deadlines.done_us};
    struct milter *milter = NULL;
    const struct milter_verdict verdict =
        milter_open(instance->at, deadlines.connect_us, &call, &milter);

    milter_close(&milter);
    return verdict;
}

bool milter_instance_ping(const struct filter_instance *instance, struct arena *arena,
                          struct bytes *words)
{
    const struct milter_verdict verdict = negotiate(instance, arena, deadline_in(FILTER_PROBE_US));

    *words = verdict.words;
    return verdict.answer == MILTER_CONTINUE;
}

struct verdict milter_instance_test(struct filter_instance *instance, struct arena *arena)
{
    const struct milter_verdict verdict = negotiate(instance, arena, DEADLINE_NEVER);

    if (verdict.answer == MILTER_CONTINUE)
        return verdict_with(CAUSE_ACCEPTED, arena_print(arena, "%s negotiates the milter protocol",
                                                        instance->filter->name));
    const struct scan scan =
        filter_scan_fault(arena, instance->filter, verdict.fault, verdict.words);

    return scan.verdict;
}
