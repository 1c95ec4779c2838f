/*
 * The writer's side of the drop directory (docs/sendmail.md). A file is written under a name that
 * the server does not look at, synced, and renamed. The directory may not be ours to read, so that
 * it cannot be synced by itself: then the whole file system is.
 */
#include "app/drop.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "app/app.h"
#include "receive/receive.h"

#define SYSTEM_DROP "/var/spool/holdfast-drop"
#define SYSTEM_CONFIG "/etc/holdfast/holdfast.conf"
enum { PENDING_BYTES = 64 * 1024, FILES_MOST = 1000, RECIPIENTS_DEFAULT = 100 };

/* ------------------------------------------------------------------ where */

static bool config_is_closed(const char *file)
{
    if (!file)
        file = getenv("HOLDFAST_CONFIG");
    return access(file ? file : SYSTEM_CONFIG, R_OK) != 0 && errno == EACCES;
}

static int directory_find(struct drop_place *place, const char *config_file)
{
    const char *given = getenv("HOLDFAST_DROP");

    if (given || config_is_closed(config_file)) {
        snprintf(place->directory, sizeof place->directory, "%s", given ? given : SYSTEM_DROP);
        return EX_OK;
    }
    struct config *config = app_config_open(config_file);
    if (!config)
        return EX_CONFIG;
    config_drop_path(config->spool, place->directory, sizeof place->directory);
    snprintf(place->origin, sizeof place->origin, "%s", config->hostname);
    config_free(config);
    return EX_OK;
}

/* "DOMAIN MESSAGE_BYTES RECIPIENTS", written by the server when it starts. */
static void origin_read(struct drop_place *place)
{
    char path[1100], line[512] = "";
    struct bytes word, rest;
    uint64_t recipients = 0;

    snprintf(path, sizeof path, "%s/origin", place->directory);
    FILE *file = fopen(path, "re");
    if (!file || !fgets(line, sizeof line, file))
        line[0] = '\0';
    if (file)
        fclose(file);
    rest = bytes_cut(bytes_trim(bytes_of_text(line)), ' ', &word);
    if (domain_is_valid(word))
        snprintf(place->origin, sizeof place->origin, "%.*s", BYTES_PRINT(word));
    rest = bytes_cut(rest, ' ', &word);
    if (!bytes_to_u64(word, &place->message_bytes))
        place->message_bytes = 0;
    if (bytes_to_u64(rest, &recipients) && recipients > 0)
        place->recipients_max = (unsigned)MIN_OF(recipients, (uint64_t)RECIPIENTS_DEFAULT);
}

int drop_place_find(struct drop_place *place, const char *config_file)
{
    *place = (struct drop_place){.recipients_max = RECIPIENTS_DEFAULT};
    const int code = directory_find(place, config_file);

    if (code != EX_OK)
        return code;
    origin_read(place);
    if (place->origin[0] == '\0' && gethostname(place->origin, sizeof place->origin - 1) != 0)
        snprintf(place->origin, sizeof place->origin, "localhost");
    return EX_OK;
}

/* ------------------------------------------------------------------ files */

static int fail(const char *what)
{
    const int error = errno;

    fprintf(stderr, "sendmail: %s: %s\n", what, strerror(error));
    return error == EACCES || error == EPERM ? EX_NOPERM : EX_TEMPFAIL;
}

static void name_make(char *into, size_t room, const struct drop_place *place, const char *prefix)
{
    uint64_t chance[2] = {0};

    /* Nobody may list the directory; that nobody can guess the name keeps a message private. */
    if (getrandom(chance, sizeof chance, 0) != (ssize_t)sizeof chance)
        chance[0] = (uint64_t)getpid();
    snprintf(into, room, "%s/%s%016llx%016llx", place->directory, prefix,
             (unsigned long long)chance[0], (unsigned long long)chance[1]);
}

/* The directory's group is the server's: it may read, and nobody else. */
static int file_make(const char *path)
{
    const int descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (descriptor >= 0 && fchmod(descriptor, 0640) != 0) {
        close(descriptor);
        unlink(path);
        return -1;
    }
    return descriptor;
}

static bool write_all(int descriptor, struct bytes bytes)
{
    while (bytes.count > 0) {
        const ssize_t count = write(descriptor, bytes.at, bytes.count);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return false;
        bytes = bytes_skip(bytes, (size_t)count);
    }
    return true;
}

int drop_begin(struct drop_message *message, const struct drop_place *place)
{
    *message = (struct drop_message){
        .place = place, .descriptor = -1, .pending = BUFFER_WITH_LIMIT(2 * PENDING_BYTES)};
    name_make(message->path, sizeof message->path, place, PICKUP_OPEN);
    message->descriptor = file_make(message->path);
    return message->descriptor < 0 ? fail(place->directory) : EX_OK;
}

