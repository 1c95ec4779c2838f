/* What the keeper of keys and those who use it say to each other. Private to the room. */
#ifndef CRYPTO_KEY_WIRE_H
#define CRYPTO_KEY_WIRE_H

#include <openssl/evp.h>

#include "crypto/crypto.h"

enum key_operation {
    KEY_NONE = 0,
    KEY_CHAIN,       /* -> the certificate chain in PEM */
    KEY_DESCRIBE,    /* -> one octet, the kind; then the longest signature, two octets */
    KEY_SIGN_PKCS1,  /* an encoded digest -> RSA with PKCS#1 v1.5 padding */
    KEY_SIGN_PADDED, /* a block as long as the key, padded by PSS -> RSA */
    KEY_SIGN_ECDSA,  /* a digest -> DER */
    KEY_SIGN_HASH,   /* the SHA-256 of a message: DKIM and ARC */
};

/* Each request and each answer is one packet of a SOCK_SEQPACKET pair. An answer bears the number
 * of its request: one that comes late is nobody else's. */
enum { KEY_DATA_MOST = 2048, KEY_ANSWER_MOST = 64 * 1024 };
struct key_request {
    uint16_t operation, number;
    uint32_t key, count;
    uint8_t data[KEY_DATA_MOST];
};
struct key_answer {
    uint16_t fine, number;
    uint32_t count;
    uint8_t data[KEY_ANSWER_MOST];
};
#define KEY_REQUEST_HEAD offsetof(struct key_request, data)
#define KEY_ANSWER_HEAD offsetof(struct key_answer, data)

/* key.c: an RSA or Ed25519 key out of PEM; NULL with `why`. */
EVP_PKEY *key_from_pem(struct bytes pem, char *why, size_t why_room);
/* Signs a SHA-256 by the rule of the key's kind. 0 on failure. */
size_t key_sign_hash(EVP_PKEY *key, struct bytes hash, struct span into);

/* key_service.c, for private_key's handle. */
MUST_USE bool key_service_describe(struct key_service *service, unsigned key, enum key_kind *kind,
                                   size_t *longest);
size_t key_service_sign(struct key_service *service, unsigned key, struct bytes hash,
                        struct span into);

#endif
