/*
 * Hashes in pieces. The algorithms are fetched once: a fetch costs more than hashing a small
 * message.
 */
#include "crypto/crypto.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <pthread.h>

struct digest {
    EVP_MD_CTX *context;
    bool failed;
};

static EVP_MD *algorithms[DIGEST_SHA512 + 1];
static pthread_once_t fetched = PTHREAD_ONCE_INIT;

static void fetch(void)
{
    algorithms[DIGEST_SHA1] = EVP_MD_fetch(NULL, "SHA1", NULL);
    algorithms[DIGEST_SHA256] = EVP_MD_fetch(NULL, "SHA256", NULL);
    algorithms[DIGEST_SHA512] = EVP_MD_fetch(NULL, "SHA512", NULL);
    ERR_clear_error();
}

struct digest *digest_open(enum digest_kind kind)
{
    struct digest *digest = calloc(1, sizeof *digest);

    pthread_once(&fetched, fetch);
    if (!digest)
        return NULL;
    digest->context = EVP_MD_CTX_new();
    if (digest->context && algorithms[kind] &&
        EVP_DigestInit_ex2(digest->context, algorithms[kind], NULL) == 1)
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
