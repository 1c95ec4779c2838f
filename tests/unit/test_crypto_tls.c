/* TLS between two fibers over loopback: what works, and every way in which it must fail. */
#include "world_check.h"

#include <fcntl.h>
#include <ftw.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/crypto.h"
#include "memory_stream.h"

static char folder[] = "/tmp/holdfast-tls-XXXXXX";
static char certificate[100], key[100], other_certificate[100], other_key[100];
static struct tls_context *server_context, *client_context;

/* ------------------------------------------------------------------ a stream that can fall silent
 */

struct mutable_stream {
    struct stream stream;
    struct stream *below;
    bool mute; /* what is written is lost, as by a cut of the wire that only an attacker sees */
};

static struct io_result mutable_read(struct stream *stream, struct span into, uint64_t deadline_us)
{
    return stream_read(CONTAINER_OF(stream, struct mutable_stream, stream)->below, into,
                       deadline_us);
}

static struct io_result mutable_write(struct stream *stream, struct bytes from,
                                      uint64_t deadline_us)
{
    struct mutable_stream *mutable = CONTAINER_OF(stream, struct mutable_stream, stream);

    return mutable->mute ? io_ok(from.count) : stream_write(mutable->below, from, deadline_us);
}

static struct io_result mutable_wait(struct stream *stream, uint64_t deadline_us)
{
    return stream_wait_readable(CONTAINER_OF(stream, struct mutable_stream, stream)->below,
                                deadline_us);
}

static void mutable_close(struct stream *stream, bool reset)
{
    struct mutable_stream *mutable = CONTAINER_OF(stream, struct mutable_stream, stream);

    if (reset)
        stream_reset(mutable->below);
    else
        stream_close(mutable->below);
}

static const struct stream_ops MUTABLE_OPS = {.read = mutable_read,
                                              .write = mutable_write,
                                              .wait_readable = mutable_wait,
                                              .close = mutable_close};

/* ------------------------------------------------------------------ two ends */

enum ending { END_ORDERLY, END_SILENT, END_RESET };

struct peer {
    struct stream *stream;
    struct mutable_stream mutable;
    bool client;       /* handshakes as client */
    const char *first; /* plain text before the handshake, or NULL */
    const char *say;   /* after the handshake; NULL: echo until the end */
    enum ending ending;
    struct io_result shaken;
    struct tls_facts facts;
    struct gate done;
};

static void peer_echo(struct stream *stream)
{
    uint8_t memory[5000];
    struct io_result got;

    for (;;) {
        CHECK(stream_wait_readable(stream, SOON_ENOUGH).status == IO_OK);
        got = stream_read(stream, (struct span){memory, sizeof memory}, SOON_ENOUGH);
        if (got.status != IO_OK)
            break;
        CHECK(stream_write(stream, bytes_of(memory, got.count), SOON_ENOUGH).status == IO_OK);
    }
    CHECK(got.status == IO_END);
}

static void peer_main(void *argument)
{
    struct peer *peer = argument;

    if (peer->first)
        CHECK(stream_write(peer->stream, bytes_of_text(peer->first), SOON_ENOUGH).status == IO_OK);
    peer->mutable = (struct mutable_stream){
        .stream = {.ops = &MUTABLE_OPS, .remote = peer->stream->remote}, .below = peer->stream};
    struct stream *stream = &peer->mutable.stream;
    peer->shaken = peer->client
                       ? tls_connect(client_context, NULL, &stream, SOON_ENOUGH, &peer->facts)
                       : tls_accept(server_context, &stream, SOON_ENOUGH, &peer->facts);
    CHECK((stream != NULL) == (peer->shaken.status == IO_OK));
    if (stream && peer->say)
        CHECK(stream_write(stream, bytes_of_text(peer->say), SOON_ENOUGH).status == IO_OK);
    else if (stream)
        peer_echo(stream);
    peer->mutable.mute = peer->ending == END_SILENT;
    if (stream && peer->ending == END_RESET)
        stream_reset(stream);
    else
        stream_close(stream);
    gate_pass(&peer->done);
}

