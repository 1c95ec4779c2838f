/*
 * secret: what passwords need of OpenSSL: derived keys, codes, comparison in constant time, and the
 * bond between a login and the TLS connection it came over (RFC 9266).
 */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "crypto/tls.h"

enum { LONGEST = 1024 * 1024 };

bool secret_equal(struct bytes a, struct bytes b)
{
    return a.count == b.count && (a.count == 0 || CRYPTO_memcmp(a.at, b.at, a.count) == 0);
}

void secret_wipe(struct bytes secret)
{
    if (secret.count > 0)
        OPENSSL_cleanse((void *)(uintptr_t)secret.at, secret.count);
}

bool secret_derive(struct bytes password, struct bytes salt, unsigned iterations,
                   uint8_t key[SECRET_KEY_BYTES])
{
    if (password.count > LONGEST || salt.count > LONGEST || iterations > LONGEST)
        return false;
    return PKCS5_PBKDF2_HMAC((const char *)password.at, (int)password.count, salt.at,
                             (int)salt.count, (int)iterations, EVP_sha256(), SECRET_KEY_BYTES,
                             key) == 1;
}

bool secret_mac(struct bytes key, struct bytes text, uint8_t mac[SECRET_KEY_BYTES])
{
    unsigned count = 0;

    return key.count <= LONGEST &&
           HMAC(EVP_sha256(), key.at, (int)key.count, text.at, text.count, mac, &count) != NULL;
}

bool tls_channel_binding(const struct stream *stream, uint8_t binding[SECRET_KEY_BYTES])
{
    static const char label[] = "EXPORTER-Channel-Binding";

    if (stream->ops != &TLS_STREAM_OPS)
        return false;
    SSL *ssl = CONTAINER_OF(stream, struct tls_stream, stream)->ssl;
    return SSL_version(ssl) >= TLS1_3_VERSION &&
           SSL_export_keying_material(ssl, binding, SECRET_KEY_BYTES, label, sizeof label - 1,
                                      (const unsigned char *)"", 0, 1) == 1;
}
