/*
 * A session that logs in by SCRAM-SHA-256, with a client that knows the rules and keeps to those it
 * likes. In only comes who proved to know the password, in this very exchange; whoever did prove it
 * and did nothing else comes in; and no password's proof is repeated in a reply.
 *
 * Input: one octet of options, then the messages of the client, with 0xff between them. In a
 * message 0x01 stands for the nonce that the server made, 0x02 for the proof that fits what was
 * said so far up to here, and 0x03 for the right first message.
 */
#include "../unit/receive_house.h"
#include "fuzz_client.h"
#include "scram_keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { UNKNOWN_USER = 1, FAILING = 2, NO_INITIAL = 4, AS_IT_IS = 8 };
enum { NONCE = 1, PROOF = 2, FIRST = 3, MESSAGES_MAX = 8, PART_END = 0xff };

#define FIRST_MESSAGE "n,,n=u,r=client"

static struct script {
    unsigned options;
    struct bytes messages;
} script;

static struct scram_keys keys;

/* ------------------------------------------------------------------ the directory */

bool __wrap_directory_has_keys(struct directory *directory, struct address address);
bool __wrap_directory_has_keys(struct directory *directory, struct address address)
{
    (void)directory, (void)address;
    return true;
}

struct lookup __wrap_directory_find_scram(struct directory *directory, struct arena *arena,
                                          struct address address, struct directory_scram *scram);
struct lookup __wrap_directory_find_scram(struct directory *directory, struct arena *arena,
                                          struct address address, struct directory_scram *scram)
{
    (void)directory, (void)arena;
    if (script.options & FAILING)
        return lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_LITERAL("away"));
    if (script.options & UNKNOWN_USER || !bytes_equal_text(address.local, "u"))
        return lookup_absent();
    *scram = (struct directory_scram){.iterations = 1,
                                      .salt = BYTES_LITERAL(SCRAM_SALT),
                                      .stored_key = bytes_of(keys.stored, SECRET_KEY_BYTES),
                                      .server_key = bytes_of(keys.server, SECRET_KEY_BYTES)};
    return lookup_found();
}

/* ------------------------------------------------------------------ the client */

struct client {
    struct stream stream;
    struct arena arena;
    struct bytes rest;        /* messages to come */
    struct bytes first, last; /* of ours: the first, and the last that was not empty */
    struct bytes challenge;   /* the server's first */
    struct buffer out, said;
    size_t out_at, heard_at;
    unsigned count;
};

static struct bytes nonce_of(struct bytes challenge)
{
    struct bytes field;

    bytes_cut(challenge, ',', &field);
    return bytes_starts_with(field, BYTES_LITERAL("r=")) ? bytes_skip(field, 2) : BYTES_EMPTY;
}

static struct bytes signed_text(struct client *client, struct bytes final)
{
    return arena_print(&client->arena, "%.*s,%.*s,%.*s", BYTES_PRINT(scram_bare(client->first)),
                       BYTES_PRINT(client->challenge), BYTES_PRINT(final));
}

/* ",p=" is the fuzzer's to say. */
static void add_proof(struct client *client, struct buffer *message)
{
    uint8_t proof[SECRET_KEY_BYTES];

    scram_proof(&keys, signed_text(client, scram_without_proof(buffer_view(message))), proof);
    base64_encode(message, bytes_of(proof, sizeof proof));
}

static void compose(struct client *client, struct bytes template, struct buffer *message)
{
    for (size_t i = 0; i < template.count; i++) {
        if (template.at[i] == NONCE)
            buffer_add(message, nonce_of(client->challenge));
        else if (template.at[i] == PROOF)
            add_proof(client, message);
        else if (template.at[i] == FIRST)
            buffer_add_text(message, FIRST_MESSAGE);
        else
            buffer_add_byte(message, template.at[i]);
    }
}

/* Replies to "334 ": its challenge, and our next message. */
static void client_answers(struct client *client, struct bytes line)
{
    CLEANUP(buffer_free) struct buffer message = BUFFER_WITH_LIMIT(64 * KIB);
    struct bytes template, challenge = BYTES_EMPTY;

    if (line.count > 4 && base64_decode(&client->arena, bytes_skip(line, 4), &challenge) &&
        challenge.count > 0 && client->challenge.count == 0)
        client->challenge = challenge;
    client->rest = bytes_cut(client->rest, PART_END, &template);
    compose(client, template, &message);
    const struct bytes sent = arena_copy(&client->arena, buffer_view(&message));
    if (client->first.count == 0)
        client->first = sent;
    if (sent.count > 0)
        client->last = sent;
    if (script.options & AS_IT_IS)
        buffer_add(&client->out, sent);
    else
        base64_encode(&client->out, sent);
    buffer_add_text(&client->out, "\r\n");
}

