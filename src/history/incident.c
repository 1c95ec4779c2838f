/*
 * Incidents: what fails for one reason, grouped while it happens. They open with the failures, are
 * marked by their age and end by themselves: those of sending when nobody waits because of them any
 * more, those of receiving when the dependency has answered again and stays quiet.
 *
 * A failure at the other side may be one message's bad luck (greylisting, one full mailbox), so it
 * becomes an incident with its second failure; at once when no session came about at all, or when
 * the fault is ours.
 */
#include "history/inside.h"

#include <string.h>

#define NOTICE_US (900 * US_PER_S)
#define SUSTAINED_US (UINT64_C(4) * 3600 * US_PER_S)
#define ESCALATE_US (UINT64_C(24) * 3600 * US_PER_S)
#define SETTLE_US (60 * US_PER_S)
#define CALM_US (UINT64_C(6) * 3600 * US_PER_S)
#define LOOK_US (5 * US_PER_S) /* while one is open */
#define SWEEP_US (60 * US_PER_S)

static const char OTHERS[] = "(others)"; /* when all places are taken */

const char *incident_state_name(enum incident_state state)
{
    static const char *const names[] = {"open", "notice", "sustained", "escalated", "over"};

    return (unsigned)state < COUNT_OF(names) ? names[state] : "open";
}

static uint64_t or_default(uint64_t value_us, uint64_t default_us)
{
    return value_us ? value_us : default_us;
}

static uint64_t mark_age_us(const struct incidents *incidents, enum incident_state mark)
{
    const struct incident_times *times = &incidents->times;

    switch (mark) {
    case INCIDENT_NOTICE:
        return or_default(times->notice_us, NOTICE_US);
    case INCIDENT_SUSTAINED:
        return or_default(times->sustained_us, SUSTAINED_US);
    case INCIDENT_ESCALATED:
        return or_default(times->escalate_us, ESCALATE_US);
    case INCIDENT_OPEN:
    case INCIDENT_OVER:
        break;
    }
    return 0;
}

static uint64_t since_us(uint64_t then_us)
{
    const uint64_t now_us = clock_now_us();

    return now_us > then_us ? now_us - then_us : 0;
}

/* ------------------------------------------------------------------ what it happens at */

static bool cause_begins(enum cause cause, const char *prefix)
{
    return bytes_starts_with(bytes_of_text(cause_name(cause)), bytes_of_text(prefix));
}

/* Of a client's mail only faults are incidents: ours, and those of the names that it depends on.
 * That this server stops is no fault. */
static bool is_fault_in(enum cause cause)
{
    const struct cause_row *row = cause_row(cause);

    return row->kind == VERDICT_DEFER && cause != CAUSE_SERVER_STOPPING &&
           (row->side == SIDE_OURS || cause_begins(cause, "dns."));
}

static enum cause cause_of(const struct kept *kept)
{
    const uint64_t number = kept->numbers[KEPT_CAUSE];

    return number > 0 && number <= CAUSE_COUNT ? (enum cause)(number - 1) : CAUSE_ACCEPTED;
}

static void name_subject(char into[static 256], struct bytes subject)
{
    snprintf(into, 256, "%.*s", (int)MIN_OF(subject.count, (size_t)255),
             subject.count ? (const char *)subject.at : "");
}

static void subject_in(const struct kept *kept, enum cause cause, char into[static 256])
{
    const struct bytes filter = kept->texts[KEPT_FILTER], from = kept->texts[KEPT_FROM];
    const struct bytes name = bytes_of_text(cause_name(cause));
    const size_t at = bytes_find_last_byte(from, '@');

    if (cause_begins(cause, "dns.resolver."))
        name_subject(into, BYTES_LITERAL("resolver"));
    else if ((cause_begins(cause, "filter.") || cause_begins(cause, "directory.")) &&
             filter.count > 0)
        name_subject(into, filter);
    else if (cause == CAUSE_DNS_REVERSE_TEMPERROR)
        ledger_network(kept->texts[KEPT_CLIENT], into);
    else if (cause_begins(cause, "dns.") && at < from.count)
        name_subject(into, bytes_skip(from, at + 1));
    else
        name_subject(into, bytes_slice(name, 0, bytes_find_byte(name, '.')));
}

