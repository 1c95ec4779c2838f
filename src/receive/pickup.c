/*
 * Pickup: what `sendmail` left in the drop directory becomes mail. A file there is a transaction as
 * SMTP says it: MAIL, RCPT..., DATA, then the message. It is given in by a session of its own
 * over a Unix socket in the spool's directory, so that every rule of receive and policy holds for
 * it, and is removed after the 250.
 *
 * Sleeps: everywhere. Fails: what is answered 4yz stays and is tried again; what is answered 5yz is
 * returned to its sender by another file; what cannot be read is set aside under a name that says
 * so. Never: removes a file before its message, or the notification about it, is durable.
 */
#include "receive/pickup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LOOK_EVERY_MS = 1000,
    FILES_AT_ONCE = 100,
    UNFINISHED_AT_ONCE = 32,
    HEAD_BYTES = 512 * 1024,
    PIECE_BYTES = 64 * 1024,
    RETURNED_BYTES = 64 * 1024,
    ARENA_BYTES = 4 * 1024 * 1024,
    LATER_ROWS = 1024,
    LATER_LEAST_S = 10,
    LATER_MOST_S = 300,
    REPLY_S = 330, /* above after_dot's default and what a filter may take */
    NAME_ROOM = 128,
};
#define UNFINISHED_LIFE_US ((int64_t)24 * 3600 * 1000000)
#define SWEEP_EVERY_US (3600 * US_PER_S)

/* ------------------------------------------------------------------ the directory */

struct preparation {
    const struct config *config;
    const char *directory;
    int error;
};

/* Who only drops files knows from this what an address without a domain means. */
static int origin_write(const struct preparation *it, const char *origin)
{
    char temporary[CONFIG_DROP_ROOM + 16], path[CONFIG_DROP_ROOM + 16];

    snprintf(temporary, sizeof temporary, "%s/origin.new", it->directory);
    snprintf(path, sizeof path, "%s/origin", it->directory);
    FILE *file = fopen(temporary, "w");
    if (!file)
        return errno;
    fprintf(file, "%s %llu %u\n", origin, (unsigned long long)it->config->limits.message_size,
            it->config->limits.recipients);
    if (fclose(file) != 0 || chmod(temporary, 0644) != 0 || rename(temporary, path) != 0)
        return errno;
    return 0;
}

static const char *origin_of(const struct config *config)
{
    const struct config_domain *own = config_find_domain(config, bytes_of_text(config->hostname));

    return own || config->domain_count == 0 ? config->hostname : config->domains[0].name;
}

/*
 * Everybody may leave a file and nobody may list them or take another's away; the files get the
 * directory's group, which is ours. A directory that is there already stays as the operator made
 * it.
 */
static void prepare(void *argument)
{
    struct preparation *it = argument;

    it->error = 0;
    if (mkdir(it->directory, 0700) == 0) {
        if (chmod(it->directory, 03733) != 0)
            it->error = errno;
    } else if (errno != EEXIST) {
        it->error = errno;
    }
    if (it->error == 0)
        it->error = origin_write(it, origin_of(it->config));
}

/* ------------------------------------------------------------------ what has to wait */

struct later {
    char name[NAME_ROOM];
    uint64_t due_us;
    unsigned times;
};

struct pickup {
    uint64_t sweep_us; /* when what was never finished is looked for next */
    struct receive *receive;
    struct config_listen listen;
    char directory[CONFIG_DROP_ROOM];
    struct fiber *fiber;
    atomic_bool over;
    unsigned later_count;
    struct later later[LATER_ROWS];
};

static struct later *later_find(struct pickup *pickup, const char *name)
{
    for (unsigned i = 0; i < pickup->later_count; i++)
        if (strcmp(pickup->later[i].name, name) == 0)
            return &pickup->later[i];
    return NULL;
}

static void later_forget(struct pickup *pickup, const char *name)
{
    struct later *row = later_find(pickup, name);

    if (row)
        *row = pickup->later[--pickup->later_count];
}

