/*
 * A TLS connection as a stream. OpenSSL itself never sleeps: it reads from and writes to memory
 * (a BIO of our own), which this file fills and drains through the stream below. While a session
 * is idle neither buffer exists.
 */
#include "crypto/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdatomic.h>
#include <string.h>

enum { FILL_ROOM = 16 * 1024, OUT_ROOM = 1024 * 1024, WRITE_PIECE = 16 * 1024 };

void crypto_take_error(char *why, size_t why_room)
{
    const unsigned long code = ERR_peek_last_error();
    const char *words = code ? ERR_reason_error_string(code) : NULL;

    if (words)
        snprintf(why, why_room, "%s", words);
    else if (code)
        snprintf(why, why_room, "OpenSSL error %08lx", code);
    else
        snprintf(why, why_room, "unknown fault of TLS");
    ERR_clear_error();
}

/* ------------------------------------------------------------------ memory as OpenSSL's wire */

static int wire_read(BIO *bio, char *into, int room)
{
    struct tls_stream *tls = BIO_get_data(bio);
    const size_t count = MIN_OF(tls->in.count - tls->in_taken, room > 0 ? (size_t)room : 0);

    BIO_clear_retry_flags(bio);
    if (count == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(into, tls->in.at + tls->in_taken, count);
    tls->in_taken += count;
    if (tls->in_taken == tls->in.count) {
        buffer_free(&tls->in);
        tls->in_taken = 0;
    }
    return (int)count;
}

static int wire_write(BIO *bio, const char *from, int count)
{
    struct tls_stream *tls = BIO_get_data(bio);

    BIO_clear_retry_flags(bio);
    if (count <= 0)
        return 0;
    buffer_add(&tls->out, bytes_of(from, (size_t)count));
    return tls->out.failed ? -1 : count;
}

static long wire_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH || command == BIO_CTRL_DUP;
}

static BIO_METHOD *wire_prepare(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "stream");

    if (method && BIO_meth_set_read(method, wire_read) && BIO_meth_set_write(method, wire_write) &&
        BIO_meth_set_ctrl(method, wire_control))
        return method;
    BIO_meth_free(method);
    return NULL;
}

/* Made once; while memory is short, by each who asks, until it is. */
static BIO_METHOD *wire_method(void)
{
    static _Atomic(BIO_METHOD *) kept;
    BIO_METHOD *known = atomic_load(&kept);

    if (known)
        return known;
    BIO_METHOD *const made = wire_prepare();
    if (!made || atomic_compare_exchange_strong(&kept, &known, made))
        return made;
    BIO_meth_free(made); /* another thread was first */
    return known;
}

static BIO *wire_open(struct tls_stream *tls)
{
    BIO_METHOD *const method = wire_method();
    BIO *bio = method ? BIO_new(method) : NULL;
    if (!bio)
        return NULL;
    BIO_set_data(bio, tls);
    BIO_set_init(bio, 1);
    return bio;
}

struct tls_stream *tls_stream_open(SSL_CTX *context, struct stream *below)
{
    struct tls_stream *tls = calloc(1, sizeof *tls);
    SSL *ssl = SSL_new(context);
    BIO *bio = tls ? wire_open(tls) : NULL;

    if (!tls || !ssl || !bio) {
        BIO_free(bio);
        SSL_free(ssl);
        free(tls);
        ERR_clear_error();
        return NULL;
    }
    SSL_set_bio(ssl, bio, bio);
    *tls = (struct tls_stream){
        .stream = {.ops = &TLS_STREAM_OPS, .local = below->local, .remote = below->remote},
        .below = below,
        .ssl = ssl,
        .in = BUFFER_WITH_LIMIT(FILL_ROOM),
        .out = BUFFER_WITH_LIMIT(OUT_ROOM)};
    return tls;
}

struct io_result tls_stream_flush(struct tls_stream *tls, uint64_t deadline_us)
{
    if (tls->out.failed)
        tls->broken = true;
    if (tls->broken)
        return io_failed(EPROTO);
    if (tls->out.count == 0)
        return io_ok(0);
    const struct io_result result = stream_write(tls->below, buffer_view(&tls->out), deadline_us);
    buffer_free(&tls->out);
    /* Half a record cannot be taken back, whatever kept the rest. */
    if (result.status != IO_OK)
        tls->broken = true;
    return result;
}

/* The buffer is taken only when there is something to put into it. */
struct io_result tls_stream_fill(struct tls_stream *tls, uint64_t deadline_us)
{
    const struct io_result ready = stream_wait_readable(tls->below, deadline_us);

    if (ready.status != IO_OK)
        return ready;
    uint8_t *room = buffer_reserve(&tls->in, FILL_ROOM - tls->in.count);
    if (!room)
        return io_failed(ENOMEM);
    const struct io_result result =
        stream_read(tls->below, (struct span){room, FILL_ROOM - tls->in.count}, deadline_us);
    if (result.status == IO_OK)
        buffer_claim(&tls->in, result.count);
    else
        buffer_free(&tls->in);
    return result;
}

/* ------------------------------------------------------------------ the stream's operations */