static void client_begins(struct client *client)
{
    buffer_add_text(&client->out, "EHLO c.test\r\n");
    buffer_add_text(&client->out, "AUTH SCRAM-SHA-256");
    if (script.options & NO_INITIAL) {
        buffer_add_text(&client->out, "\r\n");
        return;
    }
    buffer_add_text(&client->out, " ");
    client_answers(client, BYTES_EMPTY);
}

static struct io_result client_read(struct stream *stream, struct span into, uint64_t deadline_us)
{
    struct client *client = CONTAINER_OF(stream, struct client, stream);
    const struct bytes ready = bytes_skip(buffer_view(&client->out), client->out_at);
    const size_t count = MIN_OF(ready.count, into.count);

    (void)deadline_us;
    if (count == 0)
        return io_status_only(IO_END);
    memcpy(into.at, ready.at, count);
    client->out_at += count;
    return io_ok(count);
}

static struct io_result client_write(struct stream *stream, struct bytes from, uint64_t deadline_us)
{
    struct client *client = CONTAINER_OF(stream, struct client, stream);
    struct bytes line;

    (void)deadline_us;
    buffer_add(&client->said, from);
    while (bytes_find_byte(bytes_skip(buffer_view(&client->said), client->heard_at), '\n') <
           client->said.count - client->heard_at) {
        bytes_cut(bytes_skip(buffer_view(&client->said), client->heard_at), '\n', &line);
        client->heard_at += line.count + 1;
        if (bytes_starts_with(line, BYTES_LITERAL("334")) && client->count++ < MESSAGES_MAX)
            client_answers(client, bytes_trim(line));
    }
    return io_ok(from.count);
}

/* ------------------------------------------------------------------ what has to hold */

static bool says(const struct client *client, const char *words)
{
    return bytes_find(buffer_view(&client->said), bytes_of_text(words)) < client->said.count;
}

/* The last message has the server's nonce and a proof of the password that covers all of it. */
static bool has_proved(struct client *client)
{
    if (bytes_find_byte(client->last, 0) < client->last.count)
        return false; /* SCRAM has no NUL */

    struct bytes proof = BYTES_EMPTY;
    uint8_t right[SECRET_KEY_BYTES];
    const struct bytes final = scram_without_proof(client->last);
    const struct bytes field = bytes_skip(client->last, final.count + 1);
    const struct bytes nonce =
        arena_print(&client->arena, ",r=%.*s", BYTES_PRINT(nonce_of(client->challenge)));

    if (!bytes_ends_with_nocase(final, nonce) &&
        bytes_find(final, arena_print(&client->arena, "%.*s,", BYTES_PRINT(nonce))) == final.count)
        return false;
    if (!bytes_starts_with(field, BYTES_LITERAL("p=")) ||
        !base64_decode(&client->arena, bytes_skip(field, 2), &proof))
        return false;
    scram_proof(&keys, signed_text(client, final), right);
    return bytes_equal(proof, bytes_of(right, sizeof right));
}

static int fuzz_main(void *unused)
{
    struct client client = {.stream = {.ops = &client_ops},
                            .arena = ARENA_WITH_LIMIT(8 * MIB),
                            .rest = script.messages,
                            .out = BUFFER_WITH_LIMIT(4 * MIB),
                            .said = BUFFER_WITH_LIMIT(4 * MIB)};
    struct receive receive;
    struct guest *guest = NULL;

    (void)unused;
    client.stream.remote = (struct endpoint){
        .family = ENDPOINT_IPV4, .ip = {ENDPOINT_IPV4, {192, 0, 2, 77}}, .port = 4711};
    house_open(&receive);
    client_begins(&client);
    const struct verdict admitted = receive_admit(&receive, &house_listen, &client.stream, &guest);
    INVARIANT(verdict_accepts(&admitted));
    session_run(guest);
    const bool in = says(&client, "\r\n235 ");
    if (in)
        INVARIANT(!(script.options & (UNKNOWN_USER | FAILING)) && has_proved(&client));
    INVARIANT(!(script.options & FAILING) || !says(&client, "\r\n535 "));
    INVARIANT(!says(&client, SCRAM_PASSWORD));
    house_clear();
    buffer_free(&client.out);
    buffer_free(&client.said);
    arena_clear(&client.arena);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct config_domain domain = {.name = "d.test"};
    struct reader reader = READER_OF(bytes_of(data, MIN_OF(size, (size_t)4096)));

    observe_configure(LOG_NONE, LOG_ERROR);
    keys = scram_keys_made();
    house_listen.kind = LISTEN_SUBMISSION;
    house_config.auth.without_tls = house_config.auth.scram = true;
    house_config.auth.failures = 100;
    house_config.domains = &domain;
    house_config.domain_count = 1;
    script.options = reader_u8(&reader);
    script.messages = reader.rest;
    INVARIANT(world_run(fuzz_main, NULL, 1) == 0);
    return 0;
}
