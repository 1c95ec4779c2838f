/*
 * TLS over simulated streams: the handshakes and records are OpenSSL's own, so that the network's
 * faults cut real ones. What OpenSSL takes from the machine, chance and time, comes from the seed
 * here, or a seed would not play twice alike.
 */
/* There is no other way to give it a chance of ours. */
#define OPENSSL_SUPPRESS_DEPRECATED

#include "server.h"

#include <openssl/rand.h>
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

/* ------------------------------------------------------------------ a certificate */

static char certificate[40], key[40]; /* paths, of files without a name */

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

/* Once a process; the same in all of them, as its chance is. */
static void make_certificate(void)
{
    char folder[] = "/tmp/holdfast-sim-XXXXXX", paths[2][60], why[200];
    const uint64_t before = state;

    if (certificate[0])
        return;
    state = 1;
    CHECK(mkdtemp(folder) != NULL, "%s", folder);
    snprintf(paths[0], sizeof paths[0], "%s/certificate", folder);
    snprintf(paths[1], sizeof paths[1], "%s/key", folder);
    CHECK(tls_make_self_signed("mx.home.example", paths[0], paths[1], why, sizeof why), "%s", why);
    keep(paths[0], certificate, sizeof certificate);
    keep(paths[1], key, sizeof key);
    rmdir(folder);
    state = before;
}

struct tls_context *tls_open(bool server)
{
    struct tls_context *context;
    char why[200];

    make_certificate();
    context = server ? tls_context_server(certificate, key, why, sizeof why)
                     : tls_context_client(why, sizeof why);
    CHECK(context != NULL, "%s", why);
    return context;
}

/* They are dear to make, and remember their peers, so there is one of each kind a run. */
static struct tls_context *of_clients, *of_hops;

struct tls_context *tls_of_clients(void)
{
    if (!of_clients)
        of_clients = tls_open(false);
    return of_clients;
}

struct tls_context *tls_of_hops(void)
{
    if (!of_hops)
        of_hops = tls_open(true);
    return of_hops;
}

void tls_end(void)
{
    tls_context_free(of_clients);
    tls_context_free(of_hops);
    of_clients = of_hops = NULL;
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
