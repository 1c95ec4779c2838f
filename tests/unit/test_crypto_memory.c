/* What OpenSSL could not make while memory was short is made when it is asked for again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "hard_asserts.h"

#include "crypto/crypto.h"

static bool is_short;

static void *take(size_t size, const char *file UNUSED, int line UNUSED)
{
    return is_short ? NULL : malloc(size);
}

static void *take_again(void *at, size_t size, const char *file UNUSED, int line UNUSED)
{
    return is_short ? NULL : realloc(at, size);
}

static void give(void *at, const char *file UNUSED, int line UNUSED)
{
    free(at);
}

static void test_digest(void **state UNUSED)
{
    EVP_MD *const other = EVP_MD_fetch(NULL, "SHA3-256", NULL); /* the library itself is set up */

    assert_non_null(other);
    for (unsigned kind = DIGEST_SHA1; kind <= DIGEST_SHA512; kind++) {
        is_short = true;
        struct digest *digest = digest_open((enum digest_kind)kind);
        assert_null(digest);
        is_short = false;
        digest = digest_open((enum digest_kind)kind);
        assert_non_null(digest);
        digest_close(&digest);
    }
    EVP_MD_free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_digest)};

    if (CRYPTO_set_mem_functions(take, take_again, give) != 1)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
