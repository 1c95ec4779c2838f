/* The keeper of keys: it signs what its user may ask for, and refuses the rest, whatever comes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hard_asserts.h"

#include "crypto/crypto.h"

/* As in crypto/key_wire.h, which is the room's own: what the socket carries must not change unseen.
 */
enum { CHAIN = 1, DESCRIBE, PKCS1, PADDED, ECDSA, HASH };
struct question {
    uint16_t operation, number;
    uint32_t key, count;
    uint8_t data[4096];
};
struct reply {
    uint16_t fine, number;
    uint32_t count;
    uint8_t data[64 * 1024];
};

static char folder[] = "/tmp/holdfast-keeper-XXXXXX";
static char certificate[64], certificate_key[64], rsa_file[64], ed_file[64];
static struct key_file files[2];
static int user = -1;
static pid_t keeper;

static void write_key(EVP_PKEY *key, const char *path)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_int_equal(1, PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL));
    fclose(file);
    EVP_PKEY_free(key);
}

static int start(void **state UNUSED)
{
    char why[256] = "";
    int pair[2];

    assert_non_null(mkdtemp(folder));
    snprintf(certificate, sizeof certificate, "%s/cert.pem", folder);
    snprintf(certificate_key, sizeof certificate_key, "%s/key.pem", folder);
    snprintf(rsa_file, sizeof rsa_file, "%s/rsa.pem", folder);
    snprintf(ed_file, sizeof ed_file, "%s/ed.pem", folder);
    assert_true(tls_make_self_signed("mx.test", certificate, certificate_key, why, sizeof why));
    write_key(EVP_RSA_gen(2048), rsa_file);
    write_key(EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"), ed_file);
    files[0] = (struct key_file){"rsa", rsa_file};
    files[1] = (struct key_file){"ed", ed_file};
    assert_int_equal(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    keeper = fork();
    if (keeper == 0) {
        const struct key_keeper_settings settings = {certificate, certificate_key, files, 2};
        struct key_keeper *held = key_keeper_open(&settings, why, sizeof why);
        close(pair[0]);
        if (held)
            key_keeper_serve(held, pair[1]);
        key_keeper_close(&held);
        _exit(0);
    }
    close(pair[1]);
    user = pair[0];
    return 0;
}

static int finish(void **state UNUSED)
{
    int status = 1;

    close(user);
    assert_int_equal(keeper, waitpid(keeper, &status, 0)); /* it ends with its user */
    assert_int_equal(0, status);
    unlink(certificate);
    unlink(certificate_key);
    unlink(rsa_file);
    unlink(ed_file);
    return rmdir(folder);
}

/* Octets of the answer, 0: refused. */
static size_t ask(const void *packet, size_t size)
{
    static struct reply answer;
    uint16_t number = 0;

    assert_int_equal(size, send(user, packet, size, 0));
    const ssize_t got = recv(user, &answer, sizeof answer, 0);
    assert_true(got >= 8);
    assert_int_equal(got - 8, answer.count);
    assert_true(answer.fine == (answer.count > 0));
    if (size >= 12)
        memcpy(&number, (const char *)packet + offsetof(struct question, number), sizeof number);
    assert_int_equal(number, answer.number);
    return answer.count;
}

static size_t ask_for(uint32_t operation, uint32_t key, uint32_t count)
{
    static uint16_t asked;
    struct question question = {
        .operation = (uint16_t)operation, .number = ++asked, .key = key, .count = count};

    memset(question.data, 0xbc, sizeof question.data);
    return ask(&question, 12 + count);
}

static void test_right_uses(void **state UNUSED)
{
    assert_true(ask_for(CHAIN, 0, 0) > 500);
    assert_int_equal(3, ask_for(DESCRIBE, 1, 0));
    assert_int_equal(256, ask_for(HASH, 1, 32));
    assert_int_equal(64, ask_for(HASH, 2, 32));
    assert_true(ask_for(ECDSA, 0, 32) > 60);
}

/* A key does what it is for and nothing else. */
static void test_wrong_uses(void **state UNUSED)
{
    assert_int_equal(0, ask_for(HASH, 0, 32));  /* the certificate's key signs no mail */
    assert_int_equal(0, ask_for(PKCS1, 1, 51)); /* and those of mail no handshake */
    assert_int_equal(0, ask_for(PADDED, 1, 256));
    assert_int_equal(0, ask_for(ECDSA, 1, 32));
    assert_int_equal(0, ask_for(CHAIN, 1, 0));
    assert_int_equal(0, ask_for(PKCS1, 0, 51)); /* an EC key signs by ECDSA */
    assert_int_equal(0, ask_for(PADDED, 0, 256));
    assert_int_equal(0, ask_for(HASH, 3, 32)); /* no such key */
    assert_int_equal(0, ask_for(HASH, UINT32_MAX, 32));
    assert_int_equal(0, ask_for(0, 0, 0));
    assert_int_equal(0, ask_for(99, 0, 32));
}

static void test_lengths(void **state UNUSED)
{
    for (uint32_t count = 0; count <= 2048; count += count < 80 ? 1 : 123) {
        if (count != 32)
            assert_int_equal(0, ask_for(HASH, 1, count));
        if (count < 20 || count > 64)
            assert_int_equal(0, ask_for(ECDSA, 0, count));
    }
}

/* Packets that are cut, too long, or lie about their length. */
static void test_packets(void **state UNUSED)
{
    static struct question question = {.operation = HASH, .key = 1, .count = 32};

    for (size_t size = 1; size < 44; size++)
        assert_int_equal(0, ask(&question, size));
    assert_int_equal(256, ask(&question, 44));
    assert_int_equal(0, ask(&question, 45));
    assert_int_equal(0, ask(&question, sizeof question));
    question.count = UINT32_MAX;
    assert_int_equal(0, ask(&question, 44));
}

/* ------------------------------------------------------------------ a keeper that stumbles */

static void reply_with(int descriptor, uint16_t number, uint8_t kind)
{
    const struct reply reply = {.fine = 1, .number = number, .count = 3, .data = {kind, 0, 64}};

    assert_int_equal(11, send(descriptor, &reply, 11, 0));
}

static unsigned questions_taken(int descriptor)
{
    struct question question;
    unsigned count = 0;

    while (recv(descriptor, &question, sizeof question, MSG_DONTWAIT) > 0)
        count++;
    return count;
}

static size_t sign_with(const struct private_key *key, uint8_t *first)
{
    const uint8_t hash[32] = {0};
    uint8_t into[64] = {0};
    const size_t count =
        private_key_sign(key, bytes_of(hash, sizeof hash), (struct span){into, 64});

    *first = into[0];
    return count;
}

/* A question without an answer fails; an answer that comes late is not taken for the next one's,
 * and nobody waits for a keeper that stands still. Afterwards all is as before. */
static void test_late_answers(void **state UNUSED)
{
    const struct timeval moment = {.tv_usec = 20000};
    char why[256] = "";
    uint8_t first = 0;
    int pair[2];

    assert_int_equal(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    struct key_service *service = key_service_open(pair[0]);
    assert_non_null(service);
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &moment, sizeof moment);
    reply_with(pair[1], 1, 1);
    struct private_key *key = private_key_open_by(service, 0, why, sizeof why);
    assert_non_null(key);
    assert_int_equal(1, questions_taken(pair[1]));
    assert_int_equal(0, sign_with(key, &first)); /* number 2: nothing comes in time */
    assert_int_equal(1, questions_taken(pair[1]));
    assert_int_equal(0, sign_with(key, &first)); /* it is silent: not asked */
    assert_int_equal(0, questions_taken(pair[1]));
    reply_with(pair[1], 2, 'b'); /* late */
    reply_with(pair[1], 3, 'c');
    assert_int_equal(3, sign_with(key, &first));
    assert_int_equal('c', first);
    reply_with(pair[1], 3, 'c'); /* once too often */
    reply_with(pair[1], 4, 'd');
    assert_int_equal(3, sign_with(key, &first));
    assert_int_equal('d', first);
    private_key_close(&key);
    key_service_close(&service);
    close(pair[1]);
}

static void test_complaints(void **state UNUSED)
{
    const struct key_file missing = {"x", "/nowhere/x.pem"}, wrong = {"x", certificate};
    char why[256] = "";

    assert_null(
        key_keeper_open(&(struct key_keeper_settings){"", "", &missing, 1}, why, sizeof why));
    assert_string_equal("sign \"x\": /nowhere/x.pem: No such file or directory", why);
    assert_null(key_keeper_open(&(struct key_keeper_settings){"", "", &wrong, 1}, why, sizeof why));
    assert_non_null(strstr(why, "no PEM private key"));
    assert_null(key_keeper_open(&(struct key_keeper_settings){certificate, rsa_file, NULL, 0}, why,
                                sizeof why));
    assert_non_null(strstr(why, rsa_file));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right_uses), cmocka_unit_test(test_wrong_uses),
        cmocka_unit_test(test_lengths),    cmocka_unit_test(test_packets),
        cmocka_unit_test(test_complaints), cmocka_unit_test(test_late_answers),
    };

    return cmocka_run_group_tests(tests, start, finish);
}
