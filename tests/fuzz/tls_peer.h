/*
 * The other end of TLS, played within a fuzz target: OpenSSL between two memories, so that no
 * network and no clock is needed.
 */
#ifndef TESTS_TLS_PEER_H
#define TESTS_TLS_PEER_H

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <unistd.h>

#include "crypto/crypto.h"

/* A certificate of our own in a folder of our own, as the server's side needs it. */
static char tls_peer_certificate[64], tls_peer_key[64];

static inline void tls_peer_prepare(void)
{
    char folder[] = "/tmp/holdfast-fuzz-XXXXXX", why[200];

    INVARIANT(mkdtemp(folder) != NULL);
    snprintf(tls_peer_certificate, sizeof tls_peer_certificate, "%s/cert.pem", folder);
    snprintf(tls_peer_key, sizeof tls_peer_key, "%s/key.pem", folder);
    INVARIANT(tls_make_self_signed("mx.test", tls_peer_certificate, tls_peer_key, why, sizeof why));
}

/* What was prepared is read by now. */
static inline void tls_peer_tidy(void)
{
    unlink(tls_peer_certificate);
    unlink(tls_peer_key);
    *strrchr(tls_peer_key, '/') = 0;
    rmdir(tls_peer_key);
}

static inline SSL_CTX *tls_peer_client(void)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());

    INVARIANT(context != NULL);
    return context;
}

static inline SSL_CTX *tls_peer_server(void)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());

    INVARIANT(context &&
              SSL_CTX_use_certificate_file(context, tls_peer_certificate, SSL_FILETYPE_PEM) == 1 &&
              SSL_CTX_use_PrivateKey_file(context, tls_peer_key, SSL_FILETYPE_PEM) == 1);
    return context;
}

struct tls_peer {
    SSL *ssl;
    BIO *in, *out;
    bool shaken, over;
};

static inline void tls_peer_open(struct tls_peer *peer, SSL_CTX *context, bool server)
{
    *peer = (struct tls_peer){
        .ssl = SSL_new(context), .in = BIO_new(BIO_s_mem()), .out = BIO_new(BIO_s_mem())};
    INVARIANT(peer->ssl && peer->in && peer->out);
    SSL_set_bio(peer->ssl, peer->in, peer->out);
    if (server)
        SSL_set_accept_state(peer->ssl);
    else
        SSL_set_connect_state(peer->ssl);
}

static inline void tls_peer_close(struct tls_peer *peer)
{
    SSL_free(peer->ssl);
    *peer = (struct tls_peer){0};
}

/* What the other side sent; what it says in there is added to `heard`. */
static inline void tls_peer_hear(struct tls_peer *peer, struct bytes sent, struct buffer *heard)
{
    uint8_t piece[4096];
    int count;

    ERR_clear_error();
    if (sent.count > 0)
        BIO_write(peer->in, sent.at, (int)sent.count);
    if (!peer->shaken && !peer->over) {
        const int done = SSL_do_handshake(peer->ssl);
        peer->shaken = done == 1;
        peer->over = done != 1 && SSL_get_error(peer->ssl, done) != SSL_ERROR_WANT_READ;
    }
    while (peer->shaken && (count = SSL_read(peer->ssl, piece, sizeof piece)) > 0)
        buffer_add(heard, bytes_of(piece, (size_t)count));
    ERR_clear_error();
}

static inline void tls_peer_say(struct tls_peer *peer, struct bytes words)
{
    ERR_clear_error();
    if (peer->shaken && words.count > 0)
        SSL_write(peer->ssl, words.at, (int)words.count);
    ERR_clear_error();
}

/* What is to be sent to the other side, up to `into`. */
static inline size_t tls_peer_take(struct tls_peer *peer, struct span into)
{
    const int count = BIO_read(peer->out, into.at, (int)into.count);

    return count > 0 ? (size_t)count : 0;
}

#endif
