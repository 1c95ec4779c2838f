/*
 * A spool whose files were damaged while the server was down: segments, the index, the names. It
 * opens, or it says why not; what it hands out is a message that was put there, with its own body;
 * and it takes new mail that is there at the next start.
 *
 * Input: damages of eight octets: which file (one octet), what is done to it (one), where (four),
 * with what (two).
 */
#include <string.h>

#include "sim/sim.h"
#include "spool/spool.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LETTERS = 6, FILES_MOST = 24, FILE_ROOM = 96, DAMAGES_MOST = 12, BIG = 40000 };

static const struct spool_settings settings = {
    .directory = "/spool", .segment_bytes = 256 * 1024, .inline_body_bytes = 4096};

/* The spool as it was left. */
static struct {
    char path[FILE_ROOM];
    struct buffer content;
} files[FILES_MOST];
static unsigned file_count;

/* ------------------------------------------------------------------ what was put there */

static void letter_print(unsigned number, struct buffer *body)
{
    buffer_print(body, "Subject: letter %u\r\n\r\n", number);
    for (unsigned i = 0; body->count < (number % 3 == 2 ? BIG : 200U); i++)
        buffer_print(body, "line %u of letter %u\r\n", i, number);
}

static bool letter_put(struct spool *spool, unsigned number)
{
    CLEANUP(buffer_free) struct buffer body = BUFFER_WITH_LIMIT(MIB);
    CLEANUP(spool_draft_close) struct spool_draft *draft = spool_draft_open(spool);
    struct recipient to[2] = {{.address = {BYTES_LITERAL("a"), BYTES_LITERAL("one.example")}},
                              {.address = {BYTES_LITERAL("b"), BYTES_LITERAL("two.example")}}};
    const struct envelope envelope = {.from = {BYTES_LITERAL("s"), BYTES_LITERAL("here.example")},
                                      .recipients = to,
                                      .recipient_count = 2,
                                      .accepted_wall_us = clock_wall_us()};
    const struct spool_commit_options options = {.deadline_us = deadline_in(60 * US_PER_S)};
    struct spool_receipt receipt = {0};

    letter_print(number, &body);
    INVARIANT(draft != NULL);
    const struct verdict written = spool_draft_write(draft, buffer_view(&body));
    if (!verdict_accepts(&written))
        return false;
    const struct verdict committed = spool_commit(draft, &envelope, &options, &receipt);
    INVARIANT(receipt.durable == verdict_accepts(&committed));
    return receipt.durable;
}

static bool message_settle(struct spool *spool, struct queued_message *message, unsigned recipient)
{
    const struct settlement settlement = {.recipient = recipient, .state = RECIPIENT_DELIVERED};
    const struct settlement_group group = {.settlements = &settlement, .count = 1};
    const struct verdict settled = spool_settle(spool, message, &group);

    return verdict_accepts(&settled);
}

/* Six messages: one has ended, one has one recipient left, one is held. */
static int prepare(void *unused)
{
    struct spool *spool = NULL;
    struct queued_message *list = NULL;
    char why[256];

    (void)unused;
    INVARIANT(spool_open(&settings, &spool, why, sizeof why));
    for (unsigned i = 0; i < LETTERS; i++)
        INVARIANT(letter_put(spool, i));
    INVARIANT(spool_take(spool, 3, deadline_in(US_PER_S), &list) == IO_OK);
    for (unsigned i = 0; list; i++) {
        struct queued_message *message = list;
        const uint64_t id = message->id;
        list = message->next;
        INVARIANT(i > 1 || message_settle(spool, message, 0));
        INVARIANT(i > 0 || message_settle(spool, message, 1));
        spool_release(spool, message);
        if (i == 2)
            INVARIANT(spool_hold(spool, id, true, BYTES_LITERAL("why")).status == LOOKUP_FOUND);
    }
    spool_close(spool);
    return 0;
}

static void file_keep(void *folder, const char *name)
{
    char path[FILE_ROOM];

    snprintf(path, sizeof path, "%s/%s", (const char *)folder, name);
    const struct bytes content = sim_disk_get(path);
    if (content.count == 0 || file_count == FILES_MOST)
        return;
    snprintf(files[file_count].path, FILE_ROOM, "%s", path);
    files[file_count].content = BUFFER_WITH_LIMIT(4 * MIB);
    buffer_add(&files[file_count++].content, content);
}

static void prepare_once(void)
{
    static char folders[][FILE_ROOM] = {"/spool", "/spool/log", "/spool/body"};

    sim_open(7);
    INVARIANT(world_run(prepare, NULL, 1) == 0);
    for (size_t i = 0; i < COUNT_OF(folders); i++)
        sim_disk_each(folders[i], file_keep, folders[i]);
    INVARIANT(file_count > 3);
    sim_close();
}

/* ------------------------------------------------------------------ damage */

enum damage { FLIP, ZERO, CUT, GONE, FILL, OTHER_FILE, APPEND, DAMAGE_KINDS };