/* Mail that was taken unscanned waits for a filter, wherever it would go; and where DNS answers
 * nothing, no destination is to blame. */
static void subject_out(const struct kept *kept, char into[static 256])
{
    const struct bytes to = kept->texts[KEPT_TO], destination = kept->texts[KEPT_DESTINATION];
    const size_t at = bytes_find_last_byte(to, '@');

    if (kept->texts[KEPT_FILTER].count > 0)
        name_subject(into, kept->texts[KEPT_FILTER]);
    else if (cause_begins(cause_of(kept), "dns.resolver."))
        name_subject(into, BYTES_LITERAL("resolver"));
    else
        name_subject(into, destination.count > 0 ? destination : bytes_skip(to, at + 1));
}

/* ------------------------------------------------------------------ finding and making */

struct incident *incident_by_id(const struct incidents *incidents, uint64_t id)
{
    for (unsigned i = 0; i < incidents->count; i++)
        if (incidents->at[i]->id == id)
            return incidents->at[i];
    return NULL;
}

static struct incident *incident_find(const struct incidents *incidents,
                                      enum incident_direction direction, enum cause cause,
                                      const char *subject)
{
    for (unsigned i = 0; i < incidents->count; i++) {
        struct incident *incident = incidents->at[i];
        if (incident->direction == direction && incident->cause == cause &&
            strcmp(incident->subject, subject) == 0)
            return incident;
    }
    return NULL;
}

/* While a dependency is down clients are told so without asking it: that is the same incident. */
static struct incident *incident_of_breaker(const struct incidents *incidents, enum cause cause)
{
    const char *prefix = cause == CAUSE_FILTER_DOWN           ? "filter."
                         : cause == CAUSE_SPOOL_DOWN          ? "spool."
                         : cause == CAUSE_DNS_RESOLVER_FAILED ? "dns.resolver."
                                                              : NULL;

    for (unsigned i = 0; prefix && i < incidents->count; i++) {
        struct incident *incident = incidents->at[i];
        if (incident->direction == INCIDENT_IN && !incident->over && incident->shown &&
            cause_begins(incident->cause, prefix) &&
            (incident->breaker || cause == CAUSE_SPOOL_DOWN))
            return incident;
    }
    return NULL;
}

static void incident_forget(struct incidents *incidents, unsigned index)
{
    free(incidents->at[index]);
    incidents->at[index] = incidents->at[--incidents->count];
}

/* Makes room: first one that was no incident yet and is the longest quiet, then one that is over.
 */
static bool incidents_make_room(struct incidents *incidents)
{
    unsigned oldest = incidents->count;

    for (unsigned i = 0; i < incidents->count; i++) {
        const struct incident *incident = incidents->at[i];
        if (incident->dirty || (incident->shown && !incident->over))
            continue;
        if (oldest == incidents->count || incident->last_us < incidents->at[oldest]->last_us)
            oldest = i;
    }
    if (oldest == incidents->count)
        return false;
    incident_forget(incidents, oldest);
    return true;
}

struct incident *incident_make(struct incidents *incidents)
{
    struct incident *incident = calloc(1, sizeof *incident);

    if (!incidents->at)
        incidents->at = calloc(INCIDENTS_MAX, sizeof(struct incident *));
    if (!incident || !incidents->at ||
        (incidents->count == INCIDENTS_MAX && !incidents_make_room(incidents))) {
        free(incident);
        return NULL;
    }
    incidents->at[incidents->count++] = incident;
    return incident;
}

enum { PLACES_OF_OTHERS = 128 };