static struct io_result tls_stream_broken(struct tls_stream *tls, int error)
{
    tls->broken = true;
    ERR_clear_error();
    return io_failed(error);
}

/*
 * What an operation of OpenSSL that did not succeed needs: IO_OK means "again". An end below
 * without close_notify may be an attacker's cut, so it is a failure (RFC 8446, 6.1).
 */
static struct io_result tls_stream_serve(struct tls_stream *tls, int returned, uint64_t deadline_us)
{
    const int problem = SSL_get_error(tls->ssl, returned);

    ERR_clear_error();
    if (problem == SSL_ERROR_ZERO_RETURN)
        return io_status_only(IO_END);
    if (problem != SSL_ERROR_WANT_READ) {
        /* An alert may wait to be sent; it is only a courtesy. */
        const struct io_result courtesy = tls_stream_flush(tls, clock_now_us());
        return tls_stream_broken(tls, courtesy.status == IO_FAILED ? courtesy.error : EPROTO);
    }
    const struct io_result flushed = tls_stream_flush(tls, deadline_us);
    if (flushed.status != IO_OK)
        return flushed;
    const struct io_result filled = tls_stream_fill(tls, deadline_us);
    if (filled.status == IO_END)
        return tls_stream_broken(tls, EPROTO);
    if (filled.status == IO_FAILED)
        tls->broken = true;
    return filled;
}

static struct io_result tls_stream_read(struct stream *stream, struct span into,
                                        uint64_t deadline_us)
{
    struct tls_stream *tls = CONTAINER_OF(stream, struct tls_stream, stream);

    if (tls->broken)
        return io_failed(EPROTO);
    for (;;) {
        ERR_clear_error();
        const int count = SSL_read(tls->ssl, into.at, (int)MIN_OF(into.count, (size_t)INT32_MAX));
        if (count > 0) {
            /* A key update may have left its answer. */
            const struct io_result flushed = tls_stream_flush(tls, deadline_us);
            return flushed.status == IO_OK ? io_ok((size_t)count) : flushed;
        }
        const struct io_result served = tls_stream_serve(tls, count, deadline_us);
        if (served.status != IO_OK)
            return served;
    }
}

static struct io_result tls_stream_write(struct stream *stream, struct bytes from,
                                         uint64_t deadline_us)
{
    struct tls_stream *tls = CONTAINER_OF(stream, struct tls_stream, stream);
    size_t done = 0;

    if (tls->broken)
        return io_failed(EPROTO);
    while (done < from.count) {
        const struct bytes piece = bytes_slice(from, done, WRITE_PIECE);
        ERR_clear_error();
        if (SSL_write(tls->ssl, piece.at, (int)piece.count) != (int)piece.count)
            return tls_stream_broken(tls, EPROTO);
        struct io_result flushed = tls_stream_flush(tls, deadline_us);
        if (flushed.status != IO_OK) {
            flushed.count = done;
            return flushed;
        }
        done += piece.count;
    }
    return io_ok(done);
}

/* Records that hold no text of the session (tickets, key updates) do not count as readable. */
static struct io_result tls_stream_wait_readable(struct stream *stream, uint64_t deadline_us)
{
    struct tls_stream *tls = CONTAINER_OF(stream, struct tls_stream, stream);
    uint8_t byte;

    if (tls->broken)
        return io_ok(0); /* a read says at once what is wrong */
    for (;;) {
        ERR_clear_error();
        const int count = SSL_peek(tls->ssl, &byte, 1);
        if (count > 0)
            return io_ok(0);
        const struct io_result served = tls_stream_serve(tls, count, deadline_us);
        if (served.status == IO_TIMEOUT || served.status == IO_CANCELLED)
            return served;
        if (served.status != IO_OK)
            return io_ok(0);
    }
}

static void tls_stream_close(struct stream *stream, bool reset)
{
    struct tls_stream *tls = CONTAINER_OF(stream, struct tls_stream, stream);

    /* close_notify goes out if the wire takes it now; a close does not wait. */
    if (!reset && !tls->broken && SSL_is_init_finished(tls->ssl)) {
        ERR_clear_error();
        SSL_shutdown(tls->ssl);
        const struct io_result courtesy = tls_stream_flush(tls, clock_now_us());
        tls->broken = courtesy.status != IO_OK;
    }
    SSL_free(tls->ssl);
    ERR_clear_error();
    buffer_free(&tls->in);
    buffer_free(&tls->out);
    if (reset)
        stream_reset(tls->below);
    else
        stream_close(tls->below);
    free(tls);
}

static size_t tls_stream_unacknowledged(const struct stream *stream)
{
    const struct tls_stream *tls = CONTAINER_OF(stream, const struct tls_stream, stream);

    return tls->out.count + stream_unacknowledged(tls->below);
}

const struct stream_ops TLS_STREAM_OPS = {
    .read = tls_stream_read,
    .write = tls_stream_write,
    .wait_readable = tls_stream_wait_readable,
    .close = tls_stream_close,
    .unacknowledged = tls_stream_unacknowledged,
};
