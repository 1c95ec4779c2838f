/*
 * crypto: the only room that sees OpenSSL: TLS streams, hashes, keys, signatures.
 *
 * Flow:   a plain stream goes in, an encrypted stream with the same interface comes out.
 * Owns:   TLS contexts; a TLS stream owns the stream below it.
 * Sleeps: tls_accept, tls_connect and the stream operations.
 * Fails:  by io_result and a reason in words; OpenSSL's error queue is emptied at once.
 * Never:  sends in clear after a handshake was asked for; keeps input read before the handshake.
 */
#ifndef CRYPTO_CRYPTO_H
#define CRYPTO_CRYPTO_H

#include "base/base.h"
#include "observe/observe.h"
#include "runtime/runtime.h"

struct tls_context;

/* Server side: certificate chain and key in PEM. NULL with `why` filled in. */
MUST_USE struct tls_context *tls_context_server(const char *certificate, const char *key, char *why,
                                                size_t why_room);
/* When the certificate of the server side ends (its notAfter); 0: there is none. */
MUST_USE int64_t tls_context_end_wall_us(const struct tls_context *context);
/* Client side, nothing verified by default (opportunistic). */
MUST_USE struct tls_context *tls_context_client(char *why, size_t why_room);
/* From now on these authorities, and not the system's, prove client-side names. */
MUST_USE bool tls_context_trust(struct tls_context *context, const char *authorities, char *why,
                                size_t why_room);
void tls_context_free(struct tls_context *context);

#define TLS_NAMES_MAX 3
struct tls_peer_demand {
    const char *server_name;               /* SNI and, when verifying, the name to match; or NULL */
    bool verify_name;                      /* chain to a trusted authority, and name */
    bool only_look;                        /* verify, tell, and go on whatever came of it */
    const char *also_names[TLS_NAMES_MAX]; /* with TLSA usage 2: names that do as well, or NULL */
    const struct tlsa_record {
        uint8_t usage, selector, matching;
        struct bytes data;
    } * tlsa; /* DANE (RFC 7672) */
    unsigned tlsa_count;
};

/* Why a handshake did not come to a verified peer. */
enum tls_fault {
    TLS_FAULT_OTHER = 0, /* the connection, the protocol, the ciphers, our memory */
    TLS_FAULT_NOT_TRUSTED,
    TLS_FAULT_EXPIRED, /* or not yet valid */
    TLS_FAULT_WRONG_NAME,
    TLS_FAULT_NONE,
};
struct tls_facts {
    char protocol[16], cipher[64]; /* "TLSv1.3", "TLS_AES_256_GCM_SHA384" */
    unsigned cipher_bits;          /* of the secret key */
    bool verified;
    bool resumed;       /* an earlier session, under the same demand, goes on */
    bool tlsa_unusable; /* TLSA records were given and none counts (RFC 7672 2.2): encrypted only */
    enum tls_fault fault;
    char why[160]; /* why verification failed */
};

/* Handshakes over *stream and replaces it by the TLS stream. On failure *stream is closed and NULL.
 * Sleeps. */
struct io_result tls_accept(struct tls_context *context, struct stream **stream,
                            uint64_t deadline_us, struct tls_facts *facts);
struct io_result tls_connect(struct tls_context *context, const struct tls_peer_demand *demand,
                             struct stream **stream, uint64_t deadline_us, struct tls_facts *facts);

/* DANE without a connection (RFC 7672): would tls_connect take a peer with this chain? The context
 * is a client's; of the demand, name and records count. Never sleeps. */
enum dane_result {
    DANE_FAILED = 0, /* nothing can be said */
    DANE_MATCHES,
    DANE_NO_MATCH,
    DANE_UNUSABLE, /* there is no record that counts for SMTP (RFC 7672 3.1) */
};
struct dane_chain {
    const struct bytes *certificates; /* DER, the leaf first */
    unsigned count;
};
struct dane_words {
    char why[160];
};
enum dane_result dane_match(struct tls_context *context, const struct tls_peer_demand *demand,
                            const struct dane_chain *chain, struct dane_words *words);

/* A self-signed certificate (EC P-256, 10 years) and key for `hostname`, written to these files.
 * For the demo. */
MUST_USE bool tls_make_self_signed(const char *hostname, const char *certificate, const char *key,
                                   char *why, size_t why_room);

