/*
 * The keeper: the only process that has private keys in its memory. It answers requests over a
 * socket pair until the other side is gone.
 *
 * What it refuses: a key used for what it is not for (the certificate's key signs handshakes, the
 * others sign hashes of mail), data of a wrong length, more than fits one packet. Nothing is ever
 * decrypted, and no request makes it open a file.
 *
 * Sleeps: it is no fiber; it blocks. Fails: towards the asker, without words.
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/rsa.h>
#include <string.h>
#include <sys/socket.h>

#include "crypto/key_wire.h"
#include "crypto/tls.h"

enum { CERTIFICATE_KEY = 0, DIGEST_LEAST = 20, DIGEST_INFO_MOST = 128, PSS_TRAILER = 0xbc };

struct key_keeper {
    struct buffer chain; /* of the certificate, in PEM; empty: none */
    EVP_PKEY **keys;     /* the certificate's first, or NULL; then those that sign mail */
    unsigned count;
};

/* ------------------------------------------------------------------ reading */

static bool file_take(const char *path, struct buffer *into, char *why, size_t why_room)
{
    uint8_t piece[4096];
    size_t got = 0;
    FILE *file = fopen(path, "rbe");

    if (!file) {
        snprintf(why, why_room, "%s: %s", path, strerror(errno));
        return false;
    }
    while ((got = fread(piece, 1, sizeof piece, file)) > 0)
        buffer_add(into, bytes_of(piece, got));
    const bool whole = !ferror(file) && !into->failed;
    fclose(file);
    OPENSSL_cleanse(piece, sizeof piece);
    if (!whole)
        snprintf(why, why_room, "%s: too large", path);
    return whole;
}

/* The certificate is checked as a server would check it, its chain kept as it is written. */
static bool keeper_take_certificate(struct key_keeper *keeper, const char *certificate,
                                    const char *key, char *why, size_t why_room)
{
    struct tls_context *context = tls_context_server(certificate, key, why, why_room);

    if (!context)
        return false;
    EVP_PKEY *const taken = SSL_CTX_get0_privatekey(context->plain);
    const int kind = taken ? EVP_PKEY_get_base_id(taken) : 0;
    const bool fits = kind == EVP_PKEY_RSA || kind == EVP_PKEY_EC;

    if (!fits)
        snprintf(why, why_room, "key %s: neither RSA nor EC", key);
    if (fits && EVP_PKEY_up_ref(taken) == 1)
        keeper->keys[CERTIFICATE_KEY] = taken;
    tls_context_free(context);
    return keeper->keys[CERTIFICATE_KEY] && file_take(certificate, &keeper->chain, why, why_room);
}

static bool keeper_take_key(struct key_keeper *keeper, const struct key_file *file, char *why,
                            size_t why_room)
{
    struct buffer pem = BUFFER_WITH_LIMIT(KEY_ANSWER_MOST);
    char words[300] = "";
    EVP_PKEY *key = NULL;

    if (!file_take(file->path, &pem, words, sizeof words)) {
        snprintf(why, why_room, "sign \"%s\": %s", file->name, words);
    } else {
        key = key_from_pem(buffer_view(&pem), words, sizeof words);
        if (!key)
            snprintf(why, why_room, "sign \"%s\": %s: %s", file->name, file->path, words);
    }
    if (pem.at)
        OPENSSL_cleanse(pem.at, pem.count);
    buffer_free(&pem);
    keeper->keys[keeper->count++] = key;
    return key != NULL;
}

struct key_keeper *key_keeper_open(const struct key_keeper_settings *settings, char *why,
                                   size_t why_room)
{
    struct key_keeper *keeper = calloc(1, sizeof *keeper);

    snprintf(why, why_room, "no memory");
    if (keeper)
        keeper->keys = calloc(settings->count + 1u, sizeof(EVP_PKEY *));
    if (!keeper || !keeper->keys) {
        key_keeper_close(&keeper);
        return NULL;
    }
    keeper->chain = BUFFER_WITH_LIMIT(KEY_ANSWER_MOST);
    keeper->count = CERTIFICATE_KEY + 1;
    bool fine = !*settings->certificate ||
                keeper_take_certificate(keeper, settings->certificate, settings->certificate_key,
                                        why, why_room);
    for (unsigned i = 0; fine && i < settings->count; i++)
        fine = keeper_take_key(keeper, &settings->files[i], why, why_room);
    if (!fine)
        key_keeper_close(&keeper);
    return keeper;
}

void key_keeper_close(struct key_keeper **keeper)
{
    if (!*keeper)
        return;
    for (unsigned i = 0; (*keeper)->keys && i < (*keeper)->count; i++)
        EVP_PKEY_free((*keeper)->keys[i]);
    free((*keeper)->keys);
    buffer_free(&(*keeper)->chain);
    free(*keeper);
    *keeper = NULL;
}

/* ------------------------------------------------------------------ answering */

