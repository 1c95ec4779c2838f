/*
 * A session that goes from clear to TLS, with anything before and behind STARTTLS. What was said in
 * clear counts for nothing afterwards: the replies within TLS and the messages taken there are the
 * same as if nothing had been said before. A handshake that is none ends the session, and not one
 * word more is said or heard in clear.
 *
 * Input: one octet of options, the lengths of what is said in clear and of what is put behind
 * STARTTLS (two octets each), those two, and what is said within TLS, in parts with 0xff between
 * them. Or, by an option, what comes instead of a handshake.
 */
#include "../unit/receive_house.h"
#include "fuzz_client.h"
#include "tls_peer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NO_HANDSHAKE = 1, SUBMISSION = 2, IN_PIECES = 4, OLDER_TLS = 8, PART_END = 0xff };

#define READY "220 2.0.0 Ready to start TLS\r\n"

static struct script {
    struct bytes clear, injected, inside;
    unsigned options;
} script;

struct client {
    struct stream stream;
    struct bytes clear, inside;
    size_t clear_at;
    bool ready; /* the server said so */
    struct tls_peer tls;
    struct buffer said_clear, said_after, heard; /* by the server: before, raw, within TLS */
    unsigned stored_before;
};

/* Nobody gets in. */
bool __wrap_directory_has_keys(struct directory *directory, struct address address);
bool __wrap_directory_has_keys(struct directory *directory, struct address address)
{
    (void)directory, (void)address;
    return false;
}

struct lookup __wrap_directory_check_password(struct directory *directory, struct arena *arena,
                                              const struct directory_credentials *credentials,
                                              struct directory_user *user);
struct lookup __wrap_directory_check_password(struct directory *directory, struct arena *arena,
                                              const struct directory_credentials *credentials,
                                              struct directory_user *user)
{
    (void)directory, (void)arena, (void)credentials, (void)user;
    return lookup_absent();
}

static SSL_CTX *client_context;
static struct tls_context *server_context;

static size_t take(struct bytes *from, struct span into)
{
    const size_t count =
        MIN_OF(MIN_OF(from->count, into.count), script.options & IN_PIECES ? (size_t)1 : SIZE_MAX);

    if (count > 0)
        memcpy(into.at, from->at, count);
    *from = bytes_skip(*from, count);
    return count;
}

static size_t client_read_secured(struct client *client, struct span into)
{
    size_t count = tls_peer_take(&client->tls, into);

    while (count == 0 && client->tls.shaken && client->inside.count > 0) {
        struct bytes part;
        client->inside = bytes_cut(client->inside, PART_END, &part);
        tls_peer_say(&client->tls, part);
        count = tls_peer_take(&client->tls, into);
    }
    return count;
}

static struct io_result client_read(struct stream *stream, struct span into, uint64_t deadline_us)
{
    struct client *client = CONTAINER_OF(stream, struct client, stream);
    size_t count;

    (void)deadline_us;
    if (!client->ready)
        count = take(&client->clear, into);
    else if (client->tls.ssl)
        count = client_read_secured(client, into);
    else
        count = take(&client->inside, into);
    return count > 0 ? io_ok(count) : io_status_only(IO_END);
}

static void client_becomes_ready(struct client *client)
{
    client->ready = true;
    client->stored_before = house.stored_count;
    house.last_id = 0; /* the ids that are told do not depend on what was before */
    if (script.options & NO_HANDSHAKE)
        return;
    tls_peer_open(&client->tls, client_context, false);
    if (script.options & OLDER_TLS)
        SSL_set_max_proto_version(client->tls.ssl, TLS1_2_VERSION);
    tls_peer_hear(&client->tls, BYTES_EMPTY, &client->heard);
}

static struct io_result client_write(struct stream *stream, struct bytes from, uint64_t deadline_us)
{
    struct client *client = CONTAINER_OF(stream, struct client, stream);

    (void)deadline_us;
    if (client->tls.ssl) {
        tls_peer_hear(&client->tls, from, &client->heard);
        return io_ok(from.count);
    }
    buffer_add(client->ready ? &client->said_after : &client->said_clear, from);
    const struct bytes said = buffer_view(&client->said_clear);
    if (!client->ready && bytes_ends_with_nocase(said, BYTES_LITERAL("\r\n" READY)))
        client_becomes_ready(client);
    return io_ok(from.count);
}

