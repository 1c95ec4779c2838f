/*
 * Maildir: tmp/NAME is written and synced, renamed to new/NAME, and new/ is synced; then the
 * message is delivered.
 *
 * NAME is made of the message's id and the recipient's number alone, so a delivery that is repeated
 * after a crash between the rename and its settlement meets its own traces: in new/ the rename
 * replaces the copy by the same bytes, and what a reader has moved to cur/ is found by name. That
 * search is made only for messages that may have been delivered before: tried already, or accepted
 * before this process began.
 *
 * {user}, {domain} and {tag} are one path piece each, and one that could lead elsewhere (a slash, a
 * leading dot, a control character) is never used: mailbox.misconfigured. A fault of the file
 * system is mailbox.failed. Both defer.
 */
#include "deliver/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define MAILDIR_PATH_MAX 3072
#define MAILDIR_NAME_MAX 200

struct maildir {
    struct deliver_channel *channel;
    struct attempt *attempt;
    struct spool_body *body;
    uint32_t position; /* of the recipient in the attempt */
    struct directory_user user;
    struct bytes template; /* its path, with what is to be filled in */
    char base[MAILDIR_PATH_MAX];
    char name[MAILDIR_NAME_MAX];
    char tmp[MAILDIR_PATH_MAX + MAILDIR_NAME_MAX + 8];
    char final[MAILDIR_PATH_MAX + MAILDIR_NAME_MAX + 8];
};

static struct verdict verdict_of_disk(struct maildir *maildir, const char *what,
                                      struct io_result result)
{
    const bool setting = result.error == ENOTDIR || result.error == EISDIR ||
                         result.error == ENAMETOOLONG || result.error == ELOOP;
    const struct bytes words = arena_print(maildir->attempt->arena, "%s: %s: %s", maildir->base,
                                           what, io_result_text(result));

    if (result.status == IO_CANCELLED)
        return verdict_of(CAUSE_UNDECIDED);
    return verdict_with(setting ? CAUSE_MAILBOX_MISCONFIGURED : CAUSE_MAILBOX_FAILED, words);
}

static struct verdict maildir_check(struct maildir *maildir, const char *what,
                                    struct io_result result)
{
    return result.status == IO_OK ? verdict_accept() : verdict_of_disk(maildir, what, result);
}

/* ------------------------------------------------------------------ whose mailbox */

static bool piece_is_safe(struct bytes piece, bool may_be_empty)
{
    if (piece.count == 0)
        return may_be_empty;
    if (piece.count > 255 || piece.at[0] == '.')
        return false;
    for (size_t i = 0; i < piece.count; i++) {
        if (piece.at[i] == '/' || piece.at[i] < 0x20 || piece.at[i] == 0x7f)
            return false;
    }
    return true;
}

struct filler {
    const char *word;
    struct bytes value;
    bool may_be_empty;
};

/* The value that stands for the placeholder at the front of `rest`, or NULL. */
static const struct filler *filler_at(const struct filler *fillers, unsigned count,
                                      struct bytes rest)
{
    for (unsigned i = 0; i < count; i++) {
        if (bytes_starts_with(rest, bytes_of_text(fillers[i].word)))
            return &fillers[i];
    }
    return NULL;
}

/* The path as the setting has it: what the directory says of the user now, what it said when the
 * message came, or the domain's. */
static struct bytes maildir_template(const struct maildir *maildir)
{
    const struct bytes said[] = {maildir->user.deliver,
                                 attempt_recipient(maildir->attempt, maildir->position)->deliver};
    struct config_deliver way;

    for (size_t i = 0; i < COUNT_OF(said); i++)
        if (said[i].count > 0 && config_parse_deliver(said[i], &way) && way.kind == DELIVER_MAILDIR)
            return way.target;
    return maildir->channel->to.via ? maildir->channel->to.via->target : BYTES_EMPTY;
}

