/*
 * A session over a byte array, with a spool and a policy that do as the test says. What is linked
 * here takes the place of those two rooms.
 */
#ifndef TESTS_RECEIVE_HOUSE_H
#define TESTS_RECEIVE_HOUSE_H

#include <string.h>

#include "memory_stream.h"
#include "receive/session.h"

/* ------------------------------------------------------------------ what the rooms answer */

enum { STORED_MAX = 256, EVENTS_MAX = 256 };

static struct house {
    enum cause welcome, connect, sender, recipient, judge, judge_sender, admits, write,
        commit;         /* UNDECIDED: accept */
    unsigned admits_at; /* only the so-many-th question meets `admits`; 0: each */
    unsigned admits_asked;
    uint64_t write_fails_after; /* bytes of the draft before `write` strikes */
    bool hold, discard;
    const char *headers; /* that policy adds */
    struct buffer stored[STORED_MAX];
    struct buffer envelopes[STORED_MAX]; /* "from>to,to," */
    size_t front_count[STORED_MAX];      /* what was put in front of what was received */
    unsigned stored_count, drafts_open;
    uint64_t last_id;
    int sending; /* sessions between 354 and the dot */
    struct {
        enum event_kind kind;
        enum stage stage;
        enum cause cause;
        unsigned code;
        char from[64], to[64];
    } events[EVENTS_MAX];
    unsigned event_count;
} house;

static struct verdict house_says(enum cause cause)
{
    return cause == CAUSE_UNDECIDED ? verdict_accept() : verdict_of(cause);
}

struct verdict policy_connect(struct policy *policy, struct client_facts *client)
{
    (void)policy;
    if (client->arena) /* what it keeps of a client */
        arena_copy(client->arena, BYTES_LITERAL("as its name"));
    return house_says(house.connect);
}

struct verdict policy_welcome(struct policy *policy, struct arena *arena, struct bytes *filter)
{
    (void)policy;
    (void)arena;
    (void)filter;
    return house_says(house.welcome);
}

struct verdict policy_unknown(struct policy *policy, struct client_facts *client,
                              struct arena *arena, struct bytes line)
{
    (void)policy;
    (void)client;
    (void)arena;
    (void)line;
    return verdict_accept();
}

struct verdict policy_sender(struct policy *policy, struct transaction *transaction,
                             struct address from)
{
    (void)policy;
    (void)transaction;
    (void)from;
    return house_says(house.sender);
}

void policy_client_end(struct client_facts *client)
{
    (void)client;
}

void policy_transaction_end(struct transaction *transaction)
{
    (void)transaction;
}

struct verdict policy_body_begin(struct transaction *transaction)
{
    (void)transaction;
    return verdict_accept();
}

bool policy_body_add(struct transaction *transaction, struct bytes piece, struct bytes *kept)
{
    (void)transaction;
    *kept = piece;
    return true;
}

bool policy_body_end(struct transaction *transaction, struct bytes *kept)
{
    (void)transaction;
    *kept = BYTES_EMPTY;
    return true;
}

#define GREETING "EHLO c.test\r\n"
#define ENVELOPE "MAIL FROM:<a@b.test>\r\nRCPT TO:<u@rcpt.test>\r\n"

/* Those of second.test are of another class than all others. */
static struct verdict house_class(struct transaction *transaction,
                                  const struct recipient *recipient)
{
    static uint8_t commands[1024];
    const struct envelope *envelope = &transaction->envelope;
    const uint8_t which = bytes_equal_text(recipient->address.domain, "second.test") ? 1 : 0;

    if (envelope->recipient_count > 0 && transaction->replies == REPLY_TO_ALL &&
        envelope->recipients[0].policy_class != which)
        return verdict_of(CAUSE_RECIPIENT_OTHER_CLASS);
    transaction->class_now = which;
    transaction->class_count = MAX_OF(transaction->class_count, which + 1u);
    transaction->command_classes = commands;
    commands[transaction->accepted_commands % sizeof commands] = which;
    return verdict_accept();
}

/* "nobody" and names with a percent sign are unknown here, other.test is somewhere else, and
 * everyone else is somebody. */