/* Found, or made. Outsiders can name any number of subjects, so the last places are kept for one
 * incident a cause that stands for the rest. */
static struct incident *incident_at(struct incidents *incidents, enum incident_direction direction,
                                    enum cause cause, const char *subject)
{
    struct incident *incident = incident_find(incidents, direction, cause, subject);

    if (incident)
        return incident;
    if (incidents->count >= INCIDENTS_MAX - PLACES_OF_OTHERS && strcmp(subject, OTHERS) != 0 &&
        !incidents_make_room(incidents))
        return incident_at(incidents, direction, cause, OTHERS);
    incident = incident_make(incidents);
    if (!incident)
        return NULL;
    incident->id = random_u64() >> 1 | 1;
    incident->direction = direction;
    incident->cause = cause;
    snprintf(incident->subject, sizeof incident->subject, "%s", subject);
    return incident;
}

/* ------------------------------------------------------------------ opening and closing */

static void incident_begin(struct incident *incident, int64_t wall_us)
{
    incident->first_wall_us = wall_us;
    incident->age_from_us = clock_now_us();
    incident->over_wall_us = 0;
    incident->over = false;
    incident->count = incident->good = 0;
    incident->mark = INCIDENT_OPEN;
    incident->message = 0;
    incident->messages = 0;
    incident->good_us = 0;
}

static void incident_end(struct incidents *incidents, struct incident *incident)
{
    if (incident->over)
        return;
    incident->over = true;
    incident->breaker = false;
    incident->over_us = clock_now_us();
    incident->over_wall_us = MAX_OF(clock_wall_us(), incident->first_wall_us);
    if (!incident->shown)
        return;
    incident->dirty = true;
    incident->tell |= INCIDENT_TELL_CLOSED;
    incidents->shown_open--;
}

static void incident_show(struct incidents *incidents, struct incident *incident)
{
    incident->dirty = true;
    if (incident->shown && !incident->over)
        return;
    incident->shown = true;
    incident->tell |= INCIDENT_TELL_OPEN;
    incidents->shown_open++;
}

/* A new failure of one that was over: the same one again if that was a moment ago, so that what
 * flutters is one incident; else a new one in its place. */
static void incident_renew(struct incidents *incidents, struct incident *incident, int64_t wall_us)
{
    if (incident->first_wall_us == 0) {
        incident_begin(incident, wall_us);
        return;
    }
    if (!incident->over)
        return;
    if (incident->shown && since_us(incident->over_us) < mark_age_us(incidents, INCIDENT_NOTICE)) {
        incident->over = false;
        incident->over_wall_us = 0;
        incident->dirty = true;
        incidents->shown_open++;
        return;
    }
    incident->id = random_u64() >> 1 | 1;
    incident->shown = false;
    incident_begin(incident, wall_us);
}

static void copy_text(char *into, size_t room, struct bytes text)
{
    snprintf(into, room, "%.*s", (int)MIN_OF(text.count, room - 1),
             text.count ? (const char *)text.at : "");
}

static void incident_learn(struct incident *incident, const struct kept *kept)
{
    incident->count++;
    incident->last_wall_us = kept->wall_us;
    incident->last_us = clock_now_us();
    if (kept->texts[KEPT_TEXT].count > 0)
        copy_text(incident->text, sizeof incident->text, kept->texts[KEPT_TEXT]);
    copy_text(incident->host, sizeof incident->host,
              kept->texts[incident->direction == INCIDENT_OUT ? KEPT_MX : KEPT_CLIENT]);
    if (kept->texts[KEPT_FROM].count > 0)
        copy_text(incident->from, sizeof incident->from, kept->texts[KEPT_FROM]);
    if (kept->texts[KEPT_TO].count > 0)
        copy_text(incident->to, sizeof incident->to, kept->texts[KEPT_TO]);
}

/* ------------------------------------------------------------------ events */