static bool maildir_fill_in(const struct maildir *maildir, struct buffer *path)
{
    const struct filler fillers[] = {
        {"{user}", maildir->user.address.local, false},
        {"{domain}", maildir->user.address.domain, false},
        {"{tag}", maildir->user.tag, true},
    };

    for (struct bytes rest = maildir->template; rest.count > 0;) {
        const struct filler *filler = filler_at(fillers, COUNT_OF(fillers), rest);
        if (filler && !piece_is_safe(filler->value, filler->may_be_empty))
            return false;
        if (filler)
            buffer_add(path, filler->value);
        else
            buffer_add_byte(path, rest.at[0]);
        rest = bytes_skip(rest, filler ? strlen(filler->word) : 1);
    }
    return !path->failed && path->count > 0;
}

static struct verdict maildir_locate(struct maildir *maildir)
{
    CLEANUP(buffer_free) struct buffer path = BUFFER_WITH_LIMIT(MAILDIR_PATH_MAX - 1);

    maildir->template = maildir_template(maildir);
    if (!maildir_fill_in(maildir, &path))
        return verdict_with(CAUSE_MAILBOX_MISCONFIGURED,
                            BYTES_LITERAL("the address cannot be part of a path"));
    memcpy(maildir->base, path.at, path.count);
    while (path.count > 1 && path.at[path.count - 1] == '/')
        path.count--;
    maildir->base[path.count] = 0;
    return verdict_accept();
}

/* "1795512345.M0123456789ABCR0.host": the seconds are those of the acceptance, so that the name is
 * the same in every attempt; no slash or colon from the host name gets into it. */
static void maildir_name(struct maildir *maildir)
{
    const struct queued_message *message = maildir->attempt->message;
    char id[ID_TEXT_MAX];

    snprintf(maildir->name, sizeof(maildir->name), "%lld.M%sR%u.%.150s",
             (long long)(message->envelope.accepted_wall_us / (int64_t)US_PER_S),
             id_print(message->id, id, sizeof(id)), maildir->attempt->recipients[maildir->position],
             maildir->channel->deliver->config->hostname);
    for (char *at = maildir->name; *at; at++) {
        if (*at == '/' || *at == ':' || *at == ',' || (unsigned char)*at < 0x21)
            *at = '_';
    }
    snprintf(maildir->tmp, sizeof(maildir->tmp), "%s/tmp/%s", maildir->base, maildir->name);
    snprintf(maildir->final, sizeof(maildir->final), "%s/new/%s", maildir->base, maildir->name);
}

/* ------------------------------------------------------------------ folders */

/* Makes one folder and everything above it that is missing, and makes that durable. */
static struct io_result folder_make(char *path)
{
    struct io_result result = disk_make_directory(path);
    char *slash = strrchr(path, '/');

    if (result.status == IO_FAILED && result.error == ENOENT && slash && slash != path) {
        *slash = 0;
        const struct io_result above = folder_make(path);
        *slash = '/';
        if (above.status != IO_OK)
            return above;
        result = disk_make_directory(path);
    }
    if (result.status != IO_OK || !slash || slash == path)
        return result;
    *slash = 0;
    result = disk_sync_directory(path);
    *slash = '/';
    return result;
}

static struct verdict maildir_make(struct maildir *maildir)
{
    static const char *const FOLDERS[] = {"tmp", "new", "cur"};
    char path[MAILDIR_PATH_MAX + 8];

    for (unsigned i = 0; i < COUNT_OF(FOLDERS); i++) {
        snprintf(path, sizeof(path), "%s/%s", maildir->base, FOLDERS[i]);
        REQUIRE(maildir_check(maildir, FOLDERS[i], folder_make(path)));
    }
    return verdict_accept();
}

/* ------------------------------------------------------------------ folders that are durable */

/* FNV-1a of the exact bytes; never 0. */
static uint64_t mailbox_hash(const char *path)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (; *path; path++)
        hash = (hash ^ (uint8_t)*path) * UINT64_C(0x100000001b3);
    return hash ? hash : 1;
}

/* How much of the path the setting spells out: what is made for a user lies at or below it. */
static size_t maildir_fixed_length(const struct maildir *maildir)
{
    const struct bytes target = maildir->template;
    const struct bytes fixed = bytes_slice(target, 0, bytes_find_byte(target, '{'));

    return MIN_OF(bytes_find_last_byte(fixed, '/'), strlen(maildir->base));
}

