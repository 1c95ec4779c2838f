/*
 * TLS over simulated streams: the handshakes and records are OpenSSL's own, so that the network's
 * faults cut real ones. What OpenSSL takes from the machine, chance and time, comes from the seed
 * here, or a seed would not play twice alike.
 */
/* There is no other way to give it a chance of ours. */
#define OPENSSL_SUPPRESS_DEPRECATED

#include "server.h"

#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "crypto/crypto.h"

/* ------------------------------------------------------------------ chance and time */

static uint64_t state;

static int draw(unsigned char *into, int count)
{
    for (int i = 0; i < count; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        into[i] = (unsigned char)(state >> 56);
    }
    return 1;
}

static int is_seeded(void)
{
    return 1;
}

void tls_begin(uint64_t seed)
{
    static const RAND_METHOD method = {.bytes = draw, .pseudorand = draw, .status = is_seeded};

    CHECK(RAND_set_rand_method(&method) == 1, "OpenSSL takes its chance from here");
    state = seed;
}

/* In place of libc's, for OpenSSL's dates and for nobody else: the rooms have their own clock. */
time_t time(time_t *into)
{
    const time_t now = 1795478400; /* when the world begins */

    if (into)
        *into = now;
    return now;
}

/* ------------------------------------------------------------------ certificates */

static char certificates[TLS_KINDS][40], keys[TLS_KINDS][40]; /* paths, of files without a name */

static void keep(const char *path, char *into, size_t room)
{
    char text[8192];
    FILE *file = fopen(path, "r");
    const size_t count = file ? fread(text, 1, sizeof text, file) : 0;
    const int kept = memfd_create("pem", 0);

    CHECK(count > 0 && kept >= 0 && write(kept, text, count) == (ssize_t)count, "%s", path);
    fclose(file);
    unlink(path);
    snprintf(into, room, "/proc/self/fd/%d", kept);
}

static void make_certificate(enum tls_kind kind, const char *name)
{
    char folder[] = "/tmp/holdfast-sim-XXXXXX", paths[2][60], why[200];

    CHECK(mkdtemp(folder) != NULL, "%s", folder);
    snprintf(paths[0], sizeof paths[0], "%s/certificate", folder);
    snprintf(paths[1], sizeof paths[1], "%s/key", folder);
    CHECK(tls_make_self_signed(name, paths[0], paths[1], why, sizeof why), "%s", why);
    keep(paths[0], certificates[kind], sizeof certificates[kind]);
    keep(paths[1], keys[kind], sizeof keys[kind]);
    rmdir(folder);
}

/* Once a process; the same in all of them, as its chance is. One of them is all that the system
 * trusts, as if an authority had signed it. */
static void make_certificates(void)
{
    const uint64_t before = state;

    if (certificates[0][0])
        return;
    state = 1;
    make_certificate(TLS_BY_KEY, "mx.home.example");
    make_certificate(TLS_BY_NAME, STS_HOST);
    make_certificate(TLS_STRANGE, STS_HOST);
    CHECK(setenv("SSL_CERT_FILE", certificates[TLS_BY_NAME], 1) == 0, "the environment");
    state = before;
}

void tls_print_tlsa(char *into, size_t room)
{
    uint8_t *octets = NULL, digest[SHA256_DIGEST_LENGTH];

    make_certificates();
    FILE *file = fopen(certificates[TLS_BY_KEY], "r");
    X509 *certificate = file ? PEM_read_X509(file, NULL, NULL, NULL) : NULL;
    const int length =
        certificate ? i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &octets) : 0;
    CHECK(length > 0 && room > 6 + 2 * sizeof digest, "a certificate");
    SHA256(octets, (size_t)length, digest);
    size_t count = (size_t)snprintf(into, room, "3 1 1 ");
    for (size_t i = 0; i < sizeof digest; i++)
        count += (size_t)snprintf(into + count, room - count, "%02x", digest[i]);
    OPENSSL_free(octets);
    X509_free(certificate);
    fclose(file);
}

static struct tls_context *open_server(enum tls_kind kind)
{
    char why[200];

    make_certificates();
    struct tls_context *context =
        tls_context_server(certificates[kind], keys[kind], why, sizeof why);
    CHECK(context != NULL, "%s", why);
    return context;
}

struct tls_context *tls_open(bool server)
{
    char why[200];

    if (server)
        return open_server(TLS_BY_KEY);
    make_certificates();
    struct tls_context *context = tls_context_client(why, sizeof why);
    CHECK(context != NULL, "%s", why);
    return context;
}

/* They are dear to make, and remember their peers, so there is one of each kind a run. */
static struct tls_context *of_clients, *of_hops[TLS_KINDS];

struct tls_context *tls_of_clients(void)
{
    if (!of_clients)
        of_clients = tls_open(false);
    return of_clients;
}

struct tls_context *tls_of_hops(enum tls_kind kind)
{
    if (!of_hops[kind])
        of_hops[kind] = open_server(kind);
    return of_hops[kind];
}

void tls_end(void)
{
    tls_context_free(of_clients);
    of_clients = NULL;
    for (enum tls_kind kind = 0; kind < TLS_KINDS; kind++) {
        tls_context_free(of_hops[kind]);
        of_hops[kind] = NULL;
    }
}

/* ------------------------------------------------------------------ a stream that is another's */

struct lent {
    struct stream stream;
    struct stream *below;
};

static struct io_result lent_read(struct stream *stream, struct span into, uint64_t deadline_us)
{
    return stream_read(CONTAINER_OF(stream, struct lent, stream)->below, into, deadline_us);
}

static struct io_result lent_write(struct stream *stream, struct bytes from, uint64_t deadline_us)
{
    return stream_write(CONTAINER_OF(stream, struct lent, stream)->below, from, deadline_us);
}

static struct io_result lent_wait(struct stream *stream, uint64_t deadline_us)
{
    return stream_wait_readable(CONTAINER_OF(stream, struct lent, stream)->below, deadline_us);
}

static void lent_close(struct stream *stream, bool reset)
{
    CHECK(!reset || stream, "the one below is closed by whose it is");
    free(CONTAINER_OF(stream, struct lent, stream));
}

struct stream *tls_serve(struct tls_context *context, struct stream *below)
{
    static const struct stream_ops operations = {
        .read = lent_read, .write = lent_write, .wait_readable = lent_wait, .close = lent_close};
    struct lent *lent = calloc(1, sizeof *lent);
    struct tls_facts facts;

    CHECK(lent != NULL, "memory");
    *lent = (struct lent){
        .stream = {.ops = &operations, .local = below->local, .remote = below->remote},
        .below = below};
    struct stream *stream = &lent->stream;
    if (tls_accept(context, &stream, deadline_in(60 * US_PER_S), &facts).status != IO_OK)
        return NULL;
    return stream;
}