static bool take_failure_in(struct store *store, const struct kept *kept)
{
    struct incidents *incidents = &store->incidents;
    const enum cause cause = cause_of(kept);
    char subject[256];

    if (!is_fault_in(cause))
        return true;
    subject_in(kept, cause, subject);
    struct incident *incident = incident_of_breaker(incidents, cause);
    if (!incident)
        incident = incident_at(incidents, INCIDENT_IN, cause, subject);
    if (!incident)
        return true;
    incident_renew(incidents, incident, kept->wall_us);
    store->incident_now = incident->id;
    if (kept->kind == EVENT_RECIPIENT_DEFERRED)
        return true; /* of the same answer as another, which counts */
    incident_learn(incident, kept);
    if (incident->shown || cause_row(cause)->side == SIDE_OURS || incident->count > 1)
        incident_show(incidents, incident);
    return !incident->shown || incident_message(store, incident, kept);
}

static bool no_session_came_about(const struct kept *kept)
{
    switch ((enum stage)kept->numbers[KEPT_STAGE]) {
    case STAGE_CONNECT:
    case STAGE_BANNER:
    case STAGE_EHLO:
    case STAGE_TLS:
    case STAGE_DNS:
        return true;
    case STAGE_NONE:
    case STAGE_AUTH:
    case STAGE_MAIL:
    case STAGE_RCPT:
    case STAGE_DATA:
    case STAGE_DOT:
    case STAGE_QUIT:
    case STAGE_COMMIT:
    case STAGE_MAILBOX:
    case STAGE_COUNT:
        break;
    }
    return false;
}

static bool take_failure_out(struct store *store, const struct kept *kept)
{
    struct incidents *incidents = &store->incidents;
    const enum cause cause = cause_of(kept);
    char subject[256];

    subject_out(kept, subject);
    struct incident *incident = incident_at(incidents, INCIDENT_OUT, cause, subject);
    if (!incident)
        return true;
    incident_renew(incidents, incident, kept->wall_us);
    store->incident_now = incident->id;
    incident_learn(incident, kept);
    if (incident->shown || cause_row(cause)->side == SIDE_OURS || no_session_came_about(kept) ||
        incident->count > 1 || kept->numbers[KEPT_ATTEMPT] > 1)
        incident_show(incidents, incident);
    return incident_wait(store, incident, kept) &&
           (!incident->shown || incident_message(store, incident, kept));
}

/* A recipient was delivered or given up: nobody waits for it any more. */
static bool take_end_out(struct store *store, const struct kept *kept)
{
    struct incidents *incidents = &store->incidents;
    char subject[256];

    if (incidents->count == 0 || kept->texts[KEPT_TO].count == 0)
        return true;
    subject_out(kept, subject);
    for (unsigned i = 0; kept->kind == EVENT_DELIVERY_DONE && i < incidents->count; i++) {
        struct incident *incident = incidents->at[i];
        if (incident->direction != INCIDENT_OUT || strcmp(incident->subject, subject) != 0)
            continue;
        incident->good++;
        incident->good_wall_us = kept->wall_us;
        incident->good_us = clock_now_us();
        incident->dirty = incident->shown;
    }
    if (!incident_wait_end(store, kept))
        return false;
    for (unsigned i = 0; i < incidents->count; i++)
        if (incidents->at[i]->direction == INCIDENT_OUT && incidents->at[i]->waiting == 0)
            incident_end(incidents, incidents->at[i]);
    return true;
}

/* All filters, the spool, and what else was asked, have answered for this message. */
static void take_success_in(struct incidents *incidents, const struct kept *kept)
{
    const struct bytes from = kept->texts[KEPT_FROM];
    const struct bytes domain = bytes_skip(from, bytes_find_last_byte(from, '@') + 1);

    for (unsigned i = 0; i < incidents->count; i++) {
        struct incident *incident = incidents->at[i];
        const bool theirs = cause_row(incident->cause)->side != SIDE_OURS;
        if (incident->direction != INCIDENT_IN || incident->over ||
            (theirs && !bytes_equal_text_nocase(domain, incident->subject)))
            continue;
        incident->good++;
        incident->good_wall_us = kept->wall_us;
        incident->good_us = clock_now_us();
        incident->dirty = incident->shown;
    }
}