/* A folder whose directory has been read only cannot be synced by us, nor was it made by us. */
static struct verdict folder_secure(struct maildir *maildir, const char *path)
{
    const struct io_result synced = disk_sync_directory(path);

    if (synced.status == IO_FAILED && synced.error == EACCES && strcmp(path, maildir->base) != 0)
        return verdict_accept();
    return maildir_check(maildir, "sync", synced);
}

/*
 * That a folder is there does not say that its name is durable: an earlier attempt may have made it
 * and then failed, or died, before the sync. So the first delivery of this process into a mailbox
 * syncs all that was made for its user.
 */
static struct verdict maildir_secure(struct maildir *maildir)
{
    const uint64_t hash = mailbox_hash(maildir->base);
    _Atomic uint64_t *known =
        &maildir->channel->deliver->mailboxes_secured[hash % DELIVER_MAILBOXES];
    const size_t fixed = maildir_fixed_length(maildir);
    char path[MAILDIR_PATH_MAX];

    if (atomic_load(known) == hash)
        return verdict_accept();
    memcpy(path, maildir->base, sizeof path);
    REQUIRE(folder_secure(maildir, path));
    for (char *slash; strlen(path) > fixed && (slash = strrchr(path, '/')) && slash != path;) {
        *slash = 0;
        REQUIRE(folder_secure(maildir, path));
    }
    atomic_store(known, hash);
    return verdict_accept();
}

/* ------------------------------------------------------------------ was it delivered before? */

struct search {
    const char *name;
    size_t length;
    bool found;
};

/* In cur/ a reader has added ":2,FLAGS". */
static bool search_each(void *argument, const char *name)
{
    struct search *search = argument;

    search->found = strncmp(name, search->name, search->length) == 0 &&
                    (name[search->length] == 0 || name[search->length] == ':');
    return !search->found;
}

static struct verdict maildir_search(struct maildir *maildir, bool *found)
{
    struct search search = {.name = maildir->name, .length = strlen(maildir->name)};
    char cur[MAILDIR_PATH_MAX + 8];

    snprintf(cur, sizeof(cur), "%s/cur", maildir->base);
    const struct io_result listed = disk_list(cur, search_each, &search);
    *found = search.found;
    if (listed.status == IO_FAILED && listed.error == ENOENT)
        return verdict_accept();
    return maildir_check(maildir, "cur", listed);
}

static bool maildir_may_be_repeat(const struct maildir *maildir)
{
    const struct queued_message *message = maildir->attempt->message;
    const uint32_t index = maildir->attempt->recipients[maildir->position];

    return message->recipients[index].attempts > 0 ||
           message->envelope.accepted_wall_us < maildir->channel->deliver->opened_wall_us;
}

/* ------------------------------------------------------------------ writing */

static struct verdict maildir_flush(struct maildir *maildir, struct file *file, uint64_t *offset)
{
    struct buffer *out = &maildir->channel->out;
    const struct bytes part = buffer_view(out);

    if (out->failed)
        return verdict_of(CAUSE_LOCAL_FAILED);
    if (part.count == 0)
        return verdict_accept();
    REQUIRE(maildir_check(maildir, "write", file_write_at(file, &part, 1, *offset)));
    *offset += part.count;
    buffer_clear(out);
    return verdict_accept();
}

static struct verdict maildir_write(struct maildir *maildir, struct file *file)
{
    struct buffer *out = &maildir->channel->out;
    const uint64_t size = spool_body_size(maildir->body);
    struct line_ends ends = {0};
    uint64_t written = 0;

    buffer_clear(out);
    local_head_print(out, maildir->attempt, maildir->position);
    for (uint64_t offset = 0; offset < size;) {
        struct bytes piece = BYTES_EMPTY;
        REQUIRE(local_body_read(maildir->channel, maildir->body, offset, &piece));
        local_lines_add(&ends, out, piece);
        offset += piece.count;
        REQUIRE(maildir_flush(maildir, file, &written));
    }
    local_lines_end(&ends, out);
    REQUIRE(maildir_flush(maildir, file, &written));
    return maildir_check(maildir, "sync", file_sync(file));
}