/* Our end of a connection whose other end is `peer`, already at work. */
static struct stream *connect_to(struct peer *peer)
{
    struct endpoint at = {0};
    struct listener *listener = NULL;
    struct stream *stream = NULL;

    CHECK(endpoint_parse(BYTES_LITERAL("127.0.0.1:0"), &at));
    CHECK(listener_open(&at, false, &listener).status == IO_OK);
    CHECK(stream_dial(listener_endpoint(listener), NULL, SOON_ENOUGH, &stream).status == IO_OK);
    CHECK(listener_accept(listener, SOON_ENOUGH, &peer->stream).status == IO_OK);
    listener_close(listener);
    peer->done = (struct gate){.left = 1};
    CHECK(fiber_start("peer", peer_main, peer) != NULL);
    return stream;
}

static bool read_exactly(struct stream *stream, struct span into)
{
    while (into.count > 0) {
        const struct io_result got = stream_read(stream, into, SOON_ENOUGH);
        if (got.status != IO_OK)
            return false;
        into = (struct span){into.at + got.count, into.count - got.count};
    }
    return true;
}

/* ------------------------------------------------------------------ what works */

struct big {
    struct stream *stream;
    struct gate done;
    uint8_t at[300 * 1000];
};

static void big_writer(void *argument)
{
    struct big *big = argument;

    CHECK(stream_write(big->stream, bytes_of(big->at, sizeof big->at), SOON_ENOUGH).status ==
          IO_OK);
    gate_pass(&big->done);
}

static int echo_main(void *argument UNUSED)
{
    struct peer peer = {0};
    struct tls_facts facts;
    uint8_t memory[64];
    struct stream *stream = connect_to(&peer);
    const struct endpoint remote = stream->remote;

    CHECK(tls_connect(client_context, NULL, &stream, SOON_ENOUGH, &facts).status == IO_OK);
    CHECK(strcmp(facts.protocol, "TLSv1.3") == 0 && facts.cipher[0] != 0);
    CHECK(!facts.verified && facts.why[0] != 0);
    CHECK(stream->remote.port == remote.port && remote.port != 0);
    for (unsigned i = 0; i < 100; i++) {
        CHECK(stream_write(stream, BYTES_LITERAL("NOOP\r\n"), SOON_ENOUGH).status == IO_OK);
        CHECK(read_exactly(stream, (struct span){memory, 6}) && memcmp(memory, "NOOP\r\n", 6) == 0);
    }
    struct big *big = calloc(1, sizeof *big);
    big->stream = stream;
    big->done.left = 1;
    for (size_t i = 0; i < sizeof big->at; i++)
        big->at[i] = (uint8_t)(i * 7 >> 3);
    uint8_t *back = malloc(sizeof big->at);
    CHECK(fiber_start("big", big_writer, big) != NULL);
    CHECK(read_exactly(stream, (struct span){back, sizeof big->at}));
    CHECK(memcmp(back, big->at, sizeof big->at) == 0);
    CHECK(gate_wait(&big->done, 0));
    free(back);
    free(big);
    stream_close(stream);
    CHECK(gate_wait(&peer.done, 0));
    CHECK(peer.shaken.status == IO_OK && strcmp(peer.facts.protocol, "TLSv1.3") == 0);
    return 0;
}

static void test_echo(void **state UNUSED)
{
    in_world(echo_main, NULL, 1);
}

