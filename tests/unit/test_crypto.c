/* Digests, base 64, keys and signatures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "crypto/crypto.h"

static struct arena arena = ARENA_WITH_LIMIT(MIB);

static void check_hex(struct bytes octets, const char *expected)
{
    char text[2 * DIGEST_MAX + 1] = "";

    assert_true(octets.count <= DIGEST_MAX);
    for (size_t i = 0; i < octets.count; i++)
        snprintf(text + 2 * i, 3, "%02x", octets.at[i]);
    assert_string_equal(text, expected);
}

/* "abc" of FIPS 180, in pieces. */
static void test_digests(void **state UNUSED)
{
    static const char *const expected[] = {
        [DIGEST_SHA1] = "a9993e364706816aba3e25717850c26c9cd0d89d",
        [DIGEST_SHA256] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        [DIGEST_SHA512] = ("ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
                           "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f")};
    uint8_t octets[DIGEST_MAX];

    for (unsigned kind = 0; kind < COUNT_OF(expected); kind++) {
        struct digest *digest = digest_open((enum digest_kind)kind);
        assert_non_null(digest);
        digest_add(digest, BYTES_LITERAL("a"));
        digest_add(digest, BYTES_EMPTY);
        digest_add(digest, BYTES_LITERAL("bc"));
        const size_t count = digest_finish(digest, (struct span){octets, sizeof octets});
        check_hex(bytes_of(octets, count), expected[kind]);
        assert_int_equal(digest_finish(digest, (struct span){octets, sizeof octets}), 0);
        digest_close(&digest);
        assert_null(digest);
        digest_close(&digest);
    }
    struct digest *digest = digest_open(DIGEST_SHA256);
    assert_int_equal(digest_finish(digest, (struct span){octets, 31}), 0); /* no room */
    digest_close(&digest);
}

