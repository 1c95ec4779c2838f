/*
 * Handshakes of both sides, and what was learned in them. On failure the stream below is closed:
 * nobody can go on in clear by mistake.
 */
#include "crypto/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <string.h>

/* RFC 7672, 3.1: usages 0 and 1 are not for SMTP. */
enum { TLSA_TRUST_ANCHOR = 2, TLSA_END_ENTITY = 3 };

static enum tls_fault fault_of(long verified)
{
    switch (verified) {
    case X509_V_OK:
        return TLS_FAULT_NONE;
    case X509_V_ERR_CERT_HAS_EXPIRED:
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return TLS_FAULT_EXPIRED;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        return TLS_FAULT_WRONG_NAME;
    }
    return TLS_FAULT_NOT_TRUSTED;
}

static void learn(const struct tls_stream *tls, struct tls_facts *facts)
{
    facts->resumed = SSL_session_reused(tls->ssl) == 1;
    snprintf(facts->protocol, sizeof facts->protocol, "%s", SSL_get_version(tls->ssl));
    snprintf(facts->cipher, sizeof facts->cipher, "%s", SSL_get_cipher_name(tls->ssl));
    facts->cipher_bits = (unsigned)SSL_get_cipher_bits(tls->ssl, NULL);
}

static void learn_failure(const struct tls_stream *tls, struct tls_facts *facts)
{
    const long verified = SSL_get_verify_result(tls->ssl);

    if (verified != X509_V_OK && SSL_get_verify_mode(tls->ssl) != SSL_VERIFY_NONE) {
        facts->fault = fault_of(verified);
        snprintf(facts->why, sizeof facts->why, "certificate: %s",
                 X509_verify_cert_error_string(verified));
        ERR_clear_error();
    } else {
        crypto_take_error(facts->why, sizeof facts->why);
    }
}

/* One round: OpenSSL's turn, then ours. IO_OK with *done false: another round. */
static struct io_result handshake_round(struct tls_stream *tls, uint64_t deadline_us,
                                        struct tls_facts *facts, bool *done)
{
    ERR_clear_error();
    const int returned = SSL_do_handshake(tls->ssl);
    const int problem = returned == 1 ? SSL_ERROR_NONE : SSL_get_error(tls->ssl, returned);

    if (problem != SSL_ERROR_NONE && problem != SSL_ERROR_WANT_READ)
        learn_failure(tls, facts);
    const struct io_result flushed = tls_stream_flush(tls, deadline_us);
    if (problem != SSL_ERROR_NONE && problem != SSL_ERROR_WANT_READ)
        return io_failed(EPROTO);
    *done = problem == SSL_ERROR_NONE;
    if (*done || flushed.status != IO_OK)
        return flushed;
    return tls_stream_fill(tls, deadline_us);
}

/* Sleeps. */
static struct io_result handshake(struct tls_stream *tls, struct stream **stream,
                                  uint64_t deadline_us, struct tls_facts *facts)
{
    struct io_result result = io_ok(0);
    bool done = false;

    while (result.status == IO_OK && !done)
        result = handshake_round(tls, deadline_us, facts, &done);
    if (result.status == IO_OK) {
        learn(tls, facts);
        *stream = &tls->stream;
        return result;
    }
    if (result.status == IO_END) /* the peer hung up in the middle: no orderly end */
        result = io_failed(ECONNRESET);
    if (!facts->why[0])
        snprintf(facts->why, sizeof facts->why, "handshake: %s", io_result_text(result));
    tls->broken = true;
    stream_close(&tls->stream);
    *stream = NULL;
    return result;
}

static struct io_result handshake_refused(struct stream **stream, struct tls_facts *facts,
                                          const char *why)
{
    snprintf(facts->why, sizeof facts->why, "%s", why);
    ERR_clear_error();
    stream_close(*stream);
    *stream = NULL;
    return io_failed(ENOMEM);
}

struct io_result tls_accept(struct tls_context *context, struct stream **stream,
                            uint64_t deadline_us, struct tls_facts *facts)
{
    *facts = (struct tls_facts){0};
    struct tls_stream *tls = tls_stream_open(context->plain, *stream);
    if (!tls)
        return handshake_refused(stream, facts, "no memory for TLS");
    SSL_set_accept_state(tls->ssl);
    return handshake(tls, stream, deadline_us, facts);
}

/* ------------------------------------------------------------------ demands on the peer */