struct verdict policy_recipient(struct policy *policy, struct transaction *transaction,
                                const struct recipient *recipient)
{
    struct envelope *envelope = &transaction->envelope;

    (void)policy;
    const struct address to = recipient->address;
    if (bytes_equal_text(to.local, "nobody") || bytes_find_byte(to.local, '%') < to.local.count)
        return verdict_of(CAUSE_RECIPIENT_UNKNOWN);
    if (bytes_equal_text(to.domain, "other.test"))
        return verdict_of(CAUSE_RELAY_DENIED);
    REQUIRE(house_says(house.recipient));
    REQUIRE(house_class(transaction, recipient));
    if (envelope->recipient_count == transaction->recipient_room) {
        struct recipient *grown = ARENA_NEW_ARRAY(
            transaction->arena, transaction->recipient_room * 2 + 4, struct recipient);
        if (!grown)
            return verdict_of(CAUSE_SERVER_BUSY);
        for (uint32_t i = 0; i < envelope->recipient_count; i++)
            grown[i] = envelope->recipients[i];
        envelope->recipients = grown;
        transaction->recipient_room = transaction->recipient_room * 2 + 4;
    }
    envelope->recipients[envelope->recipient_count] = *recipient;
    envelope->recipients[envelope->recipient_count++].policy_class = transaction->class_now;
    return verdict_accept();
}

struct verdict policy_judge_sender(struct policy *policy, struct transaction *transaction,
                                   const struct policy_message *message)
{
    (void)policy;
    (void)message;
    buffer_add_text(transaction->headers, "X-Sender: judged\r\n");
    return house_says(house.judge_sender);
}

/* `judge` speaks of the second class. */
struct verdict policy_judge_class(struct policy *policy, struct transaction *transaction,
                                  const struct policy_message *message, uint8_t which)
{
    (void)policy;
    (void)message;
    buffer_print(transaction->headers, "X-Class: %u\r\n", which);
    return which == 1 ? house_says(house.judge) : verdict_accept();
}

struct verdict policy_judge(struct policy *policy, struct transaction *transaction,
                            const struct policy_message *message)
{
    (void)policy;
    (void)message;
    transaction->disposition = house.hold      ? DISPOSITION_HOLD
                               : house.discard ? DISPOSITION_DISCARD
                                               : DISPOSITION_DELIVER;
    if (house.headers)
        buffer_add_text(transaction->headers, house.headers);
    return house_says(house.judge);
}

/* ------------------------------------------------------------------ the spool */

struct spool_draft {
    struct buffer body, front;
    uint64_t id;
};

struct verdict spool_admits(const struct spool *spool, uint64_t declared_bytes)
{
    (void)spool;
    (void)declared_bytes;
    house.admits_asked++;
    return house_says(house.admits_at == 0 || house.admits_at == house.admits_asked
                          ? house.admits
                          : CAUSE_UNDECIDED);
}

struct spool_draft *spool_draft_open(struct spool *spool)
{
    struct spool_draft *draft = calloc(1, sizeof *draft);

    (void)spool;
    INVARIANT(draft != NULL);
    draft->body = draft->front = BUFFER_WITH_LIMIT(64 * MIB);
    draft->id = ++house.last_id;
    house.drafts_open++;
    return draft;
}

uint64_t spool_draft_id(const struct spool_draft *draft)
{
    return draft->id;
}

struct verdict spool_draft_write(struct spool_draft *draft, struct bytes bytes)
{
    if (draft->body.count + bytes.count > house.write_fails_after)
        REQUIRE(house_says(house.write));
    buffer_add(&draft->body, bytes);
    return verdict_accept();
}

struct verdict spool_draft_prepend(struct spool_draft *draft, struct bytes bytes)
{
    struct buffer whole = BUFFER_WITH_LIMIT(64 * MIB);

    buffer_add(&whole, bytes);
    buffer_add(&whole, buffer_view(&draft->front));
    buffer_free(&draft->front);
    draft->front = whole;
    return verdict_accept();
}

uint64_t spool_draft_size(const struct spool_draft *draft)
{
    return draft->body.count;
}

struct io_result spool_draft_read(struct spool_draft *draft, struct span into, uint64_t offset)
{
    const struct bytes piece = bytes_slice(buffer_view(&draft->body), offset, into.count);

    if (piece.count > 0)
        memcpy(into.at, piece.at, piece.count);
    return io_ok(piece.count);
}