/* What OpenSSL holds already is readable, though nothing is left on the wire. */
static int readable_main(void *argument UNUSED)
{
    struct peer peer = {.say = "0123456789"};
    struct tls_facts facts;
    uint8_t memory[16];
    struct stream *stream = connect_to(&peer);

    CHECK(tls_connect(client_context, NULL, &stream, SOON_ENOUGH, &facts).status == IO_OK);
    CHECK(stream_wait_readable(stream, SOON_ENOUGH).status == IO_OK);
    CHECK(stream_read(stream, (struct span){memory, 1}, SOON_ENOUGH).count == 1);
    CHECK(gate_wait(&peer.done, 0));
    CHECK(stream_wait_readable(stream, clock_now_us()).status == IO_OK);
    CHECK(read_exactly(stream, (struct span){memory, 9}) && memory[8] == '9');
    CHECK(stream_wait_readable(stream, SOON_ENOUGH).status == IO_OK); /* the end */
    CHECK(stream_read(stream, (struct span){memory, 1}, SOON_ENOUGH).status == IO_END);
    stream_close(stream);

    /* The tickets of TLS 1.3 arrive after the handshake and are no text of the session. */
    struct peer quiet = {0};
    stream = connect_to(&quiet);
    CHECK(tls_connect(client_context, NULL, &stream, SOON_ENOUGH, &facts).status == IO_OK);
    CHECK(stream_wait_readable(stream, deadline_in(30 * US_PER_MS)).status == IO_TIMEOUT);
    CHECK(stream_read(stream, (struct span){memory, 1}, deadline_in(US_PER_MS)).status ==
          IO_TIMEOUT);
    CHECK(stream_write(stream, BYTES_LITERAL("x"), SOON_ENOUGH).status == IO_OK);
    CHECK(read_exactly(stream, (struct span){memory, 1})); /* a timeout broke nothing */
    stream_close(stream);
    CHECK(gate_wait(&quiet.done, 0));
    return 0;
}

static void test_readable(void **state UNUSED)
{
    in_world(readable_main, NULL, 1);
}

/* ------------------------------------------------------------------ how it ends */

static struct io_result read_after(enum ending ending)
{
    struct peer peer = {.say = "hello", .ending = ending};
    struct tls_facts facts;
    uint8_t memory[16];
    struct stream *stream = connect_to(&peer);

    CHECK(tls_connect(client_context, NULL, &stream, SOON_ENOUGH, &facts).status == IO_OK);
    if (ending != END_RESET)
        CHECK(read_exactly(stream, (struct span){memory, 5}));
    CHECK(gate_wait(&peer.done, 0));
    struct io_result result = io_ok(0);
    while (result.status == IO_OK)
        result = stream_read(stream, (struct span){memory, 5}, SOON_ENOUGH);
    /* Whatever it was, it stays. */
    CHECK(stream_wait_readable(stream, SOON_ENOUGH).status == IO_OK);
    CHECK(stream_read(stream, (struct span){memory, 5}, SOON_ENOUGH).status == result.status);
    stream_close(stream);
    return result;
}

static int endings_main(void *argument UNUSED)
{
    CHECK(read_after(END_ORDERLY).status == IO_END);
    CHECK(read_after(END_SILENT).status == IO_FAILED); /* truncated: no close_notify */
    CHECK(read_after(END_RESET).status == IO_FAILED);
    return 0;
}

static void test_endings(void **state UNUSED)
{
    in_world(endings_main, NULL, 1);
}

/* ------------------------------------------------------------------ handshakes that must fail */

static struct io_result shake(struct peer *peer, const struct tls_peer_demand *demand,
                              struct tls_facts *facts)
{
    struct stream *stream = connect_to(peer);
    struct io_result result;

    if (peer->client)
        result = tls_accept(server_context, &stream, SOON_ENOUGH, facts);
    else
        result = tls_connect(client_context, demand, &stream, SOON_ENOUGH, facts);
    CHECK((stream != NULL) == (result.status == IO_OK));
    if (stream) /* it is there to say one letter */
        CHECK(stream_wait_readable(stream, SOON_ENOUGH).status == IO_OK);
    stream_close(stream);
    CHECK(gate_wait(&peer->done, 0));
    return result;
}

/* Plain text that somebody slipped in before the handshake is not taken for part of it. */
static int injection_main(void *argument UNUSED)
{
    struct peer server = {.first = "250 injected\r\n"};
    struct peer client = {.first = "RSET\r\n", .client = true};
    struct tls_facts facts;

    CHECK(shake(&server, NULL, &facts).status == IO_FAILED);
    CHECK(facts.why[0] != 0);
    CHECK(shake(&client, NULL, &facts).status == IO_FAILED);
    CHECK(facts.why[0] != 0);
    return 0;
}

