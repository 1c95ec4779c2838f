/*
 * The operator's desk: a summary of each incident at each of its marks, and one when it is over, by
 * mail through the own queue and by a command. At 24 h the report to the other side is drafted.
 *
 * What was told is an event, so the history keeps it and a restart does not tell it again. What
 * could not be told (a full spool, a program that fails) is tried again each minute.
 */
#include "diagnose/operator.h"
#include "diagnose/report.h"

#include <stdatomic.h>
#include <string.h>

#define AGAIN_US (60 * US_PER_S)
enum { TOLD_REMEMBERED = 256, ROWS_MAX = 64 };

struct told {
    uint64_t incident;
    enum incident_way way;
    enum incident_state mark;
};

struct operator_desk {
    struct operator_settings settings;
    struct fiber *fiber;
    atomic_bool due, closing, ended;
    struct waitlist changed;
    /* Of this process, in case that the history could not keep it. */
    struct told told[TOLD_REMEMBERED];
    unsigned told_count;
};

/* ------------------------------------------------------------------ what there is to tell */

struct note {
    uint64_t id;
    enum incident_direction direction;
    enum incident_state state, told[INCIDENT_WAYS];
    char cause[64], subject[256], side[16];
    uint64_t waiting;
    int64_t first_wall_us;
};
struct notes {
    const char *directory;
    struct note rows[ROWS_MAX];
    unsigned count;
    bool read;
};

static bool note_add(void *argument, const struct incident_row *row)
{
    struct notes *notes = argument;
    struct note *note = &notes->rows[notes->count++];

    *note = (struct note){.id = row->id,
                          .direction = row->direction,
                          .state = row->state,
                          .told = {row->told[INCIDENT_BY_MAIL], row->told[INCIDENT_BY_COMMAND]},
                          .waiting = row->waiting,
                          .first_wall_us = row->first_wall_us};
    snprintf(note->cause, sizeof note->cause, "%.*s", BYTES_PRINT(row->cause));
    snprintf(note->subject, sizeof note->subject, "%.*s", BYTES_PRINT(row->subject));
    snprintf(note->side, sizeof note->side, "%.*s", BYTES_PRINT(row->side));
    return notes->count < ROWS_MAX;
}

static void notes_read(void *argument)
{
    struct notes *notes = argument;
    const struct incident_query query = {.choice = INCIDENTS_TO_TELL};
    char why[256];

    notes->read = incident_view(notes->directory, query, note_add, notes, why, sizeof why);
    if (!notes->read)
        observe_note(LOG_WARNING, "diagnose", "incidents cannot be read: %s", why);
}

static bool was_told(const struct operator_desk *desk, const struct note *note,
                     enum incident_way way)
{
    for (unsigned i = 0; i < MIN_OF(desk->told_count, (unsigned)TOLD_REMEMBERED); i++)
        if (desk->told[i].incident == note->id && desk->told[i].way == way &&
            desk->told[i].mark == note->state)
            return true;
    return note->told[way] >= note->state;
}

/* The end is told to who was told of the begin. */
static bool is_due(const struct operator_desk *desk, const struct note *note, enum incident_way way)
{
    const char *configured = way == INCIDENT_BY_MAIL ? desk->settings.config->operator_mail
                                                     : desk->settings.config->operator_command;

    return *configured && !was_told(desk, note, way) &&
           (note->state != INCIDENT_OVER || note->told[way] != INCIDENT_OPEN);
}

static void remember(struct operator_desk *desk, const struct note *note, enum incident_way way)
{
    desk->told[desk->told_count++ % TOLD_REMEMBERED] =
        (struct told){.incident = note->id, .way = way, .mark = note->state};
    observe_event(
        &(struct event){.kind = EVENT_OPERATOR_TOLD,
                        .incident = note->id,
                        .attempt = (uint32_t)note->state,
                        .filter = bytes_of_text(way == INCIDENT_BY_MAIL ? "mail" : "command"),
                        .text = bytes_of_text(incident_state_name(note->state))});
}

/* ------------------------------------------------------------------ the summary */

struct summary {
    const struct operator_desk *desk;
    const struct note *note;
    struct buffer text;
};

