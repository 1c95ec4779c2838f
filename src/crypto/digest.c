/*
 * Hashes in pieces. The algorithms are fetched once: a fetch costs more than hashing a small
 * message. One that failed, for want of memory, is tried again by the next who asks.
 */
#include "crypto/crypto.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdatomic.h>

struct digest {
    EVP_MD_CTX *context;
    bool failed;
};

static EVP_MD *algorithm_of(enum digest_kind kind)
{
    static const char *const names[] = {
        [DIGEST_SHA1] = "SHA1", [DIGEST_SHA256] = "SHA256", [DIGEST_SHA512] = "SHA512"};
    static _Atomic(EVP_MD *) algorithms[COUNT_OF(names)];
    EVP_MD *known = atomic_load(&algorithms[kind]);

    if (known)
        return known;
    EVP_MD *const fetched = EVP_MD_fetch(NULL, names[kind], NULL);
    if (!fetched || atomic_compare_exchange_strong(&algorithms[kind], &known, fetched))
        return fetched;
    EVP_MD_free(fetched); /* another thread was first */
    return known;
}

struct digest *digest_open(enum digest_kind kind)
{
    struct digest *digest = calloc(1, sizeof *digest);

    const EVP_MD *const algorithm = algorithm_of(kind);

    if (!digest)
        return NULL;
    digest->context = EVP_MD_CTX_new();
    if (digest->context && algorithm && EVP_DigestInit_ex2(digest->context, algorithm, NULL) == 1)
        return digest;
    ERR_clear_error();
    digest_close(&digest);
    return NULL;
}

void digest_add(struct digest *digest, struct bytes bytes)
{
    if (bytes.count > 0 && EVP_DigestUpdate(digest->context, bytes.at, bytes.count) != 1)
        digest->failed = true;
}

size_t digest_finish(struct digest *digest, struct span into)
{
    unsigned count = 0;

    if (digest->failed || into.count < (size_t)EVP_MD_CTX_get_size(digest->context) ||
        EVP_DigestFinal_ex(digest->context, into.at, &count) != 1) {
        ERR_clear_error();
        digest->failed = true;
        return 0;
    }
    digest->failed = true; /* a finished one takes no more */
    return count;
}

void digest_close(struct digest **digest)
{
    if (!*digest)
        return;
    EVP_MD_CTX_free((*digest)->context);
    free(*digest);
    *digest = NULL;
}