static int mismatch_main(void *argument UNUSED)
{
    const struct tls_peer_demand demand = {.server_name = "mx.example", .verify_name = true};
    const struct tls_peer_demand nameless = {.verify_name = true};
    struct peer peer = {.say = "never"}, second = {.say = "never"};
    struct tls_facts facts;

    CHECK(shake(&peer, &demand, &facts).status == IO_FAILED);
    CHECK(strstr(facts.why, "certificate: self") != NULL && !facts.verified);
    CHECK(peer.shaken.status == IO_FAILED); /* it was told, by an alert */
    CHECK(strstr(peer.facts.why, "alert") != NULL);
    CHECK(shake(&second, &nameless, &facts).status == IO_FAILED);
    return 0;
}

static int deadline_main(void *argument UNUSED)
{
    struct endpoint at = {0};
    struct listener *listener = NULL;
    struct stream *stream = NULL, *silent = NULL;
    struct tls_facts facts;

    CHECK(endpoint_parse(BYTES_LITERAL("127.0.0.1:0"), &at));
    CHECK(listener_open(&at, false, &listener).status == IO_OK);
    CHECK(stream_dial(listener_endpoint(listener), NULL, SOON_ENOUGH, &stream).status == IO_OK);
    CHECK(listener_accept(listener, SOON_ENOUGH, &silent).status == IO_OK);
    CHECK(tls_accept(server_context, &stream, deadline_in(20 * US_PER_MS), &facts).status ==
          IO_TIMEOUT);
    CHECK(stream == NULL && strstr(facts.why, "timeout") != NULL);
    stream_close(silent);
    listener_close(listener);
    return 0;
}

static void test_failures(void **state UNUSED)
{
    in_world(injection_main, NULL, 1);
    in_world(mismatch_main, NULL, 1);
    in_world(deadline_main, NULL, 1);
}

/* A peer that goes away anywhere within its first flight. */
static int prefix_main(void *argument UNUSED)
{
    struct memory_stream record = memory_stream_of(BYTES_EMPTY);
    struct tls_facts facts;

    struct stream *stream = &record.stream;
    CHECK(tls_connect(client_context, NULL, &stream, SOON_ENOUGH, &facts).status == IO_FAILED);
    CHECK(stream == NULL && record.written.count > 100);
    for (size_t cut = 0; cut <= record.written.count; cut++) {
        struct memory_stream hello =
            memory_stream_of(bytes_slice(buffer_view(&record.written), 0, cut));
        hello.fragment = 7;
        stream = &hello.stream;
        CHECK(tls_accept(server_context, &stream, SOON_ENOUGH, &facts).status == IO_FAILED);
        CHECK(stream == NULL && facts.why[0] != 0);
        buffer_free(&hello.written);
    }
    buffer_free(&record.written);
    return 0;
}

static void test_prefixes(void **state UNUSED)
{
    in_world(prefix_main, NULL, 1);
}

/* ------------------------------------------------------------------ DANE */

/* SHA-256 of the public key in the server's certificate: a record "3 1 1". */
static void key_digest(uint8_t into[32])
{
    FILE *file = fopen(certificate, "r");
    X509 *read = file ? PEM_read_X509(file, NULL, NULL, NULL) : NULL;
    unsigned char *der = NULL;
    const int count = read ? i2d_X509_PUBKEY(X509_get_X509_PUBKEY(read), &der) : 0;
    struct digest *digest = digest_open(DIGEST_SHA256);

    CHECK(count > 0);
    digest_add(digest, bytes_of(der, (size_t)count));
    CHECK(digest_finish(digest, (struct span){into, 32}) == 32);
    digest_close(&digest);
    OPENSSL_free(der);
    X509_free(read);
    if (file)
        fclose(file);
}

