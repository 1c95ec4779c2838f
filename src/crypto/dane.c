/*
 * DANE without a connection: the records and a chain, judged by the code that a handshake uses. For
 * `dns check`, which has fetched both, and for conformance material.
 */
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "crypto/tls.h"

enum { CHAIN_MOST = 32 };

static STACK_OF(X509) * chain_open(const struct bytes *chain, unsigned count)
{
    STACK_OF(X509) *certificates = sk_X509_new_null();

    for (unsigned i = 0; certificates && i < count && i < CHAIN_MOST; i++) {
        const unsigned char *at = chain[i].at;
        X509 *one = d2i_X509(NULL, &at, (long)chain[i].count);

        if (one && sk_X509_push(certificates, one) > 0)
            continue;
        X509_free(one);
        sk_X509_pop_free(certificates, X509_free);
        return NULL;
    }
    return certificates;
}

/* As OpenSSL itself does at the end of a handshake, with the peer's chain given by hand. */
static int chain_verify(SSL *ssl, X509_STORE *trusted, STACK_OF(X509) * chain)
{
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    int result = X509_V_ERR_OUT_OF_MEM;

    if (context && X509_STORE_CTX_init(context, trusted, sk_X509_value(chain, 0), chain) == 1 &&
        X509_STORE_CTX_set_default(context, "ssl_server") == 1 &&
        X509_STORE_CTX_set_ex_data(context, SSL_get_ex_data_X509_STORE_CTX_idx(), ssl) == 1) {
        X509_VERIFY_PARAM_set1(X509_STORE_CTX_get0_param(context), SSL_get0_param(ssl));
        X509_STORE_CTX_set0_dane(context, SSL_get0_dane(ssl));
        const int verified = X509_verify_cert(context);
        result = X509_STORE_CTX_get_error(context);
        if (verified <= 0 && result == X509_V_OK)
            result = X509_V_ERR_UNSPECIFIED;
    }
    X509_STORE_CTX_free(context);
    return result;
}

static enum dane_result judge(SSL *ssl, const struct tls_peer_demand *demand,
                              STACK_OF(X509) * chain, struct dane_words *words)
{
    const int usable = tls_demand_dane(ssl, demand);

    if (usable <= 0) {
        snprintf(words->why, sizeof words->why, "%s",
                 usable == 0 ? "no usable TLSA record" : "DANE could not be set up");
        return usable == 0 ? DANE_UNUSABLE : DANE_FAILED;
    }
    const int result = chain_verify(ssl, SSL_CTX_get_cert_store(SSL_get_SSL_CTX(ssl)), chain);
    if (result == X509_V_OK)
        return DANE_MATCHES;
    snprintf(words->why, sizeof words->why, "%s", X509_verify_cert_error_string(result));
    return result == X509_V_ERR_OUT_OF_MEM ? DANE_FAILED : DANE_NO_MATCH;
}

enum dane_result dane_match(struct tls_context *context, const struct tls_peer_demand *demand,
                            const struct dane_chain *chain, struct dane_words *words)
{
    enum dane_result result = DANE_FAILED;
    STACK_OF(X509) *certificates = chain_open(chain->certificates, chain->count);
    SSL *ssl = SSL_new(context->verifying);

    *words = (struct dane_words){"the chain cannot be read"};
    if (certificates && ssl && sk_X509_num(certificates) > 0)
        result = judge(ssl, demand, certificates, words);
    SSL_free(ssl);
    sk_X509_pop_free(certificates, X509_free);
    ERR_clear_error();
    return result;
}
