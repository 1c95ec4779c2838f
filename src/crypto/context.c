/*
 * TLS contexts: what all connections of one side share. TLS 1.2 and later, no renegotiation, no
 * compression; read buffers are given back while a connection is idle.
 */
#include "crypto/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <string.h>
#include <unistd.h>

/* A key that wants a passphrase is an error, not a question on a terminal. */
static int no_passphrase(char *into, int room, int writing, void *argument)
{
    (void)into;
    (void)room;
    (void)writing;
    (void)argument;
    return -1;
}

static SSL_CTX *context_open(const SSL_METHOD *method)
{
    SSL_CTX *context = SSL_CTX_new(method);

    if (!context)
        return NULL;
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                     SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_default_passwd_cb(context, no_passphrase);
    return context;
}

static bool context_say(char *why, size_t why_room, const char *what, const char *path)
{
    char words[128];

    if (access(path, R_OK) != 0)
        snprintf(words, sizeof words, "%s", strerror(errno));
    else
        crypto_take_error(words, sizeof words);
    ERR_clear_error();
    snprintf(why, why_room, "%s %s: %s", what, path, words);
    return false;
}

static bool context_load(SSL_CTX *context, const char *certificate, const char *key, char *why,
                         size_t why_room)
{
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(context, certificate) != 1)
        return context_say(why, why_room, "certificate", certificate);
    if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(context) != 1)
        return context_say(why, why_room, "key", key);
    return true;
}

struct tls_context *tls_context_bare_server(char *why, size_t why_room)
{
    static const unsigned char name[] = "holdfast";
    struct tls_context *context = calloc(1, sizeof *context);

    if (context)
        context->plain = context_open(TLS_server_method());
    if (!context || !context->plain) {
        crypto_take_error(why, why_room);
        tls_context_free(context);
        return NULL;
    }
    SSL_CTX_set_session_id_context(context->plain, name, sizeof name - 1);
    /* A recorded session must stay closed to whoever gets the key later. */
    SSL_CTX_set_cipher_list(context->plain, "DEFAULT:!kRSA:!PSK:!SRP");
    return context;
}

struct tls_context *tls_context_server(const char *certificate, const char *key, char *why,
                                       size_t why_room)
{
    struct tls_context *context = tls_context_bare_server(why, why_room);

    if (!context)
        return NULL;
    if (context_load(context->plain, certificate, key, why, why_room))
        return context;
    tls_context_free(context);
    return NULL;
}

struct tls_context *tls_context_client(char *why, size_t why_room)
{
    struct tls_context *context = calloc(1, sizeof *context);

    if (context) {
        context->plain = context_open(TLS_client_method());
        context->verifying = context_open(TLS_client_method());
    }
    if (!context || !context->plain || !context->verifying ||
        SSL_CTX_dane_enable(context->verifying) != 1) {
        crypto_take_error(why, why_room);
        tls_context_free(context);
        return NULL;
    }
    /* Weak encryption beats none where nothing was demanded; a demand brings its own level. */
    SSL_CTX_set_security_level(context->plain, 0);
    /* A host without a trust store fails each verification, in words, when one is demanded. */
    SSL_CTX_set_default_verify_paths(context->verifying);
    context->memory = tls_memory_open(context->plain, context->verifying);
    ERR_clear_error();
    return context;
}

bool tls_context_trust(struct tls_context *context, const char *authorities, char *why,
                       size_t why_room)
{
    X509_STORE *const store = X509_STORE_new();

    ERR_clear_error();
    if (!store || X509_STORE_load_file(store, authorities) != 1) {
        X509_STORE_free(store);
        return context_say(why, why_room, "authorities", authorities);
    }
    SSL_CTX_set_cert_store(context->verifying, store);
    return true;
}

int64_t tls_context_end_wall_us(const struct tls_context *context)
{
    const X509 *certificate = context ? SSL_CTX_get0_certificate(context->plain) : NULL;
    struct tm end = {0};

    return certificate && ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &end) == 1
               ? (int64_t)timegm(&end) * 1000000
               : 0;
}

void tls_context_free(struct tls_context *context)
{
    if (!context)
        return;
    SSL_CTX_free(context->plain);
    SSL_CTX_free(context->verifying);
    tls_memory_close(context->memory);
    free(context);
}