/* The same text as `incidents` prints: facts of the history. */
static void summary_make(void *argument)
{
    struct summary *summary = argument;
    const struct config *config = summary->desk->settings.config;
    const struct diagnose_place place = diagnose_place_of(config, clock_wall_us());
    const struct incident_query query = {.id = summary->note->id};
    json_t *incidents = NULL;
    char why[256];

    buffer_print(&summary->text, "%s: an incident is %s.\n\n", config->hostname,
                 incident_state_name(summary->note->state));
    if (diagnose_incidents(&place, query, &incidents, why, sizeof why))
        diagnose_print_incidents(&summary->text, incidents);
    else
        buffer_print(&summary->text, "Its facts cannot be read: %s\n", why);
    json_decref(incidents);
    buffer_add_text(&summary->text,
                    "\nThis is told once a mark (notice, sustained, escalated) and once when it is "
                    "over.\n`holdfast incidents` and `holdfast status` say how it stands now.\n");
}

/* ------------------------------------------------------------------ by mail */

static void add_crlf(struct buffer *into, struct bytes text)
{
    for (size_t i = 0; i < text.count; i++) {
        if (text.at[i] == '\n')
            buffer_add_byte(into, '\r');
        buffer_add_byte(into, text.at[i]);
    }
}

static void mail_print(const struct summary *summary, uint64_t id, struct buffer *mail)
{
    const struct config *config = summary->desk->settings.config;
    const struct note *note = summary->note;
    char date[64], text[ID_TEXT_MAX];

    buffer_print(mail, "Date: %s\r\n", time_print_rfc5322(clock_wall_us(), date, sizeof date));
    buffer_print(mail, "From: Holdfast <postmaster@%s>\r\nTo: <%s>\r\n", config->hostname,
                 config->operator_mail);
    buffer_print(mail, "Message-ID: <%s@%s>\r\n", id_print(id, text, sizeof text),
                 config->hostname);
    buffer_print(mail, "Subject: [%s] %s: %s %s ", config->hostname,
                 incident_state_name(note->state), note->cause,
                 note->direction == INCIDENT_OUT ? "to" : "at");
    diagnose_add_plain(mail, note->subject);
    buffer_add_text(mail, "\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n"
                          "Content-Type: text/plain; charset=utf-8\r\n"
                          "Content-Transfer-Encoding: 8bit\r\n\r\n");
    add_crlf(mail, buffer_view(&summary->text));
}

/* Aliases are followed where they can be; when the directory is what fails, the address itself has
 * to do. */
static uint32_t mail_recipients(const struct operator_desk *desk, struct arena *arena,
                                struct recipient **recipients)
{
    const struct config *config = desk->settings.config;
    struct directory_targets targets = {0};
    struct address address;
    uint32_t count = 0;

    *recipients = ARENA_NEW_ARRAY(arena, 32, struct recipient);
    if (!*recipients || !address_parse(arena, bytes_of_text(config->operator_mail), &address))
        return 0;
    if (config_find_domain(config, address.domain) &&
        directory_expand(desk->settings.directory, arena, address, &targets).status == LOOKUP_FOUND)
        for (unsigned i = 0; i < targets.count && count < 32; i++)
            if (targets.targets[i].file_or_pipe.count == 0)
                (*recipients)[count++] = (struct recipient){.address = targets.targets[i].address,
                                                            .notify = NOTIFY_NEVER,
                                                            .deliver = targets.targets[i].deliver};
    if (count == 0)
        (*recipients)[count++] = (struct recipient){.address = address, .notify = NOTIFY_NEVER};
    return count;
}

/* From the null sender, so that a summary that cannot be delivered makes no more mail. */
static struct verdict mail_commit(const struct summary *summary, struct arena *arena)
{
    CLEANUP(spool_draft_close)
    struct spool_draft *draft = spool_draft_open(summary->desk->settings.spool);
    CLEANUP(buffer_free) struct buffer mail = BUFFER_WITH_LIMIT(MIB);
    struct envelope envelope = {
        .kind = ENVELOPE_DSN, .body = BODY_8BITMIME, .accepted_wall_us = clock_wall_us()};
    const struct spool_commit_options options = {.deadline_us = deadline_in(60 * US_PER_S)};
    struct spool_receipt receipt = {0};