/* Without a row left it is just tried at the next look. */
static void later_note(struct pickup *pickup, const char *name)
{
    struct later *row = later_find(pickup, name);

    if (!row && pickup->later_count < LATER_ROWS) {
        row = &pickup->later[pickup->later_count++];
        *row = (struct later){.times = 0};
        snprintf(row->name, sizeof row->name, "%s", name);
    }
    if (!row)
        return;
    const uint64_t wait_s = MIN_OF((uint64_t)LATER_LEAST_S << MIN_OF(row->times, 8u), LATER_MOST_S);
    row->times++;
    row->due_us = deadline_in(wait_s * US_PER_S);
}

struct listing {
    struct pickup *pickup;
    char names[FILES_AT_ONCE][NAME_ROOM];
    unsigned count;
    char unfinished[UNFINISHED_AT_ONCE][NAME_ROOM];
    unsigned unfinished_count;
};

static bool list_one(void *argument, const char *name)
{
    struct listing *listing = argument;

    if (strncmp(name, PICKUP_OPEN, sizeof PICKUP_OPEN - 1) == 0 && strlen(name) < NAME_ROOM &&
        listing->unfinished_count < UNFINISHED_AT_ONCE)
        snprintf(listing->unfinished[listing->unfinished_count++], NAME_ROOM, "%s", name);
    if (strncmp(name, PICKUP_READY, sizeof PICKUP_READY - 1) != 0 || strlen(name) >= NAME_ROOM)
        return true;
    const struct later *row = later_find(listing->pickup, name);
    if (!row || row->due_us <= clock_now_us())
        snprintf(listing->names[listing->count++], NAME_ROOM, "%s", name);
    return listing->count < FILES_AT_ONCE;
}

/* ------------------------------------------------------------------ one file */

struct dropped {
    struct pickup *pickup;
    const char *name;
    char path[CONFIG_DROP_ROOM + NAME_ROOM];
    struct file *file;
    struct file_facts facts;
    struct arena arena;
    struct bytes head; /* of the file, as far as it is kept */
    struct bytes mail; /* the line */
    struct address from;
    struct bytes *rcpts;   /* lines */
    struct address *paths; /* of them */
    unsigned rcpt_count;
    uint64_t body; /* offset of the message */
};

/* The commands up to DATA. False: it is none of ours. */
static bool dropped_parse(struct dropped *it)
{
    struct bytes rest = it->head, line;
    struct smtp_command command;
    const size_t most = it->head.count / 12 + 1; /* "RCPT TO:<a>" and a line end */

    it->rcpts = ARENA_NEW_ARRAY(&it->arena, most, struct bytes);
    it->paths = ARENA_NEW_ARRAY(&it->arena, most, struct address);
    while (it->rcpts && it->paths && bytes_find_byte(rest, '\n') < rest.count) {
        rest = bytes_cut(rest, '\n', &line);
        line = bytes_trim(line);
        smtp_parse_command(&it->arena, line, &command);
        if (command.fault != SMTP_FINE || it->arena.failed)
            return false;
        if (command.verb == SMTP_DATA) {
            it->body = it->head.count - rest.count;
            return it->rcpt_count > 0;
        }
        if (command.verb == SMTP_MAIL && it->mail.count == 0) {
            it->mail = line;
            it->from = command.path;
        } else if (command.verb == SMTP_RCPT && it->mail.count > 0 && it->rcpt_count < most) {
            it->paths[it->rcpt_count] = command.path;
            it->rcpts[it->rcpt_count++] = line;
        } else {
            return false;
        }
    }
    return false;
}

static enum pickup_fate dropped_closed(const struct dropped *it, struct io_result opened)
{
    if (opened.error == ENOENT)
        return PICKUP_GONE;
    if (opened.error == ELOOP) /* a link */
        return PICKUP_BAD;
    observe_note(LOG_WARNING, "receive", "drop %s: %s", it->name, io_result_text(opened));
    return PICKUP_LATER;
}

/* A file of somebody who may be hostile: only a plain one with one name is read, and only forward.
 */
static enum pickup_fate dropped_open(struct dropped *it)
{
    const struct io_result opened = file_open(it->path, FILE_READ | FILE_FOREIGN, &it->file);
    uint8_t *head = arena_take(&it->arena, HEAD_BYTES);

