/*
 * A certificate that vouches for itself, so that STARTTLS can be shown without any set-up. Runs at
 * start, before anything depends on it; it may block.
 */
#include "crypto/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEN_YEARS_S = 3652 * 86400, AN_HOUR_S = 3600, SERIAL_OCTETS = 16 };

static bool add_extension(X509 *certificate, int kind, const char *value)
{
    X509V3_CTX context;

    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, certificate, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, kind, value);
    const bool added = extension && X509_add_ext(certificate, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return added;
}

static bool set_serial(X509 *certificate)
{
    unsigned char octets[SERIAL_OCTETS];

    if (RAND_bytes(octets, sizeof octets) != 1)
        return false;
    octets[0] &= 0x7f;
    BIGNUM *number = BN_bin2bn(octets, sizeof octets, NULL);
    const bool set =
        number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != NULL;
    BN_free(number);
    return set;
}

static bool fill_in(X509 *certificate, EVP_PKEY *key, const char *hostname)
{
    char alternative[300];
    X509_NAME *name = X509_get_subject_name(certificate);
    /* X.509 allows 64 characters for a common name; the alternative name is what counts. */
    const char *common = strlen(hostname) <= 64 ? hostname : "holdfast";

    snprintf(alternative, sizeof alternative, "DNS:%s", hostname);
    return X509_set_version(certificate, X509_VERSION_3) == 1 && set_serial(certificate) &&
           X509_gmtime_adj(X509_getm_notBefore(certificate), -AN_HOUR_S) &&
           X509_gmtime_adj(X509_getm_notAfter(certificate), TEN_YEARS_S) &&
           X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)common, -1,
                                      -1, 0) == 1 &&
           X509_set_issuer_name(certificate, name) == 1 && X509_set_pubkey(certificate, key) == 1 &&
           add_extension(certificate, NID_subject_alt_name, alternative) &&
           add_extension(certificate, NID_basic_constraints, "critical,CA:FALSE") &&
           add_extension(certificate, NID_ext_key_usage, "serverAuth,clientAuth") &&
           X509_sign(certificate, key, EVP_sha256()) > 0;
}

static bool write_file(const char *path, mode_t mode, BIO *content)
{
    char *at = NULL;
    const long count = BIO_get_mem_data(content, &at);
    const int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);

    if (descriptor < 0)
        return false;
    const bool written = count > 0 && fchmod(descriptor, mode) == 0 &&
                         write(descriptor, at, (size_t)count) == count && fsync(descriptor) == 0;
    const int error = errno;
    close(descriptor);
    errno = error;
    return written;
}

static bool write_key(EVP_PKEY *key, const char *path)
{
    BIO *content = BIO_new(BIO_s_secmem());
    const bool written = content &&
                         PEM_write_bio_PrivateKey(content, key, NULL, NULL, 0, NULL, NULL) == 1 &&
                         write_file(path, 0600, content);

    BIO_free(content);
    return written;
}

static bool write_certificate(X509 *certificate, const char *path)
{
    BIO *content = BIO_new(BIO_s_mem());
    const bool written =
        content && PEM_write_bio_X509(content, certificate) == 1 && write_file(path, 0644, content);

    BIO_free(content);
    return written;
}

/* The key first: a certificate that exists is taken as the sign that both do. */
static bool write_both(X509 *made, EVP_PKEY *pair, const char *certificate, const char *key,
                       char *why, size_t why_room)
{
    if (!write_key(pair, key)) {
        snprintf(why, why_room, "%s: %s", key, strerror(errno));
        return false;
    }
    if (!write_certificate(made, certificate)) {
        snprintf(why, why_room, "%s: %s", certificate, strerror(errno));
        return false;
    }
    return true;
}

bool tls_make_self_signed(const char *hostname, const char *certificate, const char *key, char *why,
                          size_t why_room)
{
    EVP_PKEY *pair = EVP_EC_gen("P-256");
    X509 *made = X509_new();
    bool done = pair && made && fill_in(made, pair, hostname);

    if (!done)
        crypto_take_error(why, why_room);
    else
        done = write_both(made, pair, certificate, key, why, why_room);
    X509_free(made);
    EVP_PKEY_free(pair);
    ERR_clear_error();
    return done;
}
