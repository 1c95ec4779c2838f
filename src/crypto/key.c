/*
 * Keys and signatures for DKIM and ARC: RSA with PKCS#1 v1.5 over SHA-256 (RFC 6376, RFC 8301) and
 * Ed25519 over the SHA-256 hash (RFC 8463).
 */
#include "crypto/key_wire.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

enum { HASH_OCTETS = 32, KEY_DER_MAX = 16 * 1024 };

struct public_key {
    EVP_PKEY *key;
    enum key_kind kind;
};
struct private_key {
    EVP_PKEY *key; /* NULL: it is with the keeper */
    enum key_kind kind;
    struct key_service *service;
    unsigned index;
    size_t longest; /* signature */
};

/* The contents of the DER value of that type that fills all of `der`, or begins it. */
static bool der_enter(struct bytes der, int type, struct bytes *contents)
{
    const unsigned char *at = der.at;
    int tag = 0, class = 0;
    long length = 0;

    if (der.count == 0 || der.count > KEY_DER_MAX)
        return false;
    const int form = ASN1_get_object(&at, &length, &tag, &class, (long)der.count);
    if ((form & 0x81) != 0 || tag != type || class != V_ASN1_UNIVERSAL || length < 0)
        return false;
    *contents = bytes_of(at, (size_t)length);
    return true;
}

/* The PKCS#1 key inside a SubjectPublicKeyInfo: what OpenSSL 3's own decoders find too, in a
 * twentieth of the time. False for all that is not exactly that. */
static bool rsa_unwrap(struct bytes der, struct bytes *pkcs1)
{
    /* SEQUENCE { OBJECT rsaEncryption, NULL } */
    static const uint8_t algorithm[] = {0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86,
                                        0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00};
    const struct bytes known = bytes_of(algorithm, sizeof algorithm);
    struct bytes whole = BYTES_EMPTY, bits = BYTES_EMPTY;

    if (!der_enter(der, V_ASN1_SEQUENCE, &whole) || whole.at + whole.count != der.at + der.count ||
        !bytes_starts_with(whole, known) ||
        !der_enter(bytes_skip(whole, known.count), V_ASN1_BIT_STRING, &bits) || bits.count < 2 ||
        bits.at[0] != 0 || bits.at + bits.count != der.at + der.count)
        return false;
    *pkcs1 = bytes_skip(bits, 1);
    return true;
}

static EVP_PKEY *rsa_whole(EVP_PKEY *key, const unsigned char *at, struct bytes der)
{
    if (key && (EVP_PKEY_get_base_id(key) != EVP_PKEY_RSA || at != der.at + der.count)) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    return key;
}

/* Records hold SubjectPublicKeyInfo (RFC 6376, 3.6.1 as corrected), older ones a bare PKCS#1 key.
 */
static EVP_PKEY *rsa_from_der(struct bytes der)
{
    struct bytes pkcs1 = der;
    const bool wrapped = rsa_unwrap(der, &pkcs1);
    const unsigned char *at = pkcs1.at;
    EVP_PKEY *key = d2i_PublicKey(EVP_PKEY_RSA, NULL, &at, (long)pkcs1.count);

    if (key || wrapped)
        return rsa_whole(key, at, der);
    at = der.at;
    key = d2i_PUBKEY(NULL, &at, (long)der.count);
    return rsa_whole(key, at, der);
}

struct public_key *public_key_open(enum key_kind kind, struct bytes der)
{
    struct public_key *key = calloc(1, sizeof *key);

    if (!key)
        return NULL;
    key->kind = kind;
    if (der.count > 0 && der.count <= KEY_DER_MAX)
        key->key = kind == KEY_RSA
                       ? rsa_from_der(der)
                       : EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, der.at, der.count);
    ERR_clear_error();
    if (!key->key)
        public_key_close(&key);
    return key;
}

unsigned public_key_bits(const struct public_key *key)
{
    return (unsigned)EVP_PKEY_get_bits(key->key);
}

void public_key_close(struct public_key **key)
{
    if (!*key)
        return;
    EVP_PKEY_free((*key)->key);
    free(*key);
    *key = NULL;
}

static bool rsa_prepare(EVP_PKEY_CTX *context)
{
    return EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING) > 0 &&
           EVP_PKEY_CTX_set_signature_md(context, EVP_sha256()) > 0;
}

static bool rsa_verifies(EVP_PKEY *key, struct bytes hash, struct bytes signature)
{
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(key, NULL);
    const bool good =
        context && EVP_PKEY_verify_init(context) > 0 && rsa_prepare(context) &&
        EVP_PKEY_verify(context, signature.at, signature.count, hash.at, hash.count) == 1;

    EVP_PKEY_CTX_free(context);
    return good;
}