/* By the caller's own padding, or by PKCS#1 v1.5 around a digest that is encoded already. */
static size_t sign_block(EVP_PKEY *key, struct bytes block, int padding, struct span into)
{
    EVP_PKEY_CTX *context =
        EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA ? EVP_PKEY_CTX_new(key, NULL) : NULL;
    size_t count = into.count;
    const bool good = context && EVP_PKEY_sign_init(context) > 0 &&
                      EVP_PKEY_CTX_set_rsa_padding(context, padding) > 0 &&
                      EVP_PKEY_sign(context, into.at, &count, block.at, block.count) == 1;

    EVP_PKEY_CTX_free(context);
    return good ? count : 0;
}

static size_t sign_ecdsa(EVP_PKEY *key, struct bytes digest, struct span into)
{
    EVP_PKEY_CTX *context =
        EVP_PKEY_get_base_id(key) == EVP_PKEY_EC ? EVP_PKEY_CTX_new(key, NULL) : NULL;
    size_t count = into.count;
    const bool good = context && EVP_PKEY_sign_init(context) > 0 &&
                      EVP_PKEY_sign(context, into.at, &count, digest.at, digest.count) == 1;

    EVP_PKEY_CTX_free(context);
    return good ? count : 0;
}

static size_t describe(EVP_PKEY *key, struct span into)
{
    const int size = EVP_PKEY_get_size(key);

    into.at[0] = EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519 ? KEY_ED25519 : KEY_RSA;
    into.at[1] = (uint8_t)(size >> 8);
    into.at[2] = (uint8_t)size;
    return 3;
}

/* Signatures of the certificate's key: what a handshake needs, and of that shape only. */
static size_t answer_handshake(EVP_PKEY *key, const struct key_request *request, struct span into)
{
    const struct bytes data = bytes_of(request->data, request->count);

    switch ((enum key_operation)request->operation) {
    case KEY_SIGN_PKCS1:
        return data.count >= DIGEST_LEAST && data.count <= DIGEST_INFO_MOST
                   ? sign_block(key, data, RSA_PKCS1_PADDING, into)
                   : 0;
    case KEY_SIGN_PADDED:
        return data.count == (size_t)EVP_PKEY_get_size(key) &&
                       data.at[data.count - 1] == PSS_TRAILER
                   ? sign_block(key, data, RSA_NO_PADDING, into)
                   : 0;
    case KEY_SIGN_ECDSA:
        return data.count >= DIGEST_LEAST && data.count <= DIGEST_MAX ? sign_ecdsa(key, data, into)
                                                                      : 0;
    case KEY_NONE:
    case KEY_CHAIN:
    case KEY_DESCRIBE:
    case KEY_SIGN_HASH:
        break;
    }
    return 0;
}

static size_t answer_chain(const struct key_keeper *keeper, struct span into)
{
    const size_t count = MIN_OF(keeper->chain.count, into.count);

    if (count > 0)
        memcpy(into.at, keeper->chain.at, count);
    return count;
}

static size_t answer(const struct key_keeper *keeper, const struct key_request *request,
                     struct span into)
{
    EVP_PKEY *const key = request->key < keeper->count ? keeper->keys[request->key] : NULL;

    if (!key)
        return 0;
    if (request->operation == KEY_CHAIN)
        return request->key == CERTIFICATE_KEY ? answer_chain(keeper, into) : 0;
    if (request->operation == KEY_DESCRIBE)
        return describe(key, into);
    if (request->key == CERTIFICATE_KEY)
        return answer_handshake(key, request, into);
    if (request->operation == KEY_SIGN_HASH)
        return key_sign_hash(key, bytes_of(request->data, request->count), into);
    return 0;
}

/* False at the end. A packet that is none of ours is answered "no". */
static bool keeper_serve_one(const struct key_keeper *keeper, int descriptor,
                             struct key_request *request, struct key_answer *out)
{
    ssize_t got = 0;

    do
        got = recv(descriptor, request, sizeof *request, MSG_TRUNC);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return false;
    const bool whole = (size_t)got >= KEY_REQUEST_HEAD && (size_t)got <= sizeof *request &&
                       request->count == (size_t)got - KEY_REQUEST_HEAD;
    const size_t count =
        whole ? answer(keeper, request, (struct span){out->data, sizeof out->data}) : 0;
    ERR_clear_error();
    out->fine = count > 0;
    out->number = (size_t)got >= KEY_REQUEST_HEAD ? request->number : 0;
    out->count = (uint32_t)count;
    do
        got = send(descriptor, out, KEY_ANSWER_HEAD + count, MSG_NOSIGNAL);
    while (got < 0 && errno == EINTR);
    return got >= 0;
}

void key_keeper_serve(const struct key_keeper *keeper, int descriptor)
{
    static struct key_request request;
    static struct key_answer out;

    while (keeper_serve_one(keeper, descriptor, &request, &out))
        continue;
}
