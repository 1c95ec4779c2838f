/*
 * Sessions to resume, in a table of fixed size: a key has one place, and who comes later takes it.
 * A ticket is used once (RFC 8446, appendix C.4).
 */
#include "crypto/tls.h"

#include <openssl/err.h>
#include <pthread.h>
#include <string.h>

enum { PLACES = 1024, LIFE_S = 3600 };

struct tls_memory {
    pthread_mutex_t lock; /* around memory operations only */
    uint64_t secret;
    struct {
        uint64_t key;
        uint64_t end_us;
        SSL_SESSION *session;
    } places[PLACES];
};

static void memory_put(struct tls_memory *memory, uint64_t key, SSL_SESSION *session)
{
    pthread_mutex_lock(&memory->lock);
    SSL_SESSION *const before = memory->places[key % PLACES].session;
    memory->places[key % PLACES].key = key;
    memory->places[key % PLACES].end_us = deadline_in(LIFE_S * US_PER_S);
    memory->places[key % PLACES].session = session;
    pthread_mutex_unlock(&memory->lock);
    SSL_SESSION_free(before);
}

/* The caller's from then on; or NULL. */
static SSL_SESSION *memory_take(struct tls_memory *memory, uint64_t key)
{
    SSL_SESSION *session = NULL;

    pthread_mutex_lock(&memory->lock);
    if (memory->places[key % PLACES].key == key) {
        session = memory->places[key % PLACES].session;
        memory->places[key % PLACES].session = NULL;
        if (clock_now_us() >= memory->places[key % PLACES].end_us) {
            SSL_SESSION_free(session);
            session = NULL;
        }
    }
    pthread_mutex_unlock(&memory->lock);
    return session;
}

/* OpenSSL's word that the peer gave a ticket; 1: it is ours. */
static int memory_learn(SSL *ssl, SSL_SESSION *session)
{
    struct tls_stream *const tls = SSL_get_app_data(ssl);

    if (!tls || !tls->memory || !SSL_SESSION_is_resumable(session))
        return 0;
    memory_put(tls->memory, tls->memory_key, session);
    return 1;
}

struct tls_memory *tls_memory_open(SSL_CTX *plain, SSL_CTX *verifying)
{
    struct tls_memory *memory = calloc(1, sizeof *memory);

    if (!memory)
        return NULL;
    pthread_mutex_init(&memory->lock, NULL);
    memory->secret = random_u64();
    for (unsigned i = 0; i < 2; i++) {
        SSL_CTX *const context = i == 0 ? plain : verifying;
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(context, memory_learn);
    }
    return memory;
}

void tls_memory_close(struct tls_memory *memory)
{
    if (!memory)
        return;
    for (unsigned i = 0; i < PLACES; i++)
        SSL_SESSION_free(memory->places[i].session);
    pthread_mutex_destroy(&memory->lock);
    free(memory);
}

/* ------------------------------------------------------------------ keys */

static void key_add(struct digest *digest, struct bytes part)
{
    const uint8_t length[2] = {(uint8_t)(part.count >> 8), (uint8_t)part.count};

    digest_add(digest, bytes_of(length, sizeof length));
    digest_add(digest, part);
}

static void key_add_demand(struct digest *digest, const struct tls_peer_demand *demand)
{
    const uint8_t flags[] = {demand->verify_name, demand->only_look};

    key_add(digest, bytes_of(flags, sizeof flags));
    key_add(digest, bytes_of_text(demand->server_name ? demand->server_name : ""));
    for (unsigned i = 0; i < TLS_NAMES_MAX; i++)
        key_add(digest, bytes_of_text(demand->also_names[i] ? demand->also_names[i] : ""));
    for (unsigned i = 0; i < demand->tlsa_count; i++) {
        const struct tlsa_record *record = &demand->tlsa[i];
        const uint8_t fields[] = {record->usage, record->selector, record->matching};
        key_add(digest, bytes_of(fields, sizeof fields));
        key_add(digest, record->data);
    }
}

/* 0: none could be made. */
static uint64_t key_of(const struct tls_memory *memory, const struct endpoint *at,
                       const struct tls_peer_demand *demand)
{
    struct digest *digest = digest_open(DIGEST_SHA256);
    uint8_t whole[DIGEST_MAX];
    uint64_t key = 0;

    if (!digest)
        return 0;
    key_add(digest, bytes_of(&memory->secret, sizeof memory->secret));
    key_add(digest, bytes_of(at->ip.octets, ip_bytes(&at->ip)));
    key_add(digest, bytes_of(&at->port, sizeof at->port));
    key_add_demand(digest, demand);
    if (digest_finish(digest, (struct span){whole, sizeof whole}) >= sizeof key)
        memcpy(&key, whole, sizeof key);
    digest_close(&digest);
    return key;
}

void tls_memory_use(struct tls_memory *memory, struct tls_stream *tls,
                    const struct tls_peer_demand *demand)
{
    const struct endpoint *at = &tls->below->remote;

    if (!memory || (at->family != ENDPOINT_IPV4 && at->family != ENDPOINT_IPV6))
        return;
    tls->memory_key = key_of(memory, at, demand);
    if (tls->memory_key == 0)
        return;
    tls->memory = memory;
    SSL_set_app_data(tls->ssl, tls);
    SSL_SESSION *const session = memory_take(memory, tls->memory_key);
    if (session && SSL_set_session(tls->ssl, session) != 1)
        ERR_clear_error();
    SSL_SESSION_free(session);
}