static bool ed25519_verifies(EVP_PKEY *key, struct bytes hash, struct bytes signature)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    const bool good =
        context && EVP_DigestVerifyInit(context, NULL, NULL, NULL, key) == 1 &&
        EVP_DigestVerify(context, signature.at, signature.count, hash.at, hash.count) == 1;

    EVP_MD_CTX_free(context);
    return good;
}

bool public_key_verifies(const struct public_key *key, struct bytes hash, struct bytes signature)
{
    const bool sized = hash.count == HASH_OCTETS && signature.count > 0;
    const bool good = sized && (key->kind == KEY_RSA ? rsa_verifies(key->key, hash, signature)
                                                     : ed25519_verifies(key->key, hash, signature));

    ERR_clear_error();
    return good;
}

/* A key that wants a passphrase is an error, not a question on a terminal. */
static int no_passphrase(char *into, int room, int writing, void *argument)
{
    (void)into;
    (void)room;
    (void)writing;
    (void)argument;
    return -1;
}

static EVP_PKEY *private_from_pem(struct bytes pem)
{
    BIO *bio = pem.count <= KEY_DER_MAX ? BIO_new_mem_buf(pem.at, (int)pem.count) : NULL;
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;

    BIO_free(bio);
    return key;
}

EVP_PKEY *key_from_pem(struct bytes pem, char *why, size_t why_room)
{
    EVP_PKEY *key = private_from_pem(pem);
    const int id = key ? EVP_PKEY_get_base_id(key) : 0;

    ERR_clear_error();
    if (id == EVP_PKEY_ED25519 || id == EVP_PKEY_RSA)
        return key;
    snprintf(why, why_room,
             key ? "the key is neither RSA nor Ed25519"
                 : "no PEM private key (one with a passphrase cannot be used)");
    EVP_PKEY_free(key);
    return NULL;
}

struct private_key *private_key_open_pem(struct bytes pem, char *why, size_t why_room)
{
    struct private_key *key = calloc(1, sizeof *key);

    if (!key) {
        snprintf(why, why_room, "no memory");
        return NULL;
    }
    key->key = key_from_pem(pem, why, why_room);
    if (!key->key) {
        private_key_close(&key);
        return NULL;
    }
    key->kind = EVP_PKEY_get_base_id(key->key) == EVP_PKEY_ED25519 ? KEY_ED25519 : KEY_RSA;
    key->longest = (size_t)EVP_PKEY_get_size(key->key);
    return key;
}

struct private_key *private_key_open_by(struct key_service *service, unsigned index, char *why,
                                        size_t why_room)
{
    struct private_key *key = calloc(1, sizeof *key);

    snprintf(why, why_room, "the keeper of keys does not answer");
    if (!key)
        return NULL;
    key->service = service;
    key->index = index + 1; /* the certificate's key is the first */
    if (!key_service_describe(service, key->index, &key->kind, &key->longest))
        private_key_close(&key);
    return key;
}

enum key_kind private_key_kind(const struct private_key *key)
{
    return key->kind;
}

static size_t rsa_sign(EVP_PKEY *key, struct bytes hash, struct span into)
{
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(key, NULL);
    size_t count = into.count;
    const bool good = context && EVP_PKEY_sign_init(context) > 0 && rsa_prepare(context) &&
                      EVP_PKEY_sign(context, into.at, &count, hash.at, hash.count) == 1;

    EVP_PKEY_CTX_free(context);
    return good ? count : 0;
}

static size_t ed25519_sign(EVP_PKEY *key, struct bytes hash, struct span into)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    size_t count = into.count;
    const bool good = context && EVP_DigestSignInit(context, NULL, NULL, NULL, key) == 1 &&
                      EVP_DigestSign(context, into.at, &count, hash.at, hash.count) == 1;

    EVP_MD_CTX_free(context);
    return good ? count : 0;
}

size_t key_sign_hash(EVP_PKEY *key, struct bytes hash, struct span into)
{
    size_t count = 0;

    if (hash.count == HASH_OCTETS && into.count >= (size_t)EVP_PKEY_get_size(key))
        count = EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519 ? ed25519_sign(key, hash, into)
                                                              : rsa_sign(key, hash, into);
    ERR_clear_error();
    return count;
}

size_t private_key_sign(const struct private_key *key, struct bytes hash, struct span into)
{
    if (hash.count != HASH_OCTETS || into.count < key->longest)
        return 0;
    return key->key ? key_sign_hash(key->key, hash, into)
                    : key_service_sign(key->service, key->index, hash, into);
}

void private_key_close(struct private_key **key)
{
    if (!*key)
        return;
    EVP_PKEY_free((*key)->key);
    free(*key);
    *key = NULL;
}