static int dane_main(void *argument UNUSED)
{
    uint8_t octets[32];
    key_digest(octets);
    struct tlsa_record record = {
        .usage = 3, .selector = 1, .matching = 1, .data = bytes_of(octets, sizeof octets)};
    /* Names do not count with usage 3 (RFC 7672, 3.1.1). */
    const struct tls_peer_demand demand = {
        .server_name = "another.example", .tlsa = &record, .tlsa_count = 1};
    struct peer peers[4] = {{.say = "a"}, {.say = "b"}, {.say = "c"}, {.say = "d"}};
    struct tls_facts facts;

    CHECK(shake(&peers[0], &demand, &facts).status == IO_OK && facts.verified);
    record.usage = 1;
    CHECK(shake(&peers[1], &demand, &facts).status == IO_OK && !facts.verified);
    CHECK(strcmp(facts.why, "no usable TLSA record") == 0);
    record.usage = 3;
    octets[5] ^= 1;
    CHECK(shake(&peers[2], &demand, &facts).status == IO_FAILED && !facts.verified);
    CHECK(facts.why[0] != 0);
    record.data.count = 31; /* no digest of that length */
    CHECK(shake(&peers[3], &demand, &facts).status == IO_OK && !facts.verified);
    return 0;
}

static void test_dane(void **state UNUSED)
{
    in_world(dane_main, NULL, 1);
}

/* ------------------------------------------------------------------ contexts and files */

static void test_contexts(void **state UNUSED)
{
    char why[300] = "", path[200];
    struct stat facts;

    assert_int_equal(stat(key, &facts), 0);
    assert_int_equal(facts.st_mode & 0777, 0600);
    assert_null(tls_context_server("/nonexistent/cert.pem", key, why, sizeof why));
    assert_string_equal(why, "certificate /nonexistent/cert.pem: No such file or directory");
    assert_null(tls_context_server(certificate, "/nonexistent/key.pem", why, sizeof why));
    assert_string_equal(why, "key /nonexistent/key.pem: No such file or directory");
    assert_null(tls_context_server(certificate, other_key, why, sizeof why));
    assert_non_null(strstr(why, "mismatch"));
    assert_null(tls_context_server(key, key, why, sizeof why));
    snprintf(path, sizeof path, "%s/no/such/key", folder);
    assert_false(tls_make_self_signed("mx.example", certificate, path, why, sizeof why));
    assert_non_null(strstr(why, "No such file"));
    tls_context_free(NULL);
}

static int remove_entry(const char *path, const struct stat *facts UNUSED, int kind UNUSED,
                        struct FTW *where UNUSED)
{
    return remove(path);
}

static bool prepare(void)
{
    char why[200] = "";

    if (!mkdtemp(folder))
        return false;
    snprintf(certificate, sizeof certificate, "%s/cert.pem", folder);
    snprintf(key, sizeof key, "%s/key.pem", folder);
    snprintf(other_certificate, sizeof other_certificate, "%s/other.pem", folder);
    snprintf(other_key, sizeof other_key, "%s/other-key.pem", folder);
    const bool made =
        tls_make_self_signed("mx.example", certificate, key, why, sizeof why) &&
        tls_make_self_signed("other.example", other_certificate, other_key, why, sizeof why);
    server_context = made ? tls_context_server(certificate, key, why, sizeof why) : NULL;
    client_context = tls_context_client(why, sizeof why);
    if (!server_context || !client_context)
        fprintf(stderr, "%s\n", why);
    return server_context && client_context;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contexts), cmocka_unit_test(test_echo),
        cmocka_unit_test(test_readable), cmocka_unit_test(test_endings),
        cmocka_unit_test(test_failures), cmocka_unit_test(test_prefixes),
        cmocka_unit_test(test_dane),
    };
    int failed = 1;

    if (prepare())
        failed = cmocka_run_group_tests(tests, NULL, NULL);
    tls_context_free(server_context);
    tls_context_free(client_context);
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return failed;
}