static void damage_one(struct buffer *content, enum damage kind, size_t at, unsigned value)
{
    const size_t end = MIN_OF(at + value % 512 + 1, content->count);

    switch (kind) {
    case FLIP:
        content->at[at] ^= (uint8_t)(1U << value % 8);
        break;
    case ZERO:
        memset(content->at + at, 0, end - at);
        break;
    case FILL:
        memset(content->at + at, (int)(value & 0xff), MIN_OF(end - at, (size_t)8));
        break;
    case CUT:
        content->count = at;
        break;
    case OTHER_FILE: {
        const struct buffer *other = &files[value % file_count].content;
        memcpy(content->at, other->at, MIN_OF(content->count, other->count));
        break;
    }
    case APPEND:
        for (unsigned i = 0; i <= value % 64; i++)
            buffer_add_byte(content, (uint8_t)(value >> 8));
        break;
    case GONE:
    case DAMAGE_KINDS:
        break;
    }
}

static void disk_fill(struct bytes damages)
{
    bool gone[FILES_MOST] = {false};
    struct buffer copies[FILES_MOST];

    for (unsigned i = 0; i < file_count; i++) {
        copies[i] = BUFFER_WITH_LIMIT(4 * MIB);
        buffer_add(&copies[i], buffer_view(&files[i].content));
    }
    struct reader reader = READER_OF(damages);
    for (unsigned i = 0; i < DAMAGES_MOST; i++) {
        const unsigned file = reader_u8(&reader) % file_count;
        const enum damage kind = (enum damage)(reader_u8(&reader) % DAMAGE_KINDS);
        const uint32_t at = reader_u32(&reader);
        const unsigned value = reader_u16(&reader);
        if (reader.failed)
            break;
        gone[file] = gone[file] || kind == GONE;
        if (copies[file].count > 0)
            damage_one(&copies[file], kind, at % copies[file].count, value);
    }
    sim_disk_make_directory("/spool/log");
    for (unsigned i = 0; i < file_count; i++) {
        if (!gone[i])
            sim_disk_put(files[i].path, buffer_view(&copies[i]));
        buffer_free(&copies[i]);
    }
}

/* ------------------------------------------------------------------ what comes of it */

static bool is_a_letter(struct bytes body)
{
    for (unsigned i = 0; i <= LETTERS; i++) {
        CLEANUP(buffer_free) struct buffer letter = BUFFER_WITH_LIMIT(MIB);
        letter_print(i, &letter);
        if (bytes_equal(body, buffer_view(&letter)))
            return true;
    }
    return false;
}

static void body_check(struct spool *spool, uint64_t id)
{
    CLEANUP(spool_body_close) struct spool_body *body = NULL;
    static uint8_t room[2 * BIG];
    const struct verdict opened = spool_body_open(spool, id, &body);

    if (!verdict_accepts(&opened)) {
        INVARIANT(cause_row(opened.cause)->side == SIDE_OURS);
        return;
    }
    const struct io_result read = spool_body_read(body, (struct span){room, sizeof room}, 0);
    INVARIANT(read.status != IO_OK || read.count > sizeof room / 2 + 1000 ||
              read.count < spool_body_size(body) || is_a_letter(bytes_of(room, read.count)));
}

static unsigned drain(struct spool *spool)
{
    struct queued_message *list = NULL;
    unsigned count = 0;

    while (spool_take(spool, 1, deadline_in(US_PER_S), &list) == IO_OK && list) {
        struct queued_message *message = list;
        INVARIANT(message->envelope.recipient_count == 2 && count++ <= LETTERS);
        body_check(spool, message->id);
        const bool settled = message_settle(spool, message, 0) && message_settle(spool, message, 1);
        spool_release(spool, message);
        if (!settled)
            break;
    }
    return count;
}

static int revive(void *unused)
{
    struct spool *spool = NULL;
    char why[256] = "";

    (void)unused;
    if (!spool_open(&settings, &spool, why, sizeof why)) {
        INVARIANT(why[0] && !spool);
        return 1;
    }
    drain(spool);
    const bool put = letter_put(spool, LETTERS);
    spool_close(spool);
    return put ? 0 : 1;
}

/* Whatever was damaged, what was acknowledged afterwards is there. */
static int look_again(void *unused)
{
    struct spool *spool = NULL;
    char why[256] = "";

    (void)unused;
    INVARIANT(spool_open(&settings, &spool, why, sizeof why));
    INVARIANT(drain(spool) >= 1);
    spool_close(spool);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (file_count == 0) {
        observe_configure(LOG_NONE, LOG_ERROR);
        prepare_once();
    }
    sim_open(size);
    disk_fill(bytes_of(data, size));
    const int revived = world_run(revive, NULL, 1);
    INVARIANT(revived == 0 || revived == 1);
    if (revived == 0)
        INVARIANT(world_run(look_again, NULL, 1) == 0);
    sim_close();
    return 0;
}