/* RFC 4648, 10. */
static void test_base64(void **state UNUSED)
{
    static const char *const plain[] = {"", "f", "fo", "foo", "foob", "fooba", "foobar"};
    static const char *const coded[] = {"",         "Zg==",     "Zm8=",    "Zm9v",
                                        "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};

    for (size_t i = 0; i < COUNT_OF(plain); i++) {
        struct buffer text = BUFFER_WITH_LIMIT(100);
        struct bytes decoded = BYTES_EMPTY;
        base64_encode(&text, bytes_of_text(plain[i]));
        assert_true(bytes_equal_text(buffer_view(&text), coded[i]));
        assert_true(base64_decode(&arena, buffer_view(&text), &decoded));
        assert_true(bytes_equal_text(decoded, plain[i]));
        /* Every cut is refused, but where a whole group ends. */
        for (size_t cut = 1; cut < text.count; cut++)
            assert_int_equal(
                base64_decode(&arena, bytes_slice(buffer_view(&text), 0, cut), &decoded),
                cut % 4 == 0);
        buffer_free(&text);
    }
}

static void test_base64_foreign(void **state UNUSED)
{
    static const char *const refused[] = {"Zg=",
                                          "Zg",
                                          "Z",
                                          "=",
                                          "====",
                                          "Zg==Zg==",
                                          "Zm9v!",
                                          "Z===",
                                          "Zm=v",
                                          "Zm-_",
                                          "\xff\xff\xff\xff"};
    struct bytes plain = BYTES_EMPTY;

    for (size_t i = 0; i < COUNT_OF(refused); i++)
        assert_false(base64_decode(&arena, bytes_of_text(refused[i]), &plain));
    assert_false(base64_decode(&arena, bytes_of("Zm9\0", 4), &plain));
    assert_true(base64_decode(&arena, BYTES_LITERAL(" Z m\r\n 9\tv "), &plain));
    assert_true(bytes_equal_text(plain, "foo"));
    uint8_t all[256];
    for (unsigned i = 0; i < 256; i++)
        all[i] = (uint8_t)i;
    struct buffer text = BUFFER_WITH_LIMIT(1000);
    base64_encode(&text, bytes_of(all, sizeof all));
    assert_true(base64_decode(&arena, buffer_view(&text), &plain));
    assert_true(bytes_equal(plain, bytes_of(all, sizeof all)));
    buffer_free(&text);
}

/* ------------------------------------------------------------------ keys: RFC 8463, appendix A */

static const char ED25519_PEM[] =
    "-----BEGIN PRIVATE KEY-----\n"
    "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n"
    "-----END PRIVATE KEY-----\n";
static const char ED25519_PUBLIC[] = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

static struct bytes decoded(const char *text)
{
    struct bytes plain = BYTES_EMPTY;

    assert_true(base64_decode(&arena, bytes_of_text(text), &plain));
    return plain;
}

static void check_pair(struct private_key *private, struct public_key *public)
{
    uint8_t signature[512], hash[32] = {1, 2, 3};
    const struct bytes digest = bytes_of(hash, sizeof hash);
    const size_t count =
        private_key_sign(private, digest, (struct span){signature, sizeof signature});

    assert_true(count >= 64);
    assert_true(public_key_verifies(public, digest, bytes_of(signature, count)));
    signature[count / 2] ^= 1;
    assert_false(public_key_verifies(public, digest, bytes_of(signature, count)));
    signature[count / 2] ^= 1;
    hash[0] ^= 1;
    assert_false(public_key_verifies(public, digest, bytes_of(signature, count)));
    hash[0] ^= 1;
    for (size_t cut = 0; cut < count; cut++)
        assert_false(public_key_verifies(public, digest, bytes_of(signature, cut)));
    assert_false(public_key_verifies(public, bytes_of(hash, 31), bytes_of(signature, count)));
    assert_int_equal(private_key_sign(private, digest, (struct span){signature, 63}), 0);
}

static void test_ed25519(void **state UNUSED)
{
    char why[100] = "";
    struct private_key *private = private_key_open_pem(bytes_of_text(ED25519_PEM), why, sizeof why);
    struct public_key *public = public_key_open(KEY_ED25519, decoded(ED25519_PUBLIC));

    assert_non_null(private);
    assert_non_null(public);
    assert_int_equal(private_key_kind(private), KEY_ED25519);
    check_pair(private, public);
    private_key_close(&private);
    public_key_close(&public);
}

/* The RSA key of RFC 8463's example, as PEM and as its DKIM record. */
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
static const char RSA_PUBLIC[] =
    "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J1"
    "6JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2"
    "EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB";

static void test_rsa(void **state UNUSED)
{
    char why[100] = "";
    const struct bytes der = decoded(RSA_PUBLIC);
    struct private_key *private = private_key_open_pem(bytes_of_text(RSA_PEM), why, sizeof why);
    struct public_key *public = public_key_open(KEY_RSA, der);

    assert_string_equal(why, "");
    assert_non_null(private);
    assert_non_null(public);
    assert_int_equal(private_key_kind(private), KEY_RSA);
    assert_int_equal(public_key_bits(public), 1024);
    check_pair(private, public);
    public_key_close(&public);
    /* The same key without its SubjectPublicKeyInfo: 22 octets of wrapping. */
    public = public_key_open(KEY_RSA, bytes_skip(der, 22));
    assert_non_null(public);
    check_pair(private, public);
    public_key_close(&public);
    private_key_close(&private);
    for (size_t cut = 0; cut < der.count; cut++)
        assert_null(public_key_open(KEY_RSA, bytes_slice(der, 0, cut)));
}

static void test_unusable_keys(void **state UNUSED)
{
    char why[200] = "";

    assert_null(public_key_open(KEY_ED25519, bytes_of(ED25519_PUBLIC, 31)));
    assert_null(public_key_open(KEY_RSA, BYTES_LITERAL("nonsense")));
    assert_null(public_key_open(KEY_RSA, BYTES_EMPTY));
    assert_null(private_key_open_pem(BYTES_LITERAL("nonsense"), why, sizeof why));
    assert_non_null(strstr(why, "no PEM private key"));
    /* An Ed25519 key in a record that says RSA. */
    struct bytes wrapped = BYTES_EMPTY;
    assert_true(base64_decode(
        &arena, BYTES_LITERAL("MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="),
        &wrapped));
    assert_null(public_key_open(KEY_RSA, wrapped));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_digests),
        cmocka_unit_test(test_base64),
        cmocka_unit_test(test_base64_foreign),
        cmocka_unit_test(test_ed25519),
        cmocka_unit_test(test_rsa),
        cmocka_unit_test(test_unusable_keys),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);

    arena_clear(&arena);
    return failed;
}