struct bytes spool_draft_head(const struct spool_draft *draft)
{
    return bytes_slice(buffer_view(&draft->body), 0, 256 * KIB);
}

void spool_draft_close(struct spool_draft **draft)
{
    if (!*draft)
        return;
    buffer_free(&(*draft)->body);
    buffer_free(&(*draft)->front);
    free(*draft);
    *draft = NULL;
    house.drafts_open--;
}

struct verdict spool_commit(struct spool_draft *draft, const struct envelope *envelope,
                            const struct spool_commit_options *options,
                            struct spool_receipt *receipt)
{
    struct buffer *body = &house.stored[house.stored_count];
    struct buffer *names = &house.envelopes[house.stored_count];

    REQUIRE(house_says(house.commit));
    INVARIANT(house.stored_count < STORED_MAX && options->discard == house.discard &&
              envelope->held == house.hold);
    house.stored_count++;
    *body = *names = BUFFER_WITH_LIMIT(64 * MIB);
    buffer_add(body, buffer_view(&draft->front));
    house.front_count[house.stored_count - 1] = draft->front.count;
    buffer_add(body, buffer_view(&draft->body));
    address_print(names, envelope->from);
    buffer_add_byte(names, '>');
    for (uint32_t i = 0; i < envelope->recipient_count; i++) {
        address_print(names, envelope->recipients[i].address);
        buffer_add_byte(names, ',');
    }
    *receipt = (struct spool_receipt){.message = draft->id, .durable = true};
    return verdict_accept();
}

size_t spool_marks(const struct spool *spool, const struct spool_mark **marks)
{
    (void)spool;
    *marks = NULL;
    return 0;
}

uint64_t spool_secret(const struct spool *spool)
{
    (void)spool;
    return 1;
}

void spool_session_sending(struct spool *spool, bool sending)
{
    (void)spool;
    house.sending += sending ? 1 : -1;
}

/* ------------------------------------------------------------------ running a session */

static void house_keep(char into[64], struct bytes text)
{
    snprintf(into, 64, "%.*s", BYTES_PRINT(text));
}

static inline void house_event(void *argument, const struct event *event)
{
    (void)argument;
    if (house.event_count == EVENTS_MAX)
        return;
    house.events[house.event_count].kind = event->kind;
    house.events[house.event_count].stage = event->stage;
    house.events[house.event_count].cause = event->verdict.cause;
    house.events[house.event_count].code = event->code;
    house_keep(house.events[house.event_count].from, event->from);
    house_keep(house.events[house.event_count].to, event->to);
    house.event_count++;
}

/* Events of a kind; the last one's place in *at when that is not NULL. */
static inline unsigned house_events(enum event_kind kind, unsigned *at)
{
    unsigned count = 0;

    for (unsigned i = 0; i < house.event_count; i++) {
        if (house.events[i].kind != kind)
            continue;
        count++;
        if (at)
            *at = i;
    }
    return count;
}

static void house_clear(void)
{
    for (unsigned i = 0; i < house.stored_count; i++) {
        buffer_free(&house.stored[i]);
        buffer_free(&house.envelopes[i]);
    }
    memset(&house, 0, sizeof house);
}

static struct config house_config = {
    .hostname = "mx.test",
    .tls_certificate = "",
    .limits = {.message_size = 1000,
               .recipients = 3,
               .connections = 10,
               .connections_per_client = 2,
               .hops = 5,
               .errors = 4,
               .command_timeout_us = 300 * US_PER_S,
               .data_timeout_us = 300 * US_PER_S,
               .after_dot_us = 50 * US_PER_S},
};
static struct config_listen house_listen = {.name = "smtp", .tls = TLS_MODE_STARTTLS};

static inline void house_open(struct receive *receive)
{
    *receive = (struct receive){.settings = {.config = &house_config}};
    pthread_mutex_init(&receive->lock, NULL);
}

/* Plays the stream's input to a session; what it said is in stream->written. */
static inline void house_play(struct receive *receive, struct memory_stream *stream)
{
    struct guest *guest = NULL;
    const struct verdict admitted = receive_admit(receive, &house_listen, &stream->stream, &guest);

    INVARIANT(verdict_accepts(&admitted));
    session_run(guest);
    INVARIANT(house.drafts_open == 0 && house.sending == 0 && receive_session_count(receive) == 0);
}

#endif
