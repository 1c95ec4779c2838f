/* What the files of TLS share. Private to the room. */
#ifndef CRYPTO_TLS_H
#define CRYPTO_TLS_H

#include <openssl/ssl.h>

#include "crypto/crypto.h"

struct tls_context {
    SSL_CTX *plain;     /* server side; or client side without a demand: nothing is verified */
    SSL_CTX *verifying; /* client side with the trust store and DANE; else NULL */
    struct tls_memory *memory;      /* client side: sessions to resume; or NULL */
    const struct key_service *keys; /* server side: where its key signs; NULL: here */
};

struct tls_stream {
    struct stream stream; /* first: what the caller holds */
    struct stream *below;
    SSL *ssl;
    struct buffer in; /* read from below, not yet taken by OpenSSL; freed when empty */
    size_t in_taken;
    struct buffer out;         /* made by OpenSSL, not yet written below; freed when empty */
    bool broken;               /* nothing more can be said on this connection, not even good-bye */
    struct tls_memory *memory; /* where its tickets go; or NULL */
    uint64_t memory_key;
};

/*
 * Sessions of peers that were spoken to (RFC 8446 2.2), each under a key that is made of the peer's
 * address and all that was demanded of it: what was verified less is never resumed where more is
 * demanded. Shared by all loops.
 */
MUST_USE struct tls_memory *tls_memory_open(SSL_CTX *plain, SSL_CTX *verifying);
void tls_memory_close(struct tls_memory *memory);
/* Offers the peer what is remembered, and remembers what it gives. */
void tls_memory_use(struct tls_memory *memory, struct tls_stream *tls,
                    const struct tls_peer_demand *demand);

extern const struct stream_ops TLS_STREAM_OPS;

/* Over `below`, which it owns from then on; NULL on memory (below stays the caller's). */
struct tls_stream *tls_stream_open(SSL_CTX *context, struct stream *below);
/* The number of usable records; -1 when DANE could not be set up. */
int tls_demand_dane(SSL *ssl, const struct tls_peer_demand *demand);
/* Writes what OpenSSL made. Sleeps. */
struct io_result tls_stream_flush(struct tls_stream *tls, uint64_t deadline_us);
/* Gets something for OpenSSL to read. Sleeps. */
struct io_result tls_stream_fill(struct tls_stream *tls, uint64_t deadline_us);
/* A server's context without a certificate. */
struct tls_context *tls_context_bare_server(char *why, size_t why_room);
/* Whether the keeper behind it still answers. From any thread, at once. */
MUST_USE bool key_service_stands(const struct key_service *service);
/* OpenSSL's newest complaint in words; its queue is empty afterwards. */
void crypto_take_error(char *why, size_t why_room);

#endif