    if (!draft)
        return verdict_of(CAUSE_LOCAL_FAILED);
    envelope.recipient_count = mail_recipients(summary->desk, arena, &envelope.recipients);
    mail_print(summary, spool_draft_id(draft), &mail);
    if (mail.failed || envelope.recipient_count == 0)
        return verdict_of(CAUSE_LOCAL_FAILED);
    REQUIRE(spool_draft_write(draft, buffer_view(&mail)));
    return spool_commit(draft, &envelope, &options, &receipt);
}

static bool tell_by_mail(const struct summary *summary)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    const struct verdict sent = mail_commit(summary, &arena);

    if (!verdict_accepts(&sent))
        observe_note(LOG_WARNING, "diagnose", "the summary of an incident could not be queued: %s",
                     cause_name(sent.cause));
    arena_clear(&arena);
    return verdict_accepts(&sent);
}

/* ------------------------------------------------------------------ by command */

static bool tell_by_command(const struct summary *summary)
{
    const struct config *config = summary->desk->settings.config;
    const struct note *note = summary->note;
    char id[ID_TEXT_MAX];
    struct operator_command command = {
        .words = config->operator_command,
        .timeout_us = config->operator_timeout_us,
        .input = buffer_view(&summary->text),
        .incident = id_print(note->id, id, sizeof id),
        .state = incident_state_name(note->state),
        .cause = note->cause,
        .side = note->side,
        .subject = note->subject,
    };

    if (work_run(operator_command_run, &command) != IO_OK)
        return false;
    if (!command.done)
        observe_note(LOG_WARNING, "diagnose", "operator: %s: %s", config->operator_command,
                     command.why);
    return command.done;
}

/* ------------------------------------------------------------------ the draft at 24 h */

/* The letter to the other side's postmaster, kept for the operator to read and to send. */
struct drafting {
    const struct diagnose_place *place;
    uint64_t incident;
    json_t *report;
    char why[256];
};

static void drafting_gather(void *argument)
{
    struct drafting *drafting = argument;

    drafting->report =
        report_facts(drafting->place, drafting->incident, drafting->why, sizeof drafting->why);
}

static void desk_draft(const struct operator_desk *desk, const struct note *note)
{
    const struct config *config = desk->settings.config;
    const struct diagnose_place place = diagnose_place_of(config, clock_wall_us());
    const struct report_request request = {.place = &place,
                                           .incident = note->id,
                                           .resolver = desk->settings.resolver,
                                           .resolvers = config->resolver.forward,
                                           .resolver_count = config->resolver.forward_count};
    struct arena arena = ARENA_WITH_LIMIT(64 * MIB);
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(4 * MIB);
    CLEANUP(buffer_free) struct buffer before = BUFFER_WITH_LIMIT(4 * MIB);
    char why[256] = "";
    struct drafting drafting = {.place = &place, .incident = note->id};
    const bool gathered = work_run(drafting_gather, &drafting) == IO_OK && drafting.report;
    json_t *report = drafting.report;
    const char *site = json_string_value(json_object_get(report, "site"));

    if (gathered)
        report_add_records(&arena, &request, report);
    if (gathered && !diagnose_report_read(config->spool, site, clock_wall_us(), &before)) {
        diagnose_print_report(&text, report);
        if (!diagnose_report_write(config->spool, site, buffer_view(&text), why, sizeof why))
            observe_note(LOG_WARNING, "diagnose", "the report was not drafted: %s", why);
        else
            observe_note(LOG_WARNING, "diagnose",
                         "the report to the postmaster of %s is drafted: `holdfast report` "
                         "prints it",
                         site);
    }
    json_decref(report);
    arena_clear(&arena);
}

/* ------------------------------------------------------------------ the fiber */

/* One lies ready whether or not anybody is told; what was drafted since it began will do. */
static bool draft_is_due(const struct operator_desk *desk, const struct note *note)
{
    char site[256];
    int64_t wall_us = 0;

    return note->state == INCIDENT_ESCALATED && note->direction == INCIDENT_OUT &&
           strcmp(note->side, "ours") != 0 &&
           !(report_drafted(desk->settings.config->spool,
                            report_site(note->subject, site, sizeof site), &wall_us) &&
             wall_us >= note->first_wall_us);
}