/* ------------------------------------------------------------------ hashes, in pieces */

enum digest_kind { DIGEST_SHA1, DIGEST_SHA256, DIGEST_SHA512 };
#define DIGEST_MAX 64
struct digest;
MUST_USE struct digest *digest_open(enum digest_kind kind); /* NULL on memory */
void digest_add(struct digest *digest, struct bytes bytes);
size_t digest_finish(struct digest *digest,
                     struct span into);    /* octets written; 0 when anything failed */
void digest_close(struct digest **digest); /* fits CLEANUP */

/* ------------------------------------------------------------------ keys and signatures (DKIM,
 * ARC) */

struct public_key;
struct private_key;
enum key_kind { KEY_RSA, KEY_ED25519 };
/* RSA: SubjectPublicKeyInfo or PKCS#1 DER; Ed25519: the 32 octets (RFC 8463). NULL when unusable.
 */
MUST_USE struct public_key *public_key_open(enum key_kind kind, struct bytes der);
unsigned public_key_bits(const struct public_key *key);
void public_key_close(struct public_key **key);
/* `hash` is the SHA-256 of the signed data; RSA: PKCS#1 v1.5; Ed25519: PureEdDSA over the hash (RFC
 * 8463 3). */
MUST_USE bool public_key_verifies(const struct public_key *key, struct bytes hash,
                                  struct bytes signature);
MUST_USE struct private_key *private_key_open_pem(struct bytes pem, char *why, size_t why_room);
enum key_kind private_key_kind(const struct private_key *key);
MUST_USE size_t private_key_sign(const struct private_key *key, struct bytes hash,
                                 struct span into); /* 0 on failure */
void private_key_close(struct private_key **key);

/* ------------------------------------------------------------------ keys in another process */

/* The keeper's side. It reads the files when it opens, and never again. */
struct key_file {
    const char *name, *path; /* of a section `sign`, for complaints; PEM, RSA or Ed25519 */
};
struct key_keeper_settings {
    const char *certificate, *certificate_key; /* "" for none; PEM, RSA or EC */
    const struct key_file *files;
    unsigned count;
};
struct key_keeper;
MUST_USE struct key_keeper *key_keeper_open(const struct key_keeper_settings *settings, char *why,
                                            size_t why_room);
/* Answers on one end of a SOCK_SEQPACKET pair until all copies of the other are closed. Blocks. */
void key_keeper_serve(const struct key_keeper *keeper, int descriptor);
void key_keeper_close(struct key_keeper **keeper);

/* The user's side, on the other end, which it takes over. It outlives what is made from it. */
struct key_service;
MUST_USE struct key_service *key_service_open(int descriptor); /* NULL on failure */
void key_service_close(struct key_service **service);
MUST_USE struct tls_context *tls_context_server_by(struct key_service *service, char *why,
                                                   size_t why_room);
/* False: the keeper of its key is gone, so that no handshake can succeed. At once. */
MUST_USE bool tls_context_stands(const struct tls_context *context);
/* index: into the keeper's files. */
MUST_USE struct private_key *private_key_open_by(struct key_service *service, unsigned index,
                                                 char *why, size_t why_room);

/* ------------------------------------------------------------------ passwords */

#define SECRET_KEY_BYTES 32
MUST_USE bool secret_equal(struct bytes a, struct bytes b); /* in constant time */
void secret_wipe(struct bytes secret);                      /* overwrites what the view shows */
/* PBKDF2 with HMAC-SHA-256; it computes for milliseconds, so in the worker pool. */
MUST_USE bool secret_derive(struct bytes password, struct bytes salt, unsigned iterations,
                            uint8_t key[SECRET_KEY_BYTES]);
MUST_USE bool secret_mac(struct bytes key, struct bytes text,
                         uint8_t mac[SECRET_KEY_BYTES]); /* HMAC-SHA-256 */
/* tls-exporter (RFC 9266); false: no TLS, or older than 1.3. */
MUST_USE bool tls_channel_binding(const struct stream *stream, uint8_t binding[SECRET_KEY_BYTES]);

/* Base 64 (RFC 4648); decoding skips white space, refuses anything else. */
void base64_encode(struct buffer *into, struct bytes plain);
MUST_USE bool base64_decode(struct arena *arena, struct bytes text, struct bytes *plain);

#endif