    if (opened.status != IO_OK)
        return dropped_closed(it, opened);
    if (!head || file_facts(it->file, &it->facts).status != IO_OK)
        return PICKUP_LATER;
    if (!it->facts.is_regular || it->facts.links != 1)
        return PICKUP_BAD;
    const struct io_result read = file_read_at(it->file, (struct span){head, HEAD_BYTES}, 0);
    if (read.status != IO_OK && read.status != IO_END)
        return PICKUP_LATER;
    it->head = bytes_of(head, read.count);
    return dropped_parse(it) ? PICKUP_DONE : PICKUP_BAD;
}

/* ------------------------------------------------------------------ the dialogue */

struct talk {
    struct stream *stream;
    struct wire_input input;
    struct arena *arena;
    struct smtp_reply reply;
};

static bool talk_hear(struct talk *talk)
{
    return smtp_read_reply(&talk->input, talk->arena, deadline_in(REPLY_S * US_PER_S),
                           &talk->reply) == WIRE_OK;
}

/* One line, one reply. False: the connection is good for nothing. */
static bool talk_say(struct talk *talk, struct bytes line)
{
    const uint64_t deadline_us = deadline_in(REPLY_S * US_PER_S);

    return stream_write(talk->stream, line, deadline_us).status == IO_OK &&
           stream_write(talk->stream, BYTES_LITERAL("\r\n"), deadline_us).status == IO_OK &&
           talk_hear(talk);
}

static bool talk_open(struct talk *talk, const struct dropped *it)
{
    char hello[64];
    const struct endpoint *at = &it->pickup->listen.address;
    const struct io_result dialed =
        stream_dial(at, NULL, deadline_in(LATER_LEAST_S * US_PER_S), &talk->stream);

    if (dialed.status != IO_OK)
        return false;
    wire_input_open(&talk->input, talk->stream);
    snprintf(hello, sizeof hello, "EHLO uid-%u.localhost", it->facts.owner);
    return talk_hear(talk) && talk->reply.code == 220 && talk_say(talk, bytes_of_text(hello)) &&
           talk->reply.code == 250;
}

static void talk_close(struct talk *talk)
{
    if (!talk->stream)
        return;
    wire_input_close(&talk->input);
    stream_close_ptr(&talk->stream);
}

/* The message as one chunk; from here on the answer is waited for, whoever stops the server. */
static bool talk_send_body(struct talk *talk, const struct dropped *it)
{
    const uint64_t size = it->facts.size_bytes - it->body;
    uint8_t *piece = arena_take(talk->arena, PIECE_BYTES);
    char chunk[64];

    if (!piece)
        return false;
    snprintf(chunk, sizeof chunk, "BDAT %llu LAST\r\n", (unsigned long long)size);
    struct io_result sent =
        stream_write(talk->stream, bytes_of_text(chunk), deadline_in(REPLY_S * US_PER_S));
    for (uint64_t done = 0; done < size && sent.status == IO_OK;) {
        const size_t most = (size_t)MIN_OF(size - done, (uint64_t)PIECE_BYTES);
        const struct io_result read =
            file_read_at(it->file, (struct span){piece, most}, it->body + done);
        if (read.status != IO_OK || read.count != most)
            return false; /* somebody cut it meanwhile */
        sent = stream_write(talk->stream, bytes_of(piece, most), deadline_in(REPLY_S * US_PER_S));
        done += most;
    }
    return sent.status == IO_OK && talk_hear(talk);
}

/* ------------------------------------------------------------------ what comes back */

struct refusals {
    struct dsn_recipient *rows;
    unsigned count;
};

static void refuse(const struct dropped *it, struct refusals *refusals, unsigned recipient,
                   const struct smtp_reply *reply)
{
    refusals->rows[refusals->count++] = (struct dsn_recipient){
        .final = it->paths[recipient],
        .action = DSN_FAILED,
        .status = reply->enhanced.count > 0 ? reply->enhanced : BYTES_LITERAL("5.0.0"),
        .diagnostic = reply->text,
        .cause_name = BYTES_LITERAL("refused"),
        .explanation = BYTES_LITERAL("This server did not take the message; its reply says why."),
        .last_attempt_wall_us = clock_wall_us()};
}