/* True when all that was due was told. */
static bool desk_tell(struct operator_desk *desk, const struct note *note)
{
    struct summary summary = {.desk = desk, .note = note, .text = BUFFER_WITH_LIMIT(512 * KIB)};
    const bool mail = is_due(desk, note, INCIDENT_BY_MAIL),
               command = is_due(desk, note, INCIDENT_BY_COMMAND);
    bool told = true;

    if (draft_is_due(desk, note))
        desk_draft(desk, note);
    if (!mail && !command)
        return true;
    if (work_run(summary_make, &summary) != IO_OK || summary.text.failed)
        told = false;
    if (told && command) { /* first what does not need the queue */
        told = tell_by_command(&summary);
        if (told)
            remember(desk, note, INCIDENT_BY_COMMAND);
    }
    if (mail && !summary.text.failed && tell_by_mail(&summary))
        remember(desk, note, INCIDENT_BY_MAIL);
    else if (mail)
        told = false;
    buffer_free(&summary.text);
    return told;
}

static bool desk_turn(struct operator_desk *desk)
{
    struct notes *notes = calloc(1, sizeof *notes);
    bool told = notes != NULL;

    if (!notes)
        return false;
    notes->directory = desk->settings.config->history;
    history_flush(desk->settings.history);
    told = work_run(notes_read, notes) == IO_OK && notes->read;
    for (unsigned i = 0; i < notes->count && !atomic_load(&desk->closing); i++)
        if (!desk_tell(desk, &notes->rows[i]))
            told = false;
    free(notes);
    return told;
}

static void desk_main(void *argument)
{
    struct operator_desk *desk = argument;

    while (!atomic_load(&desk->closing)) {
        atomic_store(&desk->due, false);
        const bool told = desk_turn(desk);
        const uint64_t again_us = told ? DEADLINE_NEVER : deadline_in(AGAIN_US);
        while (!atomic_load(&desk->due) && !atomic_load(&desk->closing))
            if (fiber_park(again_us) != IO_OK)
                break;
        if (fiber_cancelled())
            break;
    }
    atomic_store(&desk->ended, true);
    waitlist_wake_all(&desk->changed);
}

static void desk_sink(void *argument, const struct event *event)
{
    struct operator_desk *desk = argument;

    if (event->kind != EVENT_INCIDENT_MARK && event->kind != EVENT_INCIDENT_CLOSED)
        return;
    atomic_store(&desk->due, true);
    fiber_wake(desk->fiber);
}

struct operator_desk *operator_open(const struct operator_settings *settings)
{
    struct operator_desk *desk = calloc(1, sizeof *desk);

    if (!desk)
        return NULL;
    desk->settings = *settings;
    desk->fiber = fiber_start("operator", desk_main, desk);
    if (!desk->fiber || !observe_add_sink(desk_sink, desk)) {
        observe_note(LOG_ERROR, "diagnose", "nobody will be told of incidents: no memory");
        if (desk->fiber)
            fiber_cancel(desk->fiber);
        else
            atomic_store(&desk->ended, true);
    }
    return desk;
}

bool operator_close(struct operator_desk *desk)
{
    const uint64_t deadline_us = deadline_in(20 * US_PER_S);
    const bool masked = fiber_mask_cancel(true);
    struct waiter waiter;

    if (!desk)
        return true;
    observe_remove_sink(desk_sink, desk);
    atomic_store(&desk->closing, true);
    if (!atomic_load(&desk->ended))
        fiber_cancel(desk->fiber);
    waitlist_join(&desk->changed, &waiter);
    while (!atomic_load(&desk->ended) && fiber_park(deadline_us) == IO_OK)
        continue;
    waitlist_leave(&desk->changed, &waiter);
    fiber_mask_cancel(masked);
    if (!atomic_load(&desk->ended))
        return false; /* it hangs on the disk, and keeps its memory */
    free(desk);
    return true;
}