/* Opens tmp/NAME. Folders are made when they turn out to be missing; a leftover of a crash goes. */
static struct verdict maildir_create(struct maildir *maildir, struct file **file)
{
    struct io_result opened = file_open(maildir->tmp, FILE_WRITE | FILE_CREATE | FILE_NEW, file);

    if (opened.status == IO_FAILED && opened.error == ENOENT) {
        REQUIRE(maildir_make(maildir));
        opened = file_open(maildir->tmp, FILE_WRITE | FILE_CREATE | FILE_NEW, file);
    }
    if (opened.status == IO_FAILED && opened.error == EEXIST) {
        REQUIRE(maildir_check(maildir, "tmp", disk_remove(maildir->tmp)));
        opened = file_open(maildir->tmp, FILE_WRITE | FILE_CREATE | FILE_NEW, file);
    }
    return maildir_check(maildir, "tmp", opened);
}

static struct verdict maildir_publish(struct maildir *maildir)
{
    char folder[MAILDIR_PATH_MAX + 8];
    struct io_result renamed = disk_rename(maildir->tmp, maildir->final);

    if (renamed.status == IO_FAILED && renamed.error == ENOENT) {
        REQUIRE(maildir_make(maildir)); /* tmp/ was there, new/ was not */
        renamed = disk_rename(maildir->tmp, maildir->final);
    }
    REQUIRE(maildir_check(maildir, "new", renamed));
    REQUIRE(maildir_secure(maildir));
    snprintf(folder, sizeof(folder), "%s/new", maildir->base);
    return maildir_check(maildir, "new", disk_sync_directory(folder));
}

static struct verdict maildir_store(struct maildir *maildir)
{
    CLEANUP(file_close_ptr) struct file *file = NULL;

    REQUIRE(maildir_create(maildir, &file));
    const struct verdict written = maildir_write(maildir, file);
    if (!verdict_accepts(&written)) {
        const struct io_result removed = disk_remove(maildir->tmp);
        (void)removed; /* a leftover is removed by the next attempt */
        return written;
    }
    return maildir_publish(maildir);
}

static struct verdict maildir_deliver(struct maildir *maildir)
{
    bool there = false;

    REQUIRE(local_user_find(maildir->channel, maildir->attempt, maildir->position, &maildir->user));
    REQUIRE(maildir_locate(maildir));
    maildir_name(maildir);
    if (maildir_may_be_repeat(maildir))
        REQUIRE(maildir_search(maildir, &there));
    if (!there)
        REQUIRE(maildir_store(maildir));
    return verdict_of(CAUSE_DELIVERED);
}

void maildir_attempt(struct deliver_channel *channel, struct attempt *attempt)
{
    CLEANUP(spool_body_close) struct spool_body *body = NULL;
    struct maildir *maildir = ARENA_NEW(attempt->arena, struct maildir);
    const struct verdict opened =
        maildir ? spool_body_open(channel->deliver->spool, attempt->message->id, &body)
                : verdict_of(CAUSE_LOCAL_FAILED);

    snprintf(channel->host, sizeof(channel->host), "%s", channel->to.domain);
    if (!verdict_accepts(&opened)) {
        attempt_fill(attempt, outcome_of_verdict(channel, STAGE_COMMIT, opened));
        return;
    }
    *maildir = (struct maildir){.channel = channel, .attempt = attempt, .body = body};
    for (uint32_t i = 0; i < attempt->recipient_count && !fiber_cancelled(); i++) {
        struct outcome *outcome = &attempt->outcomes[i];
        maildir->position = i;
        maildir->base[0] = 0;
        *outcome = outcome_of_verdict(channel, STAGE_MAILBOX, maildir_deliver(maildir));
        outcome->reply = outcome->verdict.detail;
        outcome->host = arena_copy(attempt->arena, bytes_of_text(maildir->base));
    }
}
