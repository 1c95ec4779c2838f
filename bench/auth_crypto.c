/*
 * The cryptography of verifying one signed message, alone: SHA-256 of body and header, reading the
 * key, RSA-2048. Prints microseconds of CPU a message; bench/auth_cost.py takes it off what
 * verification adds.
 */
#include <time.h>

#include "crypto/crypto.h"

enum { ROUNDS = 20000, BODY_BYTES = 10 * 1024, HEAD_BYTES = 700 };

static double cpu_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static bool hash(const uint8_t *octets, size_t count, uint8_t *value)
{
    struct digest *digest = digest_open(DIGEST_SHA256);

    if (!digest)
        return false;
    digest_add(digest, bytes_of(octets, count));
    const size_t done = digest_finish(digest, (struct span){value, DIGEST_MAX});
    digest_close(&digest);
    return done == 32;
}

/* usage: auth_crypto KEY.pem KEY.der: the private key, and its public half as a record holds it. */
static struct bytes read_whole(const char *path, uint8_t *into, size_t room)
{
    FILE *file = fopen(path, "rb");
    const size_t count = file ? fread(into, 1, room, file) : 0;

    if (file)
        fclose(file);
    return bytes_of(into, count);
}

int main(int count, char **words)
{
    static uint8_t body[BODY_BYTES], pem[16384], der[16384];
    uint8_t value[DIGEST_MAX], signature[1024];
    char why[160] = "";

    if (count != 3)
        return 2;
    struct private_key *key =
        private_key_open_pem(read_whole(words[1], pem, sizeof pem), why, sizeof why);
    const struct bytes record = read_whole(words[2], der, sizeof der);
    if (!key || !hash(body, HEAD_BYTES, value))
        return 1;
    const size_t length =
        private_key_sign(key, bytes_of(value, 32), (struct span){signature, sizeof signature});
    const double start_us = cpu_us();
    for (int i = 0; i < ROUNDS; i++) {
        struct public_key *public = public_key_open(KEY_RSA, record);
        if (!public || !hash(body, sizeof body, value) || !hash(body, HEAD_BYTES, value) ||
            !public_key_verifies(public, bytes_of(value, 32), bytes_of(signature, length)))
            return 1;
        public_key_close(&public);
    }
    printf("%.2f\n", (cpu_us() - start_us) / ROUNDS);
    private_key_close(&key);
    return 0;
}
