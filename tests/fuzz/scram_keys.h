/*
 * SCRAM-SHA-256 (RFC 5802, 7677) as both sides of it compute it, for targets that play one side and
 * know whether the other was right to be content. User "u", password "pencil", salt "salt", one
 * iteration, so that it is quick.
 */
#ifndef TESTS_SCRAM_KEYS_H
#define TESTS_SCRAM_KEYS_H

#include "crypto/crypto.h"

#define SCRAM_PASSWORD "pencil"
#define SCRAM_SALT "salt"

struct scram_keys {
    uint8_t client[SECRET_KEY_BYTES], stored[SECRET_KEY_BYTES], server[SECRET_KEY_BYTES];
};

static inline struct scram_keys scram_keys_made(void)
{
    struct scram_keys keys;
    uint8_t salted[SECRET_KEY_BYTES];
    CLEANUP(digest_close) struct digest *digest = digest_open(DIGEST_SHA256);

    INVARIANT(secret_derive(BYTES_LITERAL(SCRAM_PASSWORD), BYTES_LITERAL(SCRAM_SALT), 1, salted));
    const struct bytes key = bytes_of(salted, sizeof salted);
    INVARIANT(secret_mac(key, BYTES_LITERAL("Client Key"), keys.client));
    INVARIANT(secret_mac(key, BYTES_LITERAL("Server Key"), keys.server));
    digest_add(digest, bytes_of(keys.client, sizeof keys.client));
    INVARIANT(digest_finish(digest, (struct span){keys.stored, sizeof keys.stored}) ==
              sizeof keys.stored);
    return keys;
}

/* p=, what the client proves with, over "first-bare,server-first,final-without-proof". */
static inline void scram_proof(const struct scram_keys *keys, struct bytes signed_text,
                               uint8_t proof[SECRET_KEY_BYTES])
{
    INVARIANT(secret_mac(bytes_of(keys->stored, SECRET_KEY_BYTES), signed_text, proof));
    for (unsigned i = 0; i < SECRET_KEY_BYTES; i++)
        proof[i] ^= keys->client[i];
}

/* v=, what the server proves with, over the same. */
static inline void scram_signature(const struct scram_keys *keys, struct bytes signed_text,
                                   uint8_t signature[SECRET_KEY_BYTES])
{
    INVARIANT(secret_mac(bytes_of(keys->server, SECRET_KEY_BYTES), signed_text, signature));
}

/* Without the header of channel binding: "n,,n=u,r=x" has "n=u,r=x". */
static inline struct bytes scram_bare(struct bytes first)
{
    struct bytes part;

    first = bytes_cut(first, ',', &part);
    return bytes_cut(first, ',', &part);
}

/* All before ",p=", the last field. */
static inline struct bytes scram_without_proof(struct bytes message)
{
    const size_t comma = bytes_find_last_byte(message, ',');

    return bytes_slice(message, 0, comma);
}

#endif