static bool demand_name(SSL *ssl, const struct tls_peer_demand *demand)
{
    struct ip_address ip;

    if (!demand->server_name || !*demand->server_name)
        return !demand->verify_name;
    if (ip_parse(bytes_of_text(demand->server_name), &ip)) {
        /* No name to send (RFC 6066, 3), but one to match. */
        return !demand->verify_name ||
               X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), demand->server_name) == 1;
    }
    if (SSL_set_tlsext_host_name(ssl, demand->server_name) != 1)
        return false;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return !demand->verify_name || SSL_set1_host(ssl, demand->server_name) == 1;
}

int tls_demand_dane(SSL *ssl, const struct tls_peer_demand *demand)
{
    int usable = 0;

    if (!demand->server_name || SSL_dane_enable(ssl, demand->server_name) != 1)
        return -1;
    /* With usage 2 a name has to match; the domain that led here will do (RFC 7672, 3.2.2). */
    for (unsigned i = 0; i < TLS_NAMES_MAX; i++)
        if (demand->also_names[i] && SSL_add1_host(ssl, demand->also_names[i]) != 1)
            return -1;
    /* RFC 7672, 3.1.1: with usage 3 the key says it all, names and dates do not count. */
    SSL_dane_set_flags(ssl, DANE_FLAG_NO_DANE_EE_NAMECHECKS);
    for (unsigned i = 0; i < demand->tlsa_count; i++) {
        const struct tlsa_record *record = &demand->tlsa[i];
        if (record->usage != TLSA_TRUST_ANCHOR && record->usage != TLSA_END_ENTITY)
            continue;
        usable += SSL_dane_tlsa_add(ssl, record->usage, record->selector, record->matching,
                                    record->data.at, record->data.count) == 1;
    }
    ERR_clear_error();
    return usable;
}

/* Without a usable record the peer cannot be authenticated, only encrypted to (RFC 7672, 2.2). */
static bool demand_apply(SSL *ssl, const struct tls_peer_demand *demand, struct tls_facts *facts)
{
    bool verify = demand->verify_name;

    if (!demand_name(ssl, demand))
        return false;
    if (demand->tlsa_count > 0) {
        const int usable = tls_demand_dane(ssl, demand);
        if (usable < 0)
            return false;
        verify = usable > 0;
        facts->tlsa_unusable = usable == 0;
        if (usable == 0)
            snprintf(facts->why, sizeof facts->why, "no usable TLSA record");
    }
    SSL_set_verify(ssl, verify && !demand->only_look ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    return true;
}

/* Of a peer that was taken. */
static void learn_peer(const struct tls_stream *tls, bool demanded, struct tls_facts *facts)
{
    const long verified = SSL_get_verify_result(tls->ssl);

    facts->verified = demanded && verified == X509_V_OK;
    facts->fault = demanded ? fault_of(verified) : TLS_FAULT_NONE;
    if (!facts->verified && !facts->why[0])
        snprintf(facts->why, sizeof facts->why, "%s%s", demanded ? "certificate: " : "",
                 demanded ? X509_verify_cert_error_string(verified) : "not asked to verify");
}

struct io_result tls_connect(struct tls_context *context, const struct tls_peer_demand *demand,
                             struct stream **stream, uint64_t deadline_us, struct tls_facts *facts)
{
    static const struct tls_peer_demand none = {0};
    const struct tls_peer_demand *wanted = demand ? demand : &none;
    const bool verifying = wanted->verify_name || wanted->tlsa_count > 0;

    *facts = (struct tls_facts){0};
    struct tls_stream *tls =
        tls_stream_open(verifying ? context->verifying : context->plain, *stream);
    if (!tls)
        return handshake_refused(stream, facts, "no memory for TLS");
    SSL_set_connect_state(tls->ssl);
    if (!demand_apply(tls->ssl, wanted, facts)) {
        tls->broken = true;
        stream_close(&tls->stream);
        *stream = NULL;
        snprintf(facts->why, sizeof facts->why, "the peer's name cannot be verified");
        ERR_clear_error();
        return io_failed(EINVAL);
    }
    const bool unusable = facts->tlsa_unusable;
    tls_memory_use(context->memory, tls, wanted);
    const struct io_result result = handshake(tls, stream, deadline_us, facts);
    if (result.status == IO_OK)
        learn_peer(tls, verifying && !unusable, facts);
    return result;
}