/* What was refused may have been refused for its line ends. */
static void mend_line_ends(struct bytes text, struct buffer *into)
{
    for (size_t i = 0; i < text.count; i++) {
        const uint8_t octet = text.at[i];
        const bool pair = octet == '\r' && i + 1 < text.count && text.at[i + 1] == '\n';

        if (octet == '\r' || octet == '\n')
            buffer_add_text(into, "\r\n");
        else if (octet != '\0')
            buffer_add_byte(into, octet);
        i += pair;
    }
}

static void returned_print(const struct dropped *it, const struct refusals *refusals,
                           struct buffer *into)
{
    const struct config *config = it->pickup->receive->settings.config;
    const struct bytes message = bytes_skip(it->head, (size_t)it->body);
    const struct bytes head = bytes_slice(message, 0, RETURNED_BYTES);
    const bool whole = it->facts.size_bytes - it->body <= RETURNED_BYTES;
    CLEANUP(buffer_free) struct buffer sender = BUFFER_WITH_LIMIT(MAIL_ADDRESS_MAX);
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(MIB);
    const struct dsn dsn = {
        .hostname = config->hostname,
        .message = random_u64(),
        .own_message = random_u64(),
        .to = it->from,
        .arrival_wall_us = it->facts.modified_wall_us,
        .now_wall_us = clock_wall_us(),
        .recipients = refusals->rows,
        .recipient_count = refusals->count,
        .original = whole ? head : bytes_slice(head, 0, header_end(head)),
        .original_is_whole = whole,
        .smtputf8 = !address_is_ascii(it->from),
    };

    address_print(&sender, it->from);
    buffer_print(into, "MAIL FROM:<> BODY=8BITMIME%s\r\nRCPT TO:<%.*s> NOTIFY=NEVER\r\nDATA\r\n",
                 dsn.smtputf8 ? " SMTPUTF8" : "", BYTES_PRINT(buffer_view(&sender)));
    dsn_print(&text, &dsn);
    mend_line_ends(buffer_view(&text), into);
    into->failed = into->failed || text.failed;
}

/* A notification is left in the drop directory itself, durable before the message goes. */
static bool return_to_sender(const struct dropped *it, const struct refusals *refusals)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(MIB);
    CLEANUP(file_close_ptr) struct file *file = NULL;
    char temporary[CONFIG_DROP_ROOM + 64], ready[CONFIG_DROP_ROOM + 64];
    const uint64_t id = random_u64();

    returned_print(it, refusals, &text);
    snprintf(temporary, sizeof temporary, "%s/" PICKUP_OPEN "%016llx", it->pickup->directory,
             (unsigned long long)id);
    snprintf(ready, sizeof ready, "%s/" PICKUP_READY "%016llx", it->pickup->directory,
             (unsigned long long)id);
    const struct bytes part = buffer_view(&text);
    return !text.failed && file_open(temporary, FILE_WRITE | FILE_NEW, &file).status == IO_OK &&
           file_write_at(file, &part, 1, 0).status == IO_OK && file_sync(file).status == IO_OK &&
           disk_rename(temporary, ready).status == IO_OK &&
           disk_sync_directory(it->pickup->directory).status == IO_OK;
}

/* ------------------------------------------------------------------ one transaction */

static enum pickup_fate by_reply(const struct smtp_reply *reply)
{
    return reply->code / 100 == 5 ? PICKUP_REFUSED : PICKUP_LATER;
}

/* MAIL, RCPT and the message. A recipient that is deferred defers them all: nobody gets it twice.
 */
static enum pickup_fate transact(const struct dropped *it, struct talk *talk,
                                 struct refusals *refusals)
{
    unsigned accepted = 0;
    bool *taken = ARENA_NEW_ARRAY(talk->arena, it->rcpt_count + 1, bool);