/* Something of ours works again: what failed there is over, all of it but one cause. */
static void subject_is_well(struct incidents *incidents, const char *subject, enum cause but,
                            int64_t wall_us)
{
    for (unsigned i = 0; i < incidents->count; i++) {
        struct incident *incident = incidents->at[i];
        if (incident->direction != INCIDENT_IN || incident->cause == but ||
            strcmp(incident->subject, subject) != 0)
            continue;
        incident->good_wall_us = wall_us;
        incident_end(incidents, incident);
    }
}

static struct incident *take_open(struct store *store, const struct kept *kept, const char *subject)
{
    struct incidents *incidents = &store->incidents;
    struct incident *incident = incident_at(incidents, INCIDENT_IN, cause_of(kept), subject);

    if (!incident)
        return NULL;
    incident_renew(incidents, incident, kept->wall_us);
    if (incident->count == 0 || kept->kind != EVENT_BREAKER_OPEN)
        incident_learn(incident, kept);
    incident_show(incidents, incident);
    return incident;
}

static void take_breaker(struct store *store, const struct kept *kept)
{
    char subject[256];

    name_subject(subject, kept->texts[KEPT_FILTER]);
    if (kept->kind == EVENT_BREAKER_CLOSED) {
        subject_is_well(&store->incidents, subject, CAUSE_ACCEPTED, kept->wall_us);
        return;
    }
    struct incident *incident = take_open(store, kept, subject);
    if (incident)
        incident->breaker = true;
}

/* The state of this host (certificate, clock, configuration) by the events that name it. A clock
 * does not stay jumped: that one ends by itself. */
static void take_state(struct store *store, const struct kept *kept)
{
    const bool reloaded = kept->kind == EVENT_CONFIG_RELOADED;
    char subject[256];

    name_subject(subject, kept->texts[reloaded ? KEPT_TEXT : KEPT_FILTER]);
    if (reloaded || kept->kind == EVENT_CERTIFICATE_RENEWED) {
        subject_is_well(&store->incidents, subject, CAUSE_ACCEPTED, kept->wall_us);
        return;
    }
    struct incident *incident = take_open(store, kept, subject);
    if (!incident)
        return;
    incident->breaker = incident->cause != CAUSE_CLOCK_JUMPED;
    subject_is_well(&store->incidents, subject, incident->cause, kept->wall_us);
}