static int pending_write(struct drop_message *message)
{
    const bool written = write_all(message->descriptor, buffer_view(&message->pending));

    buffer_clear(&message->pending);
    return written ? EX_OK : fail(message->path);
}

int drop_add(struct drop_message *message, struct bytes piece)
{
    const uint64_t most = message->place->message_bytes;

    message->bytes += piece.count;
    if (most > 0 && message->bytes > most) {
        fprintf(stderr, "sendmail: the message is larger than %llu octets\n",
                (unsigned long long)most);
        return EX_DATAERR;
    }
    while (piece.count > 0) {
        const struct bytes part = bytes_slice(piece, 0, PENDING_BYTES);
        buffer_add(&message->pending, part);
        piece = bytes_skip(piece, part.count);
        if (message->pending.failed)
            return EX_OSERR;
        if (message->pending.count >= PENDING_BYTES) {
            const int code = pending_write(message);
            if (code != EX_OK)
                return code;
        }
    }
    return EX_OK;
}

/* The body behind the envelope. */
static bool copy_body(const struct drop_message *message, int into)
{
    static uint8_t piece[PENDING_BYTES];

    for (uint64_t done = 0; done < message->bytes;) {
        const ssize_t count = pread(message->descriptor, piece, sizeof piece, (off_t)done);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0 || !write_all(into, bytes_of(piece, (size_t)count)))
            return false;
        done += (uint64_t)count;
    }
    return true;
}

static bool write_transaction(const struct drop_message *message, int into,
                              const struct drop_envelope *envelope, unsigned first)
{
    const unsigned last = MIN_OF(first + message->place->recipients_max, envelope->rcpt_count);
    CLEANUP(buffer_free) struct buffer head = BUFFER_WITH_LIMIT(MIB);

    buffer_add(&head, envelope->mail);
    for (unsigned i = first; i < last; i++) {
        buffer_add_text(&head, "\r\n");
        buffer_add(&head, envelope->rcpts[i]);
    }
    buffer_add_text(&head, "\r\nDATA\r\n");
    return !head.failed && write_all(into, buffer_view(&head)) && copy_body(message, into) &&
           fsync(into) == 0;
}

static bool sync_names(const struct drop_message *message)
{
    const int directory = open(message->place->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (directory < 0)
        return syncfs(message->descriptor) == 0;
    const bool synced = fsync(directory) == 0;
    close(directory);
    return synced;
}

struct parts {
    char temporary[FILES_MOST][1200];
    unsigned count;
};

static int write_parts(struct drop_message *message, const struct drop_envelope *envelope,
                       struct parts *parts)
{
    for (unsigned first = 0; first < envelope->rcpt_count;
         first += message->place->recipients_max) {
        if (parts->count == FILES_MOST) {
            fputs("sendmail: too many recipients\n", stderr);
            return EX_USAGE;
        }
        char *path = parts->temporary[parts->count];
        name_make(path, sizeof parts->temporary[0], message->place, PICKUP_OPEN);
        const int into = file_make(path);
        if (into < 0)
            return fail(path);
        parts->count++;
        const bool written = write_transaction(message, into, envelope, first);
        const int code = written ? EX_OK : fail(path);
        close(into);
        if (code != EX_OK)
            return code;
    }
    return EX_OK;
}

/* From the first rename on the message is on its way: a failure after that is told, but a second
 * attempt by the caller may then send it twice. */
static int rename_parts(struct drop_message *message, const struct parts *parts)
{
    char ready[1200];

    for (unsigned i = 0; i < parts->count; i++) {
        name_make(ready, sizeof ready, message->place, PICKUP_READY);
        if (rename(parts->temporary[i], ready) != 0)
            return fail(ready);
    }
    return sync_names(message) ? EX_OK : fail(message->place->directory);
}

int drop_commit(struct drop_message *message, const struct drop_envelope *envelope)
{
    struct parts *parts = calloc(1, sizeof *parts);
    int code = parts ? pending_write(message) : EX_OSERR;

    if (code == EX_OK)
        code = write_parts(message, envelope, parts);
    if (code == EX_OK)
        code = rename_parts(message, parts);
    for (unsigned i = 0; parts && i < parts->count && code != EX_OK; i++)
        unlink(parts->temporary[i]);
    free(parts);
    return code;
}

void drop_abandon(struct drop_message *message)
{
    if (message->descriptor >= 0) {
        close(message->descriptor);
        unlink(message->path);
    }
    message->descriptor = -1;
    buffer_free(&message->pending);
}