    if (!taken || !talk_open(talk, it) || !talk_say(talk, it->mail))
        return PICKUP_LATER;
    const bool welcome = talk->reply.code == 250;
    if (!welcome && by_reply(&talk->reply) != PICKUP_REFUSED)
        return PICKUP_LATER;
    for (unsigned i = 0; i < it->rcpt_count; i++) {
        if (welcome && !talk_say(talk, it->rcpts[i]))
            return PICKUP_LATER;
        taken[i] = welcome && talk->reply.code / 100 == 2;
        accepted += taken[i];
        if (!taken[i] && by_reply(&talk->reply) != PICKUP_REFUSED)
            return PICKUP_LATER;
        if (!taken[i])
            refuse(it, refusals, i, &talk->reply);
    }
    if (accepted == 0)
        return PICKUP_DONE;
    if (!talk_send_body(talk, it))
        return PICKUP_LATER;
    if (talk->reply.code == 250)
        return PICKUP_DONE;
    if (by_reply(&talk->reply) != PICKUP_REFUSED)
        return PICKUP_LATER;
    for (unsigned i = 0; i < it->rcpt_count; i++)
        if (taken[i])
            refuse(it, refusals, i, &talk->reply);
    return PICKUP_DONE;
}

static enum pickup_fate dropped_give(const struct dropped *it, struct arena *arena)
{
    struct talk talk = {.arena = arena};
    struct refusals refusals = {
        .rows = ARENA_NEW_ARRAY(arena, it->rcpt_count + 1, struct dsn_recipient)};

    if (!refusals.rows)
        return PICKUP_LATER;
    const bool masked = fiber_mask_cancel(true);
    enum pickup_fate fate = transact(it, &talk, &refusals);
    talk_close(&talk);
    if (fate == PICKUP_LATER)
        observe_note(LOG_INFO, "receive", "drop %s: not now: %.*s", it->name,
                     BYTES_PRINT(talk.reply.text));
    if (fate == PICKUP_DONE && refusals.count > 0) {
        observe_note(LOG_WARNING, "receive", "drop %s: %u of %u recipients refused: %.*s", it->name,
                     refusals.count, it->rcpt_count, BYTES_PRINT(talk.reply.text));
        if (address_is_null(it->from))
            fate = PICKUP_BAD; /* nobody to tell but the operator */
        else if (!return_to_sender(it, &refusals))
            fate = PICKUP_LATER;
    }
    fiber_mask_cancel(masked);
    return fate;
}

/* Set aside under a name that is not picked up, for the operator. What the worker may not rename (a
 * link, a pipe) holds no mail and is removed; what it may not remove is left, and looked at less
 * and less often. */
static bool set_aside(const struct dropped *it)
{
    char aside[CONFIG_DROP_ROOM + NAME_ROOM + 8];

    snprintf(aside, sizeof aside, "%s/bad-%s", it->pickup->directory, it->name);
    if (disk_rename(it->path, aside).status == IO_OK) {
        observe_note(LOG_ERROR, "receive",
                     "drop %s: no transaction, or nobody to return it to: "
                     "set aside",
                     it->name);
        return true;
    }
    const bool is_mail = it->file && it->facts.is_regular;
    const struct io_result removed = is_mail ? io_failed(EPERM) : disk_remove(it->path);
    observe_note(LOG_ERROR, "receive", "drop %s: no transaction: %s", it->name,
                 removed.status == IO_OK ? "removed" : io_result_text(removed));
    return removed.status == IO_OK;
}

static void pickup_take(struct pickup *pickup, const char *name)
{
    struct dropped it = {.pickup = pickup, .name = name, .arena = ARENA_WITH_LIMIT(ARENA_BYTES)};
    struct arena talk_arena = ARENA_WITH_LIMIT(ARENA_BYTES);

    snprintf(it.path, sizeof it.path, "%s/%s", pickup->directory, name);
    enum pickup_fate fate = dropped_open(&it);
    if (fate == PICKUP_DONE)
        fate = dropped_give(&it, &talk_arena);
    if (fate == PICKUP_DONE && disk_remove(it.path).status != IO_OK)
        fate = PICKUP_BAD; /* lest it be sent again and again */
    if (fate == PICKUP_BAD && !set_aside(&it))
        fate = PICKUP_LATER;
    if (fate == PICKUP_LATER)
        later_note(pickup, name);
    else
        later_forget(pickup, name);
    file_close_ptr(&it.file);
    const struct io_result synced =
        fate == PICKUP_LATER ? io_ok(0) : disk_sync_directory(pickup->directory);
    if (synced.status != IO_OK)
        observe_note(LOG_WARNING, "receive", "drop: %s: %s", pickup->directory,
                     io_result_text(synced));
    arena_clear(&it.arena);
    arena_clear(&talk_arena);
}

