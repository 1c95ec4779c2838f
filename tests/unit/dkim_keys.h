/* Keys for tests: those that RFC 8463 (appendix A) publishes, so no secrets, and what signs with them. */
#ifndef DKIM_KEYS_H
#define DKIM_KEYS_H

#include "auth/dkim_inside.h"
#include "dkim_check.h"

static const char ED25519_PEM[] = "-----BEGIN PRIVATE KEY-----\n"
                                  "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n"
                                  "-----END PRIVATE KEY-----\n";
static const char ED25519_RECORD[] = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
static const char RSA_PEM[] = "-----BEGIN RSA PRIVATE KEY-----\n"
                              "MIICXQIBAAKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQi\n"
                              "Y/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqM\n"
                              "KrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB\n"
                              "AoGAH0cxOhFZDgzXWhDhnAJDw5s4roOXN4OhjiXa8W7Y3rhX3FJqmJSPuC8N9vQm\n"
                              "6SVbaLAE4SG5mLMueHlh4KXffEpuLEiNp9Ss3O4YfLiQpbRqE7Tm5SxKjvvQoZZe\n"
                              "zHorimOaChRL2it47iuWxzxSiRMv4c+j70GiWdxXnxe4UoECQQDzJB/0U58W7RZy\n"
                              "6enGVj2kWF732CoWFZWzi1FicudrBFoy63QwcowpoCazKtvZGMNlPWnC7x/6o8Gc\n"
                              "uSe0ga2xAkEA8C7PipPm1/1fTRQvj1o/dDmZp243044ZNyxjg+/OPN0oWCbXIGxy\n"
                              "WvmZbXriOWoSALJTjExEgraHEgnXssuk7QJBALl5ICsYMu6hMxO73gnfNayNgPxd\n"
                              "WFV6Z7ULnKyV7HSVYF0hgYOHjeYe9gaMtiJYoo0zGN+L3AAtNP9huqkWlzECQE1a\n"
                              "licIeVlo1e+qJ6Mgqr0Q7Aa7falZ448ccbSFYEPD6oFxiOl9Y9se9iYHZKKfIcst\n"
                              "o7DUw1/hz2Ck4N5JrgUCQQCyKveNvjzkkd8HjYs0SwM0fPjK16//5qDZ2UiDGnOe\n"
                              "uEzxBDAr518Z8VFbR41in3W4Y3yCDgQlLlcETrS+zYcL\n"
                              "-----END RSA PRIVATE KEY-----\n";
static const char RSA_RECORD[] = "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bd"
                                 "OKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLz"
                                 "BfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB";
static const char RSA_512_RECORD[] = "v=DKIM1; k=rsa; p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAIWmlgix/84GJ+dfgjm7LTc9EPdfkftlgiPpCq4/kbDA"
                                     "ZmU0VvYKDljjleJ1dfvS+CGy9U/kk1tG3EeEvb82xAcCAwEAAQ==";

static inline struct private_key *test_key(const char *pem)
{
    char why[160] = "";
    struct private_key *key = private_key_open_pem(bytes_of_text(pem), why, sizeof why);

    INVARIANT(key != NULL);
    return key;
}

/* The zone of the tests: both keys at football.example.com. */
static inline void test_zone(void)
{
    fake_zone_clear();
    fake_zone_add("ed._domainkey.football.example.com", DNS_TXT, bytes_of_text(ED25519_RECORD));
    fake_zone_add("rsa._domainkey.football.example.com", DNS_TXT, bytes_of_text(RSA_RECORD));
}

/* Puts a signature in front of the message; `pem` chooses the selector. */
static inline void sign_message(struct buffer *message, const char *pem, struct bytes headers)
{
    CLEANUP(buffer_free) struct buffer set = BUFFER_WITH_LIMIT(128 * MIB);
    CLEANUP(private_key_close) struct private_key *key = test_key(pem);
    struct memory_source memory = {buffer_view(message)};
    const struct auth_source source = {memory_source_read, &memory, memory.message.count};
    const struct dkim_signer signer = {.domain = "football.example.com",
                                       .selector = pem == RSA_PEM ? "rsa" : "ed",
                                       .key = key,
                                       .headers = headers,
                                       .wall_us = 1700000000000000};
    char why[160] = "";

    if (!dkim_sign(&signer, &source, &set, why, sizeof why))
        printf("%s\n", why);
    INVARIANT(*why == 0 && set.count > 0);
    buffer_add(&set, buffer_view(message));
    buffer_clear(message);
    buffer_add(message, buffer_view(&set));
}

/* Puts a signature with these very tags in front: "v=1; ...; bh=%BH%; " are written by the caller but for b= and bh=.
 * bh= is over the whole relaxed body unless `body_digest` is given. */
static inline void sign_with_tags(struct buffer *message, const char *tags, struct bytes names, const uint8_t *body_digest)
{
    struct arena arena = ARENA_WITH_LIMIT(8 * MIB);
    CLEANUP(buffer_free) struct buffer set = BUFFER_WITH_LIMIT(128 * MIB);
    CLEANUP(buffer_free) struct buffer after = BUFFER_WITH_LIMIT(MIB);
    CLEANUP(private_key_close) struct private_key *key = test_key(ED25519_PEM);
    CLEANUP(dkim_head_hash_close) struct dkim_head_hash hash = {0};
    CLEANUP(dkim_draft_close) struct dkim_draft draft = {.arena = &arena};
    struct memory_source memory = {buffer_view(message)};
    const struct auth_source source = {memory_source_read, &memory, memory.message.count};
    const struct dkim_signer signer = {.key = key};
    const char *problem = NULL;

    /* A draft refuses what has not one From field; all but the digest stands all the same. */
    if (!dkim_draft_read(&draft, &source, &problem)) {
        dkim_bodies_finish(&draft.intake.bodies);
        memcpy(draft.body_digest, dkim_bodies_want(&draft.intake.bodies, &arena, true, DKIM_NO_LIMIT)->value, DKIM_HASH_OCTETS);
    }
    buffer_add_text(&after, "; bh=");
    base64_encode(&after, bytes_of(body_digest ? body_digest : draft.body_digest, DKIM_HASH_OCTETS));
    buffer_print(&after, "; h=%.*s", BYTES_PRINT(names));
    const struct dkim_field_text text = {"DKIM-Signature", bytes_of_text(tags), buffer_view(&after)};
    INVARIANT(dkim_head_hash_open(&hash, true));
    dkim_head_hash_add_named(&hash, &draft.fields, names, draft.fields.count);
    INVARIANT(dkim_field_sign(&hash, &signer, &text, &set));
    buffer_add(&set, buffer_view(message));
    buffer_clear(message);
    buffer_add(message, buffer_view(&set));
}

#endif