/* ------------------------------------------------------------------ a session */

struct seen {
    struct buffer replies, stored;
    bool secured;
};

static void check_refused_handshake(const struct client *client)
{
    INVARIANT(house.stored_count == client->stored_before);
    /* At most an alert, which is no SMTP. */
    INVARIANT(client->said_after.count == 0 || client->said_after.at[0] < ' ');
}

static struct seen play(struct bytes clear)
{
    struct client client = {.stream = {.ops = &client_ops},
                            .clear = clear,
                            .inside = script.inside,
                            .said_clear = BUFFER_WITH_LIMIT(16 * MIB),
                            .said_after = BUFFER_WITH_LIMIT(16 * MIB),
                            .heard = BUFFER_WITH_LIMIT(16 * MIB)};
    struct seen seen = {.stored = BUFFER_WITH_LIMIT(64 * MIB)};
    struct receive receive;
    struct guest *guest = NULL;

    client.stream.remote = (struct endpoint){
        .family = ENDPOINT_IPV4, .ip = {ENDPOINT_IPV4, {192, 0, 2, 77}}, .port = 4711};
    house_open(&receive);
    receive.settings.tls = server_context;
    const struct verdict admitted = receive_admit(&receive, &house_listen, &client.stream, &guest);
    INVARIANT(verdict_accepts(&admitted));
    session_run(guest);
    INVARIANT(house.drafts_open == 0 && receive_session_count(&receive) == 0);
    seen.secured = client.tls.ssl && client.tls.shaken;
    if (client.ready && !seen.secured)
        check_refused_handshake(&client);
    for (unsigned i = client.stored_before; seen.secured && i < house.stored_count; i++) {
        buffer_add(&seen.stored, buffer_view(&house.envelopes[i]));
        buffer_add(&seen.stored, bytes_skip(buffer_view(&house.stored[i]), house.front_count[i]));
    }
    seen.replies = client.heard;
    house_clear();
    tls_peer_close(&client.tls);
    buffer_free(&client.said_clear);
    buffer_free(&client.said_after);
    return seen;
}

static void seen_free(struct seen *seen)
{
    buffer_free(&seen->replies);
    buffer_free(&seen->stored);
}

static int fuzz_main(void *unused)
{
    CLEANUP(buffer_free) struct buffer clear = BUFFER_WITH_LIMIT(MIB);

    (void)unused;
    buffer_add(&clear, script.clear);
    buffer_add_text(&clear, "STARTTLS\r\n");
    buffer_add(&clear, script.injected);
    struct seen after = play(buffer_view(&clear));
    if (after.secured) {
        struct seen alone = play(BYTES_LITERAL("EHLO c.test\r\nSTARTTLS\r\n"));
        INVARIANT(alone.secured);
        INVARIANT(bytes_equal(buffer_view(&after.replies), buffer_view(&alone.replies)));
        INVARIANT(bytes_equal(buffer_view(&after.stored), buffer_view(&alone.stored)));
        seen_free(&alone);
    }
    seen_free(&after);
    return 0;
}

static void prepare(void)
{
    char why[200];

    observe_configure(LOG_NONE, LOG_ERROR);
    tls_peer_prepare();
    client_context = tls_peer_client();
    server_context = tls_context_server(tls_peer_certificate, tls_peer_key, why, sizeof why);
    INVARIANT(server_context != NULL);
    tls_peer_tidy();
    house_config.limits.errors = house_config.auth.failures = 100000;
    house_config.tls_certificate = "there is one";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader reader = READER_OF(bytes_of(data, MIN_OF(size, (size_t)8192)));

    if (!server_context)
        prepare();
    script.options = reader_u8(&reader);
    const size_t clear = reader_u16(&reader), injected = reader_u16(&reader);
    if (reader.failed)
        return 0;
    script.clear = bytes_slice(reader.rest, 0, clear);
    reader.rest = bytes_skip(reader.rest, script.clear.count);
    script.injected = bytes_slice(reader.rest, 0, injected);
    script.inside = bytes_skip(reader.rest, script.injected.count);
    house_listen.kind = script.options & SUBMISSION ? LISTEN_SUBMISSION : LISTEN_SMTP;
    INVARIANT(world_run(fuzz_main, NULL, 1) == 0);
    return 0;
}
