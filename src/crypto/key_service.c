/*
 * The other side of the keeper: keys that are used through a socket, behind the same handles as
 * keys in memory. OpenSSL meets them as an RSA_METHOD and an EC_KEY_METHOD, whose public half is in
 * the certificate.
 *
 * One question at a time; it takes the time of one signature and two switches of process, during
 * which the asking loop waits, as it would while it signed by itself. A question without an answer
 * fails, and with it the handshake or the signature; those that follow do not wait for a keeper
 * that stands still, until it is tried again or its late answer comes.
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <errno.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "crypto/key_wire.h"
#include "crypto/tls.h"

enum { PATIENCE_S = 10, CERTIFICATE_KEY = 0 };

struct key_service {
    int descriptor;
    _Atomic time_t silent_until_s; /* the last question had no answer in time; 0: it had */
    pthread_mutex_t lock;
    struct key_request request; /* under the lock, as is the answer */
    struct key_answer answer;
};

struct key_service *key_service_open(int descriptor)
{
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    struct key_service *service = calloc(1, sizeof *service);

    if (!service || setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) ||
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience)) {
        free(service);
        close(descriptor);
        return NULL;
    }
    service->descriptor = descriptor;
    pthread_mutex_init(&service->lock, NULL);
    return service;
}

void key_service_close(struct key_service **service)
{
    if (!*service)
        return;
    close((*service)->descriptor);
    pthread_mutex_destroy(&(*service)->lock);
    free(*service);
    *service = NULL;
}