/* ------------------------------------------------------------------ the fiber */

static bool pickup_prepare(struct pickup *pickup)
{
    struct preparation it = {.config = pickup->receive->settings.config,
                             .directory = pickup->directory};

    if (work_run(prepare, &it) != IO_OK)
        return false;
    if (it.error != 0)
        observe_note(LOG_WARNING, "receive", "drop %s: %s: mail left there is not picked up",
                     pickup->directory, strerror(it.error));
    return it.error == 0;
}

/* Left by a program that died while it wrote: nobody was told that it is taken. */
static void unfinished_sweep(const struct pickup *pickup, const struct listing *listing)
{
    char path[CONFIG_DROP_ROOM + NAME_ROOM];

    for (unsigned i = 0; i < listing->unfinished_count; i++) {
        struct file_facts facts = {0};
        snprintf(path, sizeof path, "%s/%s", pickup->directory, listing->unfinished[i]);
        if (disk_facts(path, &facts).status == IO_OK &&
            clock_wall_us() - facts.modified_wall_us > UNFINISHED_LIFE_US &&
            disk_remove(path).status == IO_OK)
            observe_note(LOG_INFO, "receive", "drop %s: never finished, removed after a day",
                         listing->unfinished[i]);
    }
}

static void pickup_look(struct pickup *pickup)
{
    struct listing *listing = calloc(1, sizeof *listing);

    if (!listing)
        return;
    listing->pickup = pickup;
    const struct io_result listed = disk_list(pickup->directory, list_one, listing);
    if (listed.status == IO_FAILED)
        observe_note(LOG_WARNING, "receive", "drop %s: %s", pickup->directory,
                     io_result_text(listed));
    for (unsigned i = 0; i < listing->count && !fiber_cancelled(); i++)
        pickup_take(pickup, listing->names[i]);
    if (clock_now_us() >= pickup->sweep_us && !fiber_cancelled()) {
        unfinished_sweep(pickup, listing);
        pickup->sweep_us = deadline_in(SWEEP_EVERY_US);
    }
    free(listing);
}

static void pickup_main(void *argument)
{
    struct pickup *pickup = argument;
    struct receive *receive = pickup->receive;
    const bool prepared = pickup_prepare(pickup);

    while (prepared && !fiber_cancelled()) {
        pickup_look(pickup);
        fiber_sleep_until(deadline_in(LOOK_EVERY_MS * US_PER_MS));
    }
    pthread_mutex_lock(&receive->lock);
    atomic_store(&pickup->over, true);
    waitlist_wake_all(&receive->changed);
    pthread_mutex_unlock(&receive->lock);
}

struct pickup *pickup_open(struct receive *receive)
{
    const struct config *config = receive->settings.config;
    struct pickup *pickup = calloc(1, sizeof *pickup);

    if (!pickup)
        return NULL;
    pickup->receive = receive;
    config_drop_path(config->spool, pickup->directory, sizeof pickup->directory);
    pickup->listen = (struct config_listen){
        .name = "pickup", .kind = LISTEN_SMTP, .address = {.family = ENDPOINT_UNIX}};
    snprintf(pickup->listen.address.path, sizeof pickup->listen.address.path, "%s/pickup",
             config->spool);
    return pickup;
}

const struct config_listen *pickup_listen(const struct pickup *pickup)
{
    return &pickup->listen;
}

bool pickup_owns(const struct pickup *pickup, const struct config_listen *listen)
{
    return pickup && listen == &pickup->listen;
}

bool pickup_begin(struct pickup *pickup)
{
    pickup->fiber = fiber_start("pickup", pickup_main, pickup);
    atomic_store(&pickup->over, pickup->fiber == NULL);
    return pickup->fiber != NULL;
}

void pickup_cancel(struct pickup *pickup)
{
    if (pickup && pickup->fiber && !atomic_load(&pickup->over))
        fiber_cancel(pickup->fiber);
}

bool pickup_is_over(const struct pickup *pickup)
{
    return !pickup || !pickup->fiber || atomic_load(&pickup->over);
}

void pickup_close(struct pickup *pickup)
{
    free(pickup);
}