bool incidents_take(struct store *store, const struct kept *kept)
{
    store->incident_now = 0;
    switch ((enum event_kind)kept->kind) {
    case EVENT_MESSAGE_DEFERRED:
    case EVENT_RECIPIENT_DEFERRED:
        return take_failure_in(store, kept);
    case EVENT_DELIVERY_DEFERRED:
        return take_failure_out(store, kept);
    case EVENT_DELIVERY_DONE:
    case EVENT_DELIVERY_FAILED:
    case EVENT_MESSAGE_EXPIRED:
    case EVENT_MESSAGE_BOUNCED:
    case EVENT_MESSAGE_ENDED:
        return take_end_out(store, kept);
    case EVENT_MESSAGE_ACCEPTED:
        take_success_in(&store->incidents, kept);
        return true;
    case EVENT_BREAKER_OPEN:
    case EVENT_BREAKER_CLOSED:
        take_breaker(store, kept);
        return true;
    case EVENT_CERTIFICATE_EXPIRING:
    case EVENT_CERTIFICATE_RENEWED:
    case EVENT_CLOCK_JUMPED:
    case EVENT_CONFIG_REFUSED:
    case EVENT_CONFIG_RELOADED:
        take_state(store, kept);
        return true;
    case EVENT_OPERATOR_TOLD:
        return incident_told(store, kept);
    case EVENT_SESSION_OPEN:
    case EVENT_SESSION_CLOSE:
    case EVENT_RECIPIENT_ACCEPTED:
    case EVENT_RECIPIENT_REFUSED:
    case EVENT_MESSAGE_REFUSED:
    case EVENT_MESSAGE_REPEATED:
    case EVENT_DELIVERY_NOTE:
    case EVENT_DELIVERY_UNRECORDED:
    case EVENT_MESSAGE_AUTHENTICATED:
    case EVENT_MESSAGE_DISCARDED:
    case EVENT_MESSAGE_HELD:
    case EVENT_MESSAGE_RELEASED:
    case EVENT_MESSAGE_DAMAGED:
    case EVENT_OPERATOR_ACTION:
    case EVENT_INCIDENT_OPEN:
    case EVENT_INCIDENT_CLOSED:
    case EVENT_INCIDENT_MARK:
    case EVENT_SERVER_STARTED:
    case EVENT_SERVER_STOPPED:
    case EVENT_KIND_COUNT:
        break;
    }
    return true;
}

/* ------------------------------------------------------------------ telling */

static void incident_say(const struct incident *incident, enum event_kind kind, const char *words)
{
    const bool out = incident->direction == INCIDENT_OUT;
    char text[800];

    snprintf(text, sizeof text, "%s%s%s", words, incident->text[0] ? ": " : "", incident->text);
    observe_event(
        &(struct event){.kind = kind,
                        .incident = incident->id,
                        .verdict = verdict_of(incident->cause),
                        .has_verdict = true,
                        .filter = out ? BYTES_EMPTY : bytes_of_text(incident->subject),
                        .destination = out ? bytes_of_text(incident->subject) : BYTES_EMPTY,
                        .mx = out ? bytes_of_text(incident->host) : BYTES_EMPTY,
                        .text = bytes_of_text(text)});
}

/* What happens while it is open. */
static const char *opening_words(const struct incident *incident)
{
    const char *const happening = cause_row(incident->cause)->happening;

    if (happening)
        return happening;
    if (incident->direction == INCIDENT_IN)
        return "mail is deferred";
    return cause_begins(incident->cause, "filter.") ? "mail that was taken unscanned waits"
                                                    : "deliveries fail";
}

/* Once the batch that says so is on the disk. */
void incidents_tell(struct store *store)
{
    char words[120];

    for (unsigned i = 0; i < store->incidents.count; i++) {
        struct incident *incident = store->incidents.at[i];
        const unsigned tell = incident->tell;
        incident->tell = 0;
        if (tell & INCIDENT_TELL_OPEN)
            incident_say(incident, EVENT_INCIDENT_OPEN, opening_words(incident));
        snprintf(words, sizeof words, "%s, %llu failures", incident_state_name(incident->mark),
                 (unsigned long long)incident->count);
        if (tell & INCIDENT_TELL_MARK)
            incident_say(incident, EVENT_INCIDENT_MARK, words);
        snprintf(words, sizeof words, "over after %llu failures",
                 (unsigned long long)incident->count);
        if (tell & INCIDENT_TELL_CLOSED)
            incident_say(incident, EVENT_INCIDENT_CLOSED, words);
    }
    incidents_show(store);
}

void incidents_show(const struct store *store)
{
    int64_t counts[INCIDENT_OVER] = {0};

    for (unsigned i = 0; i < store->incidents.count; i++) {
        const struct incident *incident = store->incidents.at[i];
        if (incident->shown && !incident->over && incident->mark < INCIDENT_OVER)
            counts[incident->mark]++;
    }
    metric_set(COUNTER_INCIDENTS_OPEN, counts[INCIDENT_OPEN]);
    metric_set(COUNTER_INCIDENTS_NOTICE, counts[INCIDENT_NOTICE]);
    metric_set(COUNTER_INCIDENTS_SUSTAINED, counts[INCIDENT_SUSTAINED]);
    metric_set(COUNTER_INCIDENTS_ESCALATED, counts[INCIDENT_ESCALATED]);
}