static time_t seconds_now(void)
{
    struct timespec now = {0};

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* The end of the connection is seen without a question; what waits there is a late answer. */
bool key_service_stands(const struct key_service *service)
{
    uint8_t octet;
    ssize_t got = 0;

    do
        got = recv(service->descriptor, &octet, sizeof octet, MSG_PEEK | MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return (errno == EAGAIN || errno == EWOULDBLOCK) &&
               seconds_now() >= atomic_load(&service->silent_until_s);
    return got > 0;
}

/* The answer to the last question; those to earlier ones, which came too late, are passed over. */
static bool answer_take(struct key_service *service, int flags)
{
    const struct key_answer *answer = &service->answer;

    for (;;) {
        const ssize_t got = recv(service->descriptor, &service->answer, sizeof *answer, flags);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < (ssize_t)KEY_ANSWER_HEAD)
            return false;
        if (answer->number == service->request.number)
            return answer->count == (size_t)got - KEY_ANSWER_HEAD;
    }
}

static bool exchange_locked(struct key_service *service, size_t count)
{
    ssize_t sent = 0;

    if (seconds_now() < atomic_load(&service->silent_until_s) &&
        !answer_take(service, MSG_DONTWAIT))
        return false;
    atomic_store(&service->silent_until_s, 0);
    service->request.number++;
    do
        sent = send(service->descriptor, &service->request, KEY_REQUEST_HEAD + count, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return false;
    errno = 0;
    if (answer_take(service, 0))
        return true;
    if (errno == EAGAIN)
        atomic_store(&service->silent_until_s, seconds_now() + PATIENCE_S);
    return false;
}

/* Octets of the answer, 0: refused or failed. */
static size_t service_ask(struct key_service *service, enum key_operation operation, unsigned key,
                          struct bytes data, struct span into)
{
    size_t count = 0;

    if (data.count > KEY_DATA_MOST)
        return 0;
    pthread_mutex_lock(&service->lock);
    service->request.operation = (uint16_t)operation;
    service->request.key = key;
    service->request.count = (uint32_t)data.count;
    if (data.count > 0)
        memcpy(service->request.data, data.at, data.count);
    if (exchange_locked(service, data.count) && service->answer.fine &&
        service->answer.count <= into.count) {
        count = service->answer.count;
        memcpy(into.at, service->answer.data, count);
    }
    pthread_mutex_unlock(&service->lock);
    return count;
}

/* ------------------------------------------------------------------ the certificate's key */

/* What OpenSSL asks for when it wants a signature by RSA: the padding is named, or done already. */
static int rsa_ask(int count, const unsigned char *from, unsigned char *to, RSA *rsa, int padding)
{
    const enum key_operation operation = padding == RSA_PKCS1_PADDING ? KEY_SIGN_PKCS1
                                         : padding == RSA_NO_PADDING  ? KEY_SIGN_PADDED
                                                                      : KEY_NONE;
    const size_t got =
        service_ask(RSA_get_app_data(rsa), operation, CERTIFICATE_KEY,
                    bytes_of(from, (size_t)count), (struct span){to, (size_t)RSA_size(rsa)});

    return got > 0 ? (int)got : -1;
}

static int rsa_refuse(int count UNUSED, const unsigned char *from UNUSED, unsigned char *to UNUSED,
                      RSA *rsa UNUSED, int padding UNUSED)
{
    return -1;
}

static int ecdsa_ask(int type UNUSED, const unsigned char *digest, int count, unsigned char *to,
                     unsigned int *to_count, const BIGNUM *inverse UNUSED, const BIGNUM *r UNUSED,
                     EC_KEY *key)
{
    const size_t got =
        service_ask(EC_KEY_get_ex_data(key, 0), KEY_SIGN_ECDSA, CERTIFICATE_KEY,
                    bytes_of(digest, (size_t)count), (struct span){to, (size_t)ECDSA_size(key)});

    *to_count = (unsigned)got;
    return got > 0;
}

static RSA_METHOD *rsa_method;
static EC_KEY_METHOD *ec_method;
static pthread_mutex_t methods_lock = PTHREAD_MUTEX_INITIALIZER;

static void ec_method_make(void)
{
    int (*sign_setup)(EC_KEY *, BN_CTX *, BIGNUM **, BIGNUM **) = NULL;
    ECDSA_SIG *(*sign_raw)(const unsigned char *, int, const BIGNUM *, const BIGNUM *, EC_KEY *) =
        NULL;

    ec_method = EC_KEY_METHOD_new(EC_KEY_OpenSSL());
    if (!ec_method)
        return;
    EC_KEY_METHOD_get_sign(ec_method, NULL, &sign_setup, &sign_raw);
    EC_KEY_METHOD_set_sign(ec_method, ecdsa_ask, sign_setup, sign_raw);
}

/* What memory was too short for is made the next time. */
static void methods_make(void)
{
    pthread_mutex_lock(&methods_lock);
    if (!rsa_method && (rsa_method = RSA_meth_dup(RSA_PKCS1_OpenSSL())))
        RSA_meth_set_priv_enc(rsa_method, rsa_ask), RSA_meth_set_priv_dec(rsa_method, rsa_refuse);
    if (!ec_method)
        ec_method_make();
    pthread_mutex_unlock(&methods_lock);
}

static EVP_PKEY *rsa_remote(struct key_service *service, EVP_PKEY *public_half)
{
    RSA *rsa = EVP_PKEY_get1_RSA(public_half);
    EVP_PKEY *key = EVP_PKEY_new();

    if (!rsa || !key || RSA_set_method(rsa, rsa_method) != 1 ||
        RSA_set_app_data(rsa, service) != 1 || EVP_PKEY_assign_RSA(key, rsa) != 1) {
        RSA_free(rsa);
        EVP_PKEY_free(key);
        return NULL;
    }
    return key;
}

static EVP_PKEY *ec_remote(struct key_service *service, EVP_PKEY *public_half)
{
    EC_KEY *ec = EVP_PKEY_get1_EC_KEY(public_half);
    EVP_PKEY *key = EVP_PKEY_new();

    if (!ec || !key || EC_KEY_set_method(ec, ec_method) != 1 ||
        EC_KEY_set_ex_data(ec, 0, service) != 1 || EVP_PKEY_assign_EC_KEY(key, ec) != 1) {
        EC_KEY_free(ec);
        EVP_PKEY_free(key);
        return NULL;
    }
    return key;
}

/* A copy of the certificate's key that signs elsewhere. */
static EVP_PKEY *certificate_key(struct key_service *service, X509 *leaf)
{
    /* A key of its own: the certificate's must stay as OpenSSL made it. */
    unsigned char *der = NULL;
    const int count = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(leaf), &der);
    const unsigned char *at = der;
    EVP_PKEY *copy = count > 0 ? d2i_PUBKEY(NULL, &at, count) : NULL;
    const int kind = copy ? EVP_PKEY_get_base_id(copy) : 0;
    EVP_PKEY *key = kind == EVP_PKEY_RSA && rsa_method ? rsa_remote(service, copy)
                    : kind == EVP_PKEY_EC && ec_method ? ec_remote(service, copy)
                                                       : NULL;

    OPENSSL_free(der);
    EVP_PKEY_free(copy);
    return key;
}

/* The leaf first, then what vouches for it. */
static bool context_take_chain(SSL_CTX *context, struct key_service *service, BIO *pem)
{
    X509 *leaf = PEM_read_bio_X509_AUX(pem, NULL, NULL, NULL);
    EVP_PKEY *key = leaf ? certificate_key(service, leaf) : NULL;
    bool fine = key && SSL_CTX_use_certificate(context, leaf) == 1 &&
                SSL_CTX_use_PrivateKey(context, key) == 1;

    while (fine) {
        X509 *above = PEM_read_bio_X509(pem, NULL, NULL, NULL);
        if (!above)
            break;
        fine = SSL_CTX_add0_chain_cert(context, above) == 1;
        if (!fine)
            X509_free(above);
    }
    X509_free(leaf);
    EVP_PKEY_free(key);
    return fine;
}

struct tls_context *tls_context_server_by(struct key_service *service, char *why, size_t why_room)
{
    uint8_t *chain = malloc(KEY_ANSWER_MOST);
    const size_t count = chain ? service_ask(service, KEY_CHAIN, CERTIFICATE_KEY, BYTES_EMPTY,
                                             (struct span){chain, KEY_ANSWER_MOST})
                               : 0;
    BIO *pem = count > 0 ? BIO_new_mem_buf(chain, (int)count) : NULL;
    struct tls_context *context = pem ? tls_context_bare_server(why, why_room) : NULL;

    methods_make();
    if (!pem) {
        snprintf(why, why_room, "the keeper of keys has no certificate");
    } else if (context && !context_take_chain(context->plain, service, pem)) {
        crypto_take_error(why, why_room);
        tls_context_free(context);
        context = NULL;
    }
    if (context)
        context->keys = service;
    BIO_free(pem);
    free(chain);
    ERR_clear_error();
    return context;
}

bool tls_context_stands(const struct tls_context *context)
{
    return !context->keys || key_service_stands(context->keys);
}

/* ------------------------------------------------------------------ keys that sign mail */

bool key_service_describe(struct key_service *service, unsigned key, enum key_kind *kind,
                          size_t *longest)
{
    uint8_t facts[3];

    if (service_ask(service, KEY_DESCRIBE, key, BYTES_EMPTY, (struct span){facts, sizeof facts}) !=
        sizeof facts)
        return false;
    *kind = facts[0] == KEY_ED25519 ? KEY_ED25519 : KEY_RSA;
    *longest = (size_t)facts[1] << 8 | facts[2];
    return true;
}

size_t key_service_sign(struct key_service *service, unsigned key, struct bytes hash,
                        struct span into)
{
    return service_ask(service, KEY_SIGN_HASH, key, hash, into);
}