/* ------------------------------------------------------------------ time */

static bool incident_has_healed(const struct incidents *incidents, const struct incident *incident)
{
    const struct incident_times *times = &incidents->times;
    const uint64_t quiet_us = since_us(incident->last_us);

    if (incident->direction == INCIDENT_OUT)
        return incident->waiting == 0;
    if (incident->breaker)
        return false;
    if (incident->good_us > incident->last_us &&
        quiet_us >= or_default(times->settle_us, SETTLE_US))
        return true;
    return quiet_us >= or_default(times->calm_us, CALM_US);
}

static void incident_age(struct incidents *incidents, struct incident *incident)
{
    const uint64_t age_us = since_us(incident->age_from_us);

    if (incident->over)
        return;
    if (incident_has_healed(incidents, incident)) {
        incident_end(incidents, incident);
        return;
    }
    for (enum incident_state mark = incident->mark + 1; mark < INCIDENT_OVER; mark++) {
        if (!incident->shown || age_us < mark_age_us(incidents, mark))
            break;
        incident->mark = mark;
        incident->tell |= INCIDENT_TELL_MARK;
        incident->dirty = true;
    }
}

uint64_t incidents_due_us(const struct store *store)
{
    const struct incidents *incidents = &store->incidents;
    const uint64_t settle_us = or_default(incidents->times.settle_us, SETTLE_US);
    uint64_t due_us = DEADLINE_NEVER;

    for (unsigned i = 0; i < incidents->count; i++) {
        const struct incident *incident = incidents->at[i];
        if (incident->over)
            continue;
        due_us = MIN_OF(due_us, incidents->looked_us + MIN_OF(LOOK_US, settle_us));
        if (incident->shown && incident->mark < INCIDENT_ESCALATED)
            due_us =
                MIN_OF(due_us, incident->age_from_us + mark_age_us(incidents, incident->mark + 1));
    }
    return due_us;
}

/* What is over is remembered for as long as it may come again. */
static void incidents_clear(struct incidents *incidents)
{
    for (unsigned i = incidents->count; i > 0; i--) {
        const struct incident *incident = incidents->at[i - 1];
        if (incident->over && !incident->dirty &&
            (!incident->shown ||
             since_us(incident->over_us) >= mark_age_us(incidents, INCIDENT_NOTICE)))
            incident_forget(incidents, i - 1);
    }
}

void incidents_tend(struct store *store)
{
    struct incidents *incidents = &store->incidents;

    incidents->looked_us = clock_now_us();
    for (unsigned i = 0; i < incidents->count; i++)
        incident_age(incidents, incidents->at[i]);
    if (since_us(incidents->swept_us) >= SWEEP_US) {
        incidents->swept_us = clock_now_us();
        incident_sweep(store);
    }
    bool changed = false;
    for (unsigned i = 0; i < incidents->count; i++)
        changed = changed || incidents->at[i]->dirty;
    if (!changed) {
        incidents_clear(incidents);
        return;
    }
    if (!store_step(store->begin) || !incidents_save(store) || !store_step(store->commit)) {
        observe_note(LOG_WARNING, "history", "incidents: %s", sqlite3_errmsg(store->database));
        if (!sqlite3_get_autocommit(store->database) && !store_step(store->rollback))
            observe_note(LOG_WARNING, "history", "rollback: %s", sqlite3_errmsg(store->database));
        return; /* what is dirty is written next time, and told then */
    }
    incidents_saved(incidents);
    incidents_tell(store);
    incidents_clear(incidents);
}
